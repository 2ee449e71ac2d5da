"""Examples however they are nested: dictionaries, tuples and lists of arrays, or of their specs."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np


class Batches:
    """Batches of a loader whose iterators say where they stand, such as Grain's, with the specs that it does not tell.

    Args:
        loader: Of batches `(x, y)` or `(x, y, sample_weight)`; each iterator begins anew, and has a `get_state()` and a
            `set_state(state)`.

    Attributes:
        element_spec: `tf.TensorSpec`s of a batch, by the first one.

    Raises:
        TypeError: It is an iterator itself.
        ValueError: It has no batch.
    """

    def __init__(self, loader: Any):
        import tensorflow as tf

        self.check_begins_anew(loader)
        self._loader = loader
        first = next(iter(loader), None)
        if first is None:
            raise ValueError(f"a {type(loader).__name__} of no batches: there is nothing to train on")
        self.element_spec = _specs(tuple(first) if isinstance(first, list) else first, tf.TensorSpec)

    @staticmethod
    def check_begins_anew(loader: Any) -> None:
        """Raises TypeError for an iterator, of which what is looked at is lost, and no pass begins anew."""
        if hasattr(loader, "__next__"):
            kind = type(loader).__name__
            raise TypeError(f"a {kind} is an iterator, which gives its batches once: give the data set, not iter() of it")

    @staticmethod
    def are_in(value: Any) -> bool:
        """Whether it is a loader of Grain's, or of a class that is made of one, which need not be installed to tell."""
        is_grains = any(kind.__module__.partition(".")[0] == "grain" for kind in type(value).__mro__)
        return is_grains and hasattr(value, "__iter__")

    def __iter__(self) -> Any:
        return iter(self._loader)

    def take(self, num_batches: int) -> Batches:
        """The first batches alone, as `tf.data.Dataset.take` has it."""
        return Batches(_First(self._loader, num_batches))


class _First:
    """The first batches of a loader."""

    def __init__(self, loader: Any, num_batches: int):
        self._loader, self._num_batches = loader, num_batches

    def __iter__(self) -> Any:
        return _FirstIterator(iter(self._loader), self._num_batches)


class _FirstIterator:
    def __init__(self, iterator: Any, num_left: int):
        self._iterator, self._num_left = iterator, num_left

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if self._num_left <= 0:
            raise StopIteration
        self._num_left -= 1
        return next(self._iterator)

    def get_state(self) -> Any:
        return {"left": self._num_left, "of": self._iterator.get_state()}

    def set_state(self, state: Any) -> None:
        self._num_left = state["left"]
        self._iterator.set_state(state["of"])


def _specs(part: Any, spec: Any) -> Any:
    if isinstance(part, dict):
        return {name: _specs(inner, spec) for name, inner in part.items()}
    if isinstance(part, (tuple, list)):
        return tuple(_specs(inner, spec) for inner in part)
    array = np.asarray(part)
    return spec([None, *array.shape[1:]] if array.ndim else [], array.dtype)


def x_of(element: Any) -> Any:
    """The x of a batch `(x, y)` or `(x, y, sample_weight)`, or of its specs."""
    return element[0] if isinstance(element, (tuple, list)) else element


def leaves(structure: Any) -> list[Any]:
    """What is in it that is no dictionary, tuple or list."""
    if isinstance(structure, dict):
        structure = tuple(structure.values())
    return [leaf for part in structure for leaf in leaves(part)] if isinstance(structure, (tuple, list)) else [structure]


def shapes(x: Any) -> Any:
    """The shape of an example, of arrays or of their specs, however they are nested."""
    if isinstance(x, dict):
        return {name: shapes(part) for name, part in x.items()}
    if _is_nest(x):
        return tuple(map(shapes, x))
    shape: Any = getattr(x, "shape", None)
    if hasattr(shape, "rank") and shape.rank is None:
        raise ValueError("Data.train: the shape of x is not known, not even its rank: give the data set one with tf.ensure_shape")
    return tuple(np.shape(x) if shape is None else shape)[1:]


def length(structure: Any) -> int:
    """The number of examples."""
    while isinstance(structure, dict) or _is_nest(structure):
        structure = next(iter(structure.values())) if isinstance(structure, dict) else structure[0]
    return structure.shape[0] if hasattr(structure, "shape") else len(structure)  # a sparse matrix has no len


def lengths(structure: Any) -> set[int]:
    """The numbers of examples of everything in it, which is one number where all is well; what is no array has none."""
    if isinstance(structure, dict) or _is_nest(structure):
        return set().union(*map(lengths, structure.values() if isinstance(structure, dict) else structure))
    is_array = len(structure.shape) > 0 if hasattr(structure, "shape") else isinstance(structure, (list, tuple))
    return {int(length(structure))} if is_array else set()


def rows(structure: Any, which: Any) -> Any:
    """Some of the examples.

    Args:
        structure: Arrays, tensors, ragged and sparse ones too, frames, or lists of values, however they are nested.
        which: A slice, of which arrays give a view, or an array of indices, each once.
    """
    if isinstance(structure, dict):
        return {name: rows(part, which) for name, part in structure.items()}
    if _is_nest(structure):
        return type(structure)(rows(part, which) for part in structure)
    if isinstance(structure, (list, tuple)):
        return structure[which] if isinstance(which, slice) else [structure[i] for i in which]
    if hasattr(structure, "iloc"):
        return structure.iloc[which]
    if hasattr(structure, "dense_shape"):
        return _sparse_rows(structure, which)
    if isinstance(structure, np.ndarray) or isinstance(which, slice) or not hasattr(structure, "dtype"):
        return structure[which]
    return _gathered(structure, which)


def _gathered(array: Any, which: np.ndarray) -> Any:
    try:
        return operator.getitem(array, which)
    except (TypeError, ValueError, IndexError):  # a tensor takes no array of indices
        import tensorflow as tf

        return tf.gather(array, which)


def _sparse_rows(tensor: Any, which: Any) -> Any:
    """Of a `tf.SparseTensor`, which cannot be indexed."""
    import tensorflow as tf

    taken = np.arange(int(tensor.shape[0]))[which]
    place = np.full(int(tensor.shape[0]), -1)
    place[taken] = np.arange(len(taken))
    indices = tensor.indices.numpy()
    is_taken = place[indices[:, 0]] >= 0
    moved = np.concatenate([place[indices[is_taken, :1]], indices[is_taken, 1:]], axis=1)
    values = tf.gather(tensor.values, np.flatnonzero(is_taken))
    return tf.sparse.reorder(tf.SparseTensor(moved, values, [len(taken), *tensor.shape[1:]]))


def _is_nest(structure: Any) -> bool:
    """Whether a tuple or a list holds arrays: a list of numbers, or of lists of them, is an array itself."""
    return isinstance(structure, (tuple, list)) and any(
        hasattr(part, "shape") or isinstance(part, dict) for part in structure[:1]
    )
