"""Models, losses and metrics are built for whatever batches there are, as Keras' `fit` builds them: in a trace of a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import seeded
from keras import layers, ops
from small import assert_same, weights

import trainlab as tl
from trainlab.objective import build_model

WORDS = tf.RaggedTensorSpec([None, None], tf.int32, 1)
THIN = tf.SparseTensorSpec([None, 5], tf.float32)
COLUMN = tf.TensorSpec([None, 1], tf.float32)
OPEN = tf.TensorSpec(None, tf.float32)


class Words(keras.Model):
    def __init__(self, unused=False):
        super().__init__()
        self.embedding, self.dense = layers.Embedding(10, 4), layers.Dense(1)
        self.unused = layers.Dense(7) if unused else None

    def call(self, words):
        return self.dense(tf.reduce_mean(words.with_values(self.embedding(words.values)), axis=1))


class Thin(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(5, 1), name="kernel")

    def call(self, x):
        return tf.sparse.sparse_dense_matmul(x, tf.convert_to_tensor(self.kernel))


class Ensured(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(tf.reshape(x, [-1, 5]))


class Fixed(keras.Model):
    """Asks for the number of examples as a Python number."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return self.dense(ops.reshape(x, [x.shape[0] * 1, 5]))


def fixed_loss(y_true, y_pred):
    return ops.sum(ops.square(y_true - y_pred)) / int(y_true.shape[0])


def is_finished(model):
    parts = [model._compile_loss, model._compile_metrics, model.optimizer]
    return all(part is None or part.built for part in parts)


@pytest.mark.parametrize(
    "build, loss",
    [(Fixed, "mse"), (Ensured, fixed_loss), (Fixed, fixed_loss)],
    ids=["a model", "a loss", "both"],
)
def test_for_the_number_of_examples_that_is_needed(build, loss):
    """As Keras' `fit` builds them, whose batches have their sizes."""
    x, y = np.ones([8, 5], "float32"), np.zeros([8, 1], "float32")
    model, by_keras = (seeded(build, loss=loss)() for _ in range(2))
    history = tl.Trainer(model).fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    expected = by_keras.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-6)
    unknown = (tf.TensorSpec([None, 5], tf.float32), COLUMN, None)
    with pytest.raises(ValueError, match="^(model, losses or metrics do|loss does) not fit batches of x"):
        build_model(seeded(build, loss=loss)(), unknown, None)


@pytest.mark.parametrize("spec, build", [(WORDS, Words), (WORDS, lambda: Words(unused=True)), (THIN, Thin)])
def test_for_ragged_and_sparse_batches(spec, build):
    model = seeded(build, metrics=["mae"])()
    build_model(model, (spec, COLUMN, None), None)
    assert is_finished(model) and model.trainable_variables
    before = weights(model)
    build_model(model, (spec, COLUMN, None), None)
    assert_same(weights(model), before)


def test_weights_start_as_keras_starts_them():
    ours, theirs = seeded(Words)(), seeded(Words)()
    build_model(ours, (WORDS, COLUMN, None), None)
    theirs(tf.ragged.constant([[1, 2], [3]]))
    assert_same(weights(ours), weights(theirs))


def test_nothing_is_left_of_the_trace():
    model = seeded(Words, metrics=["mae"])()
    build_model(model, (WORDS, COLUMN, None), None)
    assert all(float(np.sum(metric.result())) == 0 for metric in model.metrics[:1])
    assert all(not np.any(variable.numpy()) for variable in model.metrics_variables)


@pytest.mark.parametrize("targets", [{"a": 1.0, "b": 2.0}, [1.0, 2.0], (1.0, 2.0)], ids=["dict", "list", "tuple"])
def test_eagerly_for_targets_in_another_container_than_the_outputs(targets):
    def build():
        inputs = keras.Input([3])
        return keras.Model(inputs, {"a": layers.Dense(1, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)})

    model = seeded(build, {"a": "mse", "b": "mae"}, metrics={"b": ["mse"]}, run_eagerly=True)()
    y = tf.nest.map_structure(lambda value: tf.fill([2, 1], value), targets)
    batch = (tf.ones([2, 3]), y, None)
    specs = tf.nest.map_structure(lambda leaf: None if leaf is None else tf.type_spec_from_value(leaf), batch)
    build_model(model, specs, lambda: batch)
    assert is_finished(model)


def test_batches_of_unknown_rank_train_a_model_that_gives_them_one():
    loss = lambda y, p: ops.mean(ops.square(tf.reshape(y, [-1, 1]) - p), axis=-1)  # noqa: E731
    model = seeded(Ensured, loss)()
    model(tf.ones([2, 5]))
    model.compile(keras.optimizers.SGD(0.1))
    model.compute_loss = lambda x, y, y_pred, sample_weight=None, training=True: ops.mean(loss(y, y_pred))
    build_model(model, (OPEN, OPEN, None), None)
    assert model.optimizer.built


@pytest.mark.parametrize("is_built", [False, True], ids=["unbuilt", "built"])
@pytest.mark.parametrize("specs", [(OPEN, OPEN), (OPEN, COLUMN), (tf.TensorSpec([None, 5]), OPEN)], ids=["both", "x", "y"])
def test_batches_of_unknown_rank_are_told_in_one_line(specs, is_built):
    model = seeded(lambda: keras.Sequential([keras.Input([5])] * is_built + [layers.Dense(1)]), metrics=["mae"])()
    try:
        build_model(model, (*specs, None), None)
    except ValueError as error:
        line = str(error)
        assert "\n" not in line and line.startswith("model, losses or metrics do not fit batches of x ")
        assert "of an unknown shape" in line and "set it, by dataset.map(lambda x, y: (tf.ensure_shape(x" in line
    else:
        assert specs[0] is not OPEN and is_finished(model)  # only targets that say no more: Keras trains on some


def test_the_reason_is_told_and_not_that_the_model_be_built():
    class Failing(Words):
        def call(self, words):
            raise KeyError("no such thing")

    with pytest.raises(ValueError, match="^model, losses or metrics do not fit .*no such thing") as error:
        build_model(seeded(Failing)(), (WORDS, COLUMN, None), None)
    assert "build it yourself" not in str(error.value) and "\n" not in str(error.value)
