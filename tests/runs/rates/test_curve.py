"""What is read off curves that are known."""

import numpy as np
import pytest

from trainlab.runs.rates.curve import Watch, read, steepest

RATES = np.geomspace(1e-6, 10, 60)


def quadratic(curvature, factor, rates=RATES, start=1.0, floor=0.0):
    """The losses before each update of `w -= rate * gradient` on half the curvature times w squared."""
    losses, w = [], start
    for rate in rates:
        losses.append(curvature * w * w / 2 + floor)
        w *= min(factor(rate * curvature), 1e3)
    return losses


def sgd(u):
    return 1 - u


def heun(u):
    return 1 - u + u * u / 2


def swept(losses, still=None):
    """The losses up to where the watch ends the sweep, and whether it did."""
    watch = Watch(losses[:1] * 3 if still is None else still)
    for i, loss in enumerate(losses):
        if watch.add(loss):
            return losses[: i + 1], True
    return losses, False


@pytest.mark.parametrize("factor", [sgd, heun])
@pytest.mark.parametrize("curvature", [0.7, 3.0, 100.0, 12345.0])
def test_a_quadratic_diverges_at_two_over_its_curvature(factor, curvature):
    losses, has_diverged = swept(quadratic(curvature, factor))
    at = read(RATES[: len(losses)], losses, has_diverged, losses[:1]).diverged_at
    assert has_diverged
    assert RATES[at - 1] < 2 / curvature <= RATES[at]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter(scale):
    losses, has_diverged = swept([scale * loss for loss in quadratic(5.0, sgd)])
    at = read(RATES[: len(losses)], losses, has_diverged, losses[:1]).diverged_at
    assert RATES[at - 1] < 0.4 <= RATES[at]


@pytest.mark.parametrize("shift", [-1.0, -100.0])
def test_losses_below_zero_diverge_too(shift):
    losses, has_diverged = swept(quadratic(100.0, sgd, floor=shift))
    at = read(RATES[: len(losses)], losses, has_diverged, losses[:1]).diverged_at
    assert has_diverged
    assert RATES[at] == pytest.approx(0.02, rel=0.7)  # a float of -100 does not show the last of what has fallen


@pytest.mark.parametrize("spread", [0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_batches_that_differ_are_no_divergence(seed, spread):
    noise = np.exp(np.random.default_rng(seed).normal(0, spread, 80))
    still, noise = list(noise[:20]), noise[20:]
    assert swept(list(noise), still)[1] is False
    assert swept(list(noise * np.geomspace(1, 0.5, 60)), still)[1] is False
    rising = np.where(np.arange(60) > 45, 100.0 ** np.linspace(0, 2, 60), 1.0)
    losses, has_diverged = swept(list(noise * rising), still)  # the control
    assert has_diverged
    assert 45 <= len(losses) <= 55


def test_one_bad_batch_is_no_divergence():
    losses = [1.0] * 60
    losses[40] = 1e6
    assert swept(losses)[1] is False
    losses[41] = 1e6
    assert swept(losses)[1] is True


def test_smoothing_keeps_a_line_and_does_not_lag():
    line = list(np.linspace(5, 1, 60))
    smoothed = read(RATES, line, False, line[:1]).smoothed
    np.testing.assert_allclose(smoothed[10:-10], line[10:-10], rtol=1e-6)
    bump = np.exp(-0.5 * ((np.arange(60) - 30) / 4) ** 2)
    assert np.argmax(read(RATES, list(bump), False, [0.0]).smoothed) == 30


def test_the_steepest_fall():
    at = np.log10(RATES)
    losses = 2 - np.tanh(2 * (at + 2))  # falls fastest at 0.01
    smoothed = read(RATES, list(losses), False, [losses[0]]).smoothed
    assert RATES[steepest(RATES, list(losses), smoothed, [losses[0]])] == pytest.approx(0.01, rel=0.2)
    flat = list(2 + np.random.default_rng(0).normal(0, 0.01, 60))
    assert steepest(RATES, flat, read(RATES, flat, False, flat[:20]).smoothed, flat[:20]) is None


def test_what_rises_at_one_rate():
    clean = read(RATES, quadratic(0.01, sgd), False, [0.005] * 3)
    assert clean.is_rising(quadratic(1.0, sgd, [2.1] * 20))
    assert not clean.is_rising(quadratic(1.0, sgd, [1.9] * 20))
    assert not clean.is_rising([1.0] * 20)
    noise = list(np.exp(np.random.default_rng(1).normal(0, 0.7, 60)))
    noisy = read(RATES, noise, False, noise[:20])
    assert not noisy.is_rising(list(np.exp(np.random.default_rng(2).normal(0, 0.7, 20))))


@pytest.mark.parametrize("end, is_lost", [(2.3, True), (5.0, True), (0.25, False)])
def test_a_dead_network_has_lost_what_it_had(end, is_lost):
    watch = Watch([2.4, 2.3, 2.5, 2.4, 2.3])
    for loss in [2.4, 2.3, 2.0, 1.0, 0.5, 0.3, 0.3, 0.4, end, end, end]:
        watch.add(loss)
    assert watch.is_lost([end] * 20) is is_lost
    flat = Watch([2.4, 2.3, 2.5, 2.4, 2.3])
    for loss in [2.4, 2.3, 2.2, 2.4, 2.3, 2.5]:
        flat.add(loss)
    assert not flat.is_lost([2.4] * 20)  # nothing was gained
