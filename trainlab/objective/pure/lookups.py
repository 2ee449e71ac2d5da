"""What a forward pass asks of tables: rows, where a layer takes rows; the whole only where it asks for that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.parameters import Table, tensorflow_internals

_lock = threading.RLock()


class Reading:
    """What a forward pass reads of the table that stands for a variable: rows of it, or its whole."""

    def __init__(self, table: Table, tape: tf.GradientTape | None):
        self._table, self._tape = table, tape
        self._whole: tf.Tensor | None = None
        self._rows: list[tuple[tf.Tensor, tf.Tensor]] = []  # with their ids

    @property
    def is_whole(self) -> bool:
        """Whether the whole was asked for."""
        return self._whole is not None

    def whole(self) -> tf.Tensor:
        """The table, `[num_rows, ...]`."""
        if self._whole is None:
            self._whole = self._watched(self._table.to_dense())
        return self._whole

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows of `ids`, int32 or int64 of any shape; negative ones count from the end, as `keras.ops.take` has it."""
        ids = tf.where(ids < 0, ids + tf.constant(self._table.shape[0], ids.dtype), ids)
        rows = self._watched(self._table.lookup(ids))
        self._rows.append((rows, ids))
        return rows

    @property
    def sources(self) -> list[tf.Tensor]:
        """What was read: that to take gradients with respect to."""
        return [*([] if self._whole is None else [self._whole]), *(rows for rows, _ in self._rows)]

    def joined(self, gradients: list[Any]) -> Any:
        """The variable's gradient, a tensor, `tf.IndexedSlices` or None, of those with respect to `sources`."""
        shape = self._table.shape
        found = []
        if self._whole is not None:
            whole, *gradients = gradients
            found += [whole] if whole is not None else []
        for (_, ids), gradient in zip(self._rows, gradients, strict=True):
            if gradient is not None:
                values = tf.reshape(tf.convert_to_tensor(gradient), [-1, *shape[1:]])
                found.append(tf.IndexedSlices(values, tf.reshape(ids, [-1]), tf.constant(shape.as_list(), ids.dtype)))
        if len(found) < 2:
            return found[0] if found else None
        if all(isinstance(gradient, tf.IndexedSlices) for gradient in found):
            values = tf.concat([gradient.values for gradient in found], axis=0)
            indices = tf.concat([tf.cast(gradient.indices, tf.int64) for gradient in found], axis=0)
            return tf.IndexedSlices(values, indices, found[0].dense_shape)
        return tf.add_n([tf.convert_to_tensor(gradient) for gradient in found])

    def _watched(self, tensor: tf.Tensor) -> tf.Tensor:
        if self._tape is not None:
            self._tape.watch(tensor)
        return tensor


class Lookups:
    """Answers for the variables that tables stand for, and knows afterwards what was read of each."""

    def __init__(self, tables: Mapping[int, Table], tape: tf.GradientTape | None = None):
        """Belongs to the graph being built.

        Args:
            tables: by their Keras variable's id.
            tape: that is to see what is read.
        """
        self._readings = {key: Reading(table, tape) for key, table in tables.items()}
        self._graph = tf.compat.v1.get_default_graph()
        self._is_vectorizing = False
        self._is_asked_whole = False

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While open, rows that this thread takes of a table's variable are looked up."""
        thread = threading.get_ident()

        def looking_up(take: Callable[..., Any]) -> Callable[..., Any]:
            def taken(x: Any, indices: Any, axis: int | None = None) -> Any:
                rows = self._take(x, indices) if axis == 0 and threading.get_ident() == thread else None
                return take(x, indices, axis=axis) if rows is None else rows

            return taken

        def noticing(pfor: Callable[..., Any]) -> Callable[..., Any]:
            def vectorized(*args: Any, **kwargs: Any) -> Any:
                before = self._is_vectorizing
                self._is_vectorizing = before or threading.get_ident() == thread
                try:
                    return pfor(*args, **kwargs)
                finally:
                    self._is_vectorizing = before

            return vectorized

        with _lock, keras_internals.take_replaced(looking_up), tensorflow_internals.vectorized_maps_replaced(noticing):
            yield

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """While open, tables are read as a whole."""
        before, self._is_asked_whole = self._is_asked_whole, True
        try:
            yield
        finally:
            self._is_asked_whole = before

    def of(self, variable: Any) -> Reading | None:
        """What is read of the table that stands for a variable; None if none does."""
        return self._readings.get(id(variable))

    def _take(self, variable: Any, indices: Any) -> tf.Tensor | None:
        """The rows; None where it must be done as ever, with the whole table or with another value."""
        reading = self.of(variable)
        if reading is None or reading.is_whole:
            return None
        scope = keras_internals.current_scope()
        if getattr(scope, "lookups", None) is not self:  # a stateless call inside, with values of its own
            return None
        # The tape follows nothing from rows that are looked up in a loop or a branch, or that pfor then writes anew.
        if self._is_vectorizing or self._is_asked_whole or tf.compat.v1.get_default_graph() is not self._graph:
            return None
        if isinstance(indices, (tf.SparseTensor, tf.RaggedTensor)):
            return None
        ids = keras.ops.convert_to_tensor(indices)
        return keras_internals.autocast(variable, reading.rows(ids)) if ids.dtype in (tf.int32, tf.int64) else None
