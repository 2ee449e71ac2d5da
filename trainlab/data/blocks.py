"""Blocks: the batches that one compiled call works on, and how each of its updates finds its own there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from trainlab.objective import Batches

Step = Callable[[Sequence[Batches]], None]  # one update, traced
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]  # hands a function to XLA, or back as it is

# XLA compiles for one size, so that its blocks are padded: to so many indices, and no more updates than this.
_MAX_INDICES = 2**16
_MAX_UPDATES = 2**11
# Batches of an update that may be written out: XLA's time to compile grows with them.
_MAX_UNROLLED = 16
_MAX_UNROLLED_BY_XLA = 4


class Layout(Hashable, Protocol):
    """How batches lie in the tensors of a block; blocks of equal layouts share a trace."""

    @property
    def is_static(self) -> bool:
        """Whether every update has the same shapes, but perhaps for the last: XLA compiles anew for each."""

    @property
    def specs(self) -> list[Any]:
        """Of the block's arguments, but for the last: the number of updates, a scalar int32."""

    def cut(self, max_examples: int) -> Layout:
        """The same block, its batches in pieces of at most so many examples; itself if they are known to be no larger."""

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """The most examples that an update of the block evaluates at once."""

    def program(self, step: Step, jit: Compile | None) -> Callable[..., tf.Tensor]:
        """A function of the block's arguments that makes its updates, one by one, and returns how many.

        Args:
            step: what to do with each update's batches.
            jit: None unless XLA is to compile what it can.
        """


class Block(NamedTuple):
    """What one call works on.

    Attributes:
        layout: how to read it.
        tensors: what `layout.specs` describes.
        num_updates: how many updates these are.
        size: what they take of their source: examples of arrays, batches of a stream.
    """

    layout: Layout
    tensors: list[Any]
    num_updates: int
    size: int

    @property
    def arguments(self) -> list[Any]:
        """Of the layout's program."""
        return [*self.tensors, tf.constant(self.num_updates)]


def may_unroll(num_batches: int, by_xla: bool) -> bool:
    """Whether so many batches may be written out: a few of a small model are faster than a loop over them.

    XLA may keep the activations of several, which is not risked with a GPU's memory. Nor should batches be written out that are
    cut into pieces to save memory, or, by XLA, of sizes that are not known; layouts know.
    """
    if by_xla:
        return num_batches <= _MAX_UNROLLED_BY_XLA and not tf.config.list_physical_devices("GPU")
    return num_batches <= _MAX_UNROLLED


def loop(num_updates: tf.Tensor, body: Callable[[tf.Tensor], None]) -> tf.Tensor:
    """Runs `body(i)` for each i, one after the other; the number is a tensor, so that one trace serves every number.

    Both are int32, which TensorFlow keeps on the host: the loop need not wait for a GPU to know whether it goes on.
    """

    def run(i: tf.Tensor) -> list[tf.Tensor]:
        body(i)
        return [i + 1]

    return tf.while_loop(lambda i: i < num_updates, run, [tf.constant(0)], parallel_iterations=1)[0]


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
    """Whole arrays on the device, and a row of indices for each update.

    Attributes:
        pack: from a batch's tensors to `(x, y, sample_weight)`.
        array_specs: of the arrays, for any number of examples.
        structure: what tells two packs apart.
        batch_size: examples a batch.
        full: whole batches an update.
        rest: examples in a last, smaller batch.
        seed: of the order; None is the given order.
        is_cut: whether these batches are pieces of larger ones, to save memory.
    """

    pack: Callable[[list[tf.Tensor]], Any] = dataclasses.field(compare=False)
    array_specs: tuple[tf.TensorSpec, ...]
    structure: str
    batch_size: int
    full: int
    rest: int
    seed: int | None
    is_cut: bool = False

    def __hash__(self) -> int:
        # It is looked up at every call: the specs are left out.
        return hash((self.structure, self.batch_size, self.full, self.rest))

    @property
    def is_static(self) -> bool:
        """See `Layout`."""
        return True

    @property
    def size(self) -> int:
        """Examples an update."""
        return self.full * self.batch_size + self.rest

    @property
    def max_updates(self) -> int:
        """The most updates of one block."""
        return min(max(_MAX_INDICES // self.size, 1), _MAX_UPDATES)

    @property
    def specs(self) -> list[Any]:
        """The arrays; an order of examples, `[k]` int64, or any scalar int64 for the given one; a place in it, scalar int64."""
        order = tf.TensorSpec([] if self.seed is None else [None], tf.int64)
        return [list(self.array_specs), order, tf.TensorSpec([], tf.int64)]

    def cut(self, max_examples: int) -> ArrayLayout:
        """See `Layout`; a piece may hold examples of two batches of an update, whose mean does not know batches."""
        if max_examples >= self.batch_size:
            return self
        full, rest = divmod(self.size, max_examples)
        return dataclasses.replace(self, batch_size=max_examples, full=full, rest=rest, is_cut=True)

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """See `Layout`."""
        return self.batch_size if self.full else self.rest

    def program(self, step: Step, jit: Compile | None) -> Callable[..., tf.Tensor]:
        """See `Layout`; the whole loop is one XLA program."""

        def updates(arrays: list[tf.Tensor], indices: tf.Tensor, num_updates: tf.Tensor) -> tf.Tensor:
            return loop(num_updates, lambda i: step(self._batches(arrays, indices[i], is_written_out)))

        is_written_out = not self.is_cut and may_unroll(self.full, jit is not None)
        compiled = updates if jit is None else jit(updates)

        def run(arrays: list[tf.Tensor], order: tf.Tensor, position: tf.Tensor, num_updates: tf.Tensor) -> tf.Tensor:
            # All the indices of a call beforehand: XLA compiles for one size.
            if self.seed is None:
                indices = position + tf.range(tf.cast(num_updates, tf.int64) * self.size)
            else:
                with tf.device("CPU:0"):  # where the order is
                    indices = tf.slice(order, [position], [tf.cast(num_updates, tf.int64) * self.size])
            indices = tf.reshape(indices, [-1, self.size])
            if jit is not None:
                indices = tf.pad(indices, [[0, self.max_updates - num_updates], [0, 0]])
                indices.set_shape([self.max_updates, self.size])
            return compiled(arrays, indices, num_updates)

        return run

    def _batches(self, arrays: list[tf.Tensor], indices: tf.Tensor, is_written_out: bool) -> list[Batches]:
        def gather(rows: tf.Tensor) -> Any:
            return self.pack([tf.gather(array, rows) for array in arrays])

        cut = self.full * self.batch_size
        parts = []
        if self.full:
            rows = tf.reshape(indices[:cut], [self.full, self.batch_size])
            parts.append(Batches(self.full, lambda i: gather(rows[i]), is_written_out))
        if self.rest:
            parts.append(Batches(1, lambda i: gather(indices[cut:])))
        return parts
