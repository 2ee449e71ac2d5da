"""What a sweep's losses say: where they fall fastest, and from which rate on updates only raise them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# How often as large as the lowest a loss must be to have diverged: fastai and Lightning take the same.
RISE = 4.0
# What is taken for chance at most: more is growth, at a smallest rate that is too large already.
_MOST_NOISE = math.log(16.0)
_MOST_NOISE_WATCHED = math.log(1000.0)
# Less is no rise: sums of many numbers are rounded.
_ROUNDING = 1e-3
# The width of the kernel that smooths, in decades of the rate; and the least, in updates.
_DECADES = 0.15


class Reading(NamedTuple):
    """What was read off a curve.

    Attributes:
        smoothed: `[n]` float64, the losses.
        diverged_at: the index of the first rate whose update raised the loss for good; None if that was not seen.
        noise: how far a loss rises by chance, as a difference; of logarithms where all losses are positive.
        is_log: whether they are.
    """

    smoothed: np.ndarray
    diverged_at: int | None
    noise: float
    is_log: bool

    def is_rising(self, losses: Sequence[float]) -> bool:
        """Whether these losses, all of updates at one rate, rise in their second half by more than chance has it."""
        if self.is_log and min(losses) <= 0:
            return False
        values = np.log(losses) if self.is_log else np.asarray(losses)
        middle, end = (np.median(values[at - 3 : at]) for at in (len(values) // 2 + 2, len(values)))
        scale = 1.0 if self.is_log else abs(float(middle))
        return bool(end - middle > 2 * self.noise + _ROUNDING * scale)


class Watch:
    """Tells during a sweep when the loss has diverged: the median of three in a row is four times the lowest so far.

    The median leaves out a single bad batch, and does not lag behind as a running mean does. Where batches differ much by
    themselves, that much more is asked for. Losses that may be negative must rise by three times what they fell. It is an alarm
    only: `stays` tells, by more batches, whether it was a false one.

    Args:
        still: `[m]` losses at weights that hardly move, which tell how far batches differ.

    Example:
        >>> watch = Watch(still=[1.0, 1.0, 1.0])
        >>> [watch.add(loss) for loss in (1.0, 0.5, 0.25, 3.0, 0.25, 0.3, 3.0, 3.0)]
        [False, False, False, False, False, False, False, True]
        >>> watch.stays([0.3, 0.2, 4.0, 0.4, 0.3]), watch.stays([2.0, 3.0, 3.0, 0.2, 4.0])
        (False, True)
    """

    def __init__(self, still: Sequence[float]):
        self._still = list(still)
        self._losses: list[float] = []
        self._least = -math.inf  # a rise that was no divergence

    def add(self, loss: float) -> bool:
        """Takes the loss of the next update; returns whether it seems to have diverged."""
        self._losses.append(loss)
        if len(self._losses) < 3:
            return False
        medians, _ = self._medians([])
        return bool(medians[-1] - np.min(medians) > max(self._rise([]), self._least))

    def stays(self, now: Sequence[float]) -> bool:
        """Whether it has diverged, by losses at the weights as they are now; if not, the next alarm takes more."""
        medians, values = self._medians(now)
        if np.median(values) - np.min(medians) > self._rise(now):
            return True
        self._least = float(medians[-1] - np.min(medians))
        return False

    def is_lost(self, now: Sequence[float]) -> bool:
        """Whether all that the loss had fallen is lost again, at the end of a sweep: a dead network's loss rises no further."""
        values, is_log = _values([*self._still, *self._losses, *now])
        still, lowest = values[: len(self._still)], float(np.min(self._medians(now)[0]))
        start, end = float(np.median(still)), float(np.median(values[len(values) - len(now) :]))
        least = 2 * _noise(_medians(still)) + (math.log(1.1) if is_log else _ROUNDING * abs(start))
        return start - lowest > least and end > (start + lowest) / 2

    def _medians(self, now: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        values, _ = _values([*self._still, *self._losses, *now])
        until = len(values) - len(now)
        return _medians(values[len(self._still) : until])[:-1], values[until:]

    def _rise(self, now: Sequence[float]) -> float:
        """How far above the lowest is too far."""
        values, is_log = _values([*self._still, *self._losses, *now])
        still = _medians(values[: len(self._still)])
        if is_log:
            return math.log(RISE) + _noise(still, _MOST_NOISE_WATCHED)
        lowest = float(np.min(_medians(values[len(self._still) : len(values) - len(now)])[:-1]))
        return (RISE - 1) * (float(np.max(still)) - lowest) + _noise(still)


def read(rates: Sequence[float], losses: Sequence[float], has_diverged: bool, still: Sequence[float]) -> Reading:
    """Reads a curve.

    Args:
        rates: `[n]`, growing by one factor.
        losses: `[n]`, all finite; each before the update at its rate.
        has_diverged: whether the sweep ended since the loss diverged, or an update was not finite.
        still: `[m]` losses at weights that hardly move.
    """
    values, is_log = _values([*still, *losses])
    noise = _noise(_medians(values[: len(still)]), _MOST_NOISE if is_log else math.inf)
    values = values[len(still) :]
    medians = _medians(values)
    diverged_at = None
    if has_diverged:
        low = np.flatnonzero(medians <= np.min(medians) + noise)
        near = np.arange(max(low[-1] - 1, 0), min(low[-1] + 2, len(values)))
        diverged_at = int(near[np.argmin(values[near])])
    return Reading(_smoothed(np.asarray(losses), rates), diverged_at, noise, is_log)


def _values(losses: Sequence[float]) -> tuple[np.ndarray, bool]:
    """Logarithms of losses, and True; the losses themselves where one is not positive."""
    array = np.asarray(losses, np.float64)
    return (np.log(array), True) if np.all(array > 0) else (array, False)


def _medians(values: np.ndarray) -> np.ndarray:
    """Of three in a row; at the ends of two, the lower."""
    if len(values) < 3:
        return values
    middle = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([[min(values[:2])], middle, [min(values[-2:])]])


def _noise(still: np.ndarray, most: float = math.inf) -> float:
    """The largest rise among these."""
    return min(float(np.max(still - np.minimum.accumulate(still), initial=0.0)), most)


def _smoothed(losses: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """The mean over what lies near, on both sides alike: a running mean would lag behind, and so call for too large a rate."""
    at = np.log10(np.asarray(rates[: len(losses)], np.float64))
    width = max(_DECADES, 2 * (at[-1] - at[0]) / max(len(at) - 1, 1)) or 1.0
    kernel = np.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2)
    return np.asarray(kernel @ losses / kernel.sum(axis=1))


def steepest(rates: Sequence[float], losses: Sequence[float], smoothed: np.ndarray, still: Sequence[float]) -> int | None:
    """The index at which the smoothed loss falls fastest, per decade of the rate; None if it does not fall by more than chance.

    Args:
        rates, losses, smoothed: `[n]`, up to where it diverges.
        still: `[m]` losses at weights that hardly move.
    """
    if len(losses) < 2:
        return None
    slopes = np.gradient(smoothed, np.log10(np.asarray(rates, np.float64)))
    is_chance = smoothed[0] - np.min(smoothed) <= 2 * np.std(still) + _ROUNDING * abs(float(smoothed[0]))
    return None if is_chance or not np.min(slopes) < 0 else int(np.argmin(slopes))
