"""What a model, a loss or a metric that does not fit is told as: the one that it is, and what goes with the data."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from trainlab import Trainer

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
NUMBERS = np.arange(12) % 3  # of three classes
ROWS = np.eye(3, dtype="float32")[NUMBERS]
BY_NUMBER = "the number of the class goes with SparseCategoricalCrossentropy, other losses take 3 numbers"
BY_ROW = "it takes the number of the class, where rows of one number a class go with CategoricalCrossentropy"


def line(y, loss, metrics=None, x=X, units=3):
    """What a fit on such labels is refused with."""
    model = keras.Sequential([keras.Input([4]), layers.Dense(units)])
    with pytest.raises(ValueError) as error:
        Trainer(model, optimizer="sgd", loss=loss, metrics=metrics).fit(x, y, batch_size=6, verbose=0)
    text = str(error.value)
    assert "\n" not in text and "{{node" not in text
    return text


def own(y_true, y_pred):
    return tf.reduce_mean(tf.square(tf.cast(y_true, y_pred.dtype) - y_pred), axis=-1)


@pytest.mark.parametrize(
    "loss",
    ["mse", "categorical_crossentropy", "kl_divergence", "cosine_similarity", "dice", own]
    + [keras.losses.CategoricalCrossentropy(from_logits=True), keras.losses.BinaryCrossentropy(), keras.losses.Huber()],
    ids=lambda loss: getattr(loss, "name", loss),
)
def test_numbers_of_classes_for_a_loss_that_takes_rows(loss):
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    assert line(NUMBERS, loss) == f"loss {name} does not fit: y has examples of shape (), the model's output (3,): {BY_NUMBER}"


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.SparseCategoricalCrossentropy()], ids=["by name", "an object"]
)
def test_rows_for_a_loss_that_takes_numbers(loss):
    name = loss if isinstance(loss, str) else type(loss).__name__
    assert line(ROWS, loss) == f"loss {name} does not fit: y has examples of shape (3,), the model's output (3,): {BY_ROW}"


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy", "poisson"])
def test_rows_of_another_width(loss):
    message = f"loss {loss} does not fit: y has examples of shape (2,), the model's output (3,): they must be alike"
    assert line(ROWS[:, :2], loss) == message


@pytest.mark.parametrize("metric", [keras.metrics.Precision, keras.metrics.AUC, lambda: "recall"])
def test_a_metric_that_does_not_fit_is_not_blamed_on_the_loss(metric):
    text = line(NUMBERS, "sparse_categorical_crossentropy", [metric()])
    assert text.startswith("metrics do not fit batches of x (6, 4) and y (6,): ")


def test_a_model_that_does_not_fit_is_blamed_on_neither():
    class Narrow(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x @ tf.ones([7, 3]))

    with pytest.raises(ValueError, match="^model, losses or metrics do not fit batches of x "):
        Trainer(Narrow(), optimizer="sgd", loss="mse").fit(X, ROWS, verbose=0)


@pytest.mark.parametrize(
    "loss, metrics, message",
    [
        ("mse", ["acuracy"], "Keras has no metric 'acuracy'; did you mean accuracy?"),
        ("mse", ["mae", "AUCC"], "Keras has no metric 'AUCC'; did you mean AUC?"),
        ("mse", ["f1"], "Keras has no metric 'f1'; did you mean F1Score?"),
        ("sparse_crossentropy", None, "Keras has no loss 'sparse_crossentropy'; did you mean sparse_categorical_crossentropy?"),
        ("mean_sqared_error", None, "Keras has no loss 'mean_sqared_error'; did you mean mean_squared_error?"),
    ],
)
def test_a_name_that_keras_does_not_know(loss, metrics, message):
    assert line(ROWS, loss, metrics) == message


def test_where_nothing_is_alike_there_is_a_list():
    assert line(ROWS, "mse", ["xyzzy"]).startswith("Keras has no metric 'xyzzy'; it has AUC, ")
    assert ", MeanSquaredError, " in line(ROWS, "xyzzy")


def test_what_fits_trains():  # the control
    for y, loss in ((NUMBERS, "sparse_categorical_crossentropy"), (ROWS, "categorical_crossentropy"), (ROWS, own)):
        model = keras.Sequential([keras.Input([4]), layers.Dense(3, "softmax")])
        Trainer(model, optimizer="sgd", loss=loss, metrics=["accuracy"]).fit(X, y, verbose=0)
