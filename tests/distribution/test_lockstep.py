"""Synchronized BatchNormalization, and whatever else asks in the middle for what other replicas find."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from replicating import TOLERANCES, assert_same_training, distance, mirrored
from small import assert_same, compiled, everything, weights
from tables import pad

import trainlab as tl
from trainlab.loop import jit


def normalized(synchronized=True, **settings):
    """Two of them, one above a dense layer's gradient and one above the other's."""
    keras.utils.set_random_seed(1)
    norm = lambda **kwargs: layers.BatchNormalization(synchronized=synchronized, **kwargs)  # noqa: E731
    body = [layers.Dense(6, "tanh"), norm(momentum=0.7), layers.Dense(5, "softplus"), norm(), layers.Dense(1)]
    return compiled(keras.Sequential([keras.Input([3]), *body]), metrics=["mae"], **settings)


def data(num_examples=26):
    rng = np.random.default_rng(2)
    floatx = keras.config.floatx()
    return rng.normal(size=(num_examples, 3)).astype(floatx), rng.normal(size=(num_examples, 1)).astype(floatx)


def fit(make, replicas, x=None, y=None, strategy=None, fit=None, **settings):
    model = make()
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **{"jit_compile": False, **settings})
    x, y = data() if x is None else (x, y)
    sizes = {} if y is None else {"batch_size": 6}
    return model, trainer.fit(x, y, **{**sizes, "epochs": 2, "verbose": 0, **(fit or {})}).history


@pytest.mark.parametrize("precision", list(TOLERANCES), indirect=True)
@pytest.mark.parametrize(
    ("strategy", "replicas", "settings"),
    [
        (tl.SGD, 2, {}),
        (tl.Heun, 4, {}),
        (lambda: tl.Accumulate(2, tl.Heun()), 4, {"micro_batch_size": 6}),
        (tl.SGD, 2, {"run_eagerly": True}),
    ],
    ids=["plain", "heun", "accumulated", "eager"],
)
def test_several_devices_are_one(strategy, replicas, settings, precision):
    one, several = (fit(normalized, number, strategy=strategy(), **settings) for number in (None, replicas))
    # The variance is E[x^2] - E[x]^2, of which rounding leaves less where a batch is small.
    assert_same_training(one, several, 20 * TOLERANCES[precision])


def test_xla_is_tried_and_left_out(monkeypatch, capsys):
    monkeypatch.setattr(jit, "FEWEST_UPDATES", 1)
    monkeypatch.setattr(jit, "SHARE", 1e6)
    fit(normalized, 2, fit={"verbose": 2}, jit_compile="auto")
    assert "without XLA: a layer asks in the middle of an evaluation" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_statistics_of_each_shard_alone_would_be_seen(precision):
    one = fit(normalized, None)
    assert distance(one[0], fit(lambda: normalized(False), 2)[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("sizes", [(5, 3, 4), (2, 6, 2), (3, 2)], ids=str)
def test_batches_of_any_size(sizes, precision):
    x, y = data(sum(sizes))
    ends = np.cumsum(sizes)

    def stream():
        shape = tf.TensorSpec([None, 3], tf.float64), tf.TensorSpec([None, 1], tf.float64)
        batches = lambda: ((x[b - n : b], y[b - n : b]) for b, n in zip(ends, sizes, strict=True))  # noqa: E731
        return tf.data.Dataset.from_generator(batches, output_signature=shape)

    one, several = (fit(normalized, number, stream()) for number in (None, 4))
    assert_same_training(one, several, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_the_cnn_of_the_table_without_its_noise(precision):
    def make():
        keras.utils.set_random_seed(1)
        body = [layers.Conv2D(3, 3), layers.BatchNormalization(synchronized=True), layers.Activation("softplus")]
        model = keras.Sequential([keras.Input([6, 6, 1]), *body, layers.Flatten(), layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return compiled(model, loss=loss, metrics=["accuracy"])

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(13, 6, 6, 1)), rng.integers(3, size=13)
    one, several = (fit(make, number, x, y, tl.Heun()) for number in (None, 2))
    assert_same_training(one, several, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}], ids=str)
def test_under_a_mask(settings, precision):
    """Keras' own synchronizes nothing there: of each shard it takes the moments alone."""

    def make(synchronized=True):
        keras.utils.set_random_seed(1)
        norm = layers.BatchNormalization(synchronized=synchronized, momentum=0.7)
        body = [layers.Masking(), layers.Dense(4, "tanh"), norm, layers.Dense(1)]
        return compiled(keras.Sequential([keras.Input([5, 2]), *body]), metrics=["mae"])

    rng = np.random.default_rng(3)
    x, y = pad(rng, rng.normal(size=(13, 5, 2))), rng.normal(size=(13, 5, 1))
    one = fit(make, None, x, y, **settings)
    for replicas in (2, 4):
        assert_same_training(one, fit(make, replicas, x, y, **settings), 1e-11)
    assert distance(one[0], fit(lambda: make(False), 2, x, y, **settings)[0]) > 1e-3  # control
    assert_same(everything(one[0]), everything(fit(lambda: make(False), None, x, y, **settings)[0]))  # one device is as ever


