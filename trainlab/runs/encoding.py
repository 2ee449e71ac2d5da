"""Plain Python values as JSON and arrays: what callbacks remember, written without pickle."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def encode(value: Any, arrays: MutableMapping[str, np.ndarray], name: str) -> Any:
    """Turns a value into what JSON holds; arrays are put aside, under names that begin with `name`.

    Args:
        value: None, booleans, numbers, text, NumPy arrays and scalars, tensors; lists, tuples and dictionaries of them.
        arrays: where arrays go.
        name: of the value, for the arrays' names and for errors.

    Returns:
        What `decode` turns back into an equal value of the same types, dictionaries' order included (tensors and variables
        come back as NumPy arrays, other mappings as dictionaries, text in arrays as bytes).

    Raises:
        TypeError: something else is in it.

    Example:
        >>> arrays = {}
        >>> encoded = encode({"best": (0.5, float("inf")), "weights": [np.ones(2)]}, arrays, "stopping")
        >>> decode(encoded, arrays)
        {'best': (0.5, inf), 'weights': [array([1., 1.])]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value  # JSON as Python writes it holds every float exactly, NaN and infinities too
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable, keras.Variable)):
        array = np.array(value)  # a copy: its owner may go on changing it while it is written
        if array.dtype.kind in "OV" and array.dtype != tf.bfloat16.as_numpy_dtype:
            raise TypeError(f"{name} holds an array of dtype {array.dtype}, which a checkpoint cannot: keep numbers or text")
        key = f"{name}.{len(arrays)}"
        arrays[key] = array
        return {"kind": "scalar" if isinstance(value, np.generic) else "array", "name": key}
    if type(value) in (list, tuple):
        items = [encode(item, arrays, name) for item in value]
        return items if type(value) is list else {"kind": "tuple", "items": items}
    if isinstance(value, Mapping):
        pairs = [[encode(key, arrays, name), encode(item, arrays, name)] for key, item in value.items()]
        return {"kind": "dict", "items": pairs}
    raise TypeError(
        f"{name} holds a value of type {type(value).__name__}, which a checkpoint cannot: keep None, numbers, text, arrays, "
        "and lists, tuples or dicts of them"
    )


def decode(encoded: Any, arrays: MutableMapping[str, np.ndarray]) -> Any:
    """The value that `encode` was given."""
    if isinstance(encoded, list):
        return [decode(item, arrays) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if encoded["kind"] == "tuple":
        return tuple(decode(item, arrays) for item in encoded["items"])
    if encoded["kind"] == "dict":
        return {decode(key, arrays): decode(item, arrays) for key, item in encoded["items"]}
    array = arrays[encoded["name"]]
    return array[()] if encoded["kind"] == "scalar" else array
