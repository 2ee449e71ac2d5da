"""Every epoch begins with metrics and logs as Keras and we reset them, whichever way that is done."""

import functools

import keras
import numpy as np
import pytest
from small import assert_same, compiled, dense_model, differ, regression

from trainlab import SGD, Step, Trainer

NUM_EPOCHS = 6
METRICS = {
    "mae": lambda: ["mae"],
    "none": list,
    "two of a kind": lambda: ["mae", keras.metrics.MeanAbsoluteError(name="again")],
    "auc": lambda: [keras.metrics.AUC(num_thresholds=5)],
    "counts": lambda: [keras.metrics.TruePositives(), keras.metrics.PrecisionAtRecall(0.5, num_thresholds=5)],
    "scores": lambda: [keras.metrics.R2Score(), keras.metrics.F1Score(threshold=0.5)],
    "confusion": lambda: [keras.metrics.BinaryIoU()],
    "root": lambda: [keras.metrics.RootMeanSquaredError()],
}


class Logs(SGD):
    """Logs a number that is another one in each update."""

    def step(self, objective, state):
        step = super().step(objective, state)
        return Step(step.gradient, at=step.at, logs={"number": state.iteration})


class Inheriting(keras.metrics.MeanSquaredError):
    """Not Keras' own, though nothing is overridden."""


class Overriding(keras.metrics.MeanSquaredError):
    def __init__(self, told):
        super().__init__()
        self.told = told

    def reset_state(self):
        self.told()
        super().reset_state()


class OverridingModel(keras.Sequential):
    told = None

    def reset_metrics(self):
        self.told()
        super().reset_metrics()


def labels():
    x, y = regression(24)
    return x, (y > 0).astype("float32")


def held(model):
    return [np.array(v) for metric in model.metrics for v in metric.variables]


def fit(model, strategy=None, **settings):
    """Trains, and returns what the metrics held at the beginning and at the end of each epoch, and the history."""
    begun, ended = [], []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: begun.append(held(model)),
        on_epoch_end=lambda epoch, logs: ended.append(held(model)),
    )
    kwargs = {"batch_size": 6, "epochs": NUM_EPOCHS, "verbose": 0} | settings
    history = Trainer(model, strategy).fit(*labels(), callbacks=[callback], **kwargs)
    return begun, ended, history.history


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("metrics", METRICS)
def test_every_epoch_begins_with_what_keras_leaves(metrics, run_eagerly):
    model = compiled(dense_model(lambda: keras.layers.Dense(1, activation="sigmoid")), metrics=METRICS[metrics]())
    model.run_eagerly = run_eagerly
    begun, ended, _ = fit(model, validation_data=labels())  # a validation leaves its own there
    model.reset_metrics()
    expected = held(model)
    assert len(begun) == NUM_EPOCHS and expected
    for found in begun:
        assert_same(found, expected)
    assert all(differ(found, expected) for found in ended)  # control


def test_logs_are_means_of_one_epoch():
    *_, history = fit(compiled(), Logs())
    numbers = np.arange(4 * NUM_EPOCHS).reshape(NUM_EPOCHS, 4)
    np.testing.assert_allclose(history["number"], numbers.mean(axis=1))


def as_if_of_keras(method, told):
    """A method of Keras' that tells when it is called, and otherwise cannot be told from it."""

    @functools.wraps(method)
    def telling(*args):
        told()
        return method(*args)

    return telling


def inheriting(told, monkeypatch):
    monkeypatch.setattr(keras.Model, "reset_metrics", as_if_of_keras(keras.Model.reset_metrics, told))
    return Inheriting(), keras.Sequential


def overriding(told, monkeypatch):
    return Overriding(told), keras.Sequential


def replaced_on_the_metric(told, monkeypatch):
    metric = keras.metrics.MeanSquaredError()
    metric.reset_state = as_if_of_keras(metric.reset_state, told)
    return metric, keras.Sequential


def overridden_by_the_model(told, monkeypatch):
    monkeypatch.setattr(OverridingModel, "told", staticmethod(told))
    return keras.metrics.MeanSquaredError(), OverridingModel


def all_of_keras(told, monkeypatch):
    monkeypatch.setattr(keras.Model, "reset_metrics", as_if_of_keras(keras.Model.reset_metrics, told))
    return keras.metrics.MeanSquaredError(), keras.Sequential


ANYTHING = [inheriting, overriding, replaced_on_the_metric, overridden_by_the_model]


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize(("make", "num_resets"), [*((make, NUM_EPOCHS) for make in ANYTHING), (all_of_keras, 2)])
def test_who_may_do_anything_is_asked_every_time_and_keras_round_a_trace(make, num_resets, is_compiled, monkeypatch):
    resets, layer = [], keras.layers.Dense(1)
    metric, cls = make(lambda: resets.append(0), monkeypatch)
    if not is_compiled:
        layer.metric = metric
    fit(compiled(cls([keras.Input([3]), layer]), metrics=[metric] if is_compiled else None))
    assert len(resets) == num_resets
