"""A call that tells: the way back, the updates, and the results of the metrics after them, in one compiled function.

Where every update is a call, what a call costs besides counts: reading all variables before it, or the results after it, in a
call of their own takes as long as a small update.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainlab.data import Layout
from trainlab.loop.programs.way_back import NUM_NUMBERS, WayBack, may_put_aside
from trainlab.loop.update import Update
from trainlab.objective import flat_logs
from trainlab.parameters import tensorflow_internals

# Where every call tells, the program that does is the only one that need be optimized, at the first call. Where others lie
# between, optimizing it besides is repaid by so many calls.
FEWEST_CALLS = 0
FEWEST_CALLS_AMONG_OTHERS = 100
# Of updates that are known to take longer, what is saved is nothing.
MOST_SECONDS = 0.005


def as_logs(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results as hooks get them: scalars as Python floats, others as arrays."""
    return {name: _as_log(value) for name, value in flat_logs(results).items()}


def _as_log(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


class Telling:
    """A compiled program of updates that returns what they report besides, and keeps what it found.

    Args:
        program: a concrete function that makes updates, and returns one tensor.
        specs: of its arguments.
        update: whose metrics and reports.

    Attributes:
        keeps: whether it keeps what it found: where a variable is on a GPU it does not.
    """

    def __init__(self, program: Callable[..., tf.Tensor], specs: Sequence[Any], update: Update):
        self._names: list[str] = []
        variables = update.variables
        self.keeps = may_put_aside(variables)
        self._way_back = WayBack(variables if self.keeps else {})
        self._numbers = itertools.cycle([(i, tf.constant(i)) for i in range(NUM_NUMBERS)])
        self._number = tf.constant(NUM_NUMBERS)  # of the call under way

        def call(number: tf.Tensor, *arguments: Any) -> list[tf.Tensor]:
            with tf.control_dependencies([self._way_back.put_aside(number)] if self.keeps else []):
                flag = program(*arguments)
            with tf.control_dependencies([flag]):
                # An overridden compute_metrics may return more than the metrics' results.
                results = flat_logs(update.function.reports or update.function.model.get_metrics_result())
            self._names[:] = results
            return [flag, *map(tf.convert_to_tensor, results.values())]

        scalar = tf.TensorSpec([], tf.int32)
        self._function = tf.function(call, autograph=False).get_concrete_function(scalar, *specs)
        self._call = tensorflow_internals.flat_caller(self._function)

    def begin(self) -> Callable[[], dict[str, tf.Tensor] | None]:
        """To be called before each call; returns what tells what that call found, by name: None if it has changed nothing."""
        number, self._number = next(self._numbers)
        return functools.partial(self._way_back.found, number)

    def __call__(self, arguments: Sequence[Any]) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Runs it; returns what the program does, and the results by name."""
        flag, *results = self._call([self._number, *tf.nest.flatten(arguments, expand_composites=True)])
        return flag, dict(zip(self._names, results, strict=True))

    def clear(self) -> None:
        """Lets go of what the last call found."""
        self._way_back.clear()


class Tellings:
    """The calls that tell, of a loop: one for each program, made where so many calls have told that it pays.

    Args:
        update: whose results.
    """

    def __init__(self, update: Update):
        self.made: dict[Any, Telling] = {}
        self._update = update
        self._num_told: collections.Counter[Any] = collections.Counter()
        self._fastest = 0.0  # of the calls that told, in seconds; 0 before the first

    def get(self, layout: Layout, jit_compile: bool) -> Telling | None:
        """The one of a layout's program, if it is made."""
        return self.made.get(self._key(layout, jit_compile))

    def make(self, layout: Layout, jit_compile: bool, program: Callable[..., Any], tells: str) -> Telling | None:
        """The same, made now if it pays; `tells` as in `Loop.run`."""
        key = self._key(layout, jit_compile)
        self._num_told[key] += 1
        fewest = FEWEST_CALLS if tells == "always" else FEWEST_CALLS_AMONG_OTHERS
        if self._num_told[key] <= fewest or self._fastest >= MOST_SECONDS:
            return None
        self.made[key] = Telling(program, (*layout.specs, tf.TensorSpec([], tf.int32)), self._update)
        return self.made[key]

    def note(self, seconds: float) -> None:
        """Takes note of how long a call took that told."""
        self._fastest = min(self._fastest or math.inf, seconds)

    def rest(self) -> None:
        """Lets go of what the last calls found, which is kept from call to call."""
        for telling in self.made.values():
            telling.clear()

    def forget(self) -> None:
        """Lets go of all of them."""
        self.rest()
        self.made.clear()

    def _key(self, layout: Layout, jit_compile: bool) -> Any:
        return layout, jit_compile, len(self._update.function.reports)
