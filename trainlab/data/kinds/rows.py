"""Arrays whose rows are not alike in memory: ragged tensors, sparse tensors, SciPy's sparse matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

Composite = (tf.RaggedTensor, tf.SparseTensor)


def is_sparse_matrix(leaf: Any) -> bool:
    """Whether it is a sparse matrix of SciPy's, of whatever format."""
    return hasattr(leaf, "tocoo") and hasattr(leaf, "shape")


def as_sparse(leaf: Any) -> tf.SparseTensor:
    """A sparse matrix `[n, k]`, SciPy's or a `tf.SparseTensor` of any rank, with its entries in the order of the rows."""
    if not isinstance(leaf, tf.SparseTensor):
        coo = leaf.tocoo()
        indices = np.stack([np.asarray(coo.row), np.asarray(coo.col)], axis=1).astype(np.int64)
        leaf = tf.SparseTensor(indices, np.asarray(coo.data), [int(size) for size in coo.shape])
    return tf.sparse.reorder(leaf)


def spec_of(leaf: Any) -> Any:
    """What a batch of its rows is, of any size."""
    shape = [None, *leaf.shape[1:]]
    if isinstance(leaf, tf.RaggedTensor):
        return tf.RaggedTensorSpec(shape, leaf.dtype, leaf.ragged_rank, leaf.row_splits.dtype)
    if isinstance(leaf, tf.SparseTensor):
        return tf.SparseTensorSpec(shape, leaf.dtype)
    return tf.TensorSpec(shape, tf.as_dtype(leaf.dtype))


def rows_of(leaf: tf.RaggedTensor | tf.SparseTensor) -> Callable[[tf.Tensor], Any]:
    """A function, to be traced, from indices `[q]` of rows, int64, to these rows of a ragged or sparse tensor.

    TensorFlow gathers rows of ragged tensors only: a sparse one's are kept as such, entries and places row by row.

    Example:
        >>> take = rows_of(tf.sparse.from_dense([[0, 1], [2, 0], [3, 4]]))
        >>> tf.sparse.to_dense(take(tf.constant([2, 0], tf.int64))).numpy().tolist()
        [[3, 4], [0, 1]]
    """
    if isinstance(leaf, tf.RaggedTensor):
        return lambda rows: tf.gather(leaf, rows)
    places, size, rest = leaf.indices, leaf.dense_shape[0], leaf.dense_shape[1:]
    entries = tf.RaggedTensor.from_value_rowids(leaf.values, places[:, 0], size)
    columns = entries.with_values(places[:, 1:])

    def take(rows: tf.Tensor) -> tf.SparseTensor:
        values, within = tf.gather(entries, rows), tf.gather(columns, rows)
        indices = tf.concat([values.value_rowids()[:, None], within.values], axis=1)
        return tf.SparseTensor(indices, values.values, tf.concat([tf.shape(rows, tf.int64), rest], axis=0))

    return take


def values_of(leaf: tf.RaggedTensor | tf.SparseTensor) -> tf.Tensor:
    """All that it holds, `[m, ...]`."""
    return leaf.flat_values if isinstance(leaf, tf.RaggedTensor) else leaf.values


def first_place(leaf: Any, is_bad: Callable[[np.ndarray], np.ndarray]) -> tuple[int, Any] | None:
    """The first example that holds a value of which `is_bad` is true, and the value; None if there is none.

    Args:
        leaf: an array, or a ragged or sparse tensor.
        is_bad: from values to booleans of the same shape.
    """
    values = np.asarray(values_of(leaf) if isinstance(leaf, Composite) else leaf)
    found = is_bad(values)
    if not found.any():
        return None
    place = tuple(int(i) for i in np.argwhere(found)[0])
    example = place[0]
    if isinstance(leaf, tf.SparseTensor):
        example = int(leaf.indices[example, 0])
    elif isinstance(leaf, tf.RaggedTensor):
        for splits in reversed(leaf.nested_row_splits):
            example = int(np.searchsorted(splits, example, side="right")) - 1
    return example, values[place]