class Centered(layers.Layer):
    """Takes the mean over all replicas' examples off; by means, and in one call for two tensors."""

    def call(self, x):
        context = tf.distribute.get_replica_context()
        total, number = context.all_reduce("sum", [ops.sum(x, axis=0), ops.cast(ops.shape(x)[0], x.dtype)])
        return x - total / number


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_a_layer_of_ones_own(precision):
    def make():
        keras.utils.set_random_seed(1)
        return compiled(keras.Sequential([keras.Input([3]), layers.Dense(4, "tanh"), Centered(), layers.Dense(1)]))

    one, several = (fit(make, number) for number in (None, 4))
    assert_same_training(one, several, 1e-12)


class Mean(layers.Layer):
    """Takes the mean of the replicas' means off."""

    def call(self, x):
        return x - tf.distribute.get_replica_context().all_reduce("mean", ops.mean(x, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("of_open_size", [False, True])
def test_a_mean_is_over_the_replicas_that_have_examples(of_open_size):
    def make():
        keras.utils.set_random_seed(1)
        return compiled(keras.Sequential([keras.Input([3]), layers.Dense(4), Mean(), layers.Dense(1)]))

    x, y = data(3)
    if of_open_size:
        x, y = tf.data.Dataset.from_tensor_slices((x, y)).batch(3), None
    one, several = (fit(make, number, x, y) for number in (None, 4))
    assert_same_training(one, several, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_in_a_train_step_of_ones_own(precision):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = [layers.Dense(4), layers.BatchNormalization(synchronized=True), layers.Dense(1)]

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                for layer in self.body:
                    x = layer(x, training=True) if isinstance(layer, layers.BatchNormalization) else layer(x)
                loss = ops.mean(ops.square(x - y))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return {"loss": loss}

    def make():
        keras.utils.set_random_seed(1)
        model = Own()
        model.compile(keras.optimizers.SGD(0.1))
        return model

    one, several = (fit(make, number, fit={"batch_size": 4}) for number in (None, 2))
    assert distance(one[0], several[0]) < 1e-11


@pytest.mark.slow
def test_the_same_bits_again():
    assert_same(*(everything(fit(normalized, 4, strategy=tl.Heun())[0]) for _ in range(2)))


@pytest.mark.slow
def test_xla_is_refused_and_auto_does_without():
    with pytest.raises(ValueError) as error:
        fit(normalized, 2, jit_compile=True)
    assert str(error.value) == (
        "jit_compile=True: a layer asks in the middle of an evaluation for what other replicas find, as a synchronized "
        'BatchNormalization does: write jit_compile=False, or "auto"'
    )
    assert "nan" not in str(weights(fit(normalized, None, jit_compile=True)[0]))  # one device may


def test_where_the_others_cannot_be_met():
    class Inside(layers.Layer):
        def call(self, x):
            context = tf.distribute.get_replica_context()
            summed = lambda: context.all_reduce("sum", x)  # noqa: E731
            return tf.cond(tf.reduce_sum(x) > 0, summed, lambda: x)

    with pytest.raises(ValueError, match="asks for a sum over all replicas .* inside a tf.cond, a loop, a map or a function"):
        fit(lambda: compiled(keras.Sequential([keras.Input([3]), Inside(), layers.Dense(1)])), 2)
