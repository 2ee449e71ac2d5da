"""A stream of batches, read ahead of training; those of updates that were not committed yet stay at hand."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import keras
import tensorflow as tf

from trainlab.data.blocks import Block
from trainlab.data.iterators import NOTHING, Puller, let_go
from trainlab.data.stream_blocks import StreamLayout
from trainlab.objective import Batch

# Batches are read many at a time: one such block is trained on while another is read; when it takes this much it is large enough.
_MAX_BLOCK_BYTES = 2**27

T = TypeVar("T")


class Stream:
    """The batches of a `tf.data` iterator, in blocks.

    An iterator stays until another is opened, or all is closed: at the end of a pass it may know the order of the next.

    A block is read in a thread of its own while the one before is trained on: only if it is asked for, since what was read
    and not used cannot be put back, and a checkpoint needs the iterator where training stands.

    Args:
        element_spec: what a batch is, `(x, y, sample_weight)` of specs; elements may be anything that unpacks to it.
    """

    def __init__(self, element_spec: Batch):
        self._structure = str(element_spec)
        self._pack = functools.partial(pack, element_spec)
        specs = [spec for spec in tf.nest.flatten(element_spec, expand_composites=True) if spec is not None]
        self._specs = tuple(tf.TensorSpec(spec.shape, spec.dtype) for spec in specs)
        self._puller = Puller(self._specs, _leaves, _MAX_BLOCK_BYTES)
        self._iterator: Any = None
        self._ahead: futures.Future[Any] | None = None
        self.end()

    def open(self, iterator: Iterator[Any]) -> None:
        """Goes on with another iterator; what was read from the last one is dropped."""
        self.end()
        self._replace(iterator)
        self._is_open = True

    def end(self) -> None:
        """Ends a pass: what was read and not used is dropped."""
        if self._ahead is not None:
            futures.wait([self._ahead])
        self._ahead, self._is_open = None, False
        self._pulled, self._used = NOTHING, 0
        self._is_settling = False

    def close(self, at_once: bool = False) -> None:
        """Ends a pass, and lets go of the iterator: in a thread of its own, or before it returns."""
        self.end()
        self._replace(None, at_once)

    def _replace(self, iterator: Any, at_once: bool = False) -> None:
        last, self._iterator = [self._iterator], iterator
        if at_once:
            last.clear()
        else:
            let_go(last)

    @property
    def iterator(self) -> Any:
        """The last one that was opened; None if there is none."""
        return self._iterator

    @property
    def is_open(self) -> bool:
        """Whether a pass is under way."""
        return self._is_open

    @property
    def is_settled(self) -> bool:
        """Whether every batch that was read is used, so that the iterator stands where training does."""
        return self._num_left == 0 and self._pulled.problem is None and self._ahead is None

    @property
    def must_read(self) -> bool:
        """Whether the next block is not at hand, nor being read."""
        return self._num_left == 0 and self._ahead is None

    @property
    def _num_left(self) -> int:
        return self._pulled.num_batches - self._used

    @property
    def _may_read(self) -> bool:
        return self._pulled.has_more and self._pulled.problem is None

    def settle(self) -> None:
        """Reads nothing ahead until all that was read is used."""
        self._is_settling = True

    def block(self, max_updates: int, batches: int) -> Block | None:
        """The next updates of `batches` batches; at the end of the data one of fewer; None after it."""
        if self._num_left == 0 and self._may_read:
            if self._ahead is None:
                self._is_settling = False
                self._ahead = self._read(max_updates, batches)
            futures.wait([self._ahead])  # which an interrupt may end: nothing is lost
            read, self._ahead = self._ahead, None
            self._pulled, self._used = read.result(), 0
        left, problem = self._num_left, self._pulled.problem
        if problem is not None and left < batches:
            self._pulled, self._used = NOTHING, 0
            raise problem
        if left == 0:
            return None
        num_updates, size = min(max_updates, left // batches), batches
        if num_updates == 0:
            num_updates, size = 1, left
        return Block(self.layout(size), [self._pulled.lists, tf.constant(self._used)], num_updates, num_updates * size)

    def read_ahead(self, after: Block, max_updates: int, batches: int) -> None:
        """Begins to read the block that comes after this one, unless it is at hand."""
        is_next = self._num_left == after.size and self._ahead is None
        if is_next and max_updates > 0 and self._may_read and not self._is_settling:
            self._ahead = self._read(max_updates, batches)

    def layout(self, batches: int) -> StreamLayout:
        """Of updates of `batches` batches."""
        return StreamLayout(self._pack, self._specs, self._structure, batches)

    def advance(self, num_batches: int) -> None:
        """Says that so many batches were used."""
        self._used += num_batches

    def _read(self, max_updates: int, batches: int) -> futures.Future[Any]:
        iterator = self._iterator
        return _in_thread(lambda: self._puller(iterator, max_updates, batches))


def pack(structure: Any, tensors: list[tf.Tensor]) -> Batch:
    """Plain tensors in this structure, of which some places may be None."""
    given = iter(tensors)
    flat = [None if place is None else next(given) for place in tf.nest.flatten(structure, expand_composites=True)]
    return tf.nest.pack_sequence_as(structure, flat, expand_composites=True)


def unpack(element: Any) -> Batch:
    """`(x, y, sample_weight)` of an element of a data set.

    Where Keras' adapters, which cannot hand out None, say `Optional`, it is None.
    """
    optional = (tf.experimental.Optional, tf.OptionalSpec)
    batch = keras.utils.unpack_x_y_sample_weight(element)
    return tf.nest.map_structure(lambda leaf: None if isinstance(leaf, optional) else leaf, batch)


def _leaves(element: Any) -> list[tf.Tensor]:
    """The plain tensors that an element of a data set is made of."""
    return [leaf for leaf in tf.nest.flatten(unpack(element), expand_composites=True) if leaf is not None]


def _in_thread(fn: Callable[[], T]) -> futures.Future[T]:
    """What `fn` returns, or raises, in a thread that does not keep the process alive."""
    future: futures.Future[T] = futures.Future()
    work = [fn]

    def run() -> None:
        try:
            future.set_result(work.pop()())  # popped: once there is a result, this thread holds nothing that is to be let go
        except BaseException as error:  # raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True, name="trainlab reading ahead").start()
    return future
