"""Blocks of a stream: lists of its batches on the host, and how each update takes its own from there."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainlab.data.blocks import Block, Compile, Step, loop, may_unroll
from trainlab.data.iterators import checksum
from trainlab.objective import Batches, cutting

_WHOLE = 2**14  # bytes of a tensor that are looked at one by one
Read = Callable[[Any], list[tf.Tensor]]  # from the number of a batch in its update to the tensors that it is made of


@dataclasses.dataclass(frozen=True)
class StreamLayout:
    """Lists of a stream's batches, one list for each tensor that a batch is made of; shapes may differ in a list.

    Attributes:
        pack: from a batch's tensors to `(x, y, sample_weight)`.
        leaf_specs: of the tensors of a batch; sizes may be open.
        structure: what tells two packs apart.
        num_batches: batches an update.
    """

    pack: Callable[[list[tf.Tensor]], Any] = dataclasses.field(compare=False)
    leaf_specs: tuple[tf.TensorSpec, ...]
    structure: str
    num_batches: int

    @property
    def is_static(self) -> bool:
        """See `Layout`; the first axis, that of the examples, may be open."""
        shapes = [spec.shape for spec in self.leaf_specs]
        return all(shape.rank is not None and None not in list(shape[1:]) for shape in shapes)

    @property
    def is_sized(self) -> bool:
        """See `Layout`."""
        return all(spec.shape.is_fully_defined() for spec in self.leaf_specs)

    @property
    def specs(self) -> list[Any]:
        """The lists; then the first batch's place in them, a scalar int32."""
        return [[tf.TensorSpec([], tf.variant) for _ in self.leaf_specs], tf.TensorSpec([], tf.int32)]

    def cut(self, max_examples: int) -> StreamLayout:
        """See `Layout`; each batch by itself."""
        sizes = [spec.shape[0] if spec.shape.rank else None for spec in self.leaf_specs]
        if all(size is not None and size <= max_examples for size in sizes):
            return self
        return PiecesLayout(self.pack, self.leaf_specs, self.structure, self.num_batches, max_examples)

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """See `Layout`."""
        lists, first = tensors
        indices = range(num_updates * self.num_batches)
        return max(int(cutting.size_of(self.pack(self._read(lists, first + i)))) for i in indices)

    def program(self, step: Step, jit: Compile | None) -> Callable[..., tf.Tensor]:
        """See `Layout`; XLA compiles each update by itself, since it knows neither lists nor open sizes."""
        update = self._update(step, jit)

        def run(lists: list[tf.Tensor], first: tf.Tensor, num_updates: tf.Tensor) -> tf.Tensor:
            def reader(i: tf.Tensor) -> Read:
                return lambda j: self._read(lists, first + i * self.num_batches + j)

            if not self._is_carried:
                return loop(num_updates, lambda i: update(reader(i)))

            def body(i: tf.Tensor, batch: list[tf.Tensor]) -> list[Any]:
                ahead = _on_device(reader(tf.minimum(i + 1, num_updates - 1))(0))
                update(lambda _: batch)
                return [i + 1, ahead]

            zero = tf.constant(0)  # int32: see `loop`
            return tf.while_loop(
                lambda i, _: i < num_updates,
                body,
                [zero, _on_device(reader(zero)(0))],
                shape_invariants=[zero.shape, [spec.shape for spec in self.leaf_specs]],
                parallel_iterations=1,
            )[0]

        return run

    @property
    def _is_carried(self) -> bool:
        """Whether the next update's batch is brought to the device while this one's is worked on: one batch more is alive."""
        return self.num_batches == 1

    def _update(self, step: Step, jit: Compile | None) -> Callable[[Read], None]:
        def as_they_come(read: Read) -> None:
            step([Batches(self.num_batches, lambda j: self.pack(read(j)), may_unroll(self.num_batches, by_xla=False))])

        def stacked(batches: list[list[tf.Tensor]]) -> None:
            leaves = [tf.stack(leaf) for leaf in zip(*batches, strict=True)]
            is_written_out = are_known and may_unroll(self.num_batches, by_xla=True)
            step([Batches(self.num_batches, lambda j: self.pack([leaf[j] for leaf in leaves]), is_written_out)])

        if jit is None:
            return as_they_come
        are_known = all(spec.shape.is_fully_defined() for spec in self.leaf_specs)
        compiled = jit(stacked)

        def update(read: Read) -> None:
            batches = [read(j) for j in range(self.num_batches)]
            is_alike = _is_alike(batches)
            if is_alike is True:
                compiled(batches)
            else:  # the last of a pass may be smaller, and XLA loops over one size only
                tf.cond(is_alike, _returning_zero(lambda: compiled(batches)), _returning_zero(lambda: as_they_come(read)))

        return update

    def _read(self, lists: list[tf.Tensor], index: tf.Tensor) -> list[tf.Tensor]:
        with tf.device("CPU:0"):  # where the lists are
            return [_item(flow, index, spec) for spec, flow in zip(self.leaf_specs, lists, strict=True)]


