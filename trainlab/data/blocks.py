"""Blocks: the batches that one compiled call works on, and how each of its updates finds its own there."""

from __future__ import annotations

import dataclasses
import functools
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
    def is_sized(self) -> bool:
        """Whether batches of this layout are all of the same size, an axis for the length of texts included."""

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
        return [*self.tensors, _number(self.num_updates)]


@functools.lru_cache(maxsize=64)
def _number(value: int) -> tf.Tensor:
    """A scalar int32; where every update is a call, making one anew is a good part of what it costs."""
    with tf.init_scope():
        return tf.constant(value)


@functools.lru_cache(maxsize=64)
def one_of_equal(specs: tuple[tf.TensorSpec, ...]) -> tuple[tf.TensorSpec, ...]:
    """Always the same of equal tuples: layouts are compared at every call, and specs take long to compare."""
    return specs


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
        is_padded: whether the arrays are longer than their examples are many, so that XLA meets few lengths.
    """

    pack: Callable[[list[tf.Tensor]], Any] = dataclasses.field(compare=False)
    array_specs: tuple[tf.TensorSpec, ...]
    structure: str
    batch_size: int
    full: int
    rest: int
    seed: int | None
    is_cut: bool = False
    is_padded: bool = False

    def __hash__(self) -> int:
        # It is looked up at every call: the specs are left out.
        return hash((self.structure, self.batch_size, self.full, self.rest))

    @property
    def is_static(self) -> bool:
        """See `Layout`."""
        return True

    @property
    def is_sized(self) -> bool:
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
        """The arrays; an order `[k]`, or a scalar for the given one; a place in it; if padded, the number of examples: int64."""
        scalar = tf.TensorSpec([], tf.int64)
        order = scalar if self.seed is None else tf.TensorSpec([None], tf.int64)
        return [list(self.array_specs), order, *[scalar] * (1 + self.is_padded)]

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

        def run(arrays: list[tf.Tensor], order: tf.Tensor, position: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
            num_updates = others[-1]
            # All the indices of a call beforehand: XLA compiles for one size.
            indices = _indices(self.seed, order, position, tf.cast(num_updates, tf.int64) * self.size)
            indices = tf.reshape(indices, [-1, self.size])
            if jit is not None:
                indices = tf.pad(indices, [[0, self.max_updates - num_updates], [0, 0]])
                indices.set_shape([self.max_updates, self.size])
            return compiled(arrays, indices, num_updates)

        return run

    def gather(self, arrays: list[tf.Tensor], rows: tf.Tensor) -> Any:
        """`(x, y, sample_weight)` of these rows `[q]`."""
        return self.pack([tf.gather(array, rows) for array in arrays])

    def _batches(self, arrays: list[tf.Tensor], indices: tf.Tensor, is_written_out: bool) -> list[Batches]:
        cut = self.full * self.batch_size
        gather = functools.partial(self.gather, arrays)
        parts = []
        if self.full:
            rows = tf.reshape(indices[:cut], [self.full, self.batch_size])
            parts.append(_by_rows(self.full, gather, lambda i: rows[i], self.batch_size, is_written_out))
        if self.rest:
            parts.append(_by_rows(1, gather, lambda i: indices[cut:], self.rest))
        return parts


@dataclasses.dataclass(frozen=True)
class TrailingLayout:
    """The last update of a pass over arrays, of what is left: fewer examples than others have, and a value how many.

    Arrays of any length thus share a trace. Batches are of sizes that XLA does not take, or would compile anew for each: this
    one update of a pass does without.

    Attributes:
        whole: of the updates before it.
        size: examples that are left; that they differ makes no other layout.
        is_pass: whether the pass is this update, so that it is all that is trained on.
    """

    whole: ArrayLayout
    size: int = dataclasses.field(compare=False)
    is_pass: bool = dataclasses.field(compare=False, default=False)

    @property
    def is_static(self) -> bool:
        """See `Layout`."""
        return True

    @property
    def is_sized(self) -> bool:
        """See `Layout`; it is smaller than the others."""
        return True

    @property
    def specs(self) -> list[Any]:
        """See `ArrayLayout`: the end of the order, or of the arrays, and the place in it tell what is left."""
        return self.whole.specs

    @property
    def max_updates(self) -> int:
        """The most updates of one block."""
        return 1

    @property
    def static(self) -> ArrayLayout:
        """The same, with its number of examples told by the layout: a trace for this size alone."""
        full, rest = divmod(self.size, self.whole.batch_size)
        return dataclasses.replace(self.whole, full=full, rest=rest)

    def cut(self, max_examples: int) -> TrailingLayout:
        """See `Layout`."""
        return dataclasses.replace(self, whole=self.whole.cut(max_examples))

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """See `Layout`."""
        return min(self.whole.batch_size, self.size)

    def program(self, step: Step, jit: Compile | None) -> Callable[..., tf.Tensor]:
        """See `Layout`; without XLA, whatever `jit` is."""

        def run(arrays: list[tf.Tensor], order: tf.Tensor, position: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
            *given, num_updates = others
            # Whoever looks up an order for this update looks up all of it and no more.
            length = _length(arrays, *given) if self.whole.seed is None else tf.size(order, tf.int64)
            with tf.device("CPU:0"):  # it is what loops and slices ask for, on the host
                left = tf.cast(length - position, tf.int32)
            indices = _indices(self.whole.seed, order, position, tf.cast(left, tf.int64))
            return loop(num_updates, lambda i: step(self._batches(arrays, indices, left)))

        return run

    def _batches(self, arrays: list[tf.Tensor], indices: tf.Tensor, left: tf.Tensor) -> list[Batches]:
        """As many whole batches as leave something over, then what is left: no batch is empty."""
        if self.whole.size <= self.whole.batch_size:
            return [_by_rows(1, functools.partial(self.whole.gather, arrays), lambda i: indices, lambda: left)]
        batch_size = self.whole.batch_size
        with tf.device("CPU:0"):
            full = (left - 1) // batch_size

        gather = functools.partial(self.whole.gather, arrays)

        def batches(number: int | tf.Tensor) -> Batches:
            return _by_rows(number, gather, lambda i: tf.slice(indices, [i * batch_size], [batch_size]), batch_size)

        rest = _by_rows(1, gather, lambda i: indices[full * batch_size :], lambda: left - full * batch_size)
        if tf.executing_eagerly():
            return [batches(int(full)), rest] if full > 0 else [rest]
        return [batches(full), rest]


def _by_rows(
    number: int | tf.Tensor,
    gather: Callable[[tf.Tensor], Any],
    rows: Callable[[Any], tf.Tensor],
    size: int | Callable[[], tf.Tensor],
    may_unroll: bool = False,
) -> Batches:
    """Batches of `size` examples, gathered by their rows, which can be cut before anything is gathered."""

    def part(index: Any, start: Any, count: Any) -> Any:
        return gather(tf.slice(rows(index), [start], [count]))

    return Batches(number, lambda i: gather(rows(i)), may_unroll, size, part)


def _indices(seed: int | None, order: tf.Tensor, position: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """So many examples from this place of an order, or of the given one."""
    if seed is None:
        return position + tf.range(number)
    with tf.device("CPU:0"):  # where the order is
        return tf.slice(order, [position], [number])


def _length(arrays: list[tf.Tensor], given: tf.Tensor | None = None) -> tf.Tensor:
    """Examples in arrays that are not padded, or as many as are given."""
    return tf.shape(arrays[0], tf.int64)[0] if given is None else given
