"""A stream of batches, read ahead of training; those of updates that were not committed yet stay at hand.

Data may hang. Whatever waits for them waits in a way that ends when training is to stop (`stoppable`), and leaves what it
waited for to its thread, which does not keep the process alive.
"""

from __future__ import annotations

import atexit
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import keras
import tensorflow as tf

from trainlab.data.blocks import Block
from trainlab.data.iterators import NOTHING, Pulled, Puller, next_of
from trainlab.data.kinds import matched
from trainlab.data.stream_blocks import StreamLayout
from trainlab.objective import Batch, Whole

# Batches are read many at a time: one such block is trained on while another is read; when it takes this much it is large enough.
_MAX_BLOCK_BYTES = 2**27
# A wait looks so often whether training is to stop; what is then being read has so long to come: an iterator that stands where
# training does can be saved, one that is in the middle of a read cannot.
_SECONDS_A_LOOK = 0.05
_PATIENCE = 1.5
# So long what comes after the last batch of a pass may take: nothing, unless its size was only asserted.
_SECONDS_TO_END = 5.0

T = TypeVar("T")


class StopRequested(Exception):
    """Training is to stop, and what it waits for does not come. What was committed stands; nothing was used up."""


def _never() -> bool:
    return False


_should_stop: ContextVar[Callable[[], bool]] = ContextVar("should_stop", default=_never)
_left_behind: set[futures.Future[Any]] = set()
_letting_go: set[futures.Future[Any]] = set()


@contextmanager
def stoppable(should_stop: Callable[[], bool]) -> Iterator[None]:
    """While open, waits of this thread end with `StopRequested` soon after `should_stop()` is true, or that of one round it.

    Example:
        >>> with stoppable(lambda: True):
        ...     waited_for(threading.Event().wait)
        Traceback (most recent call last):
        ...
        trainlab.data.stream.StopRequested
    """
    outer = _should_stop.get()
    token = _should_stop.set(lambda: should_stop() or outer())
    try:
        yield
    finally:
        _should_stop.reset(token)


def is_anything_left_behind() -> bool:
    """Whether something that a wait gave up is still under way in its thread."""
    return any(not future.done() for future in tuple(_left_behind))


def waited_for(fn: Callable[[], T], patience: float = _PATIENCE) -> T:
    """What `fn` returns, or raises, called in a thread: unlike a call of TensorFlow's in the main one, that can be interrupted.

    Args:
        fn: is left to itself where the wait ends before it.
        patience: seconds that it still has once training is to stop.

    Raises:
        StopRequested: see `stoppable`.
    """
    return _with_patience(in_thread(fn), patience).result()


def finishes(fn: Callable[[], object], seconds: float, patience: float = 0.0) -> bool:
    """Whether `fn`, called in a thread, is done in time; otherwise it is left to itself. Raises what it raises.

    Raises:
        StopRequested: when training is to stop, so many seconds of patience later.
    """
    future = in_thread(fn)
    is_done = _with_patience(future, patience, seconds).done()
    if is_done:
        future.result()
    return is_done


def in_thread(fn: Callable[[], T]) -> futures.Future[T]:
    """What `fn` returns, or raises, in a thread that does not keep the process alive."""
    future: futures.Future[T] = futures.Future()
    work, place = [fn], [future]

    # Popped: once there is a result, this thread, and the frame that an error comes through, hold nothing that is to be let go.
    def run() -> None:
        try:
            result = work.pop()()
        except BaseException as error:  # raised again where the result is asked for
            place.pop().set_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        else:
            place.pop().set_result(result)

    threading.Thread(target=run, daemon=True, name="trainlab background").start()
    return future


def _let_go(held: list[Any]) -> futures.Future[None]:
    """Empties a list that holds an iterator, in a thread: TensorFlow may take a third of a second to delete one, or for ever.

    The process waits a moment for that at its end: it should not end in the middle of TensorFlow's destructors.
    """
    future = in_thread(held.clear)
    _letting_go.add(future)
    future.add_done_callback(_letting_go.discard)
    return future


@atexit.register
def _wait_at_exit() -> None:
    futures.wait(tuple(_letting_go), _PATIENCE)


