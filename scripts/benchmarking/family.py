"""What an update of each strategy costs, in plain updates: all of them in turns, in one process."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import trainlab as tl
from benchmarking import contestants
from benchmarking.timing import in_turns, ratio
from benchmarking.workloads import WORKLOADS


class Member(NamedTuple):
    """A strategy, and how many plain updates one of its own may take; None where nothing is wanted."""

    make: Callable[[], tl.StepStrategy]
    wanted: float | None = None


PLAIN = "SGD"
FAMILY = {
    PLAIN: Member(tl.SGD),
    "Heun": Member(tl.Heun),
    "RungeKutta": Member(tl.RungeKutta, 4.1),
    "AdaptiveStep": Member(tl.AdaptiveStep),
    "Sam": Member(tl.Sam, 2.1),
    "Asam": Member(tl.Asam),
    "Extragradient": Member(tl.Extragradient),
    "OptimisticGradient": Member(tl.OptimisticGradient, 1.1),
    "Lookahead": Member(tl.Lookahead, 1.1),
    "Noise": Member(tl.Noise),
}
FAMILY_WORKLOADS = ("mlp_32", "mlp_256", "cnn")


def table(say: Any, pairs: int, scale: float = 1.0, names: Sequence[str] = FAMILY_WORKLOADS) -> dict[str, Any]:
    """Says how many plain updates one of each strategy takes, under XLA where plain is faster so; returns it."""
    found = {}
    for name in names:
        updates = max(int(WORKLOADS[name].updates * scale) // 50 * 50, 50)
        workload = dataclasses.replace(WORKLOADS[name], updates=updates)
        _, chosen = contestants.ours(workload, tl.SGD())
        made = {who: contestants.ours(workload, member.make(), chosen == "XLA") for who, member in FAMILY.items()}
        seconds = in_turns({who: run for who, (run, _) in made.items()}, pairs)
        say(f"\n## {workload.name}: every strategy\n")
        say(f"{pairs} pairs, {chosen}.\n")
        say("| strategy | evaluations | us an update | in plain updates | least | most | wanted | |")
        say("|---|---:|---:|---:|---:|---:|---|---|")
        for who, member in FAMILY.items():
            middle, least, most = ratio(seconds, who, PLAIN)
            evaluations = "2 and more" if who == "AdaptiveStep" else member.make().evaluations
            numbers = f"{statistics.median(seconds[who]) * 1e6:,.1f} | {middle:.2f} | {least:.2f} | {most:.2f}"
            say(f"| {who} | {evaluations} | {numbers} | {_verdict(middle, member.wanted)} |")
            found[f"{name}, {who}"] = {"seconds": seconds[who], "plain_updates": [middle, least, most]}
    return found


def _verdict(seen: float, wanted: float | None) -> str:
    if wanted is None:
        return " | "
    return f"<= {wanted} | {'met' if seen <= wanted else '**missed**'}"
