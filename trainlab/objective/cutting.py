"""Batches of a stream in pieces: every tensor cut along its first axis, that of the examples.

Their sizes may show only when they come, so that the number of pieces is a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from trainlab.objective.accumulation import Batches
from trainlab.objective.denominators import num_examples
from trainlab.objective.model_function import Batch

_RULE = "{} needs batches whose every tensor begins with the axis of the examples, but {}: write {}=None"


def pieces(batch: Batch, size: int) -> list[Batches]:
    """A batch: as many pieces of `size` examples as leave something over, then what is left.

    XLA must know shapes and cannot leave an empty piece out, and a loop over one shape needs no pass to count its examples.
    """
    num_full = (size_of(batch) - 1) // size
    rest = Batches(1, lambda _: take(batch, num_full * size, size))
    if not isinstance(num_full, int):
        num_full = tf.maximum(num_full, 0)
        return [Batches(tf.cast(num_full, tf.int32), lambda i: _gather(batch, i, size)), rest]
    return [Batches(num_full, lambda i: _gather(batch, i, size)), rest] if num_full > 0 else [rest]


def pieces_of_all(read: Callable[[Any], Batch], num_batches: int, size: int) -> Batches:
    """Many batches, one after the other, piece by piece in a single loop, which shapes that differ allow; not under XLA.

    Args:
        read: from an index to a batch.
        num_batches: how many.
        size: examples a piece; the last of a batch may be smaller.
    """
    sizes = tf.map_fn(
        lambda i: tf.convert_to_tensor(size_of(read(i)), tf.int64),
        tf.range(num_batches),
        fn_output_signature=tf.int64,
        parallel_iterations=1,
    )
    ends = tf.cumsum(tf.maximum(-(-sizes // size), 1))  # an empty batch is a piece: what comes of it is the loss's business
    starts = tf.pad(ends[:-1], [[1, 0]])

    def fetch(index: Any) -> Batch:
        index = tf.cast(index, tf.int64)
        i = tf.searchsorted(ends, index[None], side="right")[0]
        return take(read(i), (index - starts[i]) * size, size)

    return Batches(tf.cast(ends[-1], tf.int32), fetch)


def take(batch: Batch, start: Any, size: int) -> Batch:
    """Up to `size` examples of a batch, from number `start` on: an int or a scalar int64 tensor."""
    return _map(lambda leaf: _rows(leaf, start, size), batch)


def size_of(batch: Batch) -> Any:
    """The number of examples: an int where shapes tell, otherwise a scalar int64 tensor."""
    sizes = _sizes(batch)
    return next((size for size in sizes if isinstance(size, int)), sizes[0])


def sized(spec: Any, size: int | None) -> Any:
    """The spec of a batch's tensor, dense, ragged or sparse, for batches of `size` examples; None for any number."""
    shape = [size, *spec.shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype, spec.flat_values_spec)
    return type(spec)(shape, spec.dtype)


def check(batch: Batch, setting: str) -> None:
    """Makes sure that a batch can be cut; traced, the graph fails when one comes that cannot.

    Args:
        batch: whole.
        setting: what asks for its parts, as it is called.

    Raises:
        ValueError: shapes alone show it; one line.
    """
    if any(leaf.shape.rank == 0 for leaf in _leaves(batch)):
        raise ValueError(_RULE.format(setting, "one is a scalar", setting))
    sizes = _sizes(batch)
    known = sorted({size for size in sizes if isinstance(size, int)})
    if len(known) > 1:
        raise ValueError(_RULE.format(setting, f"their first axes have {' and '.join(map(str, known))}", setting))
    unknown = [size for size in sizes if not isinstance(size, int)]
    if unknown and len(sizes) > 1:
        sizes = [tf.cast(size, tf.int64) for size in sizes]
        # Its name is the message: XLA is not tried on graphs that hold a string.
        tf.raw_ops.Assert(
            condition=tf.reduce_all(tf.equal(tf.stack(sizes), sizes[0])),
            data=sizes,
            name="_".join((setting, "needs_first_axes_of_one_size")),
        )


def _leaves(batch: Batch) -> list[Any]:
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def _sizes(batch: Batch) -> list[Any]:
    sizes = [num_examples(leaf) for leaf in _leaves(batch) if leaf.shape.rank != 0]
    known = [tf.get_static_value(size) for size in sizes]
    return [size if value is None else int(value) for size, value in zip(sizes, known, strict=True)]


def _gather(batch: Batch, index: Any, size: int) -> Batch:
    """The piece of this number, whole: a shape that is known wherever it starts."""
    if any(isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)) for leaf in tf.nest.flatten(batch)):
        return take(batch, tf.cast(index, tf.int64) * size, size)
    rows = tf.cast(index, tf.int64) * size + tf.range(size, dtype=tf.int64)
    return _map(lambda leaf: tf.gather(leaf, rows), batch)


def _rows(leaf: Any, start: Any, size: int) -> Any:
    if not isinstance(leaf, tf.SparseTensor):
        return leaf[start : start + size]
    start = tf.cast(start, tf.int64)
    shape = tf.concat([tf.minimum(leaf.dense_shape[:1] - start, size), leaf.dense_shape[1:]], 0)
    return tf.sparse.slice(leaf, tf.pad(start[None], [[0, tf.size(shape) - 1]]), shape)


def _map(fn: Callable[[Any], Any], batch: Batch) -> Batch:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else fn(leaf), batch)
