"""Sharpness-aware minimization by its closed forms."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf
from flows import MATRIX, MODES, START, gradient_of_well, quadratic, run, trainer_of, well

import trainlab as tl
from trainlab.objective import Evaluation
from trainlab.strategies import State, asam, sam

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_the_cycle_of_two_in_one_dimension(mode, precision):
    """Of `c w^2 / 2` the point uphill is `w + rho sign(w)`: it ends in turning between `+-x` with `x = h c rho / (2 - h c)`."""
    curvature, h, rho = 2.0, 0.3, 0.05
    trainer = trainer_of([1.0], quadratic(np.array([[curvature]])), tl.Sam(rho), h, **mode)
    x = h * curvature * rho / (2 - h * curvature)
    first, second = run(trainer, 100)[0], run(trainer, 1)[0]
    np.testing.assert_allclose([abs(first), abs(second)], x, rtol=1e-10)
    assert first * second < 0


@pytest.mark.parametrize("strategy, scale", [(tl.Sam(0.1), None), (tl.Asam(0.1, eta=0.02), 0.02), (tl.Asam(0.1, eta=0), 0)])
def test_by_hand(strategy, scale, precision):
    w, h = np.array([0.9, -0.7]), 0.05
    for _ in range(10):
        g = gradient_of_well(w)
        t = np.ones(2) if scale is None else np.abs(w) + scale
        w = w - h * gradient_of_well(w + 0.1 * t * t * g / np.linalg.norm(t * g))
    np.testing.assert_allclose(run(trainer_of([0.9, -0.7], well, strategy, h), 10), w, rtol=1e-11)


def test_asam_does_not_see_how_weights_are_scaled(precision):
    """Scaled weights with the loss scaled along: the uphill point is the same point (eta = 0)."""
    a, start, scales = np.array(MATRIX, "float64"), np.array(START), np.array([1, 10, 0.1, 3, 0.5])
    found = []
    for s in (np.ones(5), scales):
        trainer = trainer_of(start / s, quadratic(a * s[:, None] * s), tl.Asam(0.2, eta=0), 1e-3)
        history = trainer.fit(np.zeros([1, 1]), batch_size=1, verbose=0).history
        gradient = (start / s - trainer.model.w.numpy()) / 1e-3  # at the uphill point, in scaled coordinates
        found.append(gradient / s)
        assert history["loss"][0] == pytest.approx(start @ a @ start / 2)
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_no_gradient_no_step(precision):
    for strategy in (tl.Sam(), tl.Asam(), tl.Asam(eta=0)):
        np.testing.assert_array_equal(run(trainer_of([0.0, 0.0], well, strategy, 0.1), 2), [0, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("strategy, distance", [(tl.Sam(0.5), 0.5), (tl.Asam(0.5, eta=1.0), 0.5)], ids=["Sam", "Asam"])
def test_small_gradients_of_two_bytes(strategy, distance, dtype, precision):
    """What a step divides by its length may be larger than float16 holds: 65504."""
    for size in (0.0, 3e-6):
        seen = []

        def objective(point, size=size, seen=seen):
            seen.append(point.leaves[0])
            return Evaluation(tf.constant(0.0), tl.Vector([tf.cast([size, 0.0], dtype)]))

        start = tl.Vector([tf.zeros([2], dtype)])
        strategy.step(objective, State(start, tf.constant(0.1), tf.constant(0, tf.int64), tf.constant([0, 0])))
        assert seen[1].dtype == dtype
        np.testing.assert_allclose(tf.cast(seen[1], "float32"), [distance if size else 0.0, 0.0], rtol=0.02)


def test_sam_of_nothing_is_plain(precision):
    one, other = (run(trainer_of([0.9, -0.7], well, each, 0.1), 5) for each in (tl.Sam(0), tl.SGD()))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("make", [lambda: tl.Sam(-1), lambda: tl.Sam(float("nan")), lambda: tl.Asam(eta=-1), lambda: tl.Sam("a")])
def test_what_is_refused(make, precision):
    with pytest.raises((TypeError, ValueError), match="a(m|sam): (rho|eta) must be a (finite )?number of at least 0, not"):
        make()


def test_it_serialises(precision):
    for each in (tl.Sam(0.2), tl.Asam(0.3, 0.04)):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(each))
        assert repr(again) == repr(each)


def test_docstring_examples(precision):
    for module in (sam, asam):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0
