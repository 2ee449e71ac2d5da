"""Axes: where a number is drawn, and which numbers are written beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

# Of values that are all positive, and whose largest is so many times the smallest, the logarithm is drawn.
_FACTOR_OF_LOG = 20.0
# What a run that goes astray reaches is cut off there, so many times above the range of most values.
_FACTOR_OF_CUT, _SHARE_OF_MOST = 4.0, 0.9
_SHARE_OF_MOST_OF_LOG = 0.75
_DECADES_OF_CUT = 3.0


@dataclasses.dataclass(frozen=True)
class Scale:
    """From numbers to places between 0 and 1.

    Attributes:
        low, high: the numbers at 0 and 1.
        is_log: whether logarithms are drawn.
        is_cut: whether there are numbers above.
    """

    low: float
    high: float
    is_log: bool = False
    is_cut: bool = False

    def place(self, value: float) -> float:
        """Where it is drawn; what is beyond an end, beyond it."""
        if self.is_log:
            smallest = self.low / 10
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(max(value, smallest))
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers on it.

        Example:
            >>> Scale(0, 30).ticks(), Scale(0.01, 20, is_log=True).ticks()
            ([0.0, 10.0, 20.0, 30.0], [0.01, 0.1, 1.0, 10.0])
        """
        if self.is_log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last - first >= 2:
                step = max(1, -(-(last - first) // most))
                return [10.0**power for power in range(first, last + 1, step)]
            # Few powers of ten: numbers between.
            numbers = [factor * 10.0 ** (first - 1 + k) for k in range(3) for factor in (1, 2, 5)]
            return [value for value in numbers if self.low <= value <= self.high]
        width = _step((self.high - self.low) / most)
        first, last = math.ceil(self.low / width - 1e-9), math.floor(self.high / width + 1e-9)
        return [float(f"{k * width:.12g}") for k in range(first, last + 1)]


def scale_of(values: Iterable[float], may_be_log: bool = False, from_zero: bool = False) -> Scale | None:
    """The scale on which these are drawn; None where there is none of them.

    Args:
        values: NaN is left out.
        may_be_log: whether logarithms are drawn where numbers of many sizes are positive.
        from_zero: whether it begins at 0.
    """
    finite = sorted(value for value in values if not math.isnan(value))
    if not finite:
        return None
    low, high = finite[0], finite[-1]
    if may_be_log and low > 0 and high / low > _FACTOR_OF_LOG:
        most = finite[int((len(finite) - 1) * _SHARE_OF_MOST_OF_LOG)]
        limit = most * 10**_DECADES_OF_CUT
        is_cut = high > limit
        return Scale(low * 0.85, (limit if is_cut else high) * 1.15, is_log=True, is_cut=is_cut)
    most = finite[int((len(finite) - 1) * _SHARE_OF_MOST)]
    limit = most + _FACTOR_OF_CUT * (most - low)
    is_cut = len(finite) >= 10 and most > low and high > limit
    high = limit if is_cut else high
    if from_zero and low >= 0:
        return Scale(0.0, high * 1.05 or 1.0, is_cut=is_cut)
    # Of values that are all but the same the last digits are not drawn.
    is_constant = high - low <= 1e-6 * abs(high)
    margin = abs(high) * 0.05 if is_constant else (high - low) * 0.05
    margin = margin or 0.5
    return Scale(low - margin, high + margin, is_cut=is_cut)


def across(ends: Iterable[float]) -> Scale | None:
    """The scale of what training costs, from 0 to the largest."""
    finite = [value for value in ends if not math.isnan(value)]
    largest = max(finite, default=0.0)
    return Scale(0.0, largest) if largest > 0 else None


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """As short as tells them apart.

    Example:
        >>> tick_texts([0.0, 0.5, 1.0]), tick_texts([0, 20000, 40000]), tick_texts([1e-6, 1e-5])
        (['0', '0.5', '1'], ['0', '20k', '40k'], ['1e-6', '1e-5'])
    """
    for digits in (6, 9, 12, 15):
        texts = _texts(ticks, digits)
        if len(set(texts)) == len(texts):
            break
    return texts


def _texts(ticks: Sequence[float], digits: int) -> list[str]:
    sizes = [abs(tick) for tick in ticks if tick]
    largest, smallest = max(sizes, default=0.0), min(sizes, default=0.0)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if 10 * unit <= largest < 10_000 * unit and smallest >= 0.01 * unit:
            return [f"{tick / unit:.{digits}g}{letter if tick else ''}" for tick in ticks]
    return [_plain(tick, digits) for tick in ticks]


def _plain(tick: float, digits: int) -> str:
    text = f"{tick:.{digits}g}"
    if "e" in text:
        mantissa, _, power = text.partition("e")
        return f"{mantissa}e{int(power)}"
    return text


def _step(least: float) -> float:
    """The next larger one of 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= least * (1 - 1e-9))
