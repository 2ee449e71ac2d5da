"""A comparison as a page: the table, curves with bands against each axis, the performance profile, best of k."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainlab.comparing.comparison import Comparison
from trainlab.reports import Cell, Line, Panel, Section, Table, write_parts

_AXES = {
    "evaluations": "gradient evaluations (of a batch)",
    "seconds": "seconds (measured in turns)",
    "updates": "updates",
}


def write_report(found: Comparison, path: str | os.PathLike[str]) -> Path:
    """Writes a comparison as one file of HTML.

    Args:
        found: what `compare` returned.
        path: the file, replaced if it is there.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: jinja2 is missing: `pip install 'trainlab[report]'`.
    """
    names = [row["entry"] for row in found.table]
    sections = [
        Section("Results", notes=found.notes, tables=[_results(found)]),
        Section("Curves", panels=[_curves(found, names)], axes=_AXES),
        Section("Performance profile", panels=[_profile(found, names)], axes={"factor": "log2 of the factor"}),
        Section("Best of k learning rates", panels=[_best_of(found, names)], axes={"k": "learning rates tried"}),
        Section("Verdicts", notes=[_VERDICTS], tables=[_verdicts(found), _seconds(found)]),
    ]
    summary = f"{len(names)} steps, {found.num_rates} learning rates, {found.num_seeds} seeds, paired"
    return write_parts(path, f"Comparison: {Path(found.directory).name}", summary, names, sections)


_VERDICTS = (
    "The difference is the step's value less that of the plain step. On validation data the learning rate "
    "was chosen too. At equal updates and seconds, curves are read off where the first of all has no more: their schedules, if "
    "there are any, are those of the budget of evaluations."
)


def _results(found: Comparison) -> Table:
    columns, rows = found.columns
    cells = [
        [Cell(text, is_number=0 < k < len(row) - 1, run=i if k == 0 else None) for k, text in enumerate(row)]
        for i, row in enumerate(rows)
    ]
    return Table(columns, cells)


def _curves(found: Comparison, names: Sequence[str]) -> Panel:
    lines = []
    for i, name in enumerate(names):
        bands = {axis: found.curves[axis][name] for axis in _AXES}
        first = bands["evaluations"]
        axes = {axis: _numbers(band["cost"]) for axis, band in bands.items()}
        low, high = _numbers(first["low"]), _numbers(first["high"])
        lines.append(Line(i, _numbers(first["median"]), axes, False, name, band=(low, high)))
    note = "The median of the seeds at the best learning rate, and their quartiles."
    return Panel(f"{found.metric} on validation", lines, may_be_log=found.metric.endswith("loss"), note=note)


def _profile(found: Comparison, names: Sequence[str]) -> Panel:
    factors = found.profile["factors"]
    lines = []
    for i, name in enumerate(names):
        shares = found.profile["shares"][name]
        places = [place for a, b in zip(factors, [*factors[1:], max(2.0, 1.1 * factors[-1])], strict=True) for place in (a, b)]
        lines.append(
            Line(i, [share for share in shares for _ in (0, 1)], {"factor": [math.log2(place) for place in places]}, False, name)
        )
    note = "The share of the seeds on which the target is reached within a factor of what the best needs on that seed."
    return Panel("share of seeds", lines, may_be_log=False, note=note, from_zero=True)


def _best_of(found: Comparison, names: Sequence[str]) -> Panel:
    lines = []
    for i, name in enumerate(names):
        values = _numbers(found.best_of[name])
        if any(not math.isnan(value) for value in values):
            lines.append(Line(i, values, {"k": [float(k + 1) for k in range(len(values))]}, False, name))
    note = "What to expect of the best of k of the learning rates, by validation: how much a step needs to be tuned."
    return Panel(f"{found.metric} on validation", lines, may_be_log=False, note=note)


def _verdicts(found: Comparison) -> Table:
    columns = ["step", "against", "at equal", "on", "difference", "standard error", "interval (95 %)", "verdict"]
    rows = []
    for v in found.verdicts:
        low, high = v["interval"]
        error = "–" if v["standard_error"] is None else f"{v['standard_error']:.2g}"
        numbers = [Cell(f"{v['mean']:+.3g}", True), Cell(error, True), Cell(f"{low:+.3g} … {high:+.3g}", True)]
        rows.append([Cell(v["entry"]), Cell(v["rival"]), Cell(v["axis"]), Cell(v["on"]), *numbers, Cell(v["verdict"])])
    return Table(columns, rows)


def _seconds(found: Comparison) -> Table:
    rows = [
        [
            Cell(name),
            Cell("–" if row["seconds_per_update"] is None else f"{row['seconds_per_update']:.3g}", True),
            Cell("–" if row["value"] is None else f"{row['value']:.4g}", True),
            Cell(row["verdict"]),
        ]
        for name, row in found.seconds.items()
    ]
    return Table(["step", "seconds an update", f"{found.metric} (validation) at equal seconds", "verdict"], rows)


def _numbers(values: Sequence[Any]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]
