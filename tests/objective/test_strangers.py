"""Variables that a loss or a model reads and that are none of the model's: constants where they are frozen, refused otherwise."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import as_keras, assert_equal, fitted, seeded
from keras import layers, ops
from small import assert_same, dense_model, weights

import trainlab as tl

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype("float32"), RNG.normal(size=(12, 1)).astype("float32")
FIT = {"x": X, "y": Y}


def teacher(num_inputs, *more, is_frozen=True):
    """A model that is nobody's part."""
    model = keras.Sequential([keras.Input([num_inputs]), layers.Dense(4, activation="tanh"), *more, layers.Dense(1, name="last")])
    model.trainable = not is_frozen
    return model


def perceptual(is_frozen=True):
    """A loss on what another model makes of targets and predictions."""
    eye = teacher(1, is_frozen=is_frozen)
    return lambda y_true, y_pred: ops.mean(ops.square(eye(y_true) - eye(y_pred)), axis=-1)


def with_loss(make_loss, **compiling):
    def make():
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input([3]), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), make_loss(), **compiling)
        return model

    return make


class Distilled(keras.Model):
    """Learns from a teacher that its `compute_loss` reaches past Keras' tracking."""

    def __init__(self, more=(), training=False):
        super().__init__()
        self.dense = layers.Dense(1)
        model = teacher(3, *more)
        object.__setattr__(self, "teach", lambda x: model(x, training=training))

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y_pred - self.teach(x)))


class Scaled(layers.Layer):
    """A layer that uses another's weights."""

    def __init__(self):
        super().__init__()
        other = layers.Dense(3)
        other.build([None, 3])
        other.trainable = False
        object.__setattr__(self, "other", other)

    def call(self, x):
        return x + self.other(x)


def constant(variable):
    return lambda: lambda y_true, y_pred: ops.mean(ops.square(y_true - y_pred * variable), axis=-1)


FROZEN = {
    "a model in a loss": with_loss(perceptual),
    "a teacher in compute_loss": seeded(Distilled, None),
    "a teacher with BatchNorm": seeded(lambda: Distilled([layers.BatchNormalization()]), None),
    "a frozen BatchNorm, told to train": seeded(lambda: Distilled([layers.BatchNormalization()], training=True), None),
    "a layer in a layer": seeded(lambda: dense_model(Scaled, lambda: layers.Dense(1))),
    "a keras.Variable": with_loss(lambda: constant(keras.Variable(np.float32(0.5), trainable=False))()),
    "a keras.Variable frozen later": with_loss(lambda: constant(frozen_later())()),
    "a tf.Variable": with_loss(lambda: constant(tf.Variable(0.5, trainable=False))()),
}


def frozen_later():
    variable = keras.Variable(np.float32(0.5))
    variable.trainable = False
    return variable


@pytest.mark.parametrize("name", FROZEN)
class TestFrozen:
    def test_as_in_keras(self, name):
        as_keras(FROZEN[name], FIT)

    @pytest.mark.slow
    def test_eagerly_and_under_xla(self, name):
        expected = fitted(FROZEN[name], FIT)
        assert_equal(fitted(FROZEN[name], FIT, run_eagerly=True), expected)
        assert_equal(fitted(FROZEN[name], FIT, jit_compile=True), expected)

    @pytest.mark.slow
    def test_accumulated_is_whole(self, name):
        pieces = fitted(FROZEN[name], {**FIT, "batch_size": 2}, strategy=tl.Accumulate(2, tl.Heun()))
        assert_equal(pieces, fitted(FROZEN[name], FIT, strategy=tl.Heun()))


def test_a_teacher_stays_and_is_read_anew_in_each_fit():
    ends = []
    for factor in (1.0, 2.0):
        keras.utils.set_random_seed(1)
        eye = teacher(1)
        model = with_loss(lambda: lambda y, p: ops.mean(ops.square(eye(y) - eye(p)), axis=-1))()  # noqa: B023
        trainer = tl.Trainer(model)
        trainer.fit(X, Y, batch_size=4, verbose=0)
        before = [factor * w for w in weights(eye)]
        eye.set_weights(before)
        trainer.fit(X, Y, batch_size=4, verbose=0)
        assert_same(weights(eye), before)
        assert trainer.num_traces == 1
        ends.append(weights(model)[0])
    assert not np.allclose(*ends)


class TestRefused:
    """What would be trained by nobody is told what it is, and what to do about it."""

    @staticmethod
    def line(make_loss, **settings):
        with pytest.raises(ValueError) as error:
            fitted(with_loss(make_loss), FIT, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    @pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
    def test_a_trainable_keras_variable(self, run_eagerly):
        line = self.line(lambda: constant(keras.Variable(np.float32(0.5), name="scale"))(), run_eagerly=run_eagerly)
        assert line.startswith("the model or its loss reads the trainable keras.Variable 'scale' of shape (), which is none of")
        assert "self.add_weight" in line and "compute_loss" in line and "set trainable=False" in line and "raw" not in line

    def test_a_teacher_that_was_not_frozen(self):
        line = self.line(lambda: perceptual(is_frozen=False))
        assert "the trainable keras.Variable 'sequential" in line and "a teacher's, set trainable=False" in line

    def test_a_raw_variable(self):
        line = self.line(lambda: constant(tf.Variable(0.5, name="raw"))())
        assert line.startswith("the model reads the raw tf.Variable 'raw:0' of shape ()")
        assert "give it trainable=False if it is a constant" in line

    @pytest.mark.parametrize("follow", ["refused", "frozen"])
    def test_the_advice_works(self, follow):
        scale = keras.Variable(np.float32(0.5), trainable=follow == "refused")
        make = with_loss(constant(scale))
        if follow == "frozen":
            as_keras(make, FIT)
        else:
            with pytest.raises(ValueError, match="^the model or its loss reads the trainable keras.Variable"):
                fitted(make, FIT)
