"""A model's own `predict_step`, over many batches in one compiled call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.loop.evaluation.evaluation_loop import CompiledLoop
from trainlab.loop.programs import MAX_STEPS_PER_CALL
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
        self._waiting: dict[str, _Waiting] = {}  # one for all shapes: more only where outputs are of another structure
        self._like: Any = None  # outputs' structure
        self._outputs: list[list[np.ndarray]] = []

    def reset(self) -> None:
        """Begins anew; what a call that failed, or was interrupted, has left is dropped."""
        self._outputs = []
        for waiting in self._waiting.values():
            waiting.drop()

    def step(self, batches: Sequence[Batches]) -> None:
        """Traces a batch: its outputs go into the queue."""
        outputs = self._model.predict_step(batches[0].fetch(0))
        leaves = tf.nest.flatten(outputs)
        for leaf in leaves:
            if not isinstance(leaf, tf.Tensor) or leaf.shape.rank in (None, 0) or None in list(leaf.shape[1:]):
                raise TypeError("outputs other than tensors, or of open shape, are joined by Keras")
        like = tf.nest.map_structure(lambda leaf: leaf.dtype, outputs)
        self._waiting.setdefault(str(like), _Waiting(like)).put(leaves)

    def after_call(self, num_batches: int) -> None:
        """Takes the outputs of a call, joined."""
        waiting = next(waiting for waiting in self._waiting.values() if waiting.num_batches)
        self._like = waiting.like
        self._outputs.append([joined.numpy() for joined in waiting.take(tf.constant(num_batches))])

    def result(self) -> Any:
        """All outputs, joined, as arrays `[n, ...]`."""
        joined = [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*self._outputs, strict=True)]
        return tf.nest.pack_sequence_as(self._like, joined)


class _Waiting:
    """Outputs of batches that wait for the end of a call.

    Args:
        like: their structure, of dtypes.
    """

    def __init__(self, like: Any):
        self.like = like
        self._dtypes = tf.nest.flatten(like)
        with tf.init_scope(), tf.device("CPU:0"):
            self._queue = tf.queue.FIFOQueue(MAX_STEPS_PER_CALL + 1, self._dtypes)

    @property
    def num_batches(self) -> int:
        """How many batches wait."""
        return int(self._queue.size())

    def put(self, leaves: Sequence[tf.Tensor]) -> None:
        """Adds those of a batch."""
        self._queue.enqueue(leaves)

    def drop(self) -> None:
        """Lets go of all."""
        for _ in range(self.num_batches):
            self._queue.dequeue()

    # What is traced knows no shape: the next data may be of another length.
    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int32)])
    def take(self, num_batches: tf.Tensor) -> list[tf.Tensor]:
        """The outputs of so many batches, which are alike but for their first axis, joined."""
        arrays = [tf.TensorArray(dtype, num_batches, infer_shape=False) for dtype in self._dtypes]

        def body(i: tf.Tensor, arrays: list[tf.TensorArray]) -> list[Any]:
            leaves = self._queue.dequeue()
            leaves = leaves if isinstance(leaves, (list, tuple)) else [leaves]
            return [i + 1, [array.write(i, leaf) for array, leaf in zip(arrays, leaves, strict=True)]]

        _, arrays = tf.while_loop(lambda i, _: i < num_batches, body, [tf.constant(0), arrays], parallel_iterations=1)
        return [array.concat() for array in arrays]
