"""Tiny data, models and comparisons that many tests share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

# Of what is seen only where the step runs on the CPU.
on_a_cpu = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="it is so on a CPU")


def regression(num_examples=20, num_features=3, seed=0):
    """`x` `[n, features]` and `y` `[n, 1]`, float32, with no two examples alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, num_features)).astype("float32"), rng.normal(size=(num_examples, 1)).astype("float32")


def labelled(num_examples=20, num_features=3, num_classes=4, seed=0):
    """`x` `[n, features]` float32 and integer labels `[n]`."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, num_features)).astype("float32"), rng.integers(num_classes, size=num_examples)


def dense_model(*layer_fns, num_features=3, seed=1):
    """An uncompiled Sequential on `[features]` of what the functions return (by default one Dense(1)).

    Functions, because layers draw the seeds of their weights and dropout when they are made: the same seed, the same model.
    """
    keras.utils.set_random_seed(seed)
    layers = [fn() for fn in layer_fns] or [keras.layers.Dense(1, name="out")]
    return keras.Sequential([keras.Input([num_features]), *layers])


def compiled(model=None, optimizer=None, loss="mse", **kwargs):
    """A model (one Dense by default), compiled with SGD(0.1) by default."""
    model = dense_model() if model is None else model
    model.compile(optimizer=keras.optimizers.SGD(0.1) if optimizer is None else optimizer, loss=loss, **kwargs)
    return model


def classifier(num_classes=4, **kwargs):
    """A one-layer softmax classifier on logits, compiled."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(dense_model(lambda: keras.layers.Dense(num_classes, name="logits")), loss=loss, **kwargs)


def weights(model):
    """Copies of all the model's weights."""
    return [np.array(w) for w in model.get_weights()]


def everything(model):
    """Copies of every variable of a model and its optimizer."""
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def assert_same(a, b):
    """Two lists of arrays are equal, bit for bit."""
    assert len(a) == len(b) > 0
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


def differ(a, b):
    """Whether two lists of arrays differ anywhere."""
    return any(not np.array_equal(left, right) for left, right in zip(a, b, strict=True))


def close(a, b, rtol=1e-5):
    """Two lists of arrays are equal, but for rounding."""
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-6)


def two_outputs(as_dict):
    """An uncompiled model with the outputs "number" and "label", in a list or a dict."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input([3])
    number, label = keras.layers.Dense(1, name="number")(inputs), keras.layers.Dense(4, name="label")(inputs)
    return keras.Model(inputs, {"number": number, "label": label} if as_dict else [number, label])
