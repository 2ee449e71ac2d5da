"""Lookahead and Noise round other strategies, and all of them round each other."""

import doctest

import keras
import numpy as np
import pytest
from flows import MATRIX, MODES, START, gradient_of_well, quadratic, run, trainer_of, well

import trainlab as tl
from trainlab.strategies.wrapping import lookahead, memory, noise

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_factor_of_a_round(mode, precision):
    """Of `c w^2 / 2`: `1 - alpha + alpha (1 - h c)^k` a round, and plain steps between."""
    curvature, h, k, alpha = 2.0, 0.1, 5, 0.3
    trainer = trainer_of([1.0], quadratic(np.array([[curvature]])), tl.Lookahead(k, alpha), h, **mode)
    factor = 1 - alpha + alpha * (1 - h * curvature) ** k
    np.testing.assert_allclose(run(trainer, 4 * k), [factor**4], rtol=1e-12)
    np.testing.assert_allclose(run(trainer, 3), [factor**4 * (1 - h * curvature) ** 3], rtol=1e-12)
    np.testing.assert_allclose(run(trainer, 2), [factor**5], rtol=1e-12)


@pytest.mark.parametrize("optimizer", [
    lambda: keras.optimizers.SGD(0.05, momentum=0.9), lambda: keras.optimizers.Adam(0.05),
    lambda: keras.optimizers.SGD(0.05, clipnorm=0.3, weight_decay=0.1),
], ids=["momentum", "adam", "clipping, decay"])  # fmt: skip
def test_the_optimizer_takes_its_steps_and_then_goes_back(optimizer, precision):
    trainer = trainer_of([0.9, -0.7], well, tl.Lookahead(3, 0.4), optimizer=optimizer())
    got = run(trainer, 7)
    reference, variable = optimizer(), keras.Variable(np.array([0.9, -0.7]))
    slow = variable.numpy()
    for step in range(1, 8):
        reference.apply([keras.ops.convert_to_tensor(gradient_of_well(variable.numpy()))], [variable])
        if step % 3 == 0:
            slow = slow + 0.4 * (variable.numpy() - slow)
            variable.assign(slow)
    np.testing.assert_allclose(got, variable.numpy(), rtol=1e-11)


def test_alpha_of_one_is_the_inner_strategy(precision):
    one, other = (run(trainer_of([0.9, -0.7], well, each, 0.1), 7) for each in (tl.Lookahead(2, 1.0, tl.Heun()), tl.Heun()))
    np.testing.assert_allclose(one, other, rtol=1e-14)


def test_a_constraint_holds_after_a_return(precision):
    trainer = trainer_of([0.9, 0.7], well, tl.Lookahead(2, 0.5), 0.4)
    trainer.model.w.constraint = keras.constraints.NonNeg()
    assert (run(trainer, 4) >= 0).all()


def test_a_return_ends_where_the_constraint_allows_and_the_next_begins_there(precision):
    """The way back from one point of a circle to another leaves it."""

    def onto_circle(w):
        return w / (1e-7 + np.linalg.norm(w))  # Keras' epsilon

    trainer = trainer_of([0.6, 0.8], well, tl.Lookahead(2, 0.5), 0.4)
    trainer.model.w.constraint = keras.constraints.UnitNorm(axis=0)
    fast = slow = np.array([0.6, 0.8])
    for _ in range(2):
        for _ in range(2):
            fast = onto_circle(fast - 0.4 * gradient_of_well(fast))
        assert np.linalg.norm(slow + 0.5 * (fast - slow)) < 0.999  # what it would be without
        fast = slow = onto_circle(slow + 0.5 * (fast - slow))
    np.testing.assert_allclose(run(trainer, 4), fast, rtol=1e-12)


def test_all_of_them_together(precision):
    """`Accumulate(4, Lookahead(5, 0.5, Sam(0.05)))` of one potential is the one of no accumulation."""
    nested = tl.Accumulate(4, tl.Lookahead(5, 0.5, tl.Sam(0.05)))
    assert (nested.batches, nested.evaluations) == (4, 2)
    w, slow, h = np.array([0.9, -0.7]), np.array([0.9, -0.7]), 0.05
    for step in range(1, 13):
        g = gradient_of_well(w)
        w = w - h * gradient_of_well(w + 0.05 * g / np.linalg.norm(g))
        if step % 5 == 0:
            w = slow = slow + 0.5 * (w - slow)
    np.testing.assert_allclose(run(trainer_of([0.9, -0.7], well, nested, h), 12), w, rtol=1e-11)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(nested))
    assert repr(again) == repr(nested)


