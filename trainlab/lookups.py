"""What a forward pass asks of tables: rows, where a layer takes rows; the whole only where it asks for that."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.tensorflow import numpy as backend_numpy  # where keras.ops.take, and so keras.layers.Embedding, ends
from tensorflow.python.ops.parallel_for import control_flow_ops as parallel_for  # where tf.vectorized_map ends

from trainlab.table import Table

_lock = threading.RLock()


class Lookups:
    """Answers for the variables that tables stand for, and knows afterwards what the loss was made of."""

    def __init__(self, tables: Mapping[int, Table], tape: tf.GradientTape | None = None):
        """Belongs to the graph being built.

        Args:
            tables: by their Keras variable's id.
            tape: that is to see what is read.
        """
        self._tables, self._tape = tables, tape
        self._graph = tf.compat.v1.get_default_graph()
        self._wholes: dict[int, tf.Tensor] = {}
        self._rows: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {key: [] for key in tables}
        self._is_vectorizing = False

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While open, rows that this thread takes of a table's variable are looked up."""
        with _lock:
            take, pfor, thread = backend_numpy.take, parallel_for.pfor, threading.get_ident()

            def taken(x: Any, indices: Any, axis: int | None = None) -> Any:
                rows = self._take(x, indices) if axis == 0 and threading.get_ident() == thread else None
                return take(x, indices, axis=axis) if rows is None else rows

            def vectorized(*args: Any, **kwargs: Any) -> Any:
                before = self._is_vectorizing
                self._is_vectorizing = before or threading.get_ident() == thread
                try:
                    return pfor(*args, **kwargs)
                finally:
                    self._is_vectorizing = before

            backend_numpy.take, parallel_for.pfor = taken, vectorized
            try:
                yield
            finally:
                backend_numpy.take, parallel_for.pfor = take, pfor

    def stand_for(self, variable: Any) -> bool:
        """Whether a table stands for a variable."""
        return id(variable) in self._tables

    def whole(self, variable: Any) -> tf.Tensor | None:
        """The whole table that stands for a variable, if any does."""
        key = id(variable)
        if key in self._tables and key not in self._wholes:
            self._wholes[key] = self._watched(self._tables[key].to_dense())
        return self._wholes.get(key)

    def sources(self, variable: Any) -> list[tf.Tensor]:
        """What was read of a variable's table: that to take gradients with respect to."""
        key = id(variable)
        return [*([self._wholes[key]] if key in self._wholes else []), *(rows for rows, _ in self._rows[key])]

    def joined(self, variable: Any, gradients: list[Any]) -> Any:
        """A variable's gradient, a tensor, `tf.IndexedSlices` or None, of those with respect to its `sources`."""
        key = id(variable)
        shape = self._tables[key].shape
        found = []
        if key in self._wholes:
            whole, *gradients = gradients
            found += [whole] if whole is not None else []
        for (_, ids), gradient in zip(self._rows[key], gradients, strict=True):
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

    def _take(self, variable: Any, indices: Any) -> tf.Tensor | None:
        """The rows; None where it must be done as ever, with the whole table or with another value."""
        key = id(variable)
        if key not in self._tables or key in self._wholes:
            return None
        if getattr(get_stateless_scope(), "lookups", None) is not self:  # a stateless call inside, with values of its own
            return None
        # The tape follows nothing from rows that are looked up in a loop or a branch, or that pfor then writes anew.
        if self._is_vectorizing or tf.compat.v1.get_default_graph() is not self._graph:
            return None
        if isinstance(indices, (tf.SparseTensor, tf.RaggedTensor)):
            return None
        ids = keras.ops.convert_to_tensor(indices)
        if ids.dtype not in (tf.int32, tf.int64):
            return None
        table = self._tables[key]
        ids = tf.where(ids < 0, ids + tf.constant(table.shape[0], ids.dtype), ids)  # as keras.ops.take counts
        rows = self._watched(table.lookup(ids))
        self._rows[key].append((rows, ids))
        return variable._maybe_autocast(rows)

    def _watched(self, tensor: tf.Tensor) -> tf.Tensor:
        if self._tape is not None:
            self._tape.watch(tensor)
        return tensor
