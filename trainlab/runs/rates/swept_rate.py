"""The learning rate of an optimizer, whatever holds it, given other values for a while."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import inner_of, keras_internals


class SweptRate:
    """The learning rate of an optimizer, which can be set as long as this is open, and is what it was afterwards.

    A variable is assigned. A schedule, or a function, is replaced by one that reads a variable, and then is put back. The rates
    of a `MultiOptimizer` keep their ratios: the largest of them is what is set.

    Args:
        optimizer: of a model that is compiled and built.

    Attributes:
        now: the rate as the optimizer has it.
        is_replaced: whether something was traced with a schedule or a function that is none for now.

    Example:
        >>> optimizer = keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 100))
        >>> with SweptRate(optimizer) as rate:
        ...     rate.set(3.0)
        ...     print(float(optimizer.learning_rate))
        3.0
        >>> print(optimizer.learning_rate.numpy())
        0.1
    """

    def __init__(self, optimizer: keras.Optimizer):
        inner = inner_of(optimizer)
        of_several = isinstance(inner, keras.optimizers.MultiOptimizer)
        found = [inner_of(one) for one in inner.optimizers] if of_several else [inner]
        self._optimizers = list({id(one): one for one in found}.values())
        rates = [float(one.learning_rate) for one in self._optimizers]
        self.now = max(rates)
        self._shares = [rate / self.now if self.now > 0 else 1.0 for rate in rates]
        self._held = [keras_internals.held_learning_rate(one) for one in self._optimizers]
        self._is_variable = [isinstance(held, keras.Variable) for held in self._held]
        self.is_replaced = not all(self._is_variable)
        self._variables: list[Any] = []
        self._kept: list[tf.Tensor | None] = []

    @property
    def are_several(self) -> bool:
        """Whether there are several, each with its share."""
        return len(self._optimizers) > 1

    def __enter__(self) -> SweptRate:
        for one, held, is_variable in zip(self._optimizers, self._held, self._is_variable, strict=True):
            self._kept.append(tf.identity(held.value) if is_variable else None)
            self._variables.append(held if is_variable else tf.Variable(0.0, dtype=keras.config.floatx(), trainable=False))
            if not is_variable:
                one.learning_rate = _reading(self._variables[-1])
        return self

    def set(self, rate: float) -> None:
        """Gives the optimizer this rate, each of several its share."""
        for variable, share in zip(self._variables, self._shares, strict=True):
            variable.assign(rate * share)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        for one, held, value in zip(self._optimizers, self._held, self._kept, strict=True):
            if value is None:
                one.learning_rate = held
            else:
                held.assign(value)


def _reading(variable: tf.Variable) -> Callable[[], tf.Tensor]:
    return lambda: variable.read_value()