def test_a_memory_inside_is_kept(precision):
    w, before, slow, h = np.array([0.9, -0.7]), None, np.array([0.9, -0.7]), 0.05
    for step in range(1, 8):
        g = gradient_of_well(w)
        w, before = w - h * (g if before is None else 2 * g - before), g
        if step % 3 == 0:
            w = slow = slow + 0.5 * (w - slow)
    strategy = tl.Lookahead(3, 0.5, tl.OptimisticGradient())
    np.testing.assert_allclose(run(trainer_of([0.9, -0.7], well, strategy, h), 7), w, rtol=1e-11)


def test_two_that_move_the_weights_are_refused(precision):
    with pytest.raises(ValueError, match="only one of the two can"):
        run(trainer_of([0.9], well_of_one, tl.Lookahead(3, 0.5, tl.Lookahead(2))), 1)


def well_of_one(w):
    return keras.ops.sum(w**2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [MODES["eager"], MODES["graph"]], ids=["eager", "graph"])
def test_noise_has_the_distribution_of_its_temperature(mode, precision):
    """Of `c w^2 / 2` unadjusted Langevin steps end with the variance `T / (c (1 - h c / 2))`, each coordinate by itself."""
    num, curvature, h, temperature = 4000, 2.0, 0.1, 0.3
    potential = lambda w: 0.5 * curvature * keras.ops.sum(w**2)  # noqa: E731
    strategy = tl.Noise(temperature)
    w = run(trainer_of(np.zeros(num), potential, strategy, h, **mode), 60)
    expected = temperature / (curvature * (1 - h * curvature / 2))
    assert np.mean(w) == pytest.approx(0, abs=4 * np.sqrt(expected / num))
    assert np.var(w) == pytest.approx(expected, rel=4 * np.sqrt(2 / num))
    again = run(trainer_of(np.zeros(num), potential, strategy, h, **mode), 60)
    np.testing.assert_array_equal(w, again)
    other = run(trainer_of(np.zeros(num), potential, strategy, h, seed=1, **mode), 60)
    assert np.abs(w - other).max() > 0.1


def test_noise_round_noise_is_of_both_temperatures(precision):
    """Drawn from one seed the two would be one noise, of twice the variance."""
    both = tl.Noise(1.0, tl.Noise(1.0))
    w = run(trainer_of(np.zeros(20000), lambda w: 0.0 * keras.ops.sum(w), both, 0.5), 1)
    assert np.var(w) == pytest.approx(2 * 0.5 * (1.0 + 1.0), rel=0.05)


def test_noise_of_two_steps_and_variables_is_not_the_same(precision):
    trainer = trainer_of(np.zeros(1000), lambda w: 0.0 * keras.ops.sum(w), tl.Noise(1.0), 0.5)
    one = run(trainer, 1)
    two = run(trainer, 1) - one
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.15 and np.var(two) == pytest.approx(1.0, rel=0.2)  # 2 h T


def test_noise_of_nothing_is_the_inner_strategy(precision):
    a = quadratic(np.array(MATRIX, "float64"))
    one, other = (run(trainer_of(START, a, each, 0.1), 5) for each in (tl.Noise(0.0, tl.Heun()), tl.Heun()))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make, line", [
    (lambda: tl.Lookahead(0), "Lookahead: k must be at least 1, not 0"),
    (lambda: tl.Lookahead(5, 0), "Lookahead: alpha must be a finite number above 0 and at most 1, not 0"),
    (lambda: tl.Lookahead(5, 1.5), "at most 1, not 1.5"),
    (lambda: tl.Lookahead(5, 0.5, tl.Sam), "inner must be a StepStrategy, not .*; write Sam()"),
    (lambda: tl.Lookahead(inner="sam"), "inner must be a StepStrategy, not 'sam'"),
    (lambda: tl.Noise(-1), "Noise: temperature must be a finite number of at least 0, not -1"),
], ids=range(6))  # fmt: skip
def test_what_is_refused(make, line, precision):
    with pytest.raises((TypeError, ValueError), match="^.*$") as caught:
        make()
    for part in line.split(".*"):
        assert part in str(caught.value)


def test_docstring_examples(precision):
    for module in (lookahead, memory, noise):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0


def test_a_run_that_begins_with_other_weights_goes_back_to_those(precision, tmp_path):
    """Not to where the weights lay that it was made with: the first return is to a point near what was loaded."""
    trainer_of([5.0], well_of_one, tl.SGD(), 0.0, run=tmp_path).fit(np.zeros([1, 1]), batch_size=1, verbose=0)
    keras.utils.clear_session(free_memory=False)  # as a new process: names of variables begin again
    trainer = trainer_of([-7.0], well_of_one, tl.Lookahead(2, 0.5), 0.01, run=tmp_path)
    trainer.fit(np.zeros([2, 1]), batch_size=1, verbose=0, resume="weights")
    expected = 5 + 0.5 * (5 * 0.98**2 - 5)
    np.testing.assert_allclose(trainer.model.w.numpy(), [expected], rtol=1e-6)
