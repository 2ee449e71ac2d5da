"""What a part found, as lines of JSON on standard output."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

MARK = "@check "


def tell(name: str, is_ok: bool | None, seen: Any) -> None:
    """One finding; `is_ok` is None for what is only measured."""
    print(MARK + json.dumps({"check": name, "ok": is_ok, "seen": seen}), flush=True)


def within(name: str, value: float, limit: float, rest: str = "") -> None:
    """A finding that must be at most so much."""
    tell(name, bool(value <= limit), f"{value:.2g} (at most {limit:.2g}){rest}")


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """A failure inside is a finding, and what comes next still runs."""
    try:
        yield
    except Exception as error:
        lines = traceback.format_exc().strip().splitlines()
        tell(name, False, f"{type(error).__name__}: {str(error)[:600]} | {' | '.join(lines[-7:-1])[-900:]}")


def measure(name: str, function: Callable[[], Any]) -> None:
    """Tells what a function returns, which is only measured."""
    with guarded(name):
        tell(name, None, function())
