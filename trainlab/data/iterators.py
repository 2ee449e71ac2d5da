"""Iterators of `tf.data`: many batches taken in one call, and where one stands."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainlab.parameters import tensorflow_internals

Flatten = Callable[[Any], list[tf.Tensor]]


def serialize(iterator: Any) -> tf.Tensor:
    """Where it stands.

    Raises:
        tf.errors.OpError: that depends on something outside of it, such as Python.
    """
    policy = 2  # fail where the state of something outside matters, rather than forget it
    handle = tensorflow_internals.iterator_handle(iterator)
    return tf.raw_ops.SerializeIterator(resource_handle=handle, external_state_policy=policy)


def deserialize(iterator: Any, serialized: tf.Tensor) -> None:
    """Puts it there."""
    tf.raw_ops.DeserializeIterator(resource_handle=tensorflow_internals.iterator_handle(iterator), serialized=serialized)


def reason(error: Exception) -> str:
    """Why an iterator cannot be saved, in a line."""
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error).splitlines()[0]) if str(error) else type(error).__name__


@contextmanager
def explained() -> Iterator[None]:
    """While open, the lock of a cache file that a killed process left behind is told in one line.

    Raises:
        FileExistsError: there is one.
    """
    try:
        yield
    except tf.errors.AlreadyExistsError as error:
        if (lock := re.search(r"lockfile already exists \('(.*?)'\)", str(error))) is None:
            raise
        raise FileExistsError(
            f"x: {lock[1]!r} says that its cache is being written, by another process or by a pass that is not over, or else by "
            "one that was killed: if nobody writes it any more, delete that file, and the same call makes the cache anew"
        ) from error


def bare(error: tf.errors.OpError) -> tf.errors.OpError:
    """The same error without the frames it came through, and without those of what it was made of.

    They hold the iterator, in cycles that last until Python collects them; and an iterator over a cache file that is let go so
    late deletes the file that somebody else has begun by then.
    """
    one: BaseException | None = error
    while one is not None:
        earlier = one.__cause__ or one.__context__
        one.__traceback__, one.__cause__, one.__context__ = None, None, None
        one = earlier
    return error


def next_of(iterator: Any, *default: Any) -> Any:
    """The iterator's next element, as Python's `next` gives it; its errors hold no iterator longer than they are looked at."""
    try:
        return next(iterator, *default)
    except tf.errors.OpError as error:
        del iterator  # so that the frame of the error holds it no longer
        raise bare(error) from None


class Pulled(NamedTuple):
    """Batches, as lists of the tensors that they are made of.

    Attributes:
        lists: one variant tensor for each leaf, a list of that leaf of every batch.
        num_batches: how many.
        has_more: whether there may be more: the data are not known to end here.
        problem: the error that ended it, if any.
    """

    lists: list[tf.Tensor]
    num_batches: int
    has_more: bool
    problem: tf.errors.OpError | None


NOTHING = Pulled([], 0, True, None)


class Puller:
    """Takes batches from iterators of one kind of data set.

    They go through a queue, which outlives a call: a batch that cannot be read costs none of those before it.

    Args:
        specs: of the tensors of a batch.
        flatten: from an element of the data set to these tensors; a function of a module, since traces are kept by it.
        max_bytes: when it has taken so many it takes no more.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec], flatten: Flatten, max_bytes: int):
        with tf.device("CPU:0"):
            self._queue = tf.queue.FIFOQueue(2**30, [spec.dtype for spec in specs])
        self._fill, self._drain = _fill(flatten), _drain(tuple(specs))
        self._max_bytes = tf.constant(max_bytes, tf.int64)

    def __call__(self, iterator: Any, max_updates: int, batches: int) -> Pulled:
        """Takes up to `max_updates` times so many batches, fewer where the data end; not from two threads at once."""
        queue = self._queue.queue_ref
        has_more, problem = True, None
        try:
            has_more = bool(
                self._fill(queue, iterator, tf.constant(max_updates * batches), tf.constant(batches), self._max_bytes)
            )
        except tf.errors.OpError as error:
            problem = bare(error)
        num_batches = int(self._queue.size())
        return Pulled(self._drain(queue, tf.constant(num_batches)), num_batches, has_more, problem)


@functools.cache
def _fill(flatten: Flatten) -> Callable[..., tf.Tensor]:
    """A function that puts batches of an iterator into a queue, and returns whether there may be more."""

    def fill(queue: tf.Tensor, iterator: Any, max_batches: tf.Tensor, multiple_of: tf.Tensor, max_bytes: tf.Tensor) -> tf.Tensor:
        def may_go_on(i: tf.Tensor, has_more: tf.Tensor, num_bytes: tf.Tensor) -> tf.Tensor:
            return has_more & (i < max_batches) & ((num_bytes < max_bytes) | (i % multiple_of != 0))

        def take(i: tf.Tensor, _: tf.Tensor, num_bytes: tf.Tensor) -> list[tf.Tensor]:
            batch = iterator.get_next_as_optional()

            def put() -> list[tf.Tensor]:
                leaves = flatten(batch.get_value())
                sizes = [tf.size(leaf, tf.int64) * max(leaf.dtype.size, 1) for leaf in leaves]
                with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=queue, components=leaves)]):
                    return [tf.constant(True), num_bytes + tf.add_n(sizes)]

            return [i + 1, *tf.cond(batch.has_value(), put, lambda: [tf.constant(False), num_bytes])]

        with tf.device("CPU:0"):
            start = [tf.constant(0), tf.constant(True), tf.zeros([], tf.int64)]
            return tf.while_loop(may_go_on, take, start, parallel_iterations=1)[1]

    return tf.function(fill, autograph=False)


@functools.cache
def _drain(specs: tuple[tf.TensorSpec, ...]) -> Callable[..., list[tf.Tensor]]:
    """A function that takes so many batches out of a queue, and returns the lists."""

    def drain(queue: tf.Tensor, num_batches: tf.Tensor) -> list[tf.Tensor]:
        def move(i: tf.Tensor, lists: list[tf.TensorArray]) -> list[Any]:
            leaves = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[spec.dtype for spec in specs])
            return [i + 1, [a.write(i, leaf) for a, leaf in zip(lists, leaves, strict=True)]]

        with tf.device("CPU:0"):
            lists = [tf.TensorArray(spec.dtype, num_batches, infer_shape=False, element_shape=spec.shape) for spec in specs]
            _, lists = tf.while_loop(lambda i, _: i < num_batches, move, [tf.constant(0), lists], parallel_iterations=1)
            return [a.flow for a in lists]

    return tf.function(drain, autograph=False)


def checksum(tensors: Sequence[tf.Tensor]) -> int:
    """Of the values of tensors on the host, text among them."""
    total = 0
    for tensor in tensors:
        array = tensor.numpy()
        data = b"\0".join(np.ravel(array)) if tensor.dtype == tf.string else np.ascontiguousarray(array).tobytes()
        total = zlib.crc32(data, zlib.crc32(str(tensor.shape).encode(), total))
    return total
