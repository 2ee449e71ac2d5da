"""Runs as one page of HTML: curves, tables, and nothing that another file or a script would have to bring."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from trainlab.reports import tables
from trainlab.reports.drawing.panels import coloured, panels_of
from trainlab.reports.drawing.svg import panel_svg
from trainlab.reports.metrics import leading
from trainlab.reports.page.filling import filled
from trainlab.reports.reading.run import AXES, RunRecord
from trainlab.reports.text import many

# A longer table is folded; of results the first are shown, and the others folded.
_MOST_ROWS, _NUM_FIRST = 12, 10


def render(runs: Sequence[RunRecord], title: str) -> str:
    """The text of the page.

    Args:
        runs: at least one.
        title: of the page.

    Raises:
        ModuleNotFoundError: jinja2 is not installed.
    """
    colours = coloured(runs)
    lead, differing = leading(runs), tables.differences(runs)
    shown, axes = _figures(runs, colours)
    return filled(
        "report.html",
        title,
        _summary(runs),
        axes,
        runs=runs,
        colours=colours,
        num_others=len(runs) - len(colours),
        lead=None if lead is None else lead[0],
        panels=shown,
        results=tables.results(runs),
        others=tables.others(runs),
        num_first=_NUM_FIRST,
        differences=differing,
        differ_of_many=len(runs) > 1,
        settings=tables.settings(runs[0]) if len(runs) == 1 else None,
        sessions=tables.sessions(runs),
        skipped=tables.skipped(runs),
        machines=tables.machines(runs),
        most_rows=_MOST_ROWS,
        unknown=[run.name for run in runs if not run.sessions],
    )


def _figures(runs: Sequence[RunRecord], colours: Sequence[int]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Each panel with its figures by axis, and the axes against which there is something."""
    from markupsafe import Markup

    numbers = itertools.count()
    shown: list[dict[str, Any]] = []
    for panel in panels_of(runs):
        figures = {axis: panel_svg(panel, axis, name, colours, f"c{next(numbers)}") for axis, name in AXES.items()}
        drawn = {axis: None if svg is None else Markup(svg) for axis, svg in figures.items()}
        has_validation = any(line.is_dashed for line in panel.lines)
        shown.append({"title": panel.title, "note": panel.note, "figures": drawn, "has_validation": has_validation})
    axes = {axis: name for axis, name in AXES.items() if any(panel["figures"][axis] is not None for panel in shown)}
    return shown, axes


def _summary(runs: Sequence[RunRecord]) -> str:
    """Who is here, in a line."""
    states: dict[str, int] = {}
    for run in runs:
        states[run.status] = states.get(run.status, 0) + 1
    if len(runs) == 1:
        return runs[0].status
    return f"{many(len(runs), 'run')}: {', '.join(f'{num} {status}' for status, num in states.items())}"
