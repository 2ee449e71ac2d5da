"""Any setting as plain data, so that two are equal if they mean the same."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.strategies import StepStrategy

_MAX_HASHED = 2**28
_BLOCK = 2**20
_MAX_DEPTH = 8  # of objects in objects


def plain(value: Any) -> Any:
    """Any setting as what JSON holds, so that two are equal if they mean the same.

    Functions are told apart by name and source, arrays by their bytes, other objects by class and attributes.

    Example:
        >>> plain({"rate": np.float32(0.5), "shape": (2, 3)})
        {'rate': 0.5, 'shape': [2, 3]}
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(item) for item in value)
    if isinstance(value, (np.ndarray, tf.Tensor, tf.Variable, keras.Variable)):
        array = np.asarray(value)
        return {"shape": list(array.shape), "dtype": str(array.dtype), "blake2b": fingerprint(array)}
    if isinstance(value, type):
        return qualified(value)
    if depth > _MAX_DEPTH:
        return qualified(type(value))
    if isinstance(value, functools.partial):
        return {"partial": [_plain(part, depth + 1) for part in (value.func, value.args, value.keywords)]}
    if inspect.isroutine(value) or inspect.isfunction(value):
        cells = getattr(value, "__closure__", None) or ()
        closed = [_plain(cell.cell_contents, depth + 1) for cell in cells if not _is_empty(cell)]
        defaults = _plain(getattr(value, "__defaults__", None), depth + 1)
        return {"function": qualified(value), "source": _source(value), "closure": closed, "defaults": defaults}
    if not isinstance(value, StepStrategy) and hasattr(value, "get_config"):
        try:
            config = _plain(value.get_config(), depth + 1)
            return {"class": qualified(type(value)), "source": _source(type(value)), **config}
        except Exception:  # users' code may raise anything; the attributes are left
            pass
    # What begins with an underscore is the object's own business: tracing may set some.
    attributes = {k: v for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")}
    return {"class": qualified(type(value)), "source": _source(type(value)), **_plain(attributes, depth + 1)}


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell  # never; an empty one raises
    except ValueError:
        return True


def qualified(value: Any) -> str:
    """The full name of a class or a function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', repr(type(value))))}"


def _source(value: Any) -> str | None:
    """A hash of a function's or class's source; None for what is installed, whose version is another row, or has none."""
    module = (getattr(value, "__module__", None) or "").split(".")[0]
    if module in ("keras", "tensorflow", "numpy", "trainlab", "builtins"):
        return None
    try:
        return hashlib.blake2b(inspect.getsource(value).encode(), digest_size=8).hexdigest()
    except (OSError, TypeError):
        return None


def fingerprint(leaf: Any) -> str:
    """A hash of an array's bytes; of more than 256 MB, of those of blocks spread over it."""
    digest = hashlib.blake2b(digest_size=16)
    for block in _blocks(leaf):
        digest.update(
            np.ascontiguousarray(block).view(np.uint8).data if block.dtype.kind not in "OSU" else repr(block.tolist()).encode()
        )
    return digest.hexdigest()


def _blocks(leaf: Any) -> Iterable[np.ndarray]:
    if not isinstance(leaf, np.ndarray):
        leaf = np.asarray(leaf)
    if leaf.ndim == 0:
        return [leaf.reshape(1)]
    rows = max(_BLOCK // max(leaf[:1].nbytes, 1), 1)
    starts: Sequence[int] = range(0, len(leaf), rows)
    if leaf.nbytes > _MAX_HASHED:
        starts = np.linspace(0, len(leaf) - rows, _MAX_HASHED // _BLOCK).astype(np.int64).tolist()
    return (leaf[start : start + rows] for start in starts)
