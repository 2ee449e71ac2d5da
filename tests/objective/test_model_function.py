"""A pure evaluation of a model is the ordinary call, layer by layer, and changes nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, dense_model, everything

from trainlab.objective.model_function import ModelFunction, check_vector
from trainlab.parameters.vector import Rows, Vector

layers = keras.layers
L2 = keras.regularizers.L2(0.1)


class ForgetsTraining(keras.Model):
    """A subclassed model that hands `training` to nobody: Keras does so all the same."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.dense = layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)

    def call(self, x):
        return self.dense(self.dropout(self.norm(x)))


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


class Counts(layers.Layer):
    """State of its own, changed at each call."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1.0)
        return x * (1.0 + 0.1 * self.count)


class Attention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4, dropout=0.2)

    def call(self, x):
        return self.attention(x, x, use_causal_mask=True)


# What follows an input of this shape and dtype; each model ends in a Dense of two outputs.
CASES = {
    "Dense": ((3,), lambda: [layers.Dense(4, activation="gelu", kernel_regularizer=L2)]),
    "activity regularizer": ((3,), lambda: [layers.Dense(4, activity_regularizer=L2)]),
    "EinsumDense": ((5, 3), lambda: [layers.EinsumDense("abc,cd->abd", (5, 4))]),
    "Conv1D": ((6, 3), lambda: [layers.Conv1D(4, 3, padding="causal")]),
    "Conv2D": ((6, 6, 2), lambda: [layers.Conv2D(3, 3), layers.MaxPooling2D()]),
    "Conv2DTranspose": ((4, 4, 2), lambda: [layers.Conv2DTranspose(2, 3)]),
    "SeparableConv2D": ((5, 5, 2), lambda: [layers.SeparableConv2D(3, 3)]),
    "BatchNormalization": ((3,), lambda: [layers.BatchNormalization()]),
    "LayerNormalization": ((3,), lambda: [layers.LayerNormalization()]),
    "GroupNormalization": ((4, 4), lambda: [layers.GroupNormalization(2)]),
    "UnitNormalization": ((3,), lambda: [layers.UnitNormalization()]),
    "Dropout": ((3,), lambda: [layers.Dropout(0.5)]),
    "SpatialDropout1D": ((5, 3), lambda: [layers.SpatialDropout1D(0.5)]),
    "AlphaDropout": ((3,), lambda: [layers.AlphaDropout(0.5)]),
    "GaussianNoise": ((3,), lambda: [layers.GaussianNoise(0.5)]),
    "GaussianDropout": ((3,), lambda: [layers.GaussianDropout(0.5)]),
    "Embedding": ((4,), lambda: [layers.Embedding(7, 3)]),
    "masked LSTM": ((4,), lambda: [layers.Embedding(7, 3, mask_zero=True), layers.LSTM(3)]),
    "LSTM with dropouts": ((4, 3), lambda: [layers.LSTM(3, dropout=0.3, recurrent_dropout=0.3)]),
    "stateful GRU": ((4, 3), lambda: [layers.GRU(3, stateful=True)]),
    "Bidirectional": ((4, 3), lambda: [layers.Bidirectional(layers.SimpleRNN(3))]),
    "attention": ((4, 3), lambda: [Attention()]),
    "TimeDistributed": ((4, 3), lambda: [layers.TimeDistributed(layers.Dense(2))]),
    "PReLU": ((3,), lambda: [layers.PReLU(alpha_initializer="ones")]),
    "Normalization": ((3,), lambda: [layers.Normalization(mean=0.5, variance=2.0)]),
    "Rescaling": ((3,), lambda: [layers.Rescaling(0.1, 1.0)]),
    "add_loss": ((3,), lambda: [AddsLoss()]),
    "own state": ((3,), lambda: [Counts()]),
    "subclassed model": ((3,), lambda: [ForgetsTraining()]),
    "nested model": ((3,), lambda: [keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.2)])]),
    "LoRA": ((3,), lambda: [layers.Dense(4, lora_rank=2)]),
    "frozen": ((3,), lambda: [layers.Dense(4, trainable=False), layers.BatchNormalization(trainable=False)]),
    "mixed_bfloat16": ((3,), lambda: [layers.Dense(4, dtype="mixed_bfloat16")]),
    "float64": ((3,), lambda: [layers.Dense(4, dtype="float64")]),
}
BATCH_SIZE = 5


class Recording(keras.losses.Loss):
    """A mean squared error that keeps the outputs it was called on."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def call(self, y_true, y_pred):
        self.outputs.append(y_pred)
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def build(name):
    shape, make = CASES[name]
    keras.utils.set_random_seed(2)
    is_ids = "Embedding" in name or "masked" in name
    inputs = x = keras.Input(shape, batch_size=BATCH_SIZE, dtype="int32" if is_ids else "float32")
    for layer in make():
        x = layer(x)
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    rng = np.random.default_rng(3)
    x = rng.integers(7, size=(BATCH_SIZE, *shape)) if is_ids else rng.normal(size=(BATCH_SIZE, *shape)).astype("float32")
    batch = tf.constant(x), tf.constant(rng.normal(size=(BATCH_SIZE, 2)).astype("float32")), None
    loss = Recording()
    model.compile(optimizer="sgd", loss=loss, metrics=["mae"])
    model._symbolic_build(data_batch=batch)
    loss.outputs.clear()
    return model, batch, loss


