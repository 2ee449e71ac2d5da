"""Models without trainable weights: as in Keras, metrics are computed, state is kept up to date, and a warning says so."""

import keras
import numpy as np
import pytest
from small import assert_same, compiled, regression, weights
from tables import STRATEGIES

from trainlab import Accumulate, Heun, Run, Trainer

layers = keras.layers


class Sums(layers.Layer):
    def call(self, x):
        return keras.ops.sum(x, axis=-1, keepdims=True)


class Counts(layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.count.assign(self.count + 1)
        return x


def frozen():
    model = keras.Sequential([keras.Input([3]), layers.Dense(2), layers.BatchNormalization(), layers.Dense(1)])
    model.trainable = False
    return model


MODELS = {
    "no weights": lambda: keras.Sequential([keras.Input([3]), layers.Activation("relu"), Sums()]),
    "frozen": frozen,
    "statistics": lambda: keras.Sequential([keras.Input([3]), layers.BatchNormalization(center=False, scale=False), Sums()]),
    "a count": lambda: keras.Sequential([keras.Input([3]), Counts(), Sums()]),
    "unbuilt": lambda: keras.Sequential([Counts(), Sums()]),
}


def made(name, **kwargs):
    keras.utils.set_random_seed(1)
    return compiled(MODELS[name](), "adam", metrics=["mae"], **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_metrics_and_state_are_those_of_keras(name, settings):
    (x, y), validation = regression(22), regression(8, seed=2)
    arguments = {"batch_size": 4, "epochs": 2, "shuffle": False, "validation_data": validation, "verbose": 0}
    expected = made(name)
    with pytest.warns(UserWarning, match="does not have any trainable weights"):
        history = expected.fit(x, y, **arguments).history
    model = made(name)
    trainer = Trainer(model, **settings)
    with pytest.warns(UserWarning, match="has no trainable variables, so fit only computes its metrics: set layer.trainable"):
        ours = trainer.fit(x, y, **arguments).history
    assert ours.keys() == history.keys()
    for key, values in history.items():
        np.testing.assert_allclose(ours[key], values, rtol=2e-6)
    for ours, theirs in zip(weights(model), weights(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert trainer.iterations == int(expected.optimizer.iterations) == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_any_strategy_computes_them(name):
    x, y = regression(24)
    model, expected = made("no weights"), made("no weights")
    with pytest.warns(UserWarning, match="has no trainable variables"):
        history = Trainer(model, STRATEGIES[name].make()).fit(x, y, batch_size=4, verbose=0).history
    loss, mae = expected.evaluate(x, y, verbose=0)
    np.testing.assert_allclose([history["loss"][0], history["mae"][0]], [loss, mae], rtol=1e-5)


@pytest.mark.parametrize("strategy", [None, Heun(), Accumulate(2)], ids=repr)
def test_a_count_is_of_evaluations_that_are_kept(strategy):
    x, y = regression(24)
    model = made("a count")
    with pytest.warns(UserWarning, match="has no trainable variables"):
        Trainer(model, strategy).fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert int(model.layers[0].count) == 12  # batches, whatever a step evaluates besides


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:model .* has no trainable variables")
def test_a_run_of_one_goes_on(tmp_path):
    x, y = regression(24)
    whole, parted = made("statistics"), made("statistics")
    Trainer(whole).fit(x, y, batch_size=4, epochs=4, verbose=0)
    for epochs in (2, 4):
        parted = made("statistics")
        trainer = Trainer(parted, run=Run(tmp_path, save_steps=3))
        trainer.fit(x, y, batch_size=4, epochs=epochs, verbose=0)
    assert trainer.resumed_at == 12
    assert_same(weights(parted), weights(whole))


@pytest.mark.filterwarnings("ignore:model .* has no trainable variables")
def test_frozen_for_a_while():
    x, y = regression(24)
    model = made("frozen")
    before = weights(model)
    Trainer(model).fit(x, y, verbose=0)
    assert_same(weights(model), before)
    model.trainable = True
    compiled(model)
    trainer = Trainer(model)
    trainer.fit(x, y, verbose=0)
    assert trainer.iterations == 1 and any(np.any(a != b) for a, b in zip(weights(model), before, strict=True))
