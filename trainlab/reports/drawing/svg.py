"""A panel as SVG, in colours that the page round it says, so that it looks right in light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from trainlab.reports.drawing.panels import Line, Panel
from trainlab.reports.drawing.scales import Scale, across, scale_of, tick_texts
from trainlab.reports.drawing.thinning import pieces, thinned

WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 8, 38
_LETTER = 11  # the height of a number at the end of a curve
_MOST_MARKED = 12  # points of a curve that are marked one by one
_PIXELS_A_STRETCH, _MOST_POINTS = 2, 12_000  # of all the lines of a panel


def panel_svg(panel: Panel, axis: str, axis_name: str, colours: Sequence[int], clip: str) -> str | None:
    """The curves of a panel, against one of the axes.

    Args:
        panel: the curves.
        axis: its name in `Line.axes`.
        axis_name: what is written below.
        colours: the runs that have a colour, by number.
        clip: an id that nothing else on the page has.

    Returns:
        None where nothing of it is known against this axis.
    """
    x = across(value for line in panel.lines for value in line.axes[axis])
    y = scale_of((value for line in panel.lines for value in line.values), panel.may_be_log, panel.from_zero)
    if x is None or y is None:
        return None
    size = f'width="{_inner_width() + 3}" height="{_inner_height() + 6}"'  # a dot at the edge is whole
    frame = f'<clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP - 3}" {size}/></clipPath>'
    grid = _grid(x, y, axis_name)
    stretches = max(8, min(_inner_width() // _PIXELS_A_STRETCH, _MOST_POINTS // 4 // len(panel.lines)))
    drawn = [line for line in panel.lines if line.run in colours or line.is_shown_grey]
    ordered = sorted(drawn, key=lambda line: line.run in colours)  # coloured ones over grey ones
    lines = "".join(_line(line, axis, x, y, colours, stretches, is_alone=len(_runs(panel)) == 1) for line in ordered)
    ends = _ends(panel, axis, x, y, colours) if len(_runs(panel)) > 1 else ""
    label = escape(f"{panel.title} against {axis_name}")
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    return f'{head}{frame}{grid}<g clip-path="url(#{clip})">{lines}</g>{ends}</svg>'


def _runs(panel: Panel) -> set[int]:
    return {line.run for line in panel.lines}


def _inner_width() -> int:
    return WIDTH - _LEFT - _RIGHT


def _inner_height() -> int:
    return HEIGHT - _TOP - _BOTTOM


def _x(scale: Scale, value: float) -> float:
    return round(_LEFT + scale.place(value) * _inner_width(), 1)


def _y(scale: Scale, value: float) -> float:
    place = min(max(scale.place(value), -1.0), 2.0)  # beyond an end, but not as far as it likes
    return round(_TOP + (1 - place) * _inner_height(), 1)


def _grid(x: Scale, y: Scale, axis_name: str) -> str:
    parts = []
    ticks = y.ticks()
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        place = _y(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place}" y2="{place}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4}" text-anchor="end">{text}</text>')
    ticks = x.ticks(6)
    for tick, text in zip(ticks, tick_texts(ticks), strict=True):
        parts.append(f'<text x="{_x(x, tick)}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{text}</text>')
    base = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle, said = _LEFT + _inner_width() / 2, ["log scale"] * y.is_log + ["larger values are cut"] * y.is_cut
    remark = f" ({'; '.join(said)})" if said else ""
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(axis_name)}{remark}</text>')
    return "".join(parts)


def _line(line: Line, axis: str, x: Scale, y: Scale, colours: Sequence[int], stretches: int, is_alone: bool) -> str:
    where = line.axes[axis]
    places = [math.nan if math.isnan(a) else value for a, value in zip(where, line.values, strict=True)]
    parts = pieces(places, thinned(places, stretches))
    path = "".join(_path([(_x(x, where[i]), _y(y, places[i])) for i in part]) for part in parts)
    # Of a single run training and validation have a colour each; of several each run has one, and validation is dashed.
    if is_alone:
        kind = f"c{2 if line.is_dashed else 1}"
    else:
        kind = f"c{colours.index(line.run) + 1}" if line.run in colours else "c0"
    dashed = " dashed" if line.is_dashed else ""
    num = sum(map(len, parts))
    dots = [i for part in parts if num <= _MOST_MARKED or len(part) == 1 for i in part] if kind != "c0" or num <= 2 else []
    marks = "".join(f'<circle class="dot" cx="{_x(x, where[i])}" cy="{_y(y, places[i])}" r="2.5"/>' for i in dots)
    return f'<g class="{kind}{dashed}"><title>{escape(line.label)}</title>{_band(line, where, x, y)}<path d="{path}"/>{marks}</g>'


def _band(line: Line, where: Sequence[float], x: Scale, y: Scale) -> str:
    """The area about a curve; where it has no end, up to the edge."""
    if line.band is None:
        return ""
    known = [i for i, a in enumerate(where) if not math.isnan(a) and not math.isnan(line.band[0][i])]
    below = [(_x(x, where[i]), _y(y, line.band[0][i])) for i in known]
    above = [(_x(x, where[i]), _y(y, y.high if math.isnan(line.band[1][i]) else line.band[1][i])) for i in known]
    outline = _path([*below, *reversed(above)])
    return f'<path class="band" d="{outline}Z"/>' if len(known) > 1 else ""


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:g} {b:g}" for a, b in points) if len(points) > 1 else ""


def _ends(panel: Panel, axis: str, x: Scale, y: Scale, colours: Sequence[int]) -> str:
    """At the end of the curves of each coloured run its number in the legend, moved apart where they would lie on each other."""
    found = []
    for line in panel.lines:
        known = [i for i, value in enumerate(line.values) if not math.isnan(value) and not math.isnan(line.axes[axis][i])]
        is_labelled = line.is_dashed or not any(other.run == line.run and other.is_dashed for other in panel.lines)
        if line.run in colours and is_labelled and known:
            place = min(max(_y(y, line.values[known[-1]]), _TOP + 6), HEIGHT - _BOTTOM - 2)
            found.append([place, _x(x, line.axes[axis][known[-1]]), colours.index(line.run) + 1])
    found.sort()
    for before, after in zip(found, found[1:], strict=False):
        if _lie_on_each_other(before, after):
            after[0] = before[0] + _LETTER
    if found:
        found[-1][0] = min(found[-1][0], HEIGHT - _BOTTOM)
    for before, after in zip(found[-2::-1], found[:0:-1], strict=True):  # and not below the axis
        if _lie_on_each_other(before, after):
            before[0] = after[0] - _LETTER
    return "".join(f'<text class="end t{k}" x="{a + 4:g}" y="{b + 4:g}">{k}</text>' for b, a, k in found)


def _lie_on_each_other(upper: Sequence[float], lower: Sequence[float]) -> bool:
    return abs(lower[1] - upper[1]) < _LETTER + 3 and lower[0] - upper[0] < _LETTER
