"""What a comparison came to: a table, verdicts, and what they rest on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainlab.comparing.entries import Entry
from trainlab.comparing.plan import Plan
from trainlab.comparing.results import AXES, Results
from trainlab.comparing.statistics import (
    BETTER,
    FEWEST_SEEDS,
    NOT_TOLD_APART,
    NUM_ERRORS,
    WORSE,
    best_of_k,
    compared,
    median,
    performance_profile,
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `tl.compare` returns; printed, it is the table and what there is to know of it. `compare` has an example.

    Attributes:
        table: a row for each entry, a dictionary: `entry`, `learning_rate` (the best of those tried, as the optimizer got it),
          `updates`, `evaluations` (of one batch's gradient), `mean` and `standard_error` over the seeds of what is judged,
          `reached` (share of the seeds that reached the target), `cost_to_target` (median evaluations, None where the median is a
          miss), `verdict` ("" for the plain steps). The same bits on every try.
        verdicts: of each entry against each plain step that it must beat: `entry`, `rival`, `axis`, `on` ("test" or
          "validation"), `mean` of the differences, `standard_error`, `interval`, `num_seeds`, `verdict`. The mean is of the
          entry's value less the rival's, as the metric has it, and the interval is that of the mean.
        seconds: what rests on a clock: by entry `seconds_per_update`, `value` at equal seconds, `verdict`.
        best_of: by entry, the value to expect of the best of 1 ... k rates, on validation.
        profile: `factors`, and by entry the `shares` of seeds that reach the target within that factor of the least cost.
        target: what the tuned plain step reaches on validation; None where it reaches nothing.
        metric: what runs are judged by.
        judged_on: "test", or "validation" where there are no test data.
        curves: by axis and entry: `cost`, and of the seeds' values `median`, `low` and `high` quartile, None for no value.
        directory: of the runs.
        num_seeds, num_rates: how many of each there are.
        at_an_end: entries whose best rate is the least or the greatest of those tried, so that another may be better.
    """

    table: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    seconds: dict[str, dict[str, Any]]
    best_of: dict[str, list[float | None]]
    profile: dict[str, Any]
    target: float | None
    metric: str
    judged_on: str
    curves: dict[str, dict[str, dict[str, list[float | None]]]]
    directory: Path
    num_seeds: int
    num_rates: int
    at_an_end: list[str]

    def to_json(self, path: Any = None) -> str:
        """All of it but `directory` as JSON; what has no value (a NaN, an infinity) is null.

        Args:
            path: of a file to write it to, replaced if it is there; None for none.

        Raises:
            OSError: the file cannot be written.
        """
        found = {name: value for name, value in dataclasses.asdict(self).items() if name != "directory"}
        text = json.dumps(found, indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @property
    def columns(self) -> tuple[list[str], list[list[str]]]:
        """The table as text: names of columns, and rows."""
        each = f"{self.metric} ({self.judged_on})"
        names = ["step", "rate", "updates", "evaluations", each, "± s.e.", "reached", "evaluations to it", "s/update", "verdict"]
        rows = []
        for row in self.table:
            seconds = self.seconds.get(row["entry"], {}).get("seconds_per_update")
            rows.append(
                [
                    row["entry"],
                    _text(row["learning_rate"]),
                    f"{row['updates']:,}",
                    f"{row['evaluations']:,.0f}",
                    _text(row["mean"]),
                    _text(row["standard_error"], 2),
                    f"{row['reached']:.0%}",
                    "missed" if row["cost_to_target"] is None else f"{row['cost_to_target']:,.0f}",
                    "–" if seconds is None else f"{seconds:.2e}",
                    row["verdict"],
                ]
            )
        return names, rows

    @property
    def notes(self) -> list[str]:
        """What there is to know of the table."""
        target = "nothing: all of its runs failed" if self.target is None else f"{self.metric} {_text(self.target)} on validation"
        few = f" (of {self.num_seeds}: too few to tell anything)" if self.num_seeds < FEWEST_SEEDS else ""
        return [
            f"Each step at the best of {self.num_rates} learning rates, by validation; {self.num_seeds} seeds, paired: the same "
            "initial weights, order and masks.",
            f"The target, fixed beforehand, is what the plain step reaches: {target}. A miss counts as infinite.",
            f"better: than every plain step that it is measured against, by {NUM_ERRORS} standard errors, the bootstrap's "
            f"interval without zero, {FEWEST_SEEDS} seeds or more{few}.",
            *(
                [f"The best rate is at an end of those tried, and one beyond it may be better: {'; '.join(self.at_an_end)}."]
                * bool(self.at_an_end)
            ),
        ]

    def __str__(self) -> str:
        names, rows = self.columns
        widths = [max(len(line[k]) for line in (names, *rows)) for k in range(len(names))]
        ends = (0, len(names) - 1)  # to the left
        lines = [
            "  ".join(c.ljust(w) if k in ends else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in (names, *rows)
        ]
        return "\n".join([*lines, "", *self.notes])

    def report(self, path: Any) -> Path:
        """Writes it as one file of HTML, with pictures.

        Args:
            path: of the file, `.html`, replaced if it is there.

        Returns:
            The path.

        Raises:
            OSError, TypeError, ValueError: there can be no such file, in one line.
            ModuleNotFoundError: jinja2 is missing: `pip install 'trainlab[report]'`.
        """
        from trainlab.comparing.page import write_report  # which knows this class

        return write_report(self, path)

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        names, rows = self.columns
        cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        return f"<table><tr>{head}</tr>{cells}</table>{''.join(f'<p>{escape(note)}</p>' for note in self.notes)}"


def conclude(
    plan: Plan,
    results: Results,
    target: float,
    tests: Mapping[str, Sequence[Mapping[str, float | None]]],
    seconds: Mapping[str, float],
    metric: str,
    directory: Path,
) -> Comparison:
    """Reads all off the table of results.

    Args:
        plan, results: of all runs; with the seconds.
        target: as the metric has it; infinite for none.
        tests: by entry the test metrics of each seed at its best rate; empty where there are no test data.
        seconds: by entry, of an update.
        metric: the name.
        directory: of the runs.
    """
    judged = {e.name: _judged(e.name, plan, results, tests, metric) for e in plan.entries}
    on = "test" if tests else "validation"
    aim = results.shown(target) if math.isfinite(target) else -math.inf
    verdicts = _against(plan, results, judged, "evaluations", on)
    for axis in ("evaluations", "updates"):
        if axis == "updates" or tests:
            budget = plan.budget if axis == "evaluations" else results.common_budget(axis)
            values = {e.name: results.at(e.name, results.best(e.name), axis, budget) for e in plan.entries}
            verdicts += _against(plan, results, values, axis, "validation")
    costs = {e.name: results.costs(e.name, "evaluations", aim) for e in plan.entries}
    factors, shares = performance_profile(costs)
    return Comparison(
        table=[_row(e, plan, results, judged[e.name], costs[e.name], verdicts, on) for e in plan.entries],
        verdicts=verdicts,
        seconds=_in_seconds(plan, results, seconds),
        best_of={e.name: [_shown(results, v) for v in best_of_k(results.means(e.name))] for e in plan.entries},
        profile={"factors": factors, "shares": shares},
        target=_finite(target),
        metric=metric,
        judged_on=on,
        curves={axis: {e.name: _band(results, e.name, axis) for e in plan.entries} for axis in AXES},
        directory=directory,
        num_seeds=len(plan.seeds),
        num_rates=len(plan.rates),
        at_an_end=[e.name for e in plan.entries if plan.rates[results.best(e.name)] in (min(plan.rates), max(plan.rates))],
    )


def _judged(name: str, plan: Plan, results: Results, tests: Mapping[str, Any], metric: str) -> list[float]:
    if not tests:
        return results.finals(name, results.best(name))
    values = [test.get(metric) for test in tests[name]]
    return [math.inf if value is None else results.shown(value) for value in values]


def _row(
    entry: Entry,
    plan: Plan,
    results: Results,
    judged: Sequence[float],
    costs: Sequence[float],
    verdicts: Sequence[Mapping[str, Any]],
    on: str,
) -> dict[str, Any]:
    mean = sum(judged) / len(judged)
    spread = sum((value - mean) ** 2 for value in judged) / (len(judged) - 1) if len(judged) > 1 else math.nan
    used = [results.curve(entry.name, results.best(entry.name), seed, "evaluations")[0] for seed in plan.seeds]
    ends = [curve[-1] for curve in used if curve]
    index = results.best(entry.name)
    made = [results.curve(entry.name, index, seed, "updates")[0] for seed in plan.seeds]
    updates = [curve[-1] for curve in made if curve]
    against = [v["verdict"] for v in verdicts if (v["entry"], v["axis"], v["on"]) == (entry.name, "evaluations", on)]
    return {
        "entry": entry.name,
        "learning_rate": results.rate(entry.name),
        "updates": round(sum(updates) / len(updates)) if updates else 0,
        "evaluations": sum(ends) / len(ends) if ends else 0.0,
        "mean": _shown(results, mean),
        "standard_error": _finite(math.sqrt(spread / len(judged))) if math.isfinite(spread) else None,
        "reached": sum(math.isfinite(cost) for cost in costs) / len(costs),
        "cost_to_target": _finite(median(costs)),
        "verdict": _together(against),
    }


def _together(against: Sequence[str]) -> str:
    """Of the verdicts against several rivals: better only than all of them, and worse where worse than one."""
    if not against:
        return ""
    return WORSE if WORSE in against else BETTER if set(against) == {BETTER} else NOT_TOLD_APART


def _against(plan: Plan, results: Results, values: Mapping[str, Sequence[float]], axis: str, on: str) -> list[dict[str, Any]]:
    found = []
    for entry in plan.entries:
        for rival in entry.rivals:
            difference = compared(values[entry.name], values[rival])
            found.append(
                {
                    "entry": entry.name,
                    "rival": rival,
                    "axis": axis,
                    "on": on,
                    "mean": results.shown(difference.mean),
                    "standard_error": _finite(difference.standard_error),
                    "interval": sorted(map(results.shown, (difference.low, difference.high))),
                    "num_seeds": difference.num_seeds,
                    "verdict": difference.verdict,
                }
            )
    return found


def _in_seconds(plan: Plan, results: Results, seconds: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    budget = results.common_budget("seconds")
    values = {e.name: results.at(e.name, results.best(e.name), "seconds", budget) for e in plan.entries}
    verdicts = _against(plan, results, values, "seconds", "validation")
    return {
        e.name: {
            "seconds_per_update": _finite(seconds[e.name]),
            "value": _shown(results, sum(values[e.name]) / len(values[e.name])),
            "verdict": _together([v["verdict"] for v in verdicts if v["entry"] == e.name]),
        }
        for e in plan.entries
    }


def _band(results: Results, name: str, axis: str) -> dict[str, list[float | None]]:
    costs, *values = results.band(name, axis)
    middle, low, high = ([_shown(results, value) for value in column] for column in values)
    if results.is_up:
        low, high = high, low
    return {"cost": [_finite(cost) for cost in costs], "median": middle, "low": low, "high": high}


def _shown(results: Results, value: float) -> float | None:
    return _finite(results.shown(value))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}g}"
