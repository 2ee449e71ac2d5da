"""What replicas leave in variables that are not trained, and how one value is made of theirs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from trainlab.objective import ModelFunction, keras_internals

# Between the seeds of two replicas: 2**32 over the golden ratio, odd, so that no two of any number of replicas are alike.
_STRIDE = 0x9E3779B9


class Left:
    """Sorts the state of a model: how a replica's begins, and what becomes of all of them.

    What a variable's `aggregation` says is done. Where it says nothing, seeds differ by replica and end as those of the first,
    other numbers, such as BatchNorm's statistics, are averaged by examples, and what is no floating number is the first
    replica's. Metrics say "sum": those of other replicas than the first begin at zero, and all are added. Where the loss reads
    one, all begin with its value, and what each has added counts.

    Args:
        function: of the model.
        no_sums: metrics' variables that are no sums whatever they say, by id: they are averaged.
        of_first: those to which only the first replica adds, by id.
        read: sums that the loss depends on, by id.
        reports: variables that hold a report which is a sum over examples, by id: they are added.
    """

    def __init__(
        self,
        function: ModelFunction,
        no_sums: Collection[int] = (),
        of_first: Collection[int] = (),
        read: Collection[int] = (),
        reports: Collection[int] = (),
    ):
        self._function, self._no_sums, self._of_first = function, no_sums, of_first
        self._read, self._reports = read, reports

    def start(self, replica: Any, state: Mapping[int, tf.Tensor]) -> Mapping[int, tf.Tensor]:
        """The state that a replica begins with, by the variable's id.

        Args:
            replica: an int, or a scalar int32 tensor.
            state: before the update.
        """
        if isinstance(replica, int) and replica == 0:
            return state
        variables = {id(v): v for v in self._function.state_variables}
        sums = self._sums
        begun = {}
        for key, value in state.items():
            if key in sums and key not in self._read:
                value = tf.where(tf.equal(replica, 0), value, tf.zeros_like(value))
            elif key in variables and is_seed(variables[key]):
                shift = tf.cast(tf.cast(replica, tf.int64) * _STRIDE % 2**32, value.dtype)
                value += tf.stack([shift, tf.zeros_like(shift)])
            begun[key] = value
        return begun

    def addend(self, key: int, before: tf.Tensor, value: tf.Tensor, replica: int, share: tf.Tensor) -> tf.Tensor | None:
        """What a replica adds to the value that is left; None for nothing.

        Args:
            key: the variable's id.
            before: what the variable held before the update.
            value: what the replica left in it.
            replica: which.
            share: its part of the examples, a scalar.
        """
        if key in self._sums:
            if replica and key in self._of_first:
                return None
            return value - before if replica and key in self._read else value
        is_first = _aggregation(self._function.changing.get(key)) == "only_first_replica"
        if (value.dtype.is_floating or value.dtype.is_complex) and not is_first:
            return tf.math.multiply_no_nan(value, tf.cast(share, value.dtype))
        return value if replica == 0 else None

    @property
    def _sums(self) -> set[int]:
        return ({id(v) for v in sums_of(self._function)} - set(self._no_sums)) | set(self._reports)


def sums_of(function: ModelFunction) -> list[Any]:
    """The variables of a model's metrics, unless they say otherwise of themselves, and those of layers that say they are sums."""
    found = {id(v): v for v in metrics_of(function) if _aggregation(v) in ("sum", "none", None) and not is_seed(v)}
    return list({**found, **{id(v): v for v in function.state_variables if _aggregation(v) == "sum"}}.values())


def metrics_of(function: ModelFunction) -> list[Any]:
    """The variables of a model's metrics, that of its losses and those of what it was compiled with among them."""
    model = function.model
    trackers = (
        keras_internals.loss_tracker(model),
        keras_internals.compile_metrics(model),
        keras_internals.compile_loss(model),
    )
    return [*model.metrics_variables, *(v for tracker in trackers if tracker is not None for v in tracker.variables)]


def is_seed(variable: Any) -> bool:
    """Whether a variable is the state of a `keras.random.SeedGenerator`."""
    return bool(variable.name == "seed_generator_state")


def says_nothing(variable: Any) -> bool:
    """Whether a variable does not say what becomes of the values of several replicas."""
    return _aggregation(variable) in ("none", None)


def _aggregation(variable: Any) -> Any:
    return getattr(variable, "aggregation", None)
