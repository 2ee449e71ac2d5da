"""The order of array data: a function of (seed, epoch, position), so that resuming needs three integers and no buffer."""

from __future__ import annotations

import functools
from concurrent import futures
from typing import Any, NamedTuple

import tensorflow as tf

# Examples that are looked up at once at least: as long as a call makes few updates, most of it is the cost of asking.
_FEWEST = 2**10


def shuffled(seed: int | tf.Tensor, epoch: tf.Tensor, positions: tf.Tensor, num_examples: tf.Tensor) -> tf.Tensor:
    """The examples at these positions of an epoch's order.

    A pseudorandom permutation of `range(num_examples)` that depends on seed and epoch alone and needs no memory: any position
    can be asked for.

    Args:
        seed: the run's; scalar int64 if a tensor.
        epoch: scalar int64.
        positions: `[k]` int64, each in `[0, num_examples)`.
        num_examples: scalar int64.

    Returns:
        `[k]` int64.
    """
    with tf.device("CPU:0"):  # where the only kernel is, and one algorithm for every machine
        # Small integers make poor keys of this cipher, and its default of 4 rounds poor permutations: hash, and take 8.
        counter = tf.stack([tf.convert_to_tensor(seed, tf.int64), epoch])
        key = tf.random.stateless_uniform([3], counter, minval=None, maxval=None, dtype=tf.int64, alg="philox")
        # One key for each index: the vector form of `tf.random.experimental.index_shuffle` pads its seed wrongly.
        keys = tf.tile(key[None], [tf.size(positions), 1])
        return tf.raw_ops.RandomIndexShuffle(index=positions, seed=keys, max_index=num_examples - 1, rounds=8)


class Window(NamedTuple):
    """A stretch of a pass.

    Attributes:
        epoch: the number of the pass.
        start: its first position.
        size: how many positions.
    """

    epoch: int
    start: int
    size: int

    def holds(self, other: Window) -> bool:
        """Whether another stretch is part of it."""
        return self.epoch == other.epoch and self.start <= other.start and other.start + other.size <= self.start + self.size


class Order:
    """The order of every pass, a window at a time; the next one is looked up in a thread while this one is trained on.

    Looking up takes up to a third of the time that a small model trains on what is found, and another core has nothing to do.

    Args:
        seed: the run's.
        num_examples: of a pass.

    Example:
        >>> order = Order(seed=0, num_examples=5)
        >>> order.prepare(Window(epoch=1, start=0, size=5))
        >>> examples, at = order.find(Window(epoch=1, start=2, size=3))
        >>> at, sorted(examples.numpy().tolist())
        (2, [0, 1, 2, 3, 4])
        >>> order.close()
    """

    def __init__(self, seed: int, num_examples: int):
        self._seed, self._num_examples = seed, num_examples
        self._here: tuple[Window, tf.Tensor] | None = None
        self._ahead: tuple[Window, futures.Future[tf.Tensor]] | None = None
        self._thread: futures.ThreadPoolExecutor | None = None

    def find(self, wanted: Window) -> tuple[tf.Tensor, int]:
        """The examples of a stretch: `[k]` int64, and where in it they begin."""
        if self._here is None or not self._here[0].holds(wanted):
            ahead, self._ahead = self._ahead, None
            window = self._widened(wanted)
            if ahead is not None and ahead[0].holds(wanted):
                window = ahead[0]
                self._here = window, ahead[1].result()
            else:
                self._here = window, self._look_up(window)
        window, examples = self._here
        return examples, wanted.start - window.start

    def prepare(self, wanted: Window) -> None:
        """Begins to look up a stretch that will be asked for next, unless it is at hand."""
        at_hand = [known[0] for known in (self._here, self._ahead) if known is not None]
        if any(window.holds(wanted) for window in at_hand):
            return
        if self._thread is None:
            self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="trainlab order")
        window = self._widened(wanted)
        self._ahead = window, self._thread.submit(self._look_up, window)

    def close(self) -> None:
        """Ends the thread; a further call begins another."""
        if self._thread is not None:
            self._thread.shutdown()
        self._ahead = self._thread = None

    def _widened(self, window: Window) -> Window:
        return window._replace(size=min(max(window.size, _FEWEST), self._num_examples - window.start))

    def _look_up(self, window: Window) -> tf.Tensor:
        with tf.device("CPU:0"):  # a GPU would take the question, and hand it back only when its work is done
            return _compiled()(tf.constant([self._seed, self._num_examples, *window], tf.int64))


@functools.cache
def _compiled() -> Any:
    """`shuffled` of one vector: the seed, the number of examples, and a window."""

    def look_up(asked: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):
            seed, num_examples, epoch, start, size = tf.unstack(asked)
            return shuffled(seed, epoch, start + tf.range(size), num_examples)

    return tf.function(look_up, autograph=False).get_concrete_function(tf.TensorSpec([5], tf.int64))
