"""`Trainer.predict`: what `keras.Model.predict` returns, many batches in a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluation_cases import counted_calls
from keras import layers

import trainlab as tl
from trainlab.loop import PredictionLoop

X = np.random.default_rng(0).normal(size=(22, 5)).astype("float32")
TOKENS = np.random.default_rng(0).integers(0, 9, size=(22, 6))


def compiled(model):
    model.compile("sgd", "mse")
    return model


def plain():
    return compiled(keras.Sequential([keras.Input([5]), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)]))


def two_outputs():
    inputs = keras.Input([5])
    return compiled(keras.Model(inputs, {"a": layers.Dense(2)(inputs), "b": [layers.Dense(1)(inputs), inputs]}))


def two_inputs():
    a, b = keras.Input([5], name="a"), keras.Input([5], name="b")
    return compiled(keras.Model({"a": a, "b": b}, layers.Dense(2)(layers.Add()([a, b]))))


def of_tokens():
    return compiled(keras.Sequential([keras.Input([6], dtype="int32"), layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3)]))


def open_length():
    return compiled(keras.Sequential([keras.Input([None], dtype="int32"), layers.Embedding(9, 4)]))


CASES = {
    "plain": (plain, lambda: X, {}),
    "steps": (plain, lambda: X, {"steps": 3, "batch_size": 4}),
    "a batch": (plain, lambda: X, {"batch_size": 100}),
    "tensors": (plain, lambda: tf.constant(X), {}),
    "float64": (plain, lambda: X.astype("float64"), {}),
    "several outputs": (two_outputs, lambda: X, {}),
    "several inputs": (two_inputs, lambda: {"a": X, "b": X * 2}, {}),
    "masks": (of_tokens, lambda: TOKENS, {}),
    "a data set": (plain, lambda: tf.data.Dataset.from_tensor_slices(X).batch(6), {}),
    "with targets": (plain, lambda: tf.data.Dataset.from_tensor_slices((X, X[:, :3])).batch(5), {}),
    "some of an endless one": (plain, lambda: tf.data.Dataset.from_tensor_slices(X).repeat().batch(5), {"steps": 7}),
}


@pytest.fixture
def calls(monkeypatch):
    """How many batches each compiled call took."""
    return counted_calls(PredictionLoop, monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_it_is_what_keras_returns(name, calls):
    make, data, how = CASES[name]
    model = make()
    how = {"verbose": 0} | ({} if "data set" in name or "endless" in name or "targets" in name else {"batch_size": 4}) | how
    trainer = tl.Trainer(model)
    for _ in range(2):
        ours, theirs = trainer.predict(data(), **how), model.predict(data(), **how)
        keras.tree.assert_same_structure(ours, theirs)
        for a, b in zip(keras.tree.flatten(ours), keras.tree.flatten(theirs), strict=True):
            assert type(a) is np.ndarray and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert sum(calls) > 0


def test_many_batches_go_into_a_call(calls):
    trainer = tl.Trainer(plain())
    x = np.tile(X, [40, 1])
    for _ in range(8):
        trainer.predict(x, batch_size=6, verbose=0)
    del calls[:]
    assert trainer.predict(x, batch_size=6, verbose=0).shape == (880, 3)
    assert sum(calls) == 147 and len(calls) < 20


class OwnStep(keras.Sequential):
    def predict_step(self, data):
        return 2.0 * self(data[0] if isinstance(data, tuple) else data)


class Listening(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def on_predict_batch_end(self, batch, logs=None):
        self.shapes.append(logs["outputs"].shape)


def test_what_is_left_to_keras(calls):
    """Steps of one's own, callbacks that want every batch's outputs, and outputs whose shapes differ from batch to batch."""
    model = compiled(OwnStep([keras.Input([5]), layers.Dense(3)]))
    np.testing.assert_array_equal(tl.Trainer(model).predict(X, verbose=0), model.predict(X, verbose=0))
    listening, model = Listening(), plain()
    tl.Trainer(model).predict(X, batch_size=10, callbacks=[listening], verbose=0)
    assert listening.shapes == [(10, 3), (10, 3), (2, 3)]
    unbuilt = compiled(keras.Sequential([layers.Dense(3)]))
    assert tl.Trainer(unbuilt).predict(X, verbose=0).shape == (22, 3)
    padded = tf.data.Dataset.from_generator(
        lambda: iter([TOKENS[:4, :3], TOKENS[4:8]]), output_signature=tf.TensorSpec([None, None], tf.int64)
    )
    model = open_length()
    assert type(tl.Trainer(model).predict(padded, verbose=0)) is type(model.predict(padded, verbose=0))
    assert not calls


def test_hooks_of_the_beginning_and_the_end():
    seen = []
    begin, end = (lambda logs=None, name=name: seen.append(name) for name in ("begin", "end"))
    callback = keras.callbacks.Callback()
    callback.on_predict_begin, callback.on_predict_end = begin, end
    tl.Trainer(plain()).predict(X, callbacks=[callback], verbose=0)
    assert seen == ["begin", "end"]


def test_weights_that_were_trained_count():
    model = plain()
    trainer = tl.Trainer(model)
    before = trainer.predict(X, verbose=0)
    trainer.fit(X, X[:, :3], verbose=0)
    after = trainer.predict(X, verbose=0)
    assert np.abs(after - before).max() > 1e-4
    np.testing.assert_allclose(after, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_a_prediction_that_failed_leaves_nothing_to_the_next():
    class Stops(layers.Layer):
        def call(self, x):
            tf.debugging.assert_less(tf.reduce_max(x), 50.0)
            return tf.identity(x)

    model = compiled(keras.Sequential([keras.Input([5]), Stops()]))
    trainer, bad = tl.Trainer(model), X.copy()
    for _ in range(4):  # until several batches go into a call
        trainer.predict(X, batch_size=2, verbose=0)
    bad[20] = 99.0
    with pytest.raises(tf.errors.InvalidArgumentError):
        trainer.predict(bad, batch_size=2, verbose=0)
    np.testing.assert_array_equal(trainer.predict(-X, batch_size=2, verbose=0), -X)


LENGTHS = {
    "tokens": (open_length, lambda n, length: np.random.default_rng(n).integers(0, 9, [n, length])),
    "images": (
        lambda: compiled(keras.Sequential([keras.Input([None, None, 1]), layers.Conv2D(2, 3, padding="same")])),
        lambda n, length: np.random.default_rng(n).normal(size=[n, length, length + 1, 1]).astype("float32"),
    ),
    "several outputs": (
        lambda: compiled(keras.Model(inputs := keras.Input([None, 2]), {"all": inputs * 2, "last": inputs[:, -1]})),
        lambda n, length: np.random.default_rng(n).normal(size=[n, length, 2]).astype("float32"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LENGTHS)
def test_one_length_after_another(name, calls):
    make, draw = LENGTHS[name]
    model, trainer = make(), None
    trainer = tl.Trainer(model)
    for n, length, batch_size in [(40, 6, 1), (8, 3, 4), (9, 7, 4), (8, 6, 4), (5, 3, 1)]:
        x = draw(n, length)
        expected, found = model.predict(x, verbose=0), trainer.predict(x, batch_size=batch_size, verbose=0)
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)


def test_a_data_set_of_several_lengths_is_joined_as_keras_joins_it():
    model = open_length()
    batches = tf.data.Dataset.from_generator(
        lambda: (np.ones([2, n], "int32") for n in (3, 5)), output_signature=tf.TensorSpec([2, None], tf.int32)
    )
    trainer = tl.Trainer(model)
    assert trainer.predict(np.ones([4, 2], "int32"), verbose=0).shape == (4, 2, 4)
    assert trainer.predict(batches, verbose=0).to_list() == model.predict(batches, verbose=0).to_list()  # ragged
    assert trainer.predict(np.ones([4, 3], "int32"), verbose=0).shape == (4, 3, 4)
