"""Some rows of a table: an embedding's gradient."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from trainlab.parameters.same_tensor import surely_same

_WORTH_SORTING = 512  # a list of so many rows for each that is looked up takes as long to make as those take to sort


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table whose other rows are zero: an embedding's gradient.

    A row may be named several times, as in `tf.IndexedSlices`: its value is then the sum. Sums, multiples and inner products
    with dense leaves do not mind; what squares or clips must ask for `unique` first.

    Attributes:
        values: `[k, ...]`, float.
        indices: `[k]`, int32 or int64, each in `[0, num_rows)`.
        num_rows: rows of the whole table.
    """

    values: tf.Tensor
    indices: tf.Tensor
    num_rows: int

    def unique(self) -> Rows:
        """The same with duplicates summed.

        Unused slots keep the shape static, as XLA needs: they name row 0 and hold zeros.
        """
        order = tf.argsort(self.indices, stable=True)
        rows = tf.gather(self.indices, order)
        is_new = tf.concat([tf.ones_like(rows[:1], tf.bool), rows[1:] != rows[:-1]], axis=0)
        slot = tf.cumsum(tf.cast(is_new, tf.int32)) - 1
        num_slots = tf.shape(self.indices)[0]
        summed = _segment_sum(tf.gather(self.values, order), slot, num_slots)
        summed.set_shape(self.values.shape)
        # An empty slot's maximum is the lowest integer; any valid row will do there, its values being zero.
        named = tf.maximum(tf.math.unsorted_segment_max(rows, slot, num_slots), 0)
        named.set_shape(self.indices.shape)
        return Rows(summed, named, self.num_rows)

    def sums(self) -> tf.Tensor:
        """The values with duplicates summed, `[k, ...]`, in any order, among zeros: what a norm takes.

        `unique` sorts, which takes longer than all else that a step does with a few rows, under XLA above all.
        """
        number = tf.shape(self.indices)[0]
        num_looked_up = self.indices.shape[0]
        if num_looked_up is None or self.num_rows > _WORTH_SORTING * num_looked_up:
            return self.unique().values
        # Of the places that name a row whichever is written last stands for it: the sum is the same.
        slots = tf.tensor_scatter_nd_update(tf.fill([self.num_rows], number), self.indices[:, None], tf.range(number))
        summed = _segment_sum(self.values, tf.gather(slots, self.indices), number)
        summed.set_shape(self.values.shape)
        return summed

    def plus(self, other: Rows) -> Rows:
        """The sum: as many rows as either where both are known to name the same, one after the other; else those of both."""
        values = tf.cast(other.values, self.dtype)
        if surely_same(self.indices, other.indices):
            return dataclasses.replace(self, values=self.values + values)
        indices = tf.concat([self.indices, tf.cast(other.indices, self.indices.dtype)], axis=0)
        return Rows(tf.concat([self.values, values], axis=0), indices, self.num_rows)

    @property
    def dtype(self) -> tf.DType:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def shape(self) -> tf.TensorShape:
        """The shape of the whole table."""
        return tf.TensorShape([self.num_rows]).concatenate(self.values.shape[1:])

    def to_dense(self) -> tf.Tensor:
        """The whole table, zeros included."""
        shape = tf.concat([[self.num_rows], tf.shape(self.values)[1:]], axis=0)
        dense = tf.scatter_nd(self.indices[:, None], _wide(self.values), tf.cast(shape, self.indices.dtype))
        dense = dense if dense.dtype == self.dtype else tf.cast(dense, self.dtype)
        dense.set_shape(self.shape)
        return dense

    def to_indexed_slices(self) -> tf.IndexedSlices:
        """The form that optimizers take."""
        return tf.IndexedSlices(self.values, self.indices, tf.constant(self.shape.as_list(), self.indices.dtype))

    def __tf_flatten__(self) -> tuple[tuple[int], tuple[tf.Tensor, tf.Tensor]]:
        return (self.num_rows,), (self.values, self.indices)

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[int], components: tuple[tf.Tensor, tf.Tensor]) -> Rows:
        return cls(*components, *metadata)


def _wide(values: tf.Tensor) -> tf.Tensor:
    """The same in a dtype to add many in: sums of bfloat16 stick at 256 ones, of float16 at 2048."""
    return values if values.dtype.size >= 4 else tf.cast(values, tf.float32)


def _segment_sum(values: tf.Tensor, segments: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    summed = tf.math.unsorted_segment_sum(_wide(values), segments, number)
    return summed if summed.dtype == values.dtype else tf.cast(summed, values.dtype)
