"""Panels as a figure of matplotlib, for paper and slides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainlab.reports.drawing.panels import Panel, coloured
from trainlab.reports.drawing.scales import across, scale_of, tick_texts
from trainlab.reports.drawing.thinning import thinned
from trainlab.reports.reading.run import AXES, RunRecord

# Okabe and Ito's, the yellow darker.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b87a00", "#3a9bd6", "#000000", "#8c8200")
_GREY = "#b4b4bc"
_MOST_STRETCHES = 600
_MOST_NAME = 60  # characters
# Text is text: a run may be called `$x_1$`.
_STYLE = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "svg.fonttype": "none"}


def figure_of(panels: Sequence[Panel], runs: Sequence[RunRecord], title: str, axis: str = "updates") -> Any:
    """The panels, side by side, as a `matplotlib.figure.Figure`, which belongs to no window.

    Args:
        panels: what is drawn.
        runs: whose curves they are.
        title: above all.
        axis: a name in `Line.axes`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        num_columns = min(3, max(len(panels), 1))
        num_rows = -(-max(len(panels), 1) // num_columns)
        figure = Figure(figsize=(4.2 * num_columns, 2.9 * num_rows + 0.9), layout="constrained")
        figure.suptitle(_short(title))
        grid = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
        colours = coloured(runs)
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel, axis, colours)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if handles := _handles(panels, runs, colours):
            figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False)
        if not panels:
            figure.text(0.5, 0.5, "no epoch has ended yet", ha="center")
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes a figure; the suffix says as what."""
    with _matplotlib().rc_context(_STYLE):
        figure.savefig(path, dpi=144, facecolor="white")


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a picture needs matplotlib: pip install 'trainlab[report]'") from None
    return matplotlib


def _draw(axes: Any, panel: Panel, axis: str, colours: Sequence[int]) -> None:
    y = scale_of((value for line in panel.lines for value in line.values), panel.may_be_log, panel.from_zero)
    x = across(value for line in panel.lines for value in line.axes[axis])
    is_alone = len({line.run for line in panel.lines}) == 1
    for line in sorted(panel.lines, key=lambda line: line.run in colours):
        kept = thinned(line.values, _MOST_STRETCHES)
        colour = _COLOURS[int(line.is_dashed)] if is_alone else _colour(line.run, colours)
        is_grey = colour == _GREY
        if is_grey and not line.is_shown_grey:
            continue
        num = sum(not math.isnan(value) for value in line.values)
        axes.plot(
            [line.axes[axis][i] for i in kept],
            [line.values[i] for i in kept],
            color=colour,
            linestyle="--" if line.is_dashed else "-",
            linewidth=0.7 if is_grey else 1.5,
            marker="o" if num <= 12 and not is_grey else None,
            markersize=3,
            zorder=1 if is_grey else 2,
        )
    if y is not None:
        axes.set_yscale("log" if y.is_log else "linear")
        axes.set_ylim(y.low, y.high)
        axes.set_yticks(ticks := y.ticks(), tick_texts(ticks))  # matplotlib's own of a log scale are mathematics
        axes.minorticks_off()
    if x is not None:
        axes.set_xlim(0, x.high)
    axes.set_title(_short(panel.title), fontsize=10, loc="left")
    axes.set_xlabel(AXES.get(axis, axis))
    axes.grid(color="#ececf0")


def _colour(run: int, colours: Sequence[int]) -> str:
    return _COLOURS[colours.index(run)] if run in colours else _GREY


def _handles(panels: Sequence[Panel], runs: Sequence[RunRecord], colours: Sequence[int]) -> list[Any]:
    from matplotlib.lines import Line2D

    has_validation = any(line.is_dashed for panel in panels for line in panel.lines)
    if len(runs) == 1:
        pairs: Any = (("training", "-", _COLOURS[0]), ("validation", "--", _COLOURS[1]))
        return [Line2D([], [], color=c, linestyle=s, label=name) for name, s, c in pairs] if has_validation else []
    handles = [Line2D([], [], color=_COLOURS[k], label=_short(runs[i].name)) for k, i in enumerate(colours)]
    if len(runs) > len(colours):
        handles.append(Line2D([], [], color=_GREY, linewidth=0.7, label=f"{len(runs) - len(colours)} others"))
    if has_validation:
        handles.append(Line2D([], [], color="black", linestyle="--", label="validation"))
    return handles


def _short(text: str) -> str:
    """Text of one line that fonts can draw, and that a legend takes: it hides labels that begin with an underscore."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))
    text = text if len(text) <= _MOST_NAME else f"{text[: _MOST_NAME - 1]}…"
    return f" {text}" if text.startswith("_") else text
