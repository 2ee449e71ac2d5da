"""The statistics of a comparison, against closed forms, and how often they err."""

import itertools
import math

import numpy as np
import pytest

from trainlab.comparing.statistics import (
    best_of_k,
    bootstrap_interval,
    compared,
    costs_to_target,
    median,
    performance_profile,
)

INF, NAN = math.inf, math.nan


def paired(seed, difference, number=10, noise=0.1):
    """Two entries on the same seeds: what the seed does to both is far more than what tells them apart."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 1, number)
    return common + rng.normal(difference, noise, number), common + rng.normal(0, noise, number)


@pytest.mark.parametrize("number", [10, 15, 40])
def test_two_names_for_one_thing_are_not_told_apart(number):
    verdicts = [compared(*paired(seed, 0.0, number)).verdict for seed in range(100)]
    assert verdicts.count("not told apart") >= 95


@pytest.mark.parametrize(("difference", "verdict"), [(-0.3, "better"), (0.3, "worse")])
def test_a_true_difference_is_told(difference, verdict):
    """The control: 0.3 is 6.7 standard errors of the noise, and far less than seeds differ by themselves."""
    verdicts = [compared(*paired(seed, difference)).verdict for seed in range(100)]
    assert verdicts.count(verdict) >= 95


def test_unpaired_the_same_difference_would_be_lost():
    a, b = paired(0, -0.3)
    assert compared(a, b).verdict == "better"
    assert compared(a, np.random.default_rng(1).permutation(b)).verdict == "not told apart"


def test_mean_and_standard_error_are_those_of_the_differences():
    a, b = paired(3, 0.2, number=12)
    found, differences = compared(a, b), a - b
    assert found.mean == pytest.approx(differences.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(np.sqrt(((differences - differences.mean()) ** 2).sum() / 11 / 12), rel=1e-12)
    assert found.low < found.mean < found.high and found.num_seeds == 12
    turned = compared(b, a)
    assert turned.mean == -found.mean and turned.standard_error == found.standard_error


def test_the_interval_is_that_of_a_mean():
    """Of many values the bootstrap's interval comes to the normal one: mean ± 1.96 standard errors."""
    values = np.random.default_rng(0).normal(5, 2, 400)
    error = values.std() / 20
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_fewer_than_ten_seeds_tell_nothing():
    assert compared([0.0] * 10, [1.0] * 10).verdict == "better"
    assert compared([0.0] * 9, [1.0] * 9).verdict == "not told apart"
    assert math.isnan(compared([0.0], [1.0]).standard_error)


def test_an_interval_without_zero_is_not_enough():
    """2.5 standard errors: the interval excludes zero, and 3.09 are wanted."""
    values = np.array([-1.0, 1.0] * 5)
    values = values / (values.std(ddof=1) / np.sqrt(10)) + 2.5
    found = compared(values, np.zeros(10))
    assert found.low > 0 and found.mean / found.standard_error == pytest.approx(2.5) and found.verdict == "not told apart"
    assert compared(values + 1.0, np.zeros(10)).verdict == "worse"  # 3.5


def test_what_failed_counts_and_both_failing_does_not():
    ones = [1.0] * 10
    assert compared([INF] * 10, ones).verdict == "worse" and compared(ones, [NAN] * 10).verdict == "better"
    assert compared([INF] * 10, [NAN] * 10).verdict == "not told apart"
    some = compared([INF, *[1.1, 0.9] * 4, 1.0], ones)
    assert some.mean == pytest.approx(0.1 / 10) and some.verdict == "not told apart"  # as the largest difference, once


def test_what_cannot_be_compared_is_refused():
    for a, b in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="same seeds"):
            compared(a, b)


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 8.0, 5.0], [1.0], [2.0, 2.0, 2.0]])
def test_best_of_k_is_the_mean_over_all_choices(values):
    for k, found in enumerate(best_of_k(values), 1):
        assert found == pytest.approx(np.mean([min(choice) for choice in itertools.combinations(values, k)]), rel=1e-12)


def test_failed_trials_make_the_best_of_few_infinite():
    assert best_of_k([1.0, NAN, 3.0]) == [INF, pytest.approx((1 + 1 + 3) / 3), 1.0]
    assert best_of_k([INF, NAN]) == [INF, INF]


def test_targets_and_medians():
    assert costs_to_target([1, 2, 3], [3.0, 2.0, 1.0], 2.0) == 2
    assert costs_to_target([1, 2], [NAN, INF], 2.0) == INF and costs_to_target([], [], 1.0) == INF
    assert median([INF, 1.0, 2.0]) == 2 and median([NAN, INF, 2.0]) == INF and median([1.0, 2.0, 4.0, INF]) == 3


def test_the_profile_counts_seeds_within_a_factor():
    factors, shares = performance_profile({"a": [1.0, 2.0, INF, 6.0], "b": [2.0, 2.0, INF, 2.0], "c": [INF] * 4})
    assert factors == [1.0, 2.0, 3.0]
    assert shares == {"a": [0.5, 0.5, 0.75], "b": [0.5, 0.75, 0.75], "c": [0.0, 0.0, 0.0]}
