"""Weights of examples: from their classes, and for some of several outputs."""

from __future__ import annotations

import functools
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.objective import Batch


def by_label(class_weight: Any) -> dict[int, float]:
    """`class_weight` as it is looked up: labels are whole numbers, of whatever type, weights finite.

    Raises:
        TypeError, ValueError: it is none, in one line.

    Example:
        >>> by_label({0.0: 1, np.int64(3): 2.5})
        {0: 1.0, 3: 2.5}
    """
    if not hasattr(class_weight, "items"):
        kind = type(class_weight).__name__
        raise TypeError(f"class_weight must be a dictionary of weights by label, not {kind}: write dict(enumerate(weights))")
    found = {}
    for label, weight in class_weight.items():
        if not isinstance(label, numbers.Real) or not float(label).is_integer():
            raise ValueError(
                f"class_weight is for the label {label!r}, where labels are whole numbers: write dict(enumerate(weights))"
            )
        if isinstance(weight, (str, bytes)) or np.ndim(weight) or not np.isfinite(float(weight)):
            raise ValueError(f"class_weight: {weight!r} for the label {label!r} must be a finite number")
        found[int(float(label))] = float(weight)
    return found


def class_weights(y: Any, class_weight: Mapping[int, float], are_labels: bool = False) -> np.ndarray:
    """A weight for each example from its class; for each element where `y` holds a label for each.

    Args:
        y: labels `[n]` or `[n, 1]`; one-hot rows `[n, ..., classes]`; with `are_labels`, labels `[n, T]` or `[n, T, 1]` too.
        class_weight: by label; other labels weigh 1.
        are_labels: whether the loss takes labels rather than one-hot rows.

    Returns:
        `[n]`, or what is left of `y` without its last axis, or with it where that is one of labels.
    """
    labels = np.asarray(y)
    if labels.ndim > 1:
        if labels.shape[-1] == 1:
            labels = labels[..., 0]
        elif not are_labels:
            _warn_unless_one_hot(labels)
            labels = labels.argmax(axis=-1)
    labels = np.round(labels).astype(np.int64)
    weights = np.ones(labels.shape, keras.config.floatx())
    for label, weight in class_weight.items():
        weights[labels == label] = weight
    return weights


def weighing(class_weight: Mapping[int, float], are_labels: Callable[[int | None], bool]) -> Callable[..., Batch]:
    """A function of a stream's elements, to be traced, that gives each batch the weights that `class_weights` would.

    `are_labels` says by the number of axes of `y`.

    Raises, when it is traced:
        ValueError: a batch has weights already, or not one `y`.
    """
    first, last = min(class_weight), max(class_weight)
    table = tf.constant([class_weight.get(label, 1.0) for label in range(first, last + 1)], keras.config.floatx())

    def weigh(*element: Any) -> Batch:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(element)
        if sample_weight is not None:
            raise ValueError("class_weight and weights in the batches of x: leave one of them out")
        if not isinstance(y, tf.Tensor):
            raise ValueError("class_weight needs batches with one dense y: for several outputs give weights in the batches")
        labels = tf.cast(tf.round(y) if y.dtype.is_floating else y, tf.int64)
        if y.shape.rank is not None and y.shape.rank > 1:
            size, dropped = y.shape[-1], functools.partial(tf.squeeze, labels, axis=-1)
            if size == 1:
                labels = dropped()
            elif not are_labels(y.shape.rank):
                found = functools.partial(tf.argmax, y, axis=-1)
                labels = found() if size is not None else tf.cond(tf.equal(tf.shape(y)[-1], 1), dropped, found)
        inside = (labels >= first) & (labels <= last)
        weights = tf.gather(table, tf.clip_by_value(labels, first, last) - first)
        return x, y, tf.where(inside, weights, tf.ones([], weights.dtype))

    return tf.autograph.experimental.do_not_convert(weigh)


