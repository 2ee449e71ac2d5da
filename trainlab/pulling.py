"""Pulls many batches out of a `tf.data` iterator in one call, and keeps those that came before an error."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

Flatten = Callable[[Any], list[tf.Tensor]]


class Pulled(NamedTuple):
    """Batches, as lists of the tensors that they are made of.

    Attributes:
        lists: one variant tensor for each leaf, a list of that leaf of every batch.
        num_batches: how many.
        num_bytes: what they take.
        has_more: whether there may be more: the data are not known to end here.
        problem: the error that ended it, if any.
    """

    lists: list[tf.Tensor]
    num_batches: int
    num_bytes: int
    has_more: bool
    problem: tf.errors.OpError | None


NOTHING = Pulled([], 0, 0, True, None)


class Puller:
    """Takes batches from iterators of one kind of data set.

    They go through a queue, which outlives a call: a batch that cannot be read costs none of those before it.

    Args:
        specs: of the tensors of a batch.
        flatten: from an element of the data set to these tensors; a function of a module, since traces are kept by it.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec], flatten: Flatten):
        with tf.device("CPU:0"):
            self._queue = tf.queue.FIFOQueue(2**30, [spec.dtype for spec in specs])
        self._fill, self._drain = _fill(flatten), _drain(tuple(specs))

    def __call__(self, iterator: Any, max_batches: int) -> Pulled:
        """Takes up to `max_batches`; not from two threads at once."""
        queue = self._queue.queue_ref
        has_more, problem = True, None
        try:
            has_more = bool(self._fill(queue, iterator, tf.constant(max_batches)))
        except tf.errors.OpError as error:
            problem = error
        num_batches = int(self._queue.size())
        *lists, num_bytes = self._drain(queue, tf.constant(num_batches))
        return Pulled(lists, num_batches, int(num_bytes), has_more, problem)


@functools.cache
def _fill(flatten: Flatten) -> Callable[..., tf.Tensor]:
    """A function that puts up to so many batches of an iterator into a queue, and returns whether there may be more."""

    def fill(queue: tf.Tensor, iterator: Any, max_batches: tf.Tensor) -> tf.Tensor:
        def take(i: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = iterator.get_next_as_optional()

            def put() -> tf.Tensor:
                with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=queue, components=flatten(batch.get_value()))]):
                    return tf.constant(True)

            return i + 1, tf.cond(batch.has_value(), put, lambda: tf.constant(False))

        with tf.device("CPU:0"):
            start = (tf.constant(0), tf.constant(True))
            return tf.while_loop(lambda i, more: more & (i < max_batches), take, start, parallel_iterations=1)[1]

    return tf.function(fill, autograph=False)


@functools.cache
def _drain(specs: tuple[tf.TensorSpec, ...]) -> Callable[..., list[tf.Tensor]]:
    """A function that takes so many batches out of a queue; returns the lists, and how many bytes these are."""

    def drain(queue: tf.Tensor, num_batches: tf.Tensor) -> list[tf.Tensor]:
        def move(i: tf.Tensor, num_bytes: tf.Tensor, lists: list[tf.TensorArray]) -> list[Any]:
            leaves = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[spec.dtype for spec in specs])
            for spec, leaf in zip(specs, leaves, strict=True):
                num_bytes += tf.size(leaf, tf.int64) * max(spec.dtype.size, 1)
            return [i + 1, num_bytes, [a.write(i, leaf) for a, leaf in zip(lists, leaves, strict=True)]]

        with tf.device("CPU:0"):
            lists = [tf.TensorArray(spec.dtype, num_batches, infer_shape=False, element_shape=spec.shape) for spec in specs]
            start = [tf.constant(0), tf.zeros([], tf.int64), lists]
            _, num_bytes, lists = tf.while_loop(lambda i, *_: i < num_batches, move, start, parallel_iterations=1)
            return [*(a.flow for a in lists), num_bytes]

    return tf.function(drain, autograph=False)
