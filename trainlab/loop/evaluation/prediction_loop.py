"""A model's own `predict_step`, over many batches in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.loop.evaluation.evaluation_loop import MAX_BATCHES_PER_CALL, CompiledLoop
from trainlab.objective import Batches


class PredictionLoop(CompiledLoop):
    """Runs the `predict_step` of a model over the batches of a source, and keeps what it returns.

    Args:
        model: built.
        tracing: to be open while something is traced.
    """

    def __init__(self, model: keras.Model, tracing: Callable[[], AbstractContextManager[Any]] = nullcontext):
        # Without XLA, which knows no queue, where outputs wait whatever the sizes of their batches are.
        super().__init__(False, tracing)
        self._model = model
        self._like: Any = None  # a step's outputs, as specs
        self._queue: Any = None
        self._outputs: list[list[np.ndarray]] = []

    def reset(self) -> None:
        """Begins anew; what a call that failed, or was interrupted, has left in the queue is dropped."""
        self._outputs = []
        if self._queue is not None and (left := int(self._queue.size())):
            self._drain(tf.constant(left))

    def step(self, batches: Sequence[Batches]) -> None:
        """Traces a batch: its outputs go into the queue."""
        outputs = self._model.predict_step(batches[0].fetch(0))
        leaves = tf.nest.flatten(outputs)
        for leaf in leaves:
            if not isinstance(leaf, tf.Tensor) or leaf.shape.rank in (None, 0) or None in list(leaf.shape[1:]):
                raise TypeError("outputs other than tensors, or of open shape, are joined by Keras")
        if self._queue is None:
            self._like = tf.nest.map_structure(lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), outputs)
            with tf.init_scope(), tf.device("CPU:0"):
                self._queue = tf.queue.FIFOQueue(MAX_BATCHES_PER_CALL + 1, [leaf.dtype for leaf in leaves])
        self._queue.enqueue(leaves)

    def after_call(self, num_batches: int) -> None:
        """Takes the outputs of a call out of the queue, joined."""
        self._outputs.append([joined.numpy() for joined in self._drain(tf.constant(num_batches))])

    def result(self) -> Any:
        """All outputs, joined, as arrays `[n, ...]`."""
        joined = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*self._outputs, strict=True)]
        return tf.nest.pack_sequence_as(self._like, joined)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)])
    def _drain(self, num_batches: tf.Tensor) -> list[tf.Tensor]:
        specs = tf.nest.flatten(self._like)
        arrays = [tf.TensorArray(spec.dtype, num_batches, element_shape=spec.shape, infer_shape=False) for spec in specs]

        def body(i: tf.Tensor, arrays: list[tf.TensorArray]) -> list[Any]:
            leaves = self._queue.dequeue()
            leaves = leaves if isinstance(leaves, (list, tuple)) else [leaves]
            return [i + 1, [array.write(i, leaf) for array, leaf in zip(arrays, leaves, strict=True)]]

        _, arrays = tf.while_loop(lambda i, _: i < num_batches, body, [tf.constant(0), arrays], parallel_iterations=1)
        return [tf.ensure_shape(array.concat(), spec.shape) for array, spec in zip(arrays, specs, strict=True)]