def as_dense(gradient):
    if isinstance(gradient, (tf.IndexedSlices, Rows)):
        gradient = tf.convert_to_tensor(gradient) if isinstance(gradient, tf.IndexedSlices) else gradient.to_dense()
    return np.asarray(gradient)


def ordinary(model, batch, loss):
    """Loss, gradients, outputs and the state afterwards, by calling the model as everybody does."""
    x, y, sample_weight = batch
    values = [v.value for v in model.trainable_variables]
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        value = model.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=sample_weight)
    gradients = tape.gradient(value, values, unconnected_gradients="zero")
    state = {id(v): np.array(v) for v in model.non_trainable_variables}
    return np.asarray(value), [as_dense(g) for g in gradients], outputs, state


@pytest.mark.parametrize("name", CASES)
def test_a_pure_evaluation_is_the_ordinary_call(name):
    model, batch, loss = build(name)
    function = ModelFunction(model)
    before = everything(model)
    first = function(function.read_parameters(), function.read_state(), batch)
    second = function(function.read_parameters(), function.read_state(), batch)
    assert_same(everything(model), before)  # it assigned nothing
    pure_outputs = loss.outputs[0]
    expected_loss, expected_gradients, expected_outputs, expected_state = ordinary(model, batch, loss)
    np.testing.assert_array_equal(pure_outputs, expected_outputs)
    for value, gradient, after in (first, second):
        np.testing.assert_array_equal(value, expected_loss)
        for ours, theirs in zip(gradient.leaves, expected_gradients, strict=True):
            if isinstance(ours, Rows):  # duplicates are summed in another order than densifying sums them
                np.testing.assert_allclose(as_dense(ours), theirs, rtol=1e-6, atol=1e-7)
            else:
                np.testing.assert_array_equal(as_dense(ours), theirs)
        start = {id(v): value for v, value in zip(model.variables, before, strict=False)}
        for key, expected in expected_state.items():
            np.testing.assert_array_equal(after[key] if key in after else start[key], expected)


def test_the_comparison_can_fail():
    """The control of the test above: dropout and state do tell two evaluations apart."""
    model, batch, loss = build("Dropout")
    function = ModelFunction(model)
    value, _, after = function(function.read_parameters(), function.read_state(), batch)
    other, _, _ = function(function.read_parameters(), {**function.read_state(), **after}, batch)
    assert value != other
    shifted, _, _ = function(function.read_parameters() + 1.0, function.read_state(), batch)
    assert value != shifted


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        ("nested model", False),
        ("nested model", True),
        ("masked LSTM", False),
        pytest.param("masked LSTM", True, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_ordinary_call_when_compiled_too(name, jit_compile):
    model, batch, loss = build(name)
    function = ModelFunction(model)

    @tf.function(jit_compile=jit_compile, autograph=False)
    def pure():
        value, gradient, _ = function(function.read_parameters(), function.read_state(), batch)
        return value, gradient

    @tf.function(jit_compile=jit_compile, autograph=False)
    def direct():
        values = [v.value for v in model.trainable_variables]
        with tf.GradientTape() as tape:
            value = model.compute_loss(x=batch[0], y=batch[1], y_pred=model(batch[0], training=True))
        return value, tape.gradient(value, values)

    (value, gradient), (expected, gradients) = pure(), direct()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for ours, theirs in zip(gradient.leaves, gradients, strict=True):
        np.testing.assert_allclose(as_dense(ours), as_dense(theirs), rtol=1e-5, atol=1e-7)


def test_gradients_of_frozen_weights_are_in_no_vector():
    model, batch, _ = build("frozen")
    function = ModelFunction(model)
    assert len(function.read_parameters().leaves) == len(model.trainable_variables) == 2
    assert function(function.read_parameters(), function.read_state(), batch)[1].leaves[0].shape == (4, 2)


def test_an_embeddings_gradient_is_row_sparse():
    model, batch, _ = build("Embedding")
    function = ModelFunction(model)
    gradient = function(function.read_parameters(), function.read_state(), batch)[1]
    assert isinstance(gradient.leaves[0], Rows)
    assert function.sparse == {0}


class TestVectorsOfOtherModels:
    VARIABLES = dense_model().trainable_variables

    @pytest.mark.parametrize(
        ("vector", "exception", "message"),
        [
            (None, TypeError, "^it was NoneType; it must be a Vector"),
            ([tf.zeros([3, 1]), tf.zeros([1])], TypeError, "^it was list; it must be a Vector"),
            (Vector([tf.zeros([3, 1])]), ValueError, "a Vector of 1 leaves, but this model has 2 trainable variables"),
            (Vector([tf.zeros([3, 1]), tf.zeros([2])]), ValueError, r"'sequential.*/out/bias' has shape \(2,\), not \(1,\)"),
        ],
    )
    def test_are_named(self, vector, exception, message):
        with pytest.raises(exception, match=message) as error:
            check_vector(vector, self.VARIABLES, "it was")
        assert "\n" not in str(error.value)

    def test_the_models_own_pass(self):
        check_vector(Vector(v.value for v in self.VARIABLES), self.VARIABLES, "it was")
