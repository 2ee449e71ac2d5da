"""State that is no plain sum or mean, of layers of one's own: as it is said, or a warning."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from replicating import mirrored
from small import compiled, regression

import trainlab as tl

X, Y = regression(16)


def layer_of(update, dtype="float32", initializer="zeros", **says):
    """A layer that keeps one number, and hands on what it is given."""

    class Keeps(keras.layers.Layer):
        def build(self, shape):
            self.kept = self.add_weight(shape=(), dtype=dtype, initializer=initializer, trainable=False, **says)
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, aggregation="sum")

        def call(self, x):
            update(self, x)
            return x

    return Keeps


def decays(self, x):
    self.kept.assign(0.9 * self.kept + 0.1 * ops.sum(x**2))


def averages(self, x):
    self.kept.assign(0.9 * self.kept + 0.1 * ops.mean(x**2))


def is_highest(self, x):
    self.kept.assign(ops.maximum(self.kept, ops.max(x)))


def was_seen(self, x):
    self.kept.assign(ops.logical_or(self.kept, ops.any(x > 1)))


def turns(self, x):
    self.kept.assign(0.9 * self.kept + 0.1 * ops.cast(ops.mean(x**2), "complex64"))


def counts_on(self, x):
    """A mean of all examples, by a count of them."""
    size = ops.cast(ops.shape(x)[0], "float32")
    count = self.count + size
    self.kept.assign(self.kept + (ops.mean(x) - self.kept) * size / count)
    self.count.assign(count)


RIGHT = {
    "a decayed sum that says so": layer_of(decays, aggregation="sum"),
    "a decayed mean": layer_of(averages),
    "a complex mean": layer_of(turns, "complex64", aggregation="mean"),
}
TOLD = {
    "a decayed sum": (layer_of(decays), "makes a maximum or the like"),
    "a maximum": (layer_of(is_highest), "makes a maximum or the like"),
    "a truth": (layer_of(was_seen, "bool"), "makes a maximum or the like"),
    "a mean by a count": (layer_of(counts_on), "the loss, or what a layer keeps, reads"),
}


def kept(make, replicas):
    keras.utils.set_random_seed(1)
    model = compiled(keras.Sequential([keras.Input([3]), make(), keras.layers.Dense(1)]))
    tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False).fit(X, Y, batch_size=8, verbose=0)
    return np.array(model.layers[0].kept)


@pytest.mark.parametrize("name", RIGHT)
def test_it_is_that_of_one_device(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        one, two = kept(RIGHT[name], None), kept(RIGHT[name], 2)
    assert one != 0
    np.testing.assert_allclose(two, one, rtol=1e-6)


@pytest.mark.parametrize("name", TOLD)
def test_what_need_not_be_is_told(name):
    make, says = TOLD[name]
    with pytest.warns(UserWarning, match=says):
        kept(make, 2)


@pytest.mark.parametrize("strategy", [None, tl.Accumulate(2)], ids=["plain", "accumulated"])
@pytest.mark.parametrize("sizes", [(5, 0, 3, 0), (5, 3, 0, 0)])
def test_an_update_without_examples(sizes, strategy):
    """Its weights stay where they are, as Keras leaves them."""

    def batches():
        ends = np.cumsum([0, *sizes])
        yield from ((X[a:b], Y[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True))

    weights = []
    for replicas in (None, 2):
        keras.utils.set_random_seed(1)
        model = compiled(keras.Sequential([keras.Input([3]), keras.layers.Dense(1)]))
        tl.Trainer(model, strategy, distribute=mirrored(replicas), jit_compile=False).fit(batches(), verbose=0)
        weights.append(model.get_weights())
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-7)
