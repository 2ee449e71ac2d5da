"""Blocks: the batches that one compiled call works on, and how each of its updates finds its own there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from trainlab import cutting
from trainlab.objective import Batches
from trainlab.order import shuffled

Step = Callable[[Sequence[Batches]], None]  # one update, traced
Compile = Callable[[Callable[..., Any]], Callable[..., Any]]  # hands a function to XLA, or back as it is

# XLA compiles for one size, so that its blocks are padded: to so many indices, and no more updates than this.
_MAX_INDICES = 2**16
_MAX_UPDATES = 2**11
_MAX_UNROLLED = 4


class Layout(Hashable, Protocol):
    """How batches lie in the tensors of a block; blocks of equal layouts share a trace."""

    @property
    def is_static(self) -> bool:
        """Whether every update has the same shapes, but perhaps for the last: XLA compiles anew for each."""

    @property
    def specs(self) -> list[Any]:
        """Of the block's arguments, but for the last: the number of updates."""

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
        return [*self.tensors, tf.constant(self.num_updates, tf.int64)]


def _may_unroll(num_batches: int) -> bool:
    """Whether so many batches may be written out: XLA on a CPU is faster with a few, but may keep the activations of several.

    A GPU's memory is not risked for it; nor may that of a layout be that is cut into pieces.
    """
    return num_batches <= _MAX_UNROLLED and not tf.config.list_physical_devices("GPU")


def loop(num_updates: tf.Tensor, body: Callable[[tf.Tensor], None]) -> tf.Tensor:
    """Runs `body(i)` for each i, one after the other; the number is a tensor, so that one trace serves every number."""

    def run(i: tf.Tensor) -> list[tf.Tensor]:
        body(i)
        return [i + 1]

    return tf.while_loop(lambda i: i < num_updates, run, [tf.zeros([], tf.int64)], parallel_iterations=1)[0]


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
        """The arrays; then epoch and position, scalar int64."""
        scalar = tf.TensorSpec([], tf.int64)
        return [list(self.array_specs), scalar, scalar]

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
            return loop(num_updates, lambda i: step(self._batches(arrays, indices[i], may_unroll)))

        may_unroll = jit is not None and not self.is_cut and _may_unroll(self.full)
        compiled = updates if jit is None else jit(updates)

        def run(arrays: list[tf.Tensor], epoch: tf.Tensor, position: tf.Tensor, num_updates: tf.Tensor) -> tf.Tensor:
            # All the indices of a call beforehand: the shuffle has no XLA kernel.
            indices = position + tf.range(num_updates * self.size)
            if self.seed is not None:
                indices = shuffled(self.seed, epoch, indices, tf.shape(arrays[0], tf.int64)[0])
            indices = tf.reshape(indices, [num_updates, self.size])
            if jit is not None:
                indices = tf.pad(indices, [[0, self.max_updates - num_updates], [0, 0]])
                indices.set_shape([self.max_updates, self.size])
            return compiled(arrays, indices, num_updates)

        return run

    def _batches(self, arrays: list[tf.Tensor], indices: tf.Tensor, may_unroll: bool) -> list[Batches]:
        def gather(rows: tf.Tensor) -> Any:
            return self.pack([tf.gather(array, rows) for array in arrays])

        cut = self.full * self.batch_size
        parts = []
        if self.full:
            rows = tf.reshape(indices[:cut], [self.full, self.batch_size])
            parts.append(Batches(self.full, lambda i: gather(rows[i]), may_unroll))
        if self.rest:
            parts.append(Batches(1, lambda i: gather(indices[cut:])))
        return parts


