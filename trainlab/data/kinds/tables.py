"""Frames and series of pandas, told by what they can do, and arrays of Python's objects, as arrays of one dtype."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np

_KINDS = "biufUS"


def is_table(leaf: Any) -> bool:
    """Whether it is a frame or a series, of pandas or like it."""
    return hasattr(leaf, "iloc") and hasattr(leaf, "to_numpy")


def from_table(leaf: Any) -> np.ndarray:
    """A frame as `[n, columns]`, a series as `[n, 1]`, which is what Keras makes of it.

    Columns of numbers may differ in dtype, booleans and nullable ones among them: a missing value is NaN.

    Raises:
        TypeError: a column holds something else, or numbers and strings are mixed; the line names it.
    """
    if len(leaf.shape) == 1:
        return _column(leaf, "a series")[:, None]
    array = np.asarray(leaf)
    if array.dtype.kind in _KINDS:
        return array
    labels = list(leaf.columns)
    columns = [_column(leaf.iloc[:, i], f"column {label!r}") for i, label in enumerate(labels)]
    texts = [label for label, column in zip(labels, columns, strict=True) if column.dtype.kind in "USO"]
    if 0 < len(texts) < len(labels):
        raise TypeError(f"column {texts[0]!r} holds strings and others hold numbers: give them apart, as a dict of inputs")
    return np.stack(columns, axis=1)


def from_objects(array: np.ndarray) -> np.ndarray | None:
    """An array of Python's objects as one of the numbers or booleans that they are; None if they are anything else.

    Text stays as it is: of one width, which is that of the longest, it could take a hundred times the memory, and bytes would
    lose the zeros at their ends.
    """
    items = array.ravel().tolist()
    if not items:
        return None
    if any(all(isinstance(item, kind) for item in items) for kind in (str, bytes)):
        return array
    return np.array(items).reshape(array.shape) if all(isinstance(item, numbers.Real) for item in items) else None


def _column(series: Any, name: str) -> np.ndarray:
    """One column, `[n]`."""
    dtype: Any = getattr(series, "dtype", None)
    array = np.asarray(series)
    if array.dtype.kind == "O" and getattr(dtype, "kind", "O") in "biuf":  # nullable: its own dtype knows what it holds
        has_gaps = bool(np.asarray(series.isna(), bool).any())
        to = keras.config.floatx() if has_gaps else dtype.numpy_dtype
        array = series.to_numpy(dtype=to, na_value=np.nan) if has_gaps else series.to_numpy(dtype=to)
    found = from_objects(array) if array.dtype.kind == "O" else array
    if found is None or found.dtype.kind not in _KINDS + "O":
        raise TypeError(f"{name} of dtype {dtype} holds no numbers, nor strings only: convert it with astype")
    return found