@dataclasses.dataclass(frozen=True)
class PiecesLayout(StreamLayout):
    """The same, each batch evaluated in pieces.

    Attributes:
        max_examples: examples a piece, at most.
    """

    max_examples: int

    def largest(self, tensors: list[Any], num_updates: int) -> int:
        """See `Layout`."""
        return min(super().largest(tensors, num_updates), self.max_examples)

    @property
    def _is_carried(self) -> bool:
        return False  # only a piece at a time leaves the host

    def _update(self, step: Step, jit: Compile | None) -> Callable[[Read], None]:
        if jit is None:
            return lambda read: step(self._in_pieces(lambda j: self.pack(read(j))))

        def all_pieces(batches: list[list[tf.Tensor]]) -> None:
            step([part for leaves in batches for part in cutting.pieces(self.pack(leaves), self.max_examples)])

        compiled = jit(all_pieces)
        return lambda read: compiled([read(j) for j in range(self.num_batches)])

    def _in_pieces(self, read: Callable[[Any], Any]) -> list[Batches]:
        with tf.device("CPU:0"):
            if self.num_batches == 1:
                parts = cutting.pieces(read(0), self.max_examples)
            else:
                parts = [cutting.pieces_of_all(read, self.num_batches, self.max_examples)]
        return [Batches(part.num_batches, _on_host(part.fetch)) for part in parts]

    def _read(self, lists: list[tf.Tensor], index: tf.Tensor) -> list[tf.Tensor]:
        leaves = super()._read(lists, index)
        cutting.check(self.pack(leaves), "micro_batch_size")
        return leaves


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


def _on_device(leaves: list[tf.Tensor]) -> list[tf.Tensor]:
    """A batch where the step runs."""
    if not tf.config.list_physical_devices("GPU"):
        return leaves
    with tf.device("GPU:0"):
        return [tf.identity(leaf) for leaf in leaves]


def _on_host(fetch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def fetch_there(index: Any) -> Any:
        with tf.device("CPU:0"):
            return fetch(index)

    return fetch_there


def _item(flow: tf.Tensor, index: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    # A list from another call: `tf.TensorArray(flow=...)` would not take its elements' shape.
    shape = tf.constant(-1 if spec.shape.rank is None else [-1 if size is None else size for size in spec.shape], tf.int32)
    item = tf.raw_ops.TensorListGetItem(input_handle=flow, index=index, element_shape=shape, element_dtype=spec.dtype)
    return tf.ensure_shape(item, spec.shape)


def checksum_of(block: Block) -> int:
    """A number, of 32 bits, that tells the batches of a block of a stream from others; 0 for arrays on the device.

    Of a tensor of more than 16 KiB these and the sum of all its words are looked at, which costs a tenth of a checksum.
    """
    if not isinstance(block.layout, StreamLayout):
        return 0
    lists, first = block.tensors
    total, begin = 0, int(first)
    for index in range(begin, begin + block.num_updates * block.layout.num_batches):
        for leaf in leaves_at(lists, index, block.layout.leaf_specs):
            total = _folded(leaf, total)
    return total


def _folded(leaf: tf.Tensor, total: int) -> int:
    shape = str(leaf.shape).encode()
    if leaf.dtype == tf.string:
        return zlib.crc32(checksum([leaf]).to_bytes(4), total)
    try:
        array = np.asarray(memoryview(leaf))  # `numpy()` copies
    except ValueError:  # a dtype that is none of NumPy's own, such as bfloat16
        array = leaf.numpy()
    data = array.reshape(-1).view(np.uint8)
    if data.size <= _WHOLE:
        return zlib.crc32(data.tobytes(), zlib.crc32(shape, total))
    end = data.size - data.size % 8
    words = int(data[:end].view(np.uint64).sum()).to_bytes(8)
    return zlib.crc32(data[end:].tobytes(), zlib.crc32(words, zlib.crc32(data[:_WHOLE].tobytes(), zlib.crc32(shape, total))))


def leaves_at(lists: Sequence[tf.Tensor], index: Any, specs: Sequence[Any]) -> list[tf.Tensor]:
    """The tensors of a batch in lists of batches, on the host."""
    get = tf.raw_ops.TensorListGetItem
    with tf.device("CPU:0"):
        pairs = zip(lists, specs, strict=True)
        return [get(input_handle=e, index=index, element_shape=-1, element_dtype=spec.dtype) for e, spec in pairs]
