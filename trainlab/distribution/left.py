"""What replicas leave in variables that are not trained, and how one value is made of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainlab.objective import ModelFunction, keras_internals

# Between the seeds of two replicas: 2**32 over the golden ratio, odd, so that no two of any number of replicas are alike.
_STRIDE = 0x9E3779B9


class Left:
    """Sorts the state of a model: how a replica's begins, and what becomes of all of them.

    Metrics are sums: those of other replicas than the first begin at zero, and all are added. Seeds differ by replica, and end as
    those of the first. Other numbers, such as BatchNorm's statistics, are averaged by examples; what is no floating number is the
    first replica's.

    Args:
        function: of the model.
    """

    def __init__(self, function: ModelFunction):
        self._function = function
        model = function.model
        trackers = (
            keras_internals.loss_tracker(model),
            keras_internals.compile_metrics(model),
            keras_internals.compile_loss(model),
        )
        metrics = [v for tracker in trackers if tracker is not None for v in tracker.variables]
        self._metrics = {id(v) for v in (*model.metrics_variables, *metrics)}

    def start(self, replica: int, state: Mapping[int, tf.Tensor]) -> Mapping[int, tf.Tensor]:
        """The state that a replica begins with, by the variable's id."""
        if replica == 0:
            return state
        seeds = {id(v) for v in self._function.state_variables if is_seed(v)}
        begun = {}
        for key, value in state.items():
            if key in self._metrics:
                value = tf.zeros_like(value)
            elif key in seeds:
                value += tf.constant([replica * _STRIDE % 2**32, 0], value.dtype)
            begun[key] = value
        return begun

    def addend(self, key: int, value: tf.Tensor, replica: int, share: tf.Tensor) -> tf.Tensor | None:
        """What a replica adds to the value that is left; None for nothing.

        Args:
            key: the variable's id.
            value: what the replica left in it.
            replica: which.
            share: its part of the examples, a scalar.
        """
        if key in self._metrics:
            return value
        if value.dtype.is_floating:
            return tf.math.multiply_no_nan(value, tf.cast(share, value.dtype))
        return value if replica == 0 else None


def is_seed(variable: Any) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return bool(variable.name == "seed_generator_state")
