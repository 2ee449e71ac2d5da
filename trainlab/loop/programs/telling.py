"""A call that tells: the updates and the results of the metrics after them, in one compiled function.

Where every update is a call, what a call costs besides counts: reading the results in a call of their own takes as long as a
small update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainlab.loop.update import Update
from trainlab.objective import flat_logs
from trainlab.parameters import tensorflow_internals

# Optimizing the program once more is repaid by so many calls, of updates that take less than so many seconds.
FEWEST_CALLS = 100
MOST_SECONDS = 0.005


def as_logs(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as hooks get them: scalars as Python floats, others as arrays."""
    arrays = {name: np.asarray(value) for name, value in flat_logs(results).items()}
    return {name: float(array) if array.ndim == 0 else array for name, array in arrays.items()}


class Telling:
    """A compiled program of updates that returns what they report besides.

    Args:
        program: a concrete function that makes updates, and returns one tensor.
        specs: of its arguments.
        update: whose metrics and reports.
    """

    def __init__(self, program: Callable[..., tf.Tensor], specs: Sequence[Any], update: Update):
        self._names: list[str] = []

        def call(*arguments: Any) -> list[tf.Tensor]:
            flag = program(*arguments)
            with tf.control_dependencies([flag]):
                # An overridden compute_metrics may return more than the metrics' results.
                results = flat_logs(update.function.reports or update.function.model.get_metrics_result())
            self._names[:] = results
            return [flag, *map(tf.convert_to_tensor, results.values())]

        self._function = tf.function(call, autograph=False).get_concrete_function(*specs)
        self._call = tensorflow_internals.flat_caller(self._function)

    def __call__(self, arguments: Sequence[Any]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Runs it; returns what the program does, and the results by name."""
        flag, *results = self._call(tf.nest.flatten(arguments, expand_composites=True))
        return flag, dict(zip(self._names, results, strict=True))
