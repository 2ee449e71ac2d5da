"""What a table of results says, and what not: paired differences, verdicts, best of k, performance profiles. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

FEWEST_SEEDS = 10  # fewer tell nothing apart
NUM_ERRORS = 3.09  # standard errors that a difference must be: one in a thousand, on each side, of a normal distribution
_NUM_SAMPLES, _LEVEL = 10_000, 0.95
BETTER, WORSE, NOT_TOLD_APART = "better", "worse", "not told apart"


class Difference(NamedTuple):
    """How two entries differ over the seeds that both ran.

    Attributes:
        mean: of value minus rival's value; below 0 the first is better.
        standard_error: of the mean: standard deviation over the seeds (n - 1 degrees) / sqrt(n); NaN of fewer than two seeds.
        low, high: the paired bootstrap's interval of the mean, 95 %.
        num_seeds: how many pairs.
        verdict: "better", "worse" or "not told apart".
    """

    mean: float
    standard_error: float
    low: float
    high: float
    num_seeds: int
    verdict: str


def compared(values: Sequence[float], rivals: Sequence[float]) -> Difference:
    """Compares two entries seed by seed, of which less is better.

    "better" and "worse" are said only of ten seeds and more, where the paired bootstrap interval (10,000 samples of the seeds,
    95 %) excludes zero and the mean difference is 3.09 standard errors or more. A run without a value (infinite, NaN: it
    diverged) against one that has one counts as the largest finite difference there is, or 1 where there is none; two such runs
    do not differ.

    Args:
        values, rivals: `[n]`, of the same seeds in the same order.

    Raises:
        ValueError: they are not of equally many seeds, or of none.

    Example:
        >>> compared([1.0] * 10, [1.0] * 10).verdict
        'not told apart'
        >>> compared([1.0 + 0.01 * k for k in range(10)], [2.0] * 10).verdict
        'better'
        >>> compared([1.0] * 9, [2.0] * 9).verdict  # too few
        'not told apart'
    """
    a, b = np.asarray(values, np.float64), np.asarray(rivals, np.float64)
    if a.shape != b.shape or a.ndim != 1 or not a.size:
        raise ValueError(f"values and rivals must be of the same seeds, at least one, not {a.shape} and {b.shape}")
    differences = _paired(a, b)
    number, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1) / math.sqrt(number)) if number > 1 else math.nan
    low, high = bootstrap_interval(differences)
    is_told = number >= FEWEST_SEEDS and (low > 0 or high < 0) and abs(mean) >= NUM_ERRORS * error
    verdict = NOT_TOLD_APART if not is_told else BETTER if mean < 0 else WORSE
    return Difference(mean, error, low, high, number, verdict)


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a_fails, b_fails = ~np.isfinite(a), ~np.isfinite(b)
    differences = np.where(a_fails | b_fails, 0.0, np.where(a_fails, 0.0, a) - np.where(b_fails, 0.0, b))
    largest = float(np.abs(differences).max()) or 1.0
    return differences + largest * (a_fails & ~b_fails) - largest * (b_fails & ~a_fails)


def bootstrap_interval(values: Sequence[float] | np.ndarray, level: float = _LEVEL, seed: int = 0) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean: of 10,000 samples with replacement, drawn by a seed of its own.

    Args:
        values: `[n]`, finite.
        level: how much of the distribution lies in it.
        seed: of the samples; the same for all, so that the same values have the same interval.

    Example:
        >>> bootstrap_interval([2.0, 2.0, 2.0])
        (2.0, 2.0)
    """
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), [_NUM_SAMPLES, len(values)])
    # About the first value: the mean of equal numbers is then that number, not one beside it.
    means = values[0] + (values - values[0])[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def best_of_k(values: Sequence[float]) -> list[float]:
    """The value to expect of the best of k trials, for k = 1 ... n: the mean over all choices of k of the n that were made.

    Args:
        values: `[n]`, one for each trial; less is better, and infinity, or NaN, is a trial that failed.

    Returns:
        `[n]`; infinite as long as a choice of k may be of failed trials alone.

    Example:
        >>> best_of_k([3.0, 1.0, 2.0])
        [2.0, 1.3333333333333333, 1.0]
    """
    ordered = sorted(math.inf if math.isnan(value) else float(value) for value in values)
    number = len(ordered)
    expected = []
    for k in range(1, number + 1):
        # Of all choices of k, in so many the i-th of the ordered ones is the best.
        ways = [math.comb(number - 1 - i, k - 1) for i in range(number)]
        expected.append(sum(way * value for way, value in zip(ways, ordered, strict=True) if way) / math.comb(number, k))
    return expected


def costs_to_target(costs: Sequence[float], values: Sequence[float], target: float) -> float:
    """What it cost until the target was first reached; infinite where it was not.

    Args:
        costs, values: of a curve, in the order of training.
        target: a value; less is better.

    Example:
        >>> costs_to_target([10, 20, 30], [0.9, 0.5, 0.6], target=0.5), costs_to_target([10], [0.9], target=0.5)
        (20.0, inf)
    """
    return next((float(cost) for cost, value in zip(costs, values, strict=True) if value <= target), math.inf)


def median(values: Sequence[float]) -> float:
    """The median, in which infinite values take part: where more than half have failed it is infinite.

    Example:
        >>> median([1.0, float("inf"), 3.0]), median([1.0, float("inf")])
        (3.0, inf)
    """
    ordered = sorted(math.inf if math.isnan(value) else float(value) for value in values)
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def performance_profile(costs: Mapping[str, Sequence[float]]) -> tuple[list[float], dict[str, list[float]]]:
    """For each entry the share of seeds on which its cost is within a factor of the least that any entry had on that seed.

    E. D. Dolan, J. J. Moré, Benchmarking optimization software with performance profiles, Mathematical Programming 91 (2002).

    Args:
        costs: by entry, `[n]`, of the same seeds; infinite for a miss, which is within no factor.

    Returns:
        The factors, from 1, at which a share changes; and by entry the share at each.

    Example:
        >>> performance_profile({"a": [1.0, 4.0], "b": [2.0, 2.0]})
        ([1.0, 2.0], {'a': [0.5, 1.0], 'b': [0.5, 1.0]})
    """
    table = np.array([list(row) for row in costs.values()], np.float64)
    least = table.min(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(np.isfinite(table), np.where(table == least, 1.0, table / least), math.inf)
    factors = sorted({1.0, *(float(ratio) for ratio in ratios.flat if np.isfinite(ratio))})
    shares = {name: [float((row <= factor).mean()) for factor in factors] for name, row in zip(costs, ratios, strict=True)}
    return factors, shares
