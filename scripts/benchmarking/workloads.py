"""What is trained: models and data of the sizes that people use, small enough for two cores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.models import cnn, mlp

NUM_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model, its data, and how many updates a timed run makes.

    Attributes:
        name: for the tables.
        model: returns an uncompiled model of logits.
        examples: from a number and a generator to that many inputs.
        batch_size: examples a batch.
        updates: updates an epoch.
        epochs: epochs a timed run.
        is_stream: whether it is given as a `tf.data.Dataset`, shuffled and batched as people write it; otherwise as arrays.
    """

    name: str
    model: Callable[[], keras.Model]
    examples: Callable[[int, np.random.Generator], np.ndarray]
    batch_size: int
    updates: int = 400
    epochs: int = 1
    is_stream: bool = False

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, and labels that have nothing to do with them: only the time counts."""
        rng = np.random.default_rng(0)
        size = self.updates * self.batch_size
        return self.examples(size, rng), rng.integers(NUM_CLASSES, size=size)

    def given(self) -> dict[str, Any]:
        """What `fit` is given."""
        x, y = self.arrays()
        return {"x": self.dataset(x, y)} if self.is_stream else {"x": x, "y": y, "batch_size": self.batch_size}

    def dataset(self, x: Any, y: Any) -> tf.data.Dataset:
        """Batches, shuffled anew each time."""
        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(10_000).batch(self.batch_size).prefetch(tf.data.AUTOTUNE)

    def compiled(self, optimizer: keras.Optimizer | None = None, **kwargs) -> keras.Model:
        """A fresh model, always with the same weights."""
        keras.utils.set_random_seed(0)
        model = self.model()
        model.compile(
            optimizer=optimizer or keras.optimizers.SGD(0.01),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **kwargs,
        )
        return model


def _floats(*shape: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    return lambda n, rng: rng.normal(size=(n, *shape)).astype("float32")


def _ids(length: int, vocabulary: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    return lambda n, rng: rng.integers(1, vocabulary, size=(n, length)).astype("int32")


def _lstm() -> keras.Model:
    ids = keras.Input([32], dtype="int32")
    x = keras.layers.Embedding(2000, 32, mask_zero=True)(ids)
    return keras.Model(ids, keras.layers.Dense(NUM_CLASSES)(keras.layers.LSTM(32)(x)))


def _transformer() -> keras.Model:
    ids = keras.Input([32], dtype="int32")
    x = keras.layers.Embedding(2000, 64)(ids)
    for _ in range(2):
        attended = keras.layers.MultiHeadAttention(4, 16)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        hidden = keras.layers.Dense(64)(keras.layers.Dense(128, "gelu")(x))
        x = keras.layers.LayerNormalization()(x + hidden)
    return keras.Model(ids, keras.layers.Dense(NUM_CLASSES)(keras.layers.GlobalAveragePooling1D()(x)))


def _embedding() -> keras.Model:
    ids = keras.Input([16], dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(100_000, 64)(ids))
    return keras.Model(ids, keras.layers.Dense(NUM_CLASSES)(x))


def small_mlp(batch_size: int, updates: int, epochs: int) -> Workload:
    """The 64-64-64-10 perceptron."""
    return Workload(
        f"MLP 64-64-64-10, batch {batch_size}",
        lambda: mlp((64,), NUM_CLASSES, hidden_sizes=(64, 64)),
        _floats(64),
        batch_size,
        updates,
        epochs,
    )


WORKLOADS = {
    "mlp_32": small_mlp(32, updates=2000, epochs=2),
    "mlp_256": small_mlp(256, updates=1000, epochs=2),
    "stream": dataclasses.replace(
        small_mlp(32, updates=2000, epochs=2), name="MLP 64-64-64-10 from a tf.data.Dataset, batch 32", is_stream=True
    ),
    "mlp_784": Workload(
        "MLP 784-512-512-10, batch 128", lambda: mlp((784,), NUM_CLASSES, hidden_sizes=(512, 512)), _floats(784), 128, 100, 4
    ),
    "cnn": Workload("CNN on 28x28, batch 64", lambda: cnn((28, 28, 1), NUM_CLASSES), _floats(28, 28, 1), 64, 100, 3),
    "lstm": Workload("LSTM text classifier, batch 32", _lstm, _ids(32, 2000), 32),
    "transformer": Workload("2-layer transformer encoder, batch 32", _transformer, _ids(32, 2000), 32),
    "embedding": Workload("Embedding 100,000 x 64, batch 128", _embedding, _ids(16, 100_000), 128, 400, 2),
}