@dataclasses.dataclass(frozen=True)
class StreamLayout:
    """Lists of a stream's batches, one list for each tensor that a batch is made of; shapes may differ in a list.

    Attributes:
        pack: from a batch's tensors to `(x, y, sample_weight)`.
        leaf_specs: of the tensors of a batch; sizes may be open.
        structure: what tells two packs apart.
        num_batches: batches an update.
        max_examples: examples a piece, at most; None evaluates each batch whole.
    """

    pack: Callable[[list[tf.Tensor]], Any] = dataclasses.field(compare=False)
    leaf_specs: tuple[tf.TensorSpec, ...]
    structure: str
    num_batches: int
    max_examples: int | None = None

    @property
    def is_static(self) -> bool:
        """See `Layout`; the first axis, that of the examples, may be open."""
        shapes = [spec.shape for spec in self.leaf_specs]
        return all(shape.rank is not None and None not in list(shape[1:]) for shape in shapes)

    @property
    def specs(self) -> list[Any]:
        """The lists; then the first batch's place in them, a scalar int64."""
        return [[tf.TensorSpec([], tf.variant) for _ in self.leaf_specs], tf.TensorSpec([], tf.int64)]

    def cut(self, max_examples: int) -> StreamLayout:
        """See `Layout`; each batch by itself."""
        sizes = [spec.shape[0] if spec.shape.rank else None for spec in self.leaf_specs]
        is_small = all(size is not None and size <= max_examples for size in sizes)
        return dataclasses.replace(self, max_examples=None if is_small else max_examples)

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """See `Layout`."""
        lists, first = tensors
        indices = range(num_updates * self.num_batches)
        largest = max(int(cutting.size_of(self.pack(self._read(lists, first + i)))) for i in indices)
        return largest if self.max_examples is None else min(largest, self.max_examples)

    def program(self, step: Step, jit: Compile | None) -> Callable[..., tf.Tensor]:
        """See `Layout`; XLA compiles each update by itself, since it knows neither lists nor open sizes."""

        def update_of(batches: list[list[tf.Tensor]]) -> None:
            step([self._stacked(batches)] if self.max_examples is None else self._pieces_of(batches, self.max_examples))

        compiled = None if jit is None else jit(update_of)

        def run(lists: list[tf.Tensor], first: tf.Tensor, num_updates: tf.Tensor) -> tf.Tensor:
            def update(i: tf.Tensor) -> None:
                start = first + i * self.num_batches

                def read(j: Any) -> list[tf.Tensor]:
                    leaves = self._read(lists, start + tf.cast(j, tf.int64))
                    if self.max_examples is not None:
                        cutting.check(self.pack(leaves))
                    return leaves

                def as_it_is() -> None:
                    if self.max_examples is None:
                        step([Batches(self.num_batches, lambda j: self.pack(read(j)))])
                    else:
                        step(self._in_pieces(lambda j: self.pack(read(j))))

                if compiled is None:
                    as_it_is()
                    return
                batches = [read(j) for j in range(self.num_batches)]
                is_alike = True if self.max_examples is not None else _is_alike(batches)
                if is_alike is True:
                    compiled(batches)
                else:  # the last of a pass may be smaller, and XLA loops over one size only
                    tf.cond(is_alike, _returning_zero(lambda: compiled(batches)), _returning_zero(as_it_is))

            return loop(num_updates, update)

        return run

    def _stacked(self, batches: list[list[tf.Tensor]]) -> Batches:
        stacked = [tf.stack(leaves) for leaves in zip(*batches, strict=True)]
        return Batches(len(batches), lambda j: self.pack([leaf[j] for leaf in stacked]), _may_unroll(len(batches)))

    def _pieces_of(self, batches: list[list[tf.Tensor]], max_examples: int) -> list[Batches]:
        return [part for leaves in batches for part in cutting.pieces(self.pack(leaves), max_examples)]

    def _in_pieces(self, read: Callable[[Any], Any]) -> list[Batches]:
        assert self.max_examples is not None
        with tf.device("CPU:0"):  # where the lists are: only a piece at a time leaves it
            if self.num_batches == 1:
                parts = cutting.pieces(read(0), self.max_examples)
            else:
                parts = [cutting.pieces_of_all(read, self.num_batches, self.max_examples)]
        return [Batches(part.num_batches, _on_host(part.fetch)) for part in parts]

    def _read(self, lists: list[tf.Tensor], index: tf.Tensor) -> list[tf.Tensor]:
        with tf.device("CPU:0"):  # where the lists are
            return [_item(flow, index, spec) for spec, flow in zip(self.leaf_specs, lists, strict=True)]


def _is_alike(batches: list[list[tf.Tensor]]) -> bool | tf.Tensor:
    """Whether batches have the same shapes: a Python bool where it is known."""
    first, *others = batches
    if all(leaf.shape.is_fully_defined() for leaf in first) or not others:
        return True
    if any(leaf.shape.rank is None for leaf in first):
        return tf.constant(False)
    pairs = [(a, b) for batch in others for a, b in zip(first, batch, strict=True)]
    return tf.reduce_all([tf.reduce_all(tf.equal(tf.shape(a), tf.shape(b))) for a, b in pairs])


def _returning_zero(fn: Callable[[], Any]) -> Callable[[], tf.Tensor]:
    """What a branch of `tf.cond` is made of: it must return something."""

    def run() -> tf.Tensor:
        fn()
        return tf.zeros([])

    return run


def _on_host(fetch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def fetch_there(index: Any) -> Any:
        with tf.device("CPU:0"):
            return fetch(index)

    return fetch_there


def _item(flow: tf.Tensor, index: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    # A list from another call: `tf.TensorArray(flow=...)` would not take its elements' shape.
    shape = tf.constant(-1 if spec.shape.rank is None else [-1 if size is None else size for size in spec.shape], tf.int32)
    item = tf.raw_ops.TensorListGetItem(
        input_handle=flow, index=tf.cast(index, tf.int32), element_shape=shape, element_dtype=spec.dtype
    )
    return tf.ensure_shape(item, spec.shape)
