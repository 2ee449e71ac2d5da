"""Which points of a long curve are drawn: as many as can be seen, with every extreme and every gap."""

from __future__ import annotations

import math
from collections.abc import Sequence


def thinned(values: Sequence[float], most: int) -> list[int]:
    """The numbers of the points to draw: of each of `most` stretches its first, least, greatest and last.

    A stretch with a gap (NaN) keeps one point of it, and the points beside it, so that the line is broken where it was.

    Args:
        values: of the curve.
        most: how many stretches can be told apart.

    Returns:
        Ascending numbers; all of them where that is not more.

    Example:
        >>> thinned([0.0, 9.0, 1.0, 2.0, -5.0, 3.0], most=1)
        [0, 1, 4, 5]
    """
    num = len(values)
    if num <= 4 * most:
        return list(range(num))
    kept: set[int] = set()
    for k in range(most):
        start, stop = k * num // most, (k + 1) * num // most
        finite = [i for i in range(start, stop) if not math.isnan(values[i])]
        if finite:
            kept |= {finite[0], finite[-1], min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)}
        if len(finite) < stop - start:
            kept |= _gaps(values, start, stop)
    return sorted(kept)


def _gaps(values: Sequence[float], start: int, stop: int) -> set[int]:
    """Of the first and the last gap of a stretch an end, and the point beside it."""
    missing = [i for i in range(start, stop) if math.isnan(values[i])]
    around = {missing[0] - 1, missing[0], missing[-1], missing[-1] + 1}
    return {i for i in around if 0 <= i < len(values)}


def pieces(values: Sequence[float], numbers: Sequence[int]) -> list[list[int]]:
    """The same numbers in runs without a gap.

    Example:
        >>> pieces([1.0, float("nan"), 2.0, 3.0], [0, 1, 2, 3])
        [[0], [2, 3]]
    """
    found: list[list[int]] = [[]]
    for i in numbers:
        if math.isnan(values[i]):
            found.append([])
        else:
            found[-1].append(i)
    return [piece for piece in found if piece]
