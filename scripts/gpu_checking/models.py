"""A handful of small models with data, of every kind that a device treats differently."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers

import trainlab as tl


class Sam(tl.StepStrategy):
    """Sharpness-aware minimization, as a user writes it."""

    evaluations = 2

    def __init__(self, rho: float = 0.05):
        self.rho = rho

    def step(self, objective: Any, state: tl.State) -> tl.Step:
        """The gradient a little uphill."""
        here = objective(state.parameters)
        uphill = here.gradient * (self.rho / (here.gradient.norm() + 1e-12))
        return tl.Step(objective(state.parameters + uphill).gradient, at=here)


STRATEGIES = {"SGD": tl.SGD, "Heun": tl.Heun, "Sam": Sam}


class Case(NamedTuple):
    """A model's layers and examples.

    Attributes:
      layers: makes them, after the input.
      x: `[n, ...]`, float32 or int32.
      y: labels `[n]` below 3.
    """

    layers: Any
    x: np.ndarray
    y: np.ndarray

    def compiled(self, optimizer: keras.Optimizer, **settings: Any) -> keras.Model:
        """A model with the same weights each time."""
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(self.x.shape[1:], dtype=self.x.dtype.name), *self.layers()])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, metrics=["accuracy"], **settings)
        return model


def _labels(n: int) -> np.ndarray:
    return np.random.default_rng(1).integers(3, size=n).astype("int32")


def _floats(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, *shape)).astype("float32")


def _ids(n: int, length: int) -> np.ndarray:
    ids = np.random.default_rng(0).integers(1, 50, size=(n, length)).astype("int32")
    ids[::2, length // 2 :] = 0
    return ids


class Attention(layers.Layer):
    """A block of a transformer."""

    def __init__(self):
        super().__init__()
        self.attention, self.norm = layers.MultiHeadAttention(2, 8), layers.LayerNormalization()

    def call(self, x: Any) -> Any:
        """Attends to itself."""
        return self.norm(x + self.attention(x, x))


def smooth(n: int) -> dict[str, Case]:
    """Without dropout and BatchNorm, where batches are exactly their concatenation."""
    text = _ids(n, 12)
    return {
        "mlp": Case(lambda: [layers.Dense(64, "tanh"), layers.Dense(64, "tanh"), layers.Dense(3)], _floats(n, 32), _labels(n)),
        "cnn": Case(
            lambda: [
                layers.Conv2D(16, 3, activation="softplus"),
                layers.AveragePooling2D(2),
                layers.Conv2D(16, 3, activation="softplus"),
                layers.Flatten(),
                layers.Dense(3),
            ],
            _floats(n, 16, 16, 3),
            _labels(n),
        ),
        "lstm": Case(lambda: [layers.Embedding(50, 16, mask_zero=True), layers.LSTM(16), layers.Dense(3)], text, _labels(n)),
        "transformer": Case(
            lambda: [layers.Embedding(50, 16), Attention(), layers.GlobalAveragePooling1D(), layers.Dense(3)], text, _labels(n)
        ),
    }


def noisy(n: int) -> dict[str, Case]:
    """With dropout and BatchNorm."""
    return {
        "cnn": Case(
            lambda: [
                layers.Conv2D(16, 3),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Dropout(0.3),
                layers.Flatten(),
                layers.Dense(3),
            ],
            _floats(n, 12, 12, 3),
            _labels(n),
        ),
        "lstm": Case(
            lambda: [layers.Embedding(50, 16, mask_zero=True), layers.LSTM(16, dropout=0.2), layers.Dense(3)],
            _ids(n, 12),
            _labels(n),
        ),
        "mlp": Case(
            lambda: [layers.Dense(64, "relu"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(3)],
            _floats(n, 32),
            _labels(n),
        ),
    }
