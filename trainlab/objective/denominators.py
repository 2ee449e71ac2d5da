"""What a loss divides by: the numbers that make several batches' means the mean of all of them.

The loss of an effective batch is, for every compiled loss k, `sum_b S_kb / sum_b D_kb`: the batches' sums over the batches'
denominators. Keras hands out `S_kb / D_kb`. So batch b's loss is multiplied by its share `D_kb / sum_b D_kb`, and the rest
of the total (weight penalties, `add_loss`, an overridden `compute_loss`) by its share of the examples: a penalty, the
same in each batch, then counts once, and an added loss is averaged over examples.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.objective.graphs import made_of_examples
from trainlab.objective.keras_internals import flat_losses, losses_replaced, mask_of


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
    denominators: dict[int, tf.Tensor] = {}
    if not flat_losses(model):
        yield denominators
        return

    def counting(index: int, loss: Any) -> _Counted:
        return _Counted(loss, index, examples, totals, denominators)

    with losses_replaced(model, counting, lambda tracker: _Weighted(tracker, examples)):
        yield denominators


def trackers_told(model: keras.Model, x: Any, always: bool = False) -> contextlib.AbstractContextManager[None]:
    """While open, the trackers of several outputs' losses know the batch's size, where shapes alone do not tell, or `always`.

    A step may hand its losses other examples than the batch has, as many in each; always the same then weighs.
    """
    first = next((leaf for leaf in tf.nest.flatten(x) if leaf is not None), None)
    if len(flat_losses(model)) < 2 or first is None or first.shape.rank == 0:
        return contextlib.nullcontext()
    examples = num_examples(x)
    is_known = not always and tf.get_static_value(examples) is not None
    return losses_replaced(model, lambda _, loss: loss, lambda tracker: _Weighted(tracker, examples, is_known))


class _Weighted:
    """A tracker of one output's loss, told the batch's size, which Keras does not know where shapes are open.

    Args:
        tracker: the metric.
        examples: scalar, the size.
        believes: whether what Keras reads off the shape of an output counts, where that has one.
    """

    def __init__(self, tracker: keras.Metric, examples: tf.Tensor, believes: bool = False):
        self._tracker, self._examples, self._believes = tracker, examples, believes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)  # a step asks for its result, too

    def update_state(self, value: tf.Tensor, sample_weight: Any = None) -> None:
        is_told = self._believes and sample_weight is not None
        self._tracker.update_state(value, sample_weight=sample_weight if is_told else tf.cast(self._examples, tf.float32))


class _Counted:
    """A compiled loss that records its denominator, and takes its share when the totals are known."""

    def __init__(self, loss: Any, index: int, examples: tf.Tensor, totals: Any, denominators: dict[int, tf.Tensor]):
        self.loss = loss
        self.index = index
        self.examples = examples
        self.totals = totals
        self.denominators = denominators

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        with _recorded(self.loss) as calls:
            value = self.loss(y_true, y_pred, sample_weight)
        if self.index in self.denominators:  # an overridden compute_loss calls it again, on who knows what
            _warn_not_exact(f"compute_loss calls the compiled loss {_name(self.loss)!r} more than once")
            return value
        kind = _kind(self.loss, calls)
        is_sum = kind == "rows" and self.loss.reduction == "sum"
        denominator = _denominator(self.loss, calls.results, y_pred, sample_weight) if kind == "rows" else None
        if denominator is None:
            is_weighted = sample_weight is not None or mask_of(y_pred) is not None
            is_sum = kind == "sum" and not is_weighted
            if is_weighted or kind is None:
                _warn_not_exact(f"loss {_name(self.loss)!r} is no sum over elements (it returns {_what(calls)})")
            denominator = self.examples
        dtype = tf.float64 if value.dtype == tf.float64 else tf.float32
        denominator = tf.cast(denominator, dtype)
        self.denominators[self.index] = denominator
        if self.totals is None:
            return value
        if is_sum:
            share = tf.ones([], dtype)  # a sum has no denominator to share: the batches' sums add up
        else:
            share = tf.math.divide_no_nan(denominator, tf.cast(self.totals[self.index], dtype))
        # The caller multiplies the whole total by the batch's share of the examples: take that out here.
        by_examples = tf.math.divide_no_nan(tf.cast(self.examples, dtype), tf.cast(self.totals[-1], dtype))
        return value * tf.cast(tf.math.divide_no_nan(share, by_examples), value.dtype)


class _Calls(NamedTuple):
    """What a loss' `call` was given, and what it returned."""

    arguments: list[tuple[Any, ...]]
    results: list[Any]


