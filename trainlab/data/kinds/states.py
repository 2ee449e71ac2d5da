"""The state that data keep of themselves, as JSON holds it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np


def as_json(value: Any) -> Any:
    """A state as JSON can hold it; `from_json` makes the same of it again, of the same types.

    Args:
        value: None, booleans, numbers, text, bytes, NumPy arrays and scalars; lists, tuples and dictionaries of them.

    Raises:
        TypeError: something else is in it.

    Example:
        >>> from_json(as_json({"random": (3, b"x"), "order": np.arange(3)}))
        {'random': (3, b'x'), 'order': array([0, 1, 2])}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [as_json(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [as_json(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[as_json(key), as_json(item)] for key, item in value.items()]}
    if type(value) is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: value.tolist(), "dtype": str(value.dtype), "shape": list(value.shape)}
    raise TypeError(f"a {type(value).__name__}, which a checkpoint of data cannot hold")


def from_json(value: Any) -> Any:
    """What `as_json` was given."""
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(from_json(item) for item in value["tuple"])
    if "dict" in value:
        return {from_json(key): from_json(item) for key, item in value["dict"]}
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    array = np.array(value.get("array", value.get("scalar")), value["dtype"]).reshape(value["shape"])
    return array if "array" in value else array[()]
