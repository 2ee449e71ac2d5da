"""Fair timing on a machine that others use too: all in turns, medians, and ratios pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Seconds = Mapping[str, list[float]]


def in_turns(runs: Mapping[str, Callable[[], int]], rounds: int) -> Seconds:
    """Runs all of them, one after the other, `rounds` times (A B C A B C ...) and once more before, which does not count.

    Returns:
        Seconds a batch, by name and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            batches = run()
            if i:
                seconds[name].append((time.perf_counter() - started) / batches)
    return seconds


def fastest(runs: Mapping[str, Callable[[], int]]) -> str:
    """The name of the one that takes least: a heat of all, and one of the best three."""
    first = in_turns(runs, 1)
    best = sorted(runs, key=lambda name: first[name][0])[:3]
    second = in_turns({name: runs[name] for name in best}, 2)
    return min(best, key=lambda name: statistics.median(second[name]))


def ratio(seconds: Seconds, slower: str, faster: str) -> tuple[float, float, float]:
    """How many times as long `slower` took, pair by pair: the median, the least and the most."""
    found = sorted(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))
    return statistics.median(found), found[0], found[-1]
