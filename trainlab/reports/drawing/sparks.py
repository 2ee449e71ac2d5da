"""Curves as small as a word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from trainlab.reports.drawing.thinning import pieces, thinned

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT = 120, 24


def spark_text(values: Sequence[float], most: int = 24) -> str:
    """A curve as one line of text, a blank for a gap.

    Example:
        >>> spark_text([3.0, 2.0, float("nan"), 1.0])
        '█▄ ▁'
    """
    num = len(values)
    if num > most:
        values = [_last([values[i] for i in range(k * num // most, (k + 1) * num // most)]) for k in range(most)]
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return ""
    low, high = min(finite), max(finite)
    top = len(_BARS) - 1
    places = [
        value if math.isnan(value) else (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5 for value in values
    ]
    return "".join(" " if math.isnan(place) else _BARS[math.ceil(place * top - 0.5)] for place in places)


def spark_svg(values: Sequence[float], label: str) -> str:
    """A curve as SVG in the colour of the text; empty where there is none."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return ""
    low, high, last = min(finite), max(finite), max(len(values) - 1, 1)

    def point(i: int) -> str:
        place = (values[i] / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.5
        return f"{2 + i * (_WIDTH - 4) / last:.1f} {_HEIGHT - 2 - place * (_HEIGHT - 4):.1f}"

    parts = pieces(values, thinned(values, _WIDTH // 2))
    path = "".join("M" + "L".join(map(point, part)) + ("h0.1" if len(part) == 1 else "") for part in parts)
    style = 'fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"'
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} role="img" aria-label="{escape(label)}" style="vertical-align:middle"><path {style} d="{path}"/></svg>'


def _last(values: Sequence[float]) -> float:
    return next((value for value in reversed(values) if not math.isnan(value)), math.nan)
