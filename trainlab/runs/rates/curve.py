"""What a sweep's losses say: where they fall fastest, and from which rate on updates only raise them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# How often as large as the lowest a loss must be to have diverged: fastai and Lightning take the same.
RISE = 4.0
# Losses at the smallest rates, which hardly move a weight, tell how far batches differ by themselves.
_FIRST = 0.1
_MOST_NOISE = math.log(16.0)
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

    The median leaves out a single bad batch, and does not lag behind as a running mean does. Where batches differ much at the
    smallest rates, that much more is asked for. Losses that may be negative must rise by three times what they fell.

    Args:
        num_updates: of the whole sweep.

    Example:
        >>> watch = Watch(num_updates=10)
        >>> [watch.add(loss) for loss in (1.0, 0.5, 0.25, 3.0, 0.25, 2.0, 3.0)]
        [False, False, False, False, False, False, True]
    """

    def __init__(self, num_updates: int):
        self._num_first = max(int(_FIRST * num_updates), 3)
        self._losses: list[float] = []

    def add(self, loss: float) -> bool:
        """Takes the loss of the next update; returns whether it has diverged."""
        self._losses.append(loss)
        if len(self._losses) <= self._num_first:
            return False
        values, is_log = _values(self._losses)
        medians = _medians(values)[:-1]  # the last one is of two alone
        return bool(medians[-1] > np.min(medians) + _margin(medians[: self._num_first - 1], np.min(medians), is_log))


def read(rates: Sequence[float], losses: Sequence[float], has_diverged: bool, num_updates: int) -> Reading:
    """Reads a curve.

    Args:
        rates: `[n]`, growing by one factor.
        losses: `[n]`, all finite; each before the update at its rate.
        has_diverged: whether the sweep ended since the loss diverged, or an update was not finite.
        num_updates: of the whole sweep.
    """
    smoothed = _smoothed(np.asarray(losses), rates)
    num_first = max(int(_FIRST * num_updates), 3)
    values, is_log = _values(losses)
    medians = _medians(values)
    noise = _noise(medians[:num_first], is_log)
    diverged_at = None
    if has_diverged:
        low = np.flatnonzero(medians <= np.min(medians) + noise)
        near = np.arange(max(low[-1] - 1, 0), min(low[-1] + 2, len(values)))
        diverged_at = int(near[np.argmin(values[near])])
    return Reading(smoothed, diverged_at, noise, is_log)


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


def _noise(first: np.ndarray, is_log: bool) -> float:
    """The largest rise among the first: such small rates do not make it, unless they are too large already."""
    rise = float(np.max(first - np.minimum.accumulate(first), initial=0.0))
    return min(rise, _MOST_NOISE) if is_log else rise


def _margin(first: np.ndarray, lowest: float, is_log: bool) -> float:
    return (math.log(RISE) if is_log else (RISE - 1) * (float(np.max(first)) - lowest)) + _noise(first, is_log)


def _smoothed(losses: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """The mean over what lies near, on both sides alike: a running mean would lag behind, and so call for too large a rate."""
    at = np.log10(np.asarray(rates[: len(losses)], np.float64))
    width = max(_DECADES, 2 * (at[-1] - at[0]) / max(len(at) - 1, 1)) or 1.0
    kernel = np.exp(-0.5 * ((at[:, None] - at[None]) / width) ** 2)
    return np.asarray(kernel @ losses / kernel.sum(axis=1))


def steepest(rates: Sequence[float], losses: Sequence[float], smoothed: np.ndarray, num_updates: int) -> int | None:
    """The index at which the smoothed loss falls fastest, per decade of the rate; None if it does not fall by more than chance.

    Args:
        rates, losses, smoothed: `[n]`, up to where it diverges.
        num_updates: of the whole sweep.
    """
    if len(losses) < 2:
        return None
    first = np.asarray(losses[: max(int(_FIRST * num_updates), 3)])
    slopes = np.gradient(smoothed, np.log10(np.asarray(rates, np.float64)))
    fallen = smoothed[0] - np.min(smoothed)
    if not fallen > 3 * np.std(first) / math.sqrt(len(first)) or not np.min(slopes) < 0:
        return None
    return int(np.argmin(slopes))
