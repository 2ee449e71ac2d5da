"""Turns, and what is made of their times: figures, each with what is wanted of it."""

from __future__ import annotations

import dataclasses
import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarking import timing

Turn = Callable[[], float]  # does the job once, on what was made before, and returns how many seconds it took

_COMPARE = {">=": operator.ge, "<=": operator.le}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        pairs: timed turns of each side.
        scale: share of the data, epochs or updates; less than 1 for a quick look.
        jax_python: the Python of an environment with JAX and optax; None if there is none.
    """

    pairs: int = 7
    scale: float = 1.0
    jax_python: str | None = None

    def scaled(self, number: int, least: int = 1) -> int:
        """So many of a full job's number."""
        return max(round(number * self.scale), least)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number that was measured several times, and what is wanted of its median: "", or for instance ">= 2"."""

    what: str
    median: float
    least: float
    most: float
    wanted: str = ""

    @property
    def verdict(self) -> str:
        """Whether it is what is wanted: "met", "missed", or "" where nothing is."""
        if not self.wanted:
            return ""
        compare, bound = self.wanted.split()
        return "met" if _COMPARE[compare](self.median, float(bound)) else "missed"


@dataclasses.dataclass
class Found:
    """What a job's turns took, by who took them, and the figures that were made of it."""

    seconds: Mapping[str, Sequence[float]]
    figures: list[Figure]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a file or a pipe."""
        return dataclasses.asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Found:
        """What `as_json` has made."""
        return cls(value["seconds"], [Figure(**figure) for figure in value["figures"]])


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes, from its beginning to its return."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def take_turns(turns: Mapping[str, Turn], pairs: int, warm_up: bool = True) -> dict[str, list[float]]:
    """One after the other, `pairs` times: A B A B ..., and once more before, which does not count.

    Returns:
        Seconds, by name and round.
    """
    found: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(pairs + warm_up):
        for name, turn in turns.items():
            seconds = turn()
            if i >= warm_up:
                found[name].append(seconds)
    return found


def fastest(turns: Mapping[str, Turn]) -> str:
    """The name of the one that takes least."""

    def run_of(turn: Turn) -> Callable[[], int]:
        def run() -> int:
            turn()
            return 1

        return run

    return timing.fastest({name: run_of(turn) for name, turn in turns.items()})


def ratio(seconds: Mapping[str, list[float]], a: str, b: str, wanted: str = "", what: str = "") -> Figure:
    """How many times as long `a` took as `b`, pair by pair; by default named so."""
    return Figure(what or f"{a} / {b}", *timing.ratio(seconds, a, b), wanted)


def number(what: str, values: Sequence[float], wanted: str = "") -> Figure:
    """What is no ratio: a count, megabytes."""
    return Figure(what, statistics.median(values), min(values), max(values), wanted)