def _with_patience(future: futures.Future[T], patience: float, seconds: float = math.inf) -> futures.Future[T]:
    """Waits until it is done, or so many seconds; gives it up where training is to stop, or at an interrupt."""
    until, asked_until = time.monotonic() + seconds, math.inf
    try:
        while not future.done():
            now = time.monotonic()
            if _should_stop.get()():
                asked_until = min(asked_until, now + patience)
            if now >= asked_until:
                raise StopRequested
            if now >= until:
                break
            futures.wait([future], max(min(_SECONDS_A_LOOK, until - now, asked_until - now), 0.0))
    except BaseException:
        if not future.done():
            _left_behind.add(future)
        raise
    return future


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
        self._puller = self._new_puller()
        self._iterator: Any = None
        self._ahead: futures.Future[Pulled] | None = None
        self._patience, self._has_left_behind = math.inf, False
        self._pulled: Pulled = NOTHING
        self.end()

    @property
    def has_left_behind(self) -> bool:
        """Whether the last pass ended while it was read and nothing came: what it was read from is still in use."""
        return self._has_left_behind

    def open(self, iterator: Iterator[Any]) -> None:
        """Goes on with another iterator; what was read from the last one is dropped."""
        self.end()
        self._replace(iterator)
        self._is_open = True

    def see_end(self) -> None:
        """Reads what comes after the last batch, that there is none; errors there are as Keras has them, which never looks.

        TensorFlow reads ahead by itself, the end as well if it has the time. What a `repeat` or the like does there decides the
        order of the next pass.
        """
        if self._may_read:
            self._pulled = self._pulled._replace(has_more=False)
            with suppress(tf.errors.OpError, StopRequested):
                finishes(functools.partial(next_of, self._iterator, None), _SECONDS_TO_END, _PATIENCE)

    def end(self, is_over: bool = False) -> None:
        """Ends a pass: what was read and not used is dropped; if all of it `is_over`, see `see_end`."""
        if is_over:
            self.see_end()
        reading, patience = self._ahead, self._patience
        self._ahead, self._is_open = None, False
        self._pulled, self._used = NOTHING, 0
        self._is_settling, self._has_left_behind, self._patience = False, False, math.inf
        if reading is not None:
            self._await_end(reading, patience)

    def close(self, at_once: bool = False) -> None:
        """Ends a pass, and lets go of the iterator: in a thread of its own, or before it returns."""
        self.end()
        self._replace(None, at_once)

    def _await_end(self, reading: futures.Future[Pulled], patience: float) -> None:
        """Lets a read end whose batches nobody wants, or leaves it behind, and with it the iterator and the queue it fills."""
        try:
            if not _with_patience(reading, _PATIENCE, patience).done():
                raise StopRequested  # it was given up before
        except BaseException as error:
            self._leave_behind(reading)
            if not isinstance(error, StopRequested):
                raise

    def _leave_behind(self, reading: futures.Future[Pulled]) -> None:
        if not reading.done():
            _left_behind.add(reading)
            self._has_left_behind = True
            # Its thread holds the last ones: to delete an iterator that hangs would hang.
            self._iterator, self._puller = None, self._new_puller()

    def _new_puller(self) -> Puller:
        return Puller(self._specs, leaves_of, _MAX_BLOCK_BYTES)

    def _replace(self, iterator: Any, at_once: bool = False) -> None:
        last, self._iterator = [self._iterator], iterator
        if last == [None]:
            return
        letting_go = _let_go(last)
        if at_once:
            with suppress(StopRequested):
                _with_patience(letting_go, _PATIENCE)

    @property
    def iterator(self) -> Any:
        """The last one that was opened; None if there is none."""
        return self._iterator

    @property
    def is_open(self) -> bool:
        """Whether a pass is under way."""
        return self._is_open

    @property
    def is_over(self) -> bool:
        """Whether the end of the pass was read."""
        return not self._pulled.has_more

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
        """The next updates of `batches` batches; at the end of the data one of fewer; None after it.

        Raises:
            StopRequested: training is to stop (see `stoppable`). Either nothing was being read, and the stream is settled; or
                what was does not come: then it is not, and a further call goes on waiting for the same read.
        """
        if self._num_left == 0 and self._may_read:
            if self._ahead is None:
                if _should_stop.get()():
                    raise StopRequested  # before anything is read: the iterator stands where training does
                self._is_settling = False
                self._ahead = self._read(max_updates, batches)
            self._pulled, self._used = self._await_read(self._ahead), 0
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

    def _await_read(self, reading: futures.Future[Pulled]) -> Pulled:
        try:
            _with_patience(reading, _PATIENCE)
        except BaseException as error:  # nothing is lost; but whoever gives it up will not wait long for it at the end either
            self._patience = 0.0 if isinstance(error, StopRequested) else _PATIENCE
            raise
        self._ahead, self._patience = None, math.inf
        return reading.result()

    def skip(self, num_batches: float = math.inf) -> int:
        """Reads so many batches, or all to the end of the pass, and drops them; returns how many there were.

        Raises:
            StopRequested: see `stoppable`; the stream is of no use then.
        """
        iterator, is_wanted = self._iterator, [True]

        def skip() -> int:
            count = 0
            while is_wanted and count < num_batches and next_of(iterator, None) is not None:
                count += 1
            return count

        try:
            count = waited_for(skip)
        except BaseException:
            is_wanted.clear()
            raise
        self._pulled = self._pulled._replace(has_more=count >= num_batches)
        return count

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

    def _read(self, max_updates: int, batches: int) -> futures.Future[Pulled]:
        puller, iterator = self._puller, self._iterator
        return in_thread(lambda: puller(iterator, max_updates, batches))


def pack(structure: Any, tensors: list[tf.Tensor]) -> Batch:
    """Plain tensors in this structure, of which some places may be None."""
    given = iter(tensors)
    flat = [None if place is None else next(given) for place in tf.nest.flatten(structure, expand_composites=True)]
    return tf.nest.pack_sequence_as(structure, flat, expand_composites=True)


def unpack(element: Any, may_be_whole: bool = False) -> Batch:
    """`(x, y, sample_weight)` of an element of a data set.

    Where Keras' adapters, which cannot hand out None, say `Optional`, it is None; so are the weights of outputs without any.

    Args:
        element: of specs or of tensors.
        may_be_whole: whether whoever takes it wants a tuple of one thing, or of more than three, as it is.

    Raises:
        ValueError: weights by name are for what is none of the targets, while some of these have none.
    """
    if may_be_whole and isinstance(element, tuple) and len(element) not in (2, 3):
        element = (Whole(element), None)
    batch = keras.utils.unpack_x_y_sample_weight(element)
    x, y, sample_weight = tf.nest.map_structure(_none_if_optional, batch)
    if isinstance(y, dict) and isinstance(sample_weight, dict) and not set(y) <= set(sample_weight):
        y, sample_weight = matched(y, sample_weight)
    return x, y, sample_weight


def leaves_of(element: Any) -> list[tf.Tensor]:
    """The plain tensors that an element of a data set is made of."""
    element = tf.nest.map_structure(_none_if_optional, element)
    return [leaf for leaf in tf.nest.flatten(element, expand_composites=True) if leaf is not None]


def _none_if_optional(leaf: Any) -> Any:
    return None if isinstance(leaf, (tf.experimental.Optional, tf.OptionalSpec)) else leaf
