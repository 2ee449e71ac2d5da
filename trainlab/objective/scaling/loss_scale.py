"""Multiplies a loss before it is differentiated, and divides its gradients in float32: whoever reads them sees true numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

# A scale that is smaller has fallen 39 times from Keras' own 2**15, and it is not the scale that makes gradients overflow.
SMALLEST_SCALE = 2.0**-24


def inner_of(optimizer: Any) -> Any:
    """The optimizer that true gradients go to: the one inside a `keras.optimizers.LossScaleOptimizer`, or the optimizer itself.

    Example:
        >>> inner = keras.optimizers.SGD(0.1)
        >>> inner_of(keras.optimizers.LossScaleOptimizer(inner)) is inner_of(inner) is inner
        True
    """
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def loss_scale_of(optimizer: Any) -> LossScale | None:
    """How an optimizer scales the loss; None if it does not.

    Example:
        >>> loss_scale_of(keras.optimizers.SGD(0.1)) is None
        True
        >>> loss_scale_of(keras.optimizers.SGD(0.1, loss_scale_factor=8.0)).is_dynamic
        False
    """
    scale = LossScale(optimizer)
    return scale if scale.is_dynamic or getattr(optimizer, "loss_scale_factor", None) is not None else None


class LossScale:
    """The loss scale of an optimizer: that of a `LossScaleOptimizer`, which moves, or its own `loss_scale_factor`.

    Args:
        optimizer: of the model.

    Attributes:
        inner: the optimizer that true gradients go to.
        is_dynamic: whether the scale moves, and updates whose gradients overflow are skipped.

    Example:
        >>> scale = LossScale(keras.optimizers.SGD(0.1, loss_scale_factor=8.0))
        >>> float(scale.scaled(tf.constant(2.0)))
        16.0
        >>> [gradient.numpy().tolist() for gradient in scale.unscaled([tf.constant([4.0, -1.0])])]
        [[0.5, -0.125]]
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer
        self.inner = inner_of(optimizer)
        self.is_dynamic = self.inner is not optimizer

    @property
    def variable(self) -> keras.Variable:
        """The scale, a scalar in float32, of one that moves and is built."""
        return self._optimizer.dynamic_scale

    @property
    def variables(self) -> list[keras.Variable]:
        """What `scaled` and `unscaled` read, or a scope's value in its place: the scale, if it moves and is built."""
        return [self.variable] if self.is_dynamic and self._optimizer.built else []

    @property
    def counter(self) -> keras.Variable:
        """How many updates were good since the scale last moved, an integer scalar, of one that moves and is built."""
        return self._optimizer.step_counter

    @property
    def growth_steps(self) -> int:
        """After so many good updates the scale is doubled."""
        return self._optimizer.dynamic_growth_steps

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """What is to be differentiated in place of a loss, a scalar of any float dtype; within the tape that watches it."""
        return tf.convert_to_tensor(self._optimizer.scale_loss(loss))

    def unscaled(self, gradients: Sequence[Any]) -> list[Any]:
        """True gradients, in their own dtypes, of those of a scaled loss: tensors, `tf.IndexedSlices`, or None."""
        optimizer = self._optimizer
        if not self.is_dynamic:
            scale = optimizer.loss_scale_factor
        else:
            scale = tf.convert_to_tensor(self.variable) if optimizer.built else optimizer.initial_scale  # as `scale_loss` has it
        return [_divided(gradient, scale) for gradient in gradients]

    @contextmanager
    def standing_aside(self) -> Iterator[None]:
        """While open, a `loss_scale_factor` is None: the optimizer does not divide once more what it is given."""
        factor = None if self.is_dynamic else self._optimizer.loss_scale_factor
        if factor is not None:
            self._optimizer.loss_scale_factor = None
        try:
            yield
        finally:
            if factor is not None:
                self._optimizer.loss_scale_factor = factor


def _divided(gradient: Any, scale: Any) -> Any:
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(_divided(gradient.values, scale), gradient.indices, gradient.dense_shape)
    wide = gradient.dtype if gradient.dtype.size >= 4 else tf.float32
    return tf.cast(tf.cast(gradient, wide) / tf.cast(scale, wide), gradient.dtype)
