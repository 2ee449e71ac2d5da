"""JAX's `lax.scan` over a whole shuffled epoch, with optax; it and ours in processes of their own, in turns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarking.jobs.figures import Found, Size, ratio
from benchmarking.jobs.processes import ended

HOW_TO_GET_JAX = "python -m venv jax-venv; jax-venv/bin/pip install jax optax"
_CASES = {(32, 4096): ">= 1.0", (32, 65_536): ">= 1.3", (256, 4096): ">= 1.0", (256, 65_536): ">= 1.3"}
_UPDATES = {32: 20_480, 256: 5_120}  # a timed run


def scan(size: Size) -> Found:
    """Seconds an update."""
    if size.jax_python is None:
        raise ValueError(f"JAX is in an environment of its own, {HOW_TO_GET_JAX}")
    folder = Path(__file__).parent
    cases = [f"{batch},{examples},{epochs_of(size, batch, examples)}" for batch, examples in _CASES]
    commands = {
        "JAX": [size.jax_python, str(folder / "jax_scan.py"), *cases],
        "trainlab": [sys.executable, "-m", "benchmarking.jobs.our_scan", *cases],
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(size.pairs):
        for who, command in commands.items():
            taken = json.loads(ended(command).splitlines()[-1])
            for case, each in zip(_CASES, taken, strict=True):
                seconds.setdefault(_side(who, *case), []).append(each)
    return Found(
        seconds,
        [
            ratio(seconds, _side("JAX", *case), _side("trainlab", *case), wanted, _side("JAX / trainlab", *case))
            for case, wanted in _CASES.items()
        ],
    )


def _side(who: str, batch_size: int, examples: int) -> str:
    return f"{who}, batch {batch_size} of {examples:,}"


def epochs_of(size: Size, batch_size: int, examples: int) -> int:
    """Epochs of a timed run."""
    return max(size.scaled(_UPDATES[batch_size]) * batch_size // examples, 1)
