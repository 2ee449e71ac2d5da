"""cuDNN's RNNs, played by a stand-in on the CPU, which leave the gradient of padding as the memory was."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import trainlab as tl
from trainlab.objective.keras_internals import backend_rnn

UNITS, GARBAGE = 3, 1e10
IDS = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [2, 1, 3, 1]], "int32")
Y = np.ones([3, UNITS], "float32")


def stand_in(original):
    """A sum over what is not masked, with the signature of Keras' own."""
    signature = inspect.signature(original)

    def fused(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        mask = given["mask"]

        @tf.custom_gradient
        def read(inputs):
            is_read = tf.ones_like(inputs, tf.bool) if mask is None else tf.broadcast_to(mask[..., None], tf.shape(inputs))
            return tf.where(is_read, inputs, 0.0), lambda upstream: tf.where(is_read, upstream, GARBAGE)

        outputs = tf.einsum("btf,fu->btu", read(given["inputs"]), given["kernel"][:, :UNITS])
        last = tf.reduce_sum(outputs, axis=1)
        states = [last, last] if "initial_state_c" in given else [last]
        return last, outputs, states

    fused.__signature__ = signature
    return fused


@pytest.fixture(autouse=True)
def cudnn(monkeypatch):
    monkeypatch.setattr(backend_rnn, "cudnn_ok", lambda *args, **kwargs: True)
    for name in ("_cudnn_lstm", "_cudnn_gru"):
        monkeypatch.setattr(backend_rnn, name, stand_in(getattr(backend_rnn, name)))


def trained(rnn, fit, first):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([4], dtype=IDS.dtype if first == "embedding" else "float32"), *made(first), rnn])
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=0.5), "mse", jit_compile=False)
    before = [w.copy() for w in model.get_weights()]
    fit(model, IDS if first == "embedding" else IDS.astype("float32"))
    return [after - start for after, start in zip(model.get_weights(), before, strict=True)]


def made(first):
    if first == "embedding":
        return [layers.Embedding(4, 2, mask_zero=True)]
    return [layers.Reshape([4, 1]), layers.Masking(), layers.Dense(2)]


def by_trainlab(model, x, **settings):
    tl.Trainer(model, **settings).fit(x, Y, batch_size=3, verbose=0)


RNNS = {
    "lstm": lambda: layers.LSTM(UNITS),
    "gru": lambda: layers.GRU(UNITS),
    "both ways": lambda: layers.Bidirectional(layers.LSTM(UNITS), merge_mode="sum"),
}


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("first", ["embedding", "masking"])
@pytest.mark.parametrize("name", RNNS)
def test_padding_has_no_gradient(name, first, eagerly):
    moved = trained(RNNS[name](), lambda model, x: by_trainlab(model, x, run_eagerly=eagerly), first)
    assert all(np.isfinite(move).all() for move in moved)
    assert 1e-3 < np.sqrt(sum((move**2).sum() for move in moved)) < 0.5 + 1e-6  # the clip is of the true gradient
    if first == "embedding":
        assert not moved[0][0].any() and moved[0][1:].any()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [tl.Heun(), tl.Accumulate(3)])
def test_whatever_the_strategy(strategy):
    def fit(model, x):
        tl.Trainer(model, strategy).fit(x, Y, batch_size=3 // strategy.batches, verbose=0)

    moved = trained(RNNS["lstm"](), fit, "embedding")
    assert not moved[0][0].any() and moved[0][1:].any()


def test_control_without_it_padding_is_all_that_moves():
    moved = trained(RNNS["lstm"](), lambda model, x: model.fit(x, Y, batch_size=3, verbose=0), "embedding")
    assert abs(moved[0][0]).max() > 0.1 and abs(moved[0][1:]).max() < 1e-6


def test_what_has_no_mask_is_left_as_it_is():
    x = np.random.default_rng(0).normal(size=[3, 4, 2]).astype("float32")
    ends = []
    for fit in (by_trainlab, lambda model, x: model.fit(x, Y, batch_size=3, shuffle=False, verbose=0)):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input([4, 2]), layers.LSTM(UNITS)])
        model.compile("sgd", "mse", jit_compile=False)
        fit(model, x)
        ends.append(model.get_weights())
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
