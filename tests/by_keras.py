"""Trains as Keras' `fit` does, beside a Trainer, and compares."""

import keras
import numpy as np
import pytest
from small import weights

import trainlab as tl

FIT = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}


def fitted(make, fit, use_keras=False, strategy=None, **arguments):
    """`(weights, history)` of a fresh model after `fit`, a dictionary or a function that makes one; by Keras, or by a Trainer."""
    model = make()
    given = {**FIT, **(fit() if callable(fit) else fit)}
    history = (model.fit if use_keras else tl.Trainer(model, strategy, **arguments).fit)(**given).history
    return weights(model), history


def assert_equal(ours, theirs, rtol=1e-5):
    """Two results of `fitted` are equal but for rounding."""
    assert len(ours[0]) == len(theirs[0]) > 0
    for a, b in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)
    assert set(ours[1]) == set(theirs[1])
    for name, values in theirs[1].items():
        assert ours[1][name] == pytest.approx(values, rel=rtol, abs=1e-6), name


def as_keras(make, fit, like=None, **arguments):
    """Asserts that a Trainer ends where Keras' `fit` does, with the same logs, and that they went somewhere; returns ours.

    Args:
        make: makes the same model each time, compiled.
        fit: the arguments of `fit`.
        like: what Keras is given in their place, for what it does not take.
        arguments: of the Trainer.
    """
    ours = fitted(make, fit, **arguments)
    assert_equal(ours, fitted(make, fit if like is None else like, use_keras=True))
    assert np.ptp(ours[1]["loss"]) > 0
    return ours


def seeded(build, loss="mse", **compiling):
    """A function that makes the model that `build` returns, always with the same weights, compiled with SGD(0.1)."""

    def make():
        keras.utils.set_random_seed(1)
        model = build()
        model.compile(keras.optimizers.SGD(0.1), loss, **compiling)
        return model

    return make
