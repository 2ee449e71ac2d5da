"""Updates of several batches, the last of which is smaller, call after call.

TensorFlow's memory optimizer rewrites sums only in graphs that it thinks need more than 200 MB: there it makes the second call
fail, and has to be kept from it.
"""

import contextlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small import assert_same, compiled, differ, everything, on_a_cpu, weights
from tables import MODELS

import trainlab as tl
from trainlab.parameters import tensorflow_internals

SIZE = 2048


def tied():
    """One large layer, used four times: its gradient is a sum of four."""
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input([SIZE])
    layer = layers.Dense(SIZE, activation="tanh")
    for _ in range(4):
        x = layer(x)
    return compiled(keras.Model(inputs, layers.Dense(1)(x)), keras.optimizers.SGD(0.001))


def added():
    """A large layer whose weights are the sum of three."""

    class Sum(layers.Layer):
        def build(self, shape):
            self.parts = [self.add_weight(shape=(SIZE, SIZE), name=f"part_{i}") for i in range(3)]

        def call(self, x):
            first, *others = self.parts
            for other in others:
                first = first + other
            return keras.ops.tanh(x @ first)

    keras.utils.set_random_seed(1)
    x = inputs = keras.Input([SIZE])
    layer = Sum()
    for _ in range(2):
        x = layer(x)
    return compiled(keras.Model(inputs, layers.Dense(1)(x)), keras.optimizers.SGD(0.001))


def large_data(num_examples=15):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_examples, SIZE)).astype("float32"), rng.normal(size=(num_examples, 1)).astype("float32")


def in_pieces(model):
    trainer = tl.Trainer(model, micro_batch_size=4, jit_compile=False)
    x, y = large_data()
    for _ in range(3):
        trainer.fit(x, y, batch_size=15, verbose=0)
    return trainer


def of_a_stream(model):
    trainer = tl.Trainer(model, tl.Accumulate(4), jit_compile=False)
    data = tf.data.Dataset.from_tensor_slices(large_data()).batch(4)
    for _ in range(3):
        trainer.fit(data, verbose=0)
    return trainer


@pytest.mark.parametrize("fit", [in_pieces, pytest.param(of_a_stream, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [tied, pytest.param(added, marks=pytest.mark.slow)])
def test_a_large_model_goes_on(make, fit):
    model = make()
    before = weights(model)
    assert fit(model).iterations == 3 and differ(weights(model), before)


@pytest.mark.slow
@on_a_cpu
def test_which_needs_what_keeps_sums_as_they_are():
    """The control, and the day on which it can go."""
    with mock.patch.object(tensorflow_internals, "sums_left_alone", contextlib.nullcontext):
        with pytest.raises(tf.errors.AlreadyExistsError, match="tmp_var"):
            in_pieces(tied())


@pytest.mark.slow
def test_they_are_the_updates_of_whole_batches():
    pieces, whole = tied(), tied()
    in_pieces(pieces)
    trainer = tl.Trainer(whole, jit_compile=False)
    for _ in range(3):
        trainer.fit(*large_data(), batch_size=15, verbose=0)
    for one, other in zip(weights(pieces), weights(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


_QUICK = ("transformer", "embedding")


@pytest.mark.parametrize("name", [n if n in _QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS])
@pytest.mark.parametrize("is_cut", [False, True], ids=["accumulated", "in pieces"])
def test_every_model_over_several_calls(name, is_cut):
    """So many updates in one call, or each in a call of its own: the same to the bit, the smaller last one of a pass too."""
    found = []
    for per_call in (1, 7):
        model = MODELS[name].compiled()
        x, y = MODELS[name].arrays(31)
        given = {"micro_batch_size": 3} if is_cut else {"strategy": tl.Accumulate(4)}
        trainer = tl.Trainer(model, **given, jit_compile=False, steps_per_execution=per_call)
        for _ in range(3):
            trainer.fit(x, y, batch_size=8 if is_cut else 2, epochs=2, verbose=0)
        assert trainer.iterations == 24
        found.append(everything(model))
    assert_same(*found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["arrays", "stream"])
def test_the_loss_of_an_output_is_averaged_by_examples(kind):
    case, size, number = MODELS["two_outputs"], 6, 26
    x, y = case.arrays(number)

    def batches():
        for start in range(0, number, size):
            yield tuple({name: part[start : start + size] for name, part in side.items()} for side in (x, y))

    data, targets = (x, y) if kind == "arrays" else (tf.data.Dataset.from_tensor_slices((x, y)).batch(size), None)
    model = case.compiled(keras.optimizers.SGD(0.0))
    history = tl.Trainer(model).fit(data, targets, batch_size=size if kind == "arrays" else None, verbose=0, shuffle=False)
    model = case.compiled(keras.optimizers.SGD(0.0))
    sizes = [len(batch[0]["left"]) for batch in batches()]
    for name in ("left_out_loss", "right_out_loss"):
        losses = [model.test_on_batch(*batch, return_dict=True)[name] for batch in _each_alone(model, batches())]
        assert history.history[name][0] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)
        assert history.history[name][0] != pytest.approx(np.mean(losses), rel=1e-3)  # control: the last batch weighs less


def _each_alone(model, batches):
    for batch in batches:
        model.reset_metrics()
        yield batch
