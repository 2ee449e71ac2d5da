"""The table of results: every run's curve, by entry, rate and seed, and what is read off it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab.comparing.plan import Plan, Trial
from trainlab.comparing.statistics import costs_to_target

AXES = ("evaluations", "seconds", "updates")


class Results:
    """What the runs came to. Values are such that less is better: of a metric that is to be large, with the sign turned.

    Args:
        plan: which runs there are.
        found: by entry's name, index of the rate and seed, what `Racer.run` returned.
        is_up: whether more of the metric is better.
    """

    def __init__(self, plan: Plan, found: Mapping[tuple[str, int, int], Mapping[str, Any]], is_up: bool = False):
        self._plan, self._found, self.is_up = plan, found, is_up
        self._sign = -1.0 if is_up else 1.0
        self._seconds: dict[str, float] = {}

    def with_seconds(self, seconds: Mapping[str, float]) -> Results:
        """The same, with what an update of each entry takes."""
        self._seconds = dict(seconds)
        return self

    def shown(self, value: float) -> float:
        """A value as the metric has it."""
        return self._sign * value

    def result(self, name: str, trial: Trial) -> Mapping[str, Any]:
        """What a run came to."""
        return self._found[name, trial.index, trial.seed]

    def curve(self, name: str, index: int, seed: int, axis: str) -> tuple[list[float], list[float]]:
        """The cost so far on an axis, and the value there; infinite where there is none."""
        points = self._found[name, index, seed]["points"]
        if axis == "seconds":
            costs = [point["updates"] * self._seconds[name] for point in points]
        else:
            costs = [float(point[axis]) for point in points]
        return costs, [self._value(point["value"]) for point in points]

    def reached(self, name: str, index: int, seed: int, axis: str, budget: float) -> float:
        """The value of a run at the last point within a budget (of those beyond it the first); infinite where a run failed."""
        result = self._found[name, index, seed]
        if result["end"].startswith("not finite") or not result["points"]:
            return math.inf
        costs, values = self.curve(name, index, seed, axis)
        within = [value for cost, value in zip(costs, values, strict=True) if cost <= budget * (1 + 1e-9)]
        return within[-1] if within else values[0]

    def finals(self, name: str, index: int) -> list[float]:
        """The value of each seed at the end of the budget of evaluations."""
        return self.at(name, index, "evaluations", self._plan.budget)

    def at(self, name: str, index: int, axis: str, budget: float) -> list[float]:
        """The value of each seed at a budget."""
        return [self.reached(name, index, seed, axis, budget) for seed in self._plan.seeds]

    def means(self, name: str) -> list[float]:
        """For each rate the mean over the seeds at the end; infinite where one has failed."""
        return [sum(values) / len(values) for values in (self.finals(name, i) for i in range(len(self._plan.rates)))]

    def best(self, name: str) -> int:
        """The index of the rate at which that is the least."""
        means = self.means(name)
        return means.index(min(means))

    def rate(self, name: str) -> float:
        """The best rate itself, as the optimizer got it."""
        entry = next(entry for entry in self._plan.entries if entry.name == name)
        return self._plan.rates[self.best(name)] / entry.divisor

    def common_budget(self, axis: str) -> float:
        """The most that all entries have used on an axis: the least of what each has at its end."""
        ends = []
        for entry in self._plan.entries:
            used = [self.curve(entry.name, self.best(entry.name), seed, axis)[0] for seed in self._plan.seeds]
            known = [costs[-1] for costs in used if costs]
            ends.append(max(known) if known else math.inf)
        return min(ends)

    def costs(self, name: str, axis: str, target: float) -> list[float]:
        """For each seed what it cost to reach a target; infinite for a miss."""
        curves = [self.curve(name, self.best(name), seed, axis) for seed in self._plan.seeds]
        return [costs_to_target(*curve, target) for curve in curves]

    def band(self, name: str, axis: str) -> tuple[list[float], list[float], list[float], list[float]]:
        """The curve of an entry at its best rate: costs, and of the seeds' values the median and the quartiles."""
        curves = [self.curve(name, self.best(name), seed, axis) for seed in self._plan.seeds]
        ended = [self._found[name, self.best(name), seed]["end"].startswith("not finite") for seed in self._plan.seeds]
        length = max(len(costs) for costs, _ in curves)
        columns = [[_at(values, k, failed) for (_, values), failed in zip(curves, ended, strict=True)] for k in range(length)]
        costs = [_mean([costs[k] for costs, _ in curves if k < len(costs)]) for k in range(length)]
        middle, low, high = ([_quantile(column, share) for column in columns] for share in (0.5, 0.25, 0.75))
        return costs, middle, low, high

    def _value(self, value: float | None) -> float:
        return math.inf if value is None else self._sign * value


def _at(values: Sequence[float], k: int, failed: bool) -> float:
    """A point of a curve; beyond its end the last one, unless the run failed there."""
    return values[k] if k < len(values) else math.inf if failed or not values else values[-1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _quantile(values: Sequence[float], share: float) -> float:
    """With infinite ones among them, which come last."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low, rest = ordered[int(place)], place - int(place)
    if not rest or int(place) + 1 == len(ordered):
        return low
    high = ordered[int(place) + 1]
    return low + rest * (high - low) if math.isfinite(high) else high
