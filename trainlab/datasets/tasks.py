"""What is learned from labels: how it is found out, how many numbers a model returns for it, and which loss and metrics fit."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

TASKS = ("classification", "multilabel", "regression", "sequence_labeling")
_MANY = 2**20  # labels looked at in one go: those of a file need not be in memory whole


def check(task: str | None) -> None:
    """Refuses what is no task."""
    if task is not None and task not in TASKS:
        raise ValueError(
            f"Data.task={task!r}: must be {', '.join(map(repr, TASKS[:-1]))} or {TASKS[-1]!r}, or None to find it out"
        )


def found(labels: Any, num_classes: int | None) -> str | None:
    """The task that labels, or their spec, speak of; None where they do not.

    Example:
        >>> found(np.array([0, 2, 1]), None), found(np.array([[1, 0, 1]]), None), found(np.array([[0, 1], [1, 0]]), None)
        ('classification', 'multilabel', 'classification')
    """
    labels = _array(labels)
    if labels is None:
        return None
    kind, width, shape = _kind(labels), _width(labels), tuple(labels.shape)
    if width == 1 and len(shape) <= 2:
        return "regression" if kind == "f" else "classification"
    if not isinstance(labels, np.ndarray):
        if kind == "f":
            return "classification" if len(shape) == 2 and width == num_classes else "regression"
        return "sequence_labeling" if len(shape) == 2 else None
    if len(shape) == 2 and _is_zeros_and_ones(labels):
        return "classification" if _is_one_hot(labels) else "multilabel"
    if kind == "f":
        return "regression"
    return "sequence_labeling" if len(shape) == 2 else None


def num_outputs(task: str | None, labels: list[Any]) -> int:
    """How many numbers a model returns for an example, or for a position of a sequence.

    Args:
        task: What is learned.
        labels: Those of all parts that are arrays; of a data set of batches their spec.

    Raises:
        ValueError: They do not tell.
    """
    arrays = [_array(part) for part in labels]
    first = arrays[0]
    if task is None or first is None:
        raise ValueError("Data.num_classes: cannot be read off these labels: write it, num_classes=10")
    if task in ("multilabel", "regression") or (task == "classification" and _width(first) != 1):
        width = _width(first)
        if width is None:
            raise ValueError(f"Data.num_classes: the labels' shape {tuple(first.shape)} does not tell: write it, num_classes=1")
        return width
    if not isinstance(first, np.ndarray):
        raise ValueError("Data.num_classes: must be given with a data set of batches: labels that were not read do not tell")
    return max(int(part.max()) for part in arrays if isinstance(part, np.ndarray) and part.size) + 1


def loss(task: str | None, labels: Any) -> Any:
    """The loss."""
    from keras import losses

    if task == "classification" and _width(_array(labels)) == 1:
        return losses.SparseCategoricalCrossentropy(from_logits=True)
    if task == "classification":
        return losses.CategoricalCrossentropy(from_logits=True)
    if task == "multilabel":
        return losses.BinaryCrossentropy(from_logits=True)
    if task == "regression":
        return losses.MeanSquaredError()
    if task == "sequence_labeling":
        return losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    raise ValueError(_unknown("loss"))


def metrics(task: str | None) -> list[Any]:
    """The metrics."""
    import keras

    if task == "multilabel":  # logits: a label is there where one is above zero
        return [
            keras.metrics.BinaryAccuracy(threshold=0.0),
            keras.metrics.AUC(from_logits=True),
        ]
    if task == "sequence_labeling":
        from trainlab.datasets.metrics import PositionAccuracy

        return [PositionAccuracy()]
    if task == "classification":
        return ["accuracy"]
    if task == "regression":
        return ["mae"]
    raise ValueError(_unknown("list of metrics"))


def _unknown(what: str) -> str:
    return f'Data.task is None, and the labels do not tell which {what} would fit: write task="regression", or give a {what}'


def _array(labels: Any) -> Any:
    """An array of labels, or a spec; None for several, and for what is no array of numbers."""
    if isinstance(labels, dict) or (isinstance(labels, (tuple, list)) and any(hasattr(part, "shape") for part in labels[:1])):
        return None
    if hasattr(labels, "shape") and hasattr(labels.shape, "rank") and not hasattr(labels, "numpy"):  # a spec
        return None if labels.shape.rank is None or _kind(labels) is None else labels
    try:
        array = labels if isinstance(labels, np.ndarray) else np.asarray(labels)
    except (TypeError, ValueError):
        return None
    return None if array.ndim == 0 or _kind(array) is None else array


def _kind(labels: Any) -> str | None:
    """Either "i" for integers and booleans, "f" for floats, or None for others."""
    name = getattr(labels.dtype, "name", str(labels.dtype))
    if "float" in name:
        return "f"
    return "i" if name.startswith(("int", "uint", "bool")) else None


def _width(labels: Any) -> int | None:
    """How many numbers an example has; None where that is not known."""
    sizes = tuple(labels.shape)[1:]
    return None if None in sizes else int(np.prod(sizes, dtype=np.int64))


def _parts(labels: np.ndarray) -> Any:
    step = max(1, _MANY // max(1, operator.index(labels[:1].size)))
    return (np.asarray(labels[start : start + step]) for start in range(0, len(labels), step))


def _is_zeros_and_ones(labels: np.ndarray) -> bool:
    return all(bool(((part == 0) | (part == 1)).all()) for part in _parts(labels))


def _is_one_hot(labels: np.ndarray) -> bool:
    return all(bool((part.sum(axis=1) == 1).all()) for part in _parts(labels))
