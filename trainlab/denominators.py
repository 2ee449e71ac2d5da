"""What a loss divides by: the numbers that make several batches' means the mean of all of them.

The loss of an effective batch is, for every compiled loss k, `sum_b S_kb / sum_b D_kb`: the batches' sums over the batches'
denominators. Keras hands out `S_kb / D_kb`. So batch b's loss is multiplied by its share `D_kb / sum_b D_kb`, and the rest
of the total (weight penalties, `add_loss`, an overridden `compute_loss`) by its share of the examples: a penalty, the
same in each batch, then counts once, and an added loss is averaged over examples.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def num_examples(x: Any) -> tf.Tensor:
    """The size of the first axis of a batch's first tensor, as a scalar int64 (ragged and sparse ones included)."""
    first = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
    if isinstance(first, tf.RaggedTensor):
        return tf.cast(first.nrows(), tf.int64)
    if isinstance(first, tf.SparseTensor):
        return tf.cast(first.dense_shape[0], tf.int64)
    if first.shape[0] is not None:
        return tf.constant(first.shape[0], tf.int64)
    return tf.shape(first, out_type=tf.int64)[0]


def compiled_losses(model: keras.Model) -> list[Any]:
    """The losses that the model was compiled with, one for each output that has one, in the order they are called.

    There is no public way: `model.loss` is what the user wrote, unresolved. Where an overridden `compute_loss` calls none
    of them they were never built, and the list is empty.
    """
    return getattr(model._compile_loss, "_flat_losses", None) or []


@contextlib.contextmanager
def counted(model: keras.Model, examples: tf.Tensor, totals: tf.Tensor | None) -> Iterator[dict[int, tf.Tensor]]:
    """While open, the model's compiled losses record their denominators and take their share of the effective batch.

    Args:
        model: a compiled model whose losses are built.
        examples: scalar, the batch's number of examples.
        totals: `[num_losses + 1]`, the effective batch's denominators and, last, its examples; None only records.

    Yields:
        A dictionary that each loss, when called, fills with its denominator (a scalar).
    """
    compile_loss = model._compile_loss
    denominators: dict[int, tf.Tensor] = {}
    original = compiled_losses(model)
    if not original:
        yield denominators
        return
    compile_loss._flat_losses = [
        entry._replace(loss=_Counted(entry.loss, index, examples, totals, denominators)) for index, entry in enumerate(original)
    ]
    try:
        yield denominators
    finally:
        compile_loss._flat_losses = original


class _Counted:
    """A compiled loss that records its denominator, and takes its share when the totals are known."""

    def __init__(self, loss: Any, index: int, examples: tf.Tensor, totals: Any, denominators: dict[int, tf.Tensor]):
        self.loss = loss
        self.index = index
        self.examples = examples
        self.totals = totals
        self.denominators = denominators

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        value = self.loss(y_true, y_pred, sample_weight)
        denominator = _denominator(self.loss, y_true, y_pred, sample_weight)
        if denominator is None:
            _warn_not_a_sum(self.loss)
            denominator = self.examples
        dtype = tf.float64 if value.dtype == tf.float64 else tf.float32
        denominator = tf.cast(denominator, dtype)
        self.denominators[self.index] = denominator
        if self.totals is None:
            return value
        if getattr(self.loss, "reduction", None) == "sum":
            share = tf.ones([], dtype)  # a sum has no denominator to share: the batches' sums add up
        else:
            share = tf.math.divide_no_nan(denominator, tf.cast(self.totals[self.index], dtype))
        # The caller multiplies the whole total by the batch's share of the examples: take that out here.
        by_examples = tf.cast(self.examples, dtype) / tf.cast(self.totals[-1], dtype)
        return value * tf.cast(share / by_examples, value.dtype)


def _denominator(loss: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> tf.Tensor | None:
    """What `keras.losses.Loss.__call__` divides by, None if the loss is no sum over elements.

    Follows `Loss.__call__` and its reductions step by step; of the losses' values only the shape is used, and the values
    themselves are pruned from the graph.
    """
    if not isinstance(loss, keras.losses.Loss) or type(loss).__call__ is not keras.losses.Loss.__call__:
        return None
    if loss.reduction == "sum":
        return tf.ones([])
    values, mask = _values_and_mask(loss, y_true, y_pred)
    if values.shape.rank == 0 or loss.reduction in (None, "none"):
        return None
    if loss.reduction == "mean_with_sample_weight" and (sample_weight is not None or mask is not None):
        if mask is None:
            return tf.reduce_sum(tf.cast(sample_weight, values.dtype))
        weights = tf.cast(mask, values.dtype)
        if sample_weight is not None:
            weights = tf.multiply(*_squeezed(weights, tf.cast(sample_weight, values.dtype)))
        return tf.reduce_sum(weights)
    count = tf.cast(tf.size(values), values.dtype)
    if mask is None:
        return count
    mask = tf.cast(mask, values.dtype)
    return count * tf.reduce_sum(mask) / tf.cast(tf.size(mask), values.dtype)


def _values_and_mask(loss: Any, y_true: Any, y_pred: Any) -> tuple[tf.Tensor, tf.Tensor | None]:
    """The loss of each element, and the mask that its reduction will see."""

    def to_tensor(value: Any) -> tf.Tensor:
        return keras.ops.convert_to_tensor(value, dtype=loss.dtype)

    values = loss.call(tf.nest.map_structure(to_tensor, y_true), tf.nest.map_structure(to_tensor, y_pred))
    mask = None
    for source in (y_pred, values):
        found = getattr(source, "_keras_mask", None)
        if found is not None:
            found = tf.cast(found, tf.bool)
            mask = found if mask is None else mask & found
    values = tf.convert_to_tensor(values)
    return values if values.dtype in (tf.float32, tf.float64) else tf.cast(values, tf.float32), mask


def _squeezed(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops the trailing axis of size 1 that only one of the two has, as Keras does."""
    if a.shape.rank == b.shape.rank + 1 and a.shape[-1] == 1:
        return tf.squeeze(a, axis=-1), b
    if b.shape.rank == a.shape.rank + 1 and b.shape[-1] == 1:
        return a, tf.squeeze(b, axis=-1)
    return a, b


_warned: set[str] = set()


def _warn_not_a_sum(loss: Any) -> None:
    name = getattr(loss, "name", None) or type(loss).__name__
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"loss {name!r} is no sum over elements (it returns one number a batch), so accumulating it over batches is not "
            "exact: its batches are averaged by their examples",
            stacklevel=2,
        )
