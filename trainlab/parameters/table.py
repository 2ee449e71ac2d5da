"""A table of which steps look up rows, an embedding's, at some point of parameter space.

Neither is it read as a whole, which without XLA copies it (TensorFlow reads what was ever scattered into that way), nor are
some rows of it moved in a copy, which a probe of a row-sparse gradient would need: a step costs what its rows cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from trainlab.parameters.rows import Rows
from trainlab.parameters.tensorflow_internals import may_record

# To find the moved rows takes about as long as to copy a table of so many times as many.
_WORTH_IT = 8
_OPEN_SIZE = 2048  # what a number of rows that only the data tell is counted as
_FEWEST_COLUMNS = 4  # of narrower tables the search itself is no less than a copy


class Table:
    """The value of a variable `[num_rows, ...]` in a graph, with some rows moved; made only where the whole is asked for.

    Attributes:
        shape: of the variable.
        dtype: of the variable.
    """

    def __init__(
        self,
        variable: tf.Variable,
        moved: Rows | None = None,
        after: Sequence[tf.Tensor] = (),
        root: Table | None = None,
    ):
        """Belongs to the graph being built.

        Args:
            variable: not to be assigned before all this is asked for has been, unless its value was asked for as a whole.
            moved: what is added to its value.
            after: tensors that reading it waits for.
            root: the table of its value, where this is made of it.
        """
        self.shape, self.dtype = variable.shape, variable.dtype
        self._variable, self._moved, self._after = variable, moved, tuple(after)
        self._root = root or self
        self._graph = tf.compat.v1.get_default_graph()
        self._whole: tf.Tensor | None = None
        self._found: tuple[tf.Tensor, tf.Tensor] | None = None

    @property
    def is_read(self) -> bool:
        """Whether the whole was asked for, of this or of the one that it is made of."""
        return self._whole is not None or self._root._whole is not None

    def to_dense(self) -> tf.Tensor:
        """The whole table."""
        if self._whole is None:
            # Where it was made: a loop or a branch inside may be the first to ask, and what is round it the next.
            with self._graph.as_default(), tf.control_dependencies(None), tf.control_dependencies(self._after):
                if self._root.is_read or self._root._graph is not self._graph:
                    whole = self._root.to_dense()
                else:
                    whole = tf.raw_ops.ReadVariableOp(resource=self._variable.handle, dtype=self.dtype)
                if self._moved is not None:
                    whole = tf.tensor_scatter_nd_add(whole, self._moved.indices[:, None], self._moved.values)
                self._whole = whole
        return self._whole

    def plus(self, rows: Rows) -> Table | tf.Tensor:
        """The table with these rows added; as a whole where that is no dearer, or a strategy's own tape is to see it made."""
        rows = Rows(tf.cast(rows.values, self.dtype), rows.indices, rows.num_rows)
        moved = rows if self._moved is None else self._moved.plus(rows)
        num_moved = moved.indices.shape[0]
        is_small = self.shape[0] < _WORTH_IT * (_OPEN_SIZE if num_moved is None else num_moved)
        is_narrow = self.shape[1:].num_elements() < _FEWEST_COLUMNS
        if self.is_read or is_small or is_narrow or may_record():
            return tf.tensor_scatter_nd_add(self.to_dense(), rows.indices[:, None], rows.values)
        return Table(self._variable, moved, self._after, self._root)

    def waiting_for(self, tensors: Sequence[tf.Tensor]) -> Table | tf.Tensor:
        """The same, but nothing more of it is read before these are done, but for rows inside a loop or a branch."""
        if self.is_read:
            with tf.control_dependencies(tensors):
                return tf.identity(self.to_dense())
        return Table(self._variable, self._moved, [*self._after, *tensors], self._root)

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows, one for each of `ids`, int32 or int64 of any shape."""
        graph = tf.compat.v1.get_default_graph()
        with tf.control_dependencies([tensor for tensor in self._after if tensor.graph is graph]):
            handle = self._variable.handle
            rows = tf.raw_ops.ResourceGather(resource=handle, indices=ids, dtype=self.dtype, validate_indices=True)
        if self._moved is None:
            return rows
        slots, sums = self._find_moved()
        return rows + tf.gather(sums, tf.gather(slots, ids))

    def _find_moved(self) -> tuple[tf.Tensor, tf.Tensor]:
        """`[num_rows]` int64, which sum each row is moved by; `[number of moved + 1, ...]`, the sums, the last one zero."""
        if self._found is None:
            assert self._moved is not None
            with self._graph.as_default(), tf.control_dependencies(None):
                indices, values = self._moved.indices, self._moved.values
                number = tf.shape(indices, tf.int64)[0]  # int32 would live in a GPU's host memory
                slots = tf.fill([self.shape[0]], number)
                # Of the places that name a row whichever is written last: the sum is the same.
                slots = tf.tensor_scatter_nd_update(slots, indices[:, None], tf.range(number))
                is_row = (indices >= 0) & (indices < self.shape[0])  # under XLA others name nothing, and here neither
                segments = tf.where(is_row, tf.gather(slots, indices), -1)
                sums = tf.math.unsorted_segment_sum(values, segments, number + 1)
                self._found = slots, sums
        return self._found
