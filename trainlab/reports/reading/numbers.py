"""The numbers among logs, by their names: a metric may be several, one of each class for example."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_MOST_PARTS = 16  # of a list or a dictionary among the logs, each by itself


def numbers_of(logs: Mapping[str, Any]) -> dict[str, float]:
    """Every number by its name, with its place for the first 16 of those in arrays, lists and dictionaries.

    Args:
        logs: Numbers, arrays or tensors `[...]` of any dtype, lists, dictionaries, None, or text, by name.

    Returns:
        Python's floats; NaN for None and for what is not finite. Text is left out.

    Example:
        >>> numbers_of({"loss": np.float32(0.5), "f1": np.array([1, 0.25]), "by": {"a": None}, "note": "text"})
        {'loss': 0.5, 'f1[0]': 1.0, 'f1[1]': 0.25, 'by.a': nan}
    """
    return dict(_flat(logs))


def _flat(values: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in values.items():
        if hasattr(value, "__array__"):
            value = np.asarray(value).tolist()
        if isinstance(value, (list, tuple, dict)):
            pairs = value.items() if isinstance(value, dict) else ((f"[{i}]", item) for i, item in enumerate(value))
            for key, item in list(pairs)[:_MOST_PARTS]:
                yield from _flat({f"{name}{key if str(key).startswith('[') else f'.{key}'}": item})
        elif value is None or isinstance(value, (bool, int, float)):
            yield str(name), _number(value)


def _number(value: Any) -> float:
    try:
        number = math.nan if value is None else float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan
