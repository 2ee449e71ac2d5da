"""Models that are nothing but weights and a loss, and updates of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

import trainlab as tl


@contextmanager
def in_float64() -> Any:
    """Keras in double precision while open."""
    before, policy = keras.config.floatx(), keras.config.dtype_policy()  # which keeps what the other was at its first use
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(policy)


class Weights(keras.Model):
    """Weights, and a function of them as the loss; what it is given means nothing."""

    def __init__(self, start: Any, loss: Callable[[Any], Any]):
        super().__init__()
        self.w = self.add_weight(shape=np.shape(start), initializer="zeros", name="w")
        self.w.assign(np.array(start, "float64"))
        self.loss_of = loss
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The inputs."""
        return inputs

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """The function of the weights."""
        return self.loss_of(ops.convert_to_tensor(self.w))


def updated(trainer: tl.Trainer, updates: int) -> None:
    """Makes so many updates of a model whose loss knows no data."""
    trainer.fit(np.zeros([updates * trainer.strategy.batches, 1]), batch_size=1, verbose=0)


def trainer_of(model: keras.Model, strategy: tl.StepStrategy, rate: float) -> tl.Trainer:
    """Plain descent."""
    model.compile(optimizer=keras.optimizers.SGD(rate), jit_compile=False)
    return tl.Trainer(model, strategy)
