"""Extragradient and the optimistic gradient, on losses and where two players turn round each other."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from flows import MATRIX, MODES, START, gradient_of_well, quadratic, run, trainer_of, well

import trainlab as tl
from trainlab.strategies import extragradient, optimistic_gradient

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


def _game(w):
    """`x y`, which x makes small and y large: the joint field is `(y, -x)`, and no loss has it as a gradient."""
    return _field(tf.convert_to_tensor(w))


@tf.custom_gradient
def _field(w):
    return w[0] * w[1], lambda upstream: upstream * tf.stack([w[1], -w[0]])


# Factor of the norm in 1,000 updates at h = 0.1: of a linear method with stability polynomial R it is |R(0.1 i)|^1000.
@pytest.mark.parametrize("strategy, factor", [
    (tl.SGD(), 144.7728), (tl.Heun(), 1.0125783), (tl.RungeKutta("midpoint"), 1.0125783), (tl.Extragradient(), 0.00691083),
    (tl.RungeKutta("kutta_3"), 0.99585582), (tl.RungeKutta("kutta_4"), 0.99999306),
], ids=["euler", "heun", "midpoint", "extragradient", "kutta_3", "kutta_4"])  # fmt: skip
def test_the_bilinear_game(strategy, factor, precision):
    w = run(trainer_of([1.0, 1.0], _game, strategy, 0.1), 1000)
    assert np.linalg.norm(w) / np.sqrt(2) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_optimistic_gradient_turns_inwards(mode, precision):
    """z_(t+1) = z_t - h (2 F z_t - F z_(t-1)): the field is linear, so the powers of a 4 x 4 matrix tell."""
    h, field, one = 0.1, np.array([[0.0, 1], [-1, 0]]), np.eye(2)
    w, steps = run(trainer_of([1.0, 1.0], _game, tl.OptimisticGradient(), h, **mode), 200), 199
    matrix = np.block([[one - 2 * h * field, h * field], [one, np.zeros([2, 2])]])
    start = np.array([1.0, 1.0])
    expected = (np.linalg.matrix_power(matrix, steps) @ np.concatenate([start - h * field @ start, start]))[:2]
    np.testing.assert_allclose(w, expected, rtol=1e-11)
    assert np.linalg.norm(w) < 0.6


def test_on_a_loss(precision):
    h, a, w = 2**-4, np.array(MATRIX, "float64"), np.array(START)
    expected = np.linalg.matrix_power(np.eye(5) - h * a + h**2 * a @ a, 20) @ w
    got = run(trainer_of(START, quadratic(a), tl.Extragradient(), h), 20)
    assert np.linalg.norm(got - expected) / np.linalg.norm(expected) < 1e-12


def test_the_optimistic_gradient_by_hand(precision):
    w, before, h = np.array([0.9, -0.7]), None, 0.05
    for _ in range(10):
        g = gradient_of_well(w)
        w, before = w - h * (g if before is None else 2 * g - before), g
    trainer = trainer_of([0.9, -0.7], well, tl.OptimisticGradient(), h)
    run(trainer, 4)  # in two fits: it remembers
    np.testing.assert_allclose(run(trainer, 6), w, rtol=1e-12)


def test_with_an_optimizer_of_its_own_rates(precision):
    """The probe is the plain one, as for Heun."""
    start, a = np.array(START[:3], "float64"), np.array(MATRIX, "float64")[:3, :3]
    w = run(trainer_of(start, quadratic(a), tl.Extragradient(), optimizer=keras.optimizers.Adam(0.25)), 1)
    reference, variable = keras.optimizers.Adam(0.25), keras.Variable(start)
    reference.apply([tf.constant(a @ (start - 0.25 * (a @ start)))], [variable])
    np.testing.assert_allclose(w, variable.numpy(), rtol=1e-12)


def test_docstring_examples(precision):
    for module in (extragradient, optimistic_gradient):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0
