"""The memory of a strategy that wraps another one and remembers something itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_INNER = "inner."


def beside(inner: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """One memory of the inner strategy's and of one's own.

    Example:
        >>> beside({"velocity": 1.0}, slow=2.0)
        {'inner.velocity': 1.0, 'slow': 2.0}
    """
    return {**{f"{_INNER}{name}": value for name, value in inner.items()}, **own}


def of_inner(memory: Mapping[str, Any]) -> dict[str, Any]:
    """The inner strategy's part of it.

    Example:
        >>> of_inner({"inner.velocity": 1.0, "slow": 2.0})
        {'velocity': 1.0}
    """
    return {name.removeprefix(_INNER): value for name, value in memory.items() if name.startswith(_INNER)}
