"""Metrics that are told one number a batch: of a shard it is a part of one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.objective import is_mean_over_examples, keras_internals


@contextlib.contextmanager
def shared(share: tf.Tensor | None) -> Iterator[None]:
    """While open, one number that this thread tells a `keras.metrics.Mean`, without a weight, counts as `share` of a batch's.

    So all shards of a batch count as one, and the mean over examples of a batch is that of its shards. None changes nothing.
    """
    if share is None:
        yield
        return

    def update(original: Callable[..., Any], metric: Any, values: Any, sample_weight: Any = None) -> Any:
        if sample_weight is None and _is_one_number(values):
            sample_weight = share
        return original(metric, values, sample_weight=sample_weight)

    with _updates_replaced(keras.metrics.Mean, update):
        yield


@contextlib.contextmanager
def noticed() -> Iterator[tuple[list[str], list[tuple[str, Any]]]]:
    """Notices metrics as they are told one number.

    Yields:
        The names of those whose function gives one that is no mean over examples; and the names of other `Mean`s, with the
        numbers that they are told without a weight.
    """
    found: list[str] = []
    numbers: list[tuple[str, Any]] = []
    told: dict[int, Any] = {}

    def update_wrapper(original: Callable[..., Any], metric: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        told[id(metric)] = y, y_pred
        return original(metric, y, y_pred, sample_weight=sample_weight)

    def update(original: Callable[..., Any], metric: Any, values: Any, sample_weight: Any = None) -> Any:
        if id(metric) in told and _is_one_number(values):
            batch = told[id(metric)]
            is_known = all(isinstance(each, tf.Tensor) and each.shape.rank for each in batch)
            function = keras_internals.metric_function(metric)
            if not is_known or not is_mean_over_examples(function, batch):
                found.append(metric.name)
        elif sample_weight is None and tf.is_tensor(values) and _is_one_number(values):
            numbers.append((metric.name, values))
        return original(metric, values, sample_weight=sample_weight)

    with (
        _updates_replaced(keras.metrics.MeanMetricWrapper, update_wrapper),
        _updates_replaced(keras.metrics.Mean, update),
    ):
        yield found, numbers


@contextlib.contextmanager
def _updates_replaced(kind: Any, update: Callable[..., Any]) -> Iterator[None]:
    """While open, metrics of a class of Keras' are told something by `update(original, metric, ...)` in this thread."""
    original, thread = kind.update_state, threading.get_ident()

    @tf.autograph.experimental.do_not_convert  # a step may be a `tf.function`, which converts what it calls
    def replaced(metric: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return original(metric, *args, **kwargs)
        return update(original, metric, *args, **kwargs)

    kind.update_state = replaced
    try:
        yield
    finally:
        kind.update_state = original


def _is_one_number(values: Any) -> bool:
    shape = getattr(values, "shape", None)
    return np.ndim(values) == 0 if shape is None else tf.TensorShape(shape).rank == 0