def matched(y: Any, sample_weight: Any, outputs: Any = None, output_names: Sequence[str] = ()) -> tuple[Any, Any]:
    """Targets and weights of several outputs in one structure, None for the weights of an output that has none.

    Args:
        y: targets: for several outputs, a list or a dict by name.
        sample_weight: the same, or by the names of some outputs; or one array for all, which is left as it is.
        outputs: of the model, in their structure; None if it is not known.
        output_names: of the model, in the order of a list.

    Raises:
        ValueError: a name is none of an output, or their number is wrong.

    Example:
        >>> matched({"a": 0, "b": 0}, {"a": 1.0})
        ({'a': 0, 'b': 0}, {'a': 1.0, 'b': None})
        >>> matched([0, 0], {"b": 1.0}, output_names=["a", "b"])
        ([0, 0], [None, 1.0])
    """
    if not _is_nested(sample_weight) and sample_weight is not None and _is_nested(y) and len(y) > 1:
        shape = tuple(getattr(sample_weight, "shape", ()))
        if len(shape) > 1 and shape[1:] != (1,):
            raise ValueError(
                f"sample_weight of shape {shape} for {len(y)} outputs: one array for all has one weight an example; for "
                "weights of elements give one for each output"
            )
    if not _is_nested(sample_weight) or any(map(_is_nested, _values(sample_weight))):
        return y, sample_weight
    is_by_name = isinstance(sample_weight, Mapping)
    # In the order in which Keras packs a list of targets.
    names: list[Any] = keras.tree.flatten({k: k for k in outputs}) if isinstance(outputs, Mapping) else list(output_names)
    if not _is_nested(y):
        if not is_by_name or len(sample_weight) != 1 or len(names) > 1:
            return y, sample_weight  # Keras' business
        _check_names(sample_weight, names or list(sample_weight))
        return y, _values(sample_weight)[0]
    if isinstance(y, Mapping):
        of_outputs, names = names, [name for name in names if name in y] if set(y) <= set(names) else list(y)
    elif len(y) == len(names):
        of_outputs = names
    elif is_by_name:
        raise ValueError("sample_weight is a dict, but y is a list: give sample_weight as a list too, None for no weights")
    else:
        of_outputs, names = [], list(range(len(y)))
    _check_names(sample_weight, names)
    like = outputs if _is_nested(outputs) and names == of_outputs else y
    if type(y) is type(sample_weight) and len(y) == len(sample_weight) and isinstance(like, Mapping) == is_by_name:
        return y, sample_weight
    targets, weights = (
        dict(part) if isinstance(part, Mapping) else dict(zip(names, part, strict=True)) for part in (y, sample_weight)
    )
    if isinstance(like, Mapping):
        return {name: targets[name] for name in names}, {name: weights.get(name) for name in names}
    kind = tuple if isinstance(y, tuple) else list
    return kind(targets[name] for name in names), kind(weights.get(name) for name in names)


def _is_nested(structure: Any) -> bool:
    return isinstance(structure, (Mapping, list, tuple))


def _values(structure: Any) -> list[Any]:
    return list(structure.values()) if isinstance(structure, Mapping) else list(structure)


def _check_names(sample_weight: Any, names: Sequence[Any]) -> None:
    """Raises ValueError, in one line, if weights are for other outputs than these, or, in a list, not for each."""
    if not isinstance(sample_weight, Mapping):
        if len(sample_weight) != len(names):
            raise ValueError(f"sample_weight has {len(sample_weight)} entries for {len(names)} targets: give None for no weights")
        return
    for name in sample_weight:
        if name not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"sample_weight is for {name!r}, which is none of the outputs: {known}")


def _warn_unless_one_hot(rows: np.ndarray) -> None:
    totals = rows.sum(axis=-1, dtype=np.float64)
    is_bad = (rows.min(axis=-1) < 0) | (np.abs(totals - 1) > 1e-2)
    if is_bad.any():
        place = tuple(int(i) for i in np.argwhere(is_bad)[0])
        warnings.warn(
            f"class_weight: y is no one-hot row in example {place[0]} ({rows[place].tolist()}); as in Keras it counts as of the "
            "class of its largest value",
            stacklevel=2,
        )
