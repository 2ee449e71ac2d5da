"""Plain Python values as JSON and arrays: what callbacks remember, written without pickle."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Of NumPy's own scalars, those that Python's numbers hold exactly: JSON holds them, where an array each would cost milliseconds.
_EXACT = {
    np.dtype(name): kind
    for kind, names in ((float, "f2 f4 f8"), (int, "i1 i2 i4 i8 u1 u2 u4 u8"), (bool, "?"))
    for name in names.split()
}
_DATES = {kind.__name__: kind for kind in (datetime.datetime, datetime.date, datetime.time)}

Otherwise = Callable[[Any, str], Any]


def refuse(value: Any, name: str) -> Any:
    """Raises TypeError for a value that a checkpoint cannot hold."""
    raise TypeError(
        f"{name} holds a value of type {type(value).__name__}, which a checkpoint cannot: keep None, numbers, text, dates, "
        "arrays, and lists, tuples or dicts of them"
    )


class AsText:
    """For `encode`: as text stands what somebody put into the logs, and no checkpoint can hold; a warning says so once a type.

    Args:
        where: what becomes of it, in words.
    """

    def __init__(self, where: str = "which a checkpoint keeps as text") -> None:
        self._where = where
        self._told: set[type] = set()

    def __call__(self, value: Any, name: str) -> str:
        """The text that stands in its place."""
        del name
        if type(value) not in self._told:
            self._told.add(type(value))
            warnings.warn(f"the logs hold a {type(value).__name__}, {self._where}", stacklevel=2)
        return str(value)


def encode(value: Any, arrays: MutableMapping[str, np.ndarray], name: str, otherwise: Otherwise = refuse) -> Any:
    """Turns a value into what JSON holds; arrays are put aside, under names that begin with `name`.

    Args:
        value: None, booleans, numbers, text, dates and times, NumPy arrays and scalars, tensors; lists, tuples and dictionaries
          of them.
        arrays: where arrays go.
        name: of the value, for the arrays' names and for errors.
        otherwise: what becomes of anything else: it gets the value and the name, and returns what stands in its place.

    Returns:
        What `decode` turns back into an equal value of the same types, dictionaries' order included (tensors and variables
        come back as NumPy arrays, other mappings as dictionaries, text in arrays as bytes).

    Raises:
        TypeError: something else is in it, unless `otherwise` says something else.

    Example:
        >>> arrays = {}
        >>> encoded = encode({"best": (0.5, float("inf")), "weights": [np.ones(2)]}, arrays, "stopping")
        >>> decode(encoded, arrays)
        {'best': (0.5, inf), 'weights': [array([1., 1.])]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value  # JSON as Python writes it holds every float exactly, NaN and infinities too
    if type(value) in _DATES.values():
        return {"kind": type(value).__name__, "value": value.isoformat()}
    if type(value) is datetime.timedelta:
        return {"kind": "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, np.str_):
        return {"kind": "str_", "value": str(value)}
    if isinstance(value, np.generic) and value.dtype in _EXACT:
        return {"kind": "number", "dtype": value.dtype.str, "value": _EXACT[value.dtype](value)}
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor, tf.Variable, keras.Variable)):
        array = np.array(value)  # a copy: its owner may go on changing it while it is written
        if not _has_tensor(array.dtype):
            if otherwise is not refuse:
                return otherwise(value, name)
            raise TypeError(f"{name} holds an array of dtype {array.dtype}, which a checkpoint cannot: keep numbers or text")
        key = f"{name}.{len(arrays)}"
        arrays[key] = array
        return {"kind": "scalar" if isinstance(value, np.generic) else "array", "name": key}
    if type(value) in (list, tuple):
        items = [encode(item, arrays, name, otherwise) for item in value]
        return items if type(value) is list else {"kind": "tuple", "items": items}
    if isinstance(value, Mapping):
        pairs = [[encode(part, arrays, name, otherwise) for part in pair] for pair in value.items()]
        return {"kind": "dict", "items": pairs}
    return otherwise(value, name)


def _has_tensor(dtype: np.dtype) -> bool:
    """Whether TensorFlow, which writes them, has arrays of it: none of dates, of objects, or of longer floats than float64."""
    if dtype.kind in "OV":
        return bool(dtype == tf.bfloat16.as_numpy_dtype)
    try:
        tf.as_dtype(dtype)
    except TypeError:
        return False
    return True


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
    if encoded["kind"] in _DATES:
        return _DATES[encoded["kind"]].fromisoformat(encoded["value"])
    if encoded["kind"] == "timedelta":
        return datetime.timedelta(*encoded["value"])
    if encoded["kind"] == "str_":
        return np.str_(encoded["value"])
    if encoded["kind"] == "number":
        return np.dtype(encoded["dtype"]).type(encoded["value"])
    array = arrays[encoded["name"]]
    return array[()] if encoded["kind"] == "scalar" else array