@contextlib.contextmanager
def _recorded(loss: Any) -> Iterator[_Calls]:
    """While open, the loss keeps what its `call` returns: the loss of each element, before any reduction.

    Calling it a second time would advance whatever state or seed it has.
    """
    calls = _Calls([], [])
    call = getattr(loss, "call", None)
    if not isinstance(loss, keras.losses.Loss) or call is None:
        yield calls
        return

    def recording(*args: Any, **kwargs: Any) -> Any:
        calls.arguments.append(args)
        calls.results.append(call(*args, **kwargs))
        return calls.results[-1]

    before = vars(loss).get("call")
    loss.call = recording
    try:
        yield calls
    finally:
        if before is None:
            del loss.call
        else:
            loss.call = before


def _denominator(loss: Any, recorded: list[Any], y_pred: Any, sample_weight: Any) -> tf.Tensor:
    """What `keras.losses.Loss.__call__` divides a sum over elements by.

    Follows the reductions of `keras.losses.Loss` step by step.

    Args:
        loss: the loss.
        recorded: what its `call` returned, once: the loss of each element, with its mask.
        y_pred: the predictions, with their mask.
        sample_weight: as given to the loss.
    """
    if loss.reduction == "sum":
        return tf.ones([])
    mask, values = _mask(y_pred, recorded[0]), tf.convert_to_tensor(recorded[0])
    dtype = tf.float64 if values.dtype == tf.float64 else tf.float32
    if loss.reduction == "mean_with_sample_weight" and (sample_weight is not None or mask is not None):
        if mask is None:
            return tf.reduce_sum(tf.cast(sample_weight, dtype))
        weights = tf.cast(mask, dtype)
        if sample_weight is not None:
            weights = tf.multiply(*_squeezed(weights, tf.cast(sample_weight, dtype)))
        return tf.reduce_sum(weights)
    count = tf.cast(tf.size(values), dtype)
    if mask is None:
        return count
    mask = tf.cast(mask, dtype)
    return tf.math.divide_no_nan(count * tf.reduce_sum(mask), tf.cast(tf.size(mask), dtype))


def _mask(*sources: Any) -> tf.Tensor | None:
    """The mask that a reduction sees: of the predictions and of the values, both if both have one."""
    mask = None
    for source in sources:
        found = mask_of(source)
        if found is not None:
            found = tf.cast(found, tf.bool)
            mask = found if mask is None else mask & found
    return mask


def _squeezed(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops the trailing axis of size 1 that only one of the two has, as Keras does."""
    if a.shape.rank == b.shape.rank + 1 and a.shape[-1] == 1:
        return tf.squeeze(a, axis=-1), b
    if b.shape.rank == a.shape.rank + 1 and b.shape[-1] == 1:
        return a, tf.squeeze(b, axis=-1)
    return a, b


# What is known of losses, by what they are given.
_kinds: weakref.WeakKeyDictionary[Any, dict[Any, str | None]] = weakref.WeakKeyDictionary()
_NOT_BY_ELEMENT = ("circle", "dice", "tversky")  # of Keras' functions: these mix examples, by default or always


def _kind(loss: Any, calls: _Calls) -> str | None:
    """What a loss is before it is reduced: see `made_of_examples`."""
    # Keras' own classes that replace `__call__` keep its reductions.
    is_keras = _is_of_keras(type(loss).__call__)
    if not is_keras and getattr(loss, "reduction", None) == "sum":  # who reduces himself is believed
        return "rows"
    if len(calls.results) != 1:
        return None
    function, is_number = getattr(loss, "fn", None), tf.convert_to_tensor(calls.results[0]).shape.rank == 0
    if not is_number:
        if not is_keras or loss.reduction in (None, "none"):
            return None
        is_known = _is_of_keras(type(loss).call) and (function is None or _is_of_keras(function))
        if is_known and getattr(function, "__name__", "") not in _NOT_BY_ELEMENT:
            return "rows"
    kind = _traced_kind(loss, calls.arguments[0])
    is_impossible = (is_number and kind == "rows") or (not is_keras and kind == "sum")
    return None if is_impossible else kind


def _traced_kind(loss: Any, arguments: tuple[Any, ...]) -> str | None:
    if not all(isinstance(each, tf.Tensor) and each.shape.rank for each in arguments):
        return "rows"
    known = _kinds.setdefault(loss, {})
    key = tuple((str(each.shape[1:]), each.dtype) for each in arguments)
    if key not in known:
        known[key] = made_of_examples(loss.call, arguments)
    return known[key]


def _is_of_keras(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").split(".")[0] == "keras"


def _what(calls: _Calls) -> str:
    is_number = len(calls.results) != 1 or tf.convert_to_tensor(calls.results[0]).shape.rank == 0
    return "one number a batch" if is_number else "values of several examples together"


_warned: set[str] = set()


def _name(loss: Any) -> str:
    return getattr(loss, "name", None) or type(loss).__name__


def _warn_not_exact(reason: str) -> None:
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"{reason}: accumulated over batches it is not exact, but averaged by their examples", stacklevel=2)
