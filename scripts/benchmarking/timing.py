"""Fair timing on a machine that others use too: all in turns, medians, and ratios pair by pair."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Seconds = Mapping[str, list[float]]


def in_turns(runs: Mapping[str, Callable[[], int]], rounds: int, warm_up: bool = True) -> Seconds:
    """Runs all of them, one after the other, `rounds` times: A B C A B C ..., and once more before, to warm up.

    Returns:
        Seconds a batch, by name and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds + warm_up):
        for name, run in runs.items():
            started = time.perf_counter()
            batches = run()
            if i >= warm_up:
                seconds[name].append((time.perf_counter() - started) / batches)
    return seconds


# Whose first run takes so many seconds, and so many times as long as another's, is not run again: XLA on a CNN, on a CPU.
_HOPELESS_SECONDS = 10.0
_HOPELESS_RATIO = 3.0


def fastest(runs: Mapping[str, Callable[[], int]]) -> str:
    """The name of the one that takes least: a run of each to warm up, a heat of the promising, and one of the best three."""
    warm_up: dict[str, float] = {}
    for name, run in runs.items():
        started = time.perf_counter()
        run()
        warm_up[name] = time.perf_counter() - started
    longest = max(_HOPELESS_SECONDS, _HOPELESS_RATIO * min(warm_up.values()))
    first = in_turns({name: run for name, run in runs.items() if warm_up[name] <= longest}, 1, warm_up=False)
    best = sorted(first, key=lambda name: first[name][0])[:3]
    second = in_turns({name: runs[name] for name in best}, 2, warm_up=False)
    return min(best, key=lambda name: statistics.median(first[name] + second[name]))


def ratio(seconds: Seconds, slower: str, faster: str) -> tuple[float, float, float]:
    """How many times as long `slower` took, pair by pair: the median, the least and the most."""
    found = sorted(a / b for a, b in zip(seconds[slower], seconds[faster], strict=True))
    return statistics.median(found), found[0], found[-1]
