"""What users hand over as arrays: told from streams, converted, recognised when it comes again."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def as_arrays(data: Any) -> Any:
    """Numbers in any of the containers that Keras takes, as NumPy arrays or tensors; floats in Keras' floatx.

    Raises:
        TypeError: something in it is no dense array.
    """
    return tf.nest.map_structure(_as_array, data) if data is not None else None


def is_stream(x: Any) -> bool:
    """Whether `x` is something that hands out batches, rather than arrays."""
    if isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)) or hasattr(x, "__next__"):
        return True
    return type(x).__module__.split(".")[0] in ("torch", "grain") and not hasattr(x, "shape")


def class_weights(y: Any, class_weight: Mapping[int, float]) -> np.ndarray:
    """A weight for each example from its class: `y` holds labels `[n]` or `[n, 1]`, or one-hot rows `[n, classes]`."""
    labels = np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(axis=-1) if labels.shape[-1] != 1 else labels[..., 0]
    labels = np.round(labels).astype(np.int64)
    weights = np.ones(labels.shape, keras.config.floatx())
    for label, weight in class_weight.items():
        weights[labels == label] = weight
    return weights


class SameData:
    """Remembers, without keeping it alive, what was trained on: the position in one data set means nothing in another."""

    def __init__(self, data: Any):
        self._references = [_reference(leaf) for leaf in tf.nest.flatten(data) if leaf is not None]

    def matches(self, data: Any) -> bool:
        """Whether `data` holds the very same arrays."""
        leaves = [leaf for leaf in tf.nest.flatten(data) if leaf is not None]
        return len(leaves) == len(self._references) and all(
            reference() is leaf for reference, leaf in zip(self._references, leaves, strict=True)
        )


def _reference(leaf: Any) -> Any:
    try:
        return weakref.ref(leaf)
    except TypeError:
        return lambda: None


def _as_array(leaf: Any) -> Any:
    if leaf is None:
        return None
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)) or type(leaf).__module__.startswith("scipy.sparse"):
        raise TypeError(
            f"{type(leaf).__name__} is no dense array: convert it (toarray, to_tensor), or pass a tf.data.Dataset of batches"
        )
    if isinstance(leaf, (tf.Variable, keras.Variable)):
        leaf = tf.convert_to_tensor(leaf)
    if not isinstance(leaf, tf.Tensor):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind not in "biufUS" and leaf.dtype != tf.bfloat16.as_numpy_dtype:
            raise TypeError(f"an array of dtype {leaf.dtype} holds no batch of numbers or strings; convert it with astype")
    if len(leaf.shape) == 0:
        value = leaf.item() if isinstance(leaf, np.ndarray) else leaf
        raise TypeError(f"{value!r} is a single value, not an array of examples; a list of numbers needs np.array")
    floatx = tf.as_dtype(keras.config.floatx())
    if isinstance(leaf, tf.Tensor):
        return tf.cast(leaf, floatx) if leaf.dtype.is_floating else leaf
    is_floating = leaf.dtype.kind == "f" or leaf.dtype == tf.bfloat16.as_numpy_dtype
    return leaf.astype(floatx.as_numpy_dtype, copy=False) if is_floating else leaf
