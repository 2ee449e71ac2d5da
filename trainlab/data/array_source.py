"""Arrays as a source of batches, addressed by (seed, epoch, position)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import device
from trainlab.data.arrays import SameData
from trainlab.data.blocks import ArrayLayout, Block, Layout, TrailingLayout, one_of_equal
from trainlab.data.kinds import Composite, rows_of, spec_of
from trainlab.data.order import Order, Window, shuffled
from trainlab.data.stream import Stream, pack
from trainlab.objective import Batch, cutting

# Arrays that take a larger share of the device's memory are streamed, batch by batch, in the same order.
RESIDENT_SHARE = 0.25
# XLA compiles anew for each length of the arrays, so that those that take no more bytes than this are padded to a power of two
# for it. A pass over larger ones takes longer than compiling does.
MAX_PADDED_BYTES = 2**26


class ArraySource:
    """Arrays, cut into batches of `batch_size`; each pass visits every example once, the last batch being what is left.

    A source hands out blocks, and moves on only when told that the block's updates were committed.

    Arrays that take at most `RESIDENT_SHARE` of the device's memory are put there whole; of larger ones, and with a ragged or
    sparse one among them, each batch is brought by `tf.data`, in the same order.

    Args:
        arrays: `(x, y, sample_weight)`, nests of arrays with the same first axis, or None.
        batch_size: examples a batch.
        shuffle: whether each pass takes its own order; the given order otherwise.
        seed: the run's.

    Attributes:
        arrays: the arrays.
        epoch: passes begun before this one.
        position: examples of this pass already used.
        ahead: passes that were begun before the first epoch, by its number, of this fit; and of the last one over these arrays.
    """

    is_endless = False
    is_used_up = False
    is_settled = True
    is_to_be_saved = False

    def __init__(self, arrays: Batch, batch_size: int, shuffle: bool, seed: int):
        self._leaves = [leaf for leaf in tf.nest.flatten(arrays) if leaf is not None]
        structure = tf.nest.map_structure(lambda leaf: None if leaf is None else True, arrays)
        self._pack = functools.partial(pack, structure)
        self._leaf_specs = [spec_of(leaf) for leaf in self._leaves]
        self._structure = f"{structure} of {self._leaf_specs}"
        # Not a method: traces keep it, and must not keep the arrays.
        self._restore = functools.partial(_restored, structure, self._leaf_specs)
        self.arrays = arrays
        self.num_examples = int(self._leaves[0].shape[0])
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self.ahead = (0, 0)
        self._largest = 0  # block, in examples
        self._order = Order(seed, self.num_examples) if shuffle else None
        self._resident: list[tf.Tensor] = []
        self._layouts: dict[tuple[int, bool], ArrayLayout] = {}
        self._padded: list[tf.Tensor] = []
        self._stream: Stream | None = None
        self._stream_at: tuple[int, int] | None = None  # the epoch and position that the stream's next block begins at
        are_dense = not any(isinstance(leaf, Composite) for leaf in self._leaves)
        if are_dense and sum(_num_bytes(leaf) for leaf in self._leaves) <= RESIDENT_SHARE * device.memory():
            self._resident = _put(self._leaves)
        if not self._resident:
            self.stream()

    @property
    def is_streamed(self) -> bool:
        """Whether batches are brought one by one."""
        return self._stream is not None

    def stream(self) -> None:
        """Lets them be, though the arrays may fit on the device, before any was asked for."""
        if self._stream is None:
            self._stream, self._resident = Stream(self._specs(None)), []

    def describe_update(self, batches: int) -> str:
        """What an update of so many batches is made of, in words."""
        return describe_update(self.batch_size, batches)

    def warn(self, batches: int, updates_per_epoch: int | None = None) -> None:
        """Warns of an update of several batches that takes more than there is; a single batch that is not full is nothing new."""
        if batches > 1 and self.num_examples < self.batch_size * batches:
            full, rest = divmod(self.num_examples, self.batch_size)
            held = " and ".join([f"{full} of {self.batch_size}"] * bool(full) + [f"1 of {rest}"] * bool(rest))
            warnings.warn(
                f"x has {self.num_examples} examples, fewer than one update takes ({self.describe_update(batches)}): "
                f"each epoch is a single update of all {self.num_examples} (batches: {held})",
                stacklevel=3,
            )

    def describe(self) -> dict[str, Any]:
        """How batches are made of the data."""
        return {"batch_size": self.batch_size, "shuffle": self.shuffle}

    def state(self) -> dict[str, Any]:
        """Where training stands in the data."""
        return {"epoch": self.epoch, "position": self.position}

    def serialized(self) -> dict[str, tf.Tensor]:
        """Nothing: the order is a function of that."""
        return {}

    def restore(self, state: Mapping[str, Any], serialized: Mapping[str, tf.Tensor]) -> None:
        """Puts it there."""
        del serialized
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def place(self) -> tuple[int, int]:
        """Where training stands, as another process that has the same arrays is told."""
        return self.epoch, self.position

    def go_to(self, place: tuple[int, int]) -> None:
        """Goes where another process stands."""
        self.epoch, self.position = place

    def go_back(self, epoch: int) -> None:
        """To the beginning of an epoch of the last fit, which this one goes on with."""
        self.ahead = (self.ahead[1], self.ahead[1])
        self.epoch, self.position = max(self.ahead[0] + epoch, 0), 0

    def updates_per_pass(self, batches: int) -> int:
        """How many updates of `batches` batches a pass makes, the last perhaps smaller."""
        return -(-self.num_examples // (self.batch_size * batches))

    @property
    def at_end(self) -> bool:
        """Whether this pass is over."""
        return self.position >= self.num_examples

    def next_pass(self) -> None:
        """Starts the next pass, in its own order."""
        self.epoch, self.position = self.epoch + 1, 0

    def block(self, max_updates: int, batches: int, by_xla: bool = False) -> Block | None:
        """The next updates of `batches` batches each; those of one pass, and a smaller one at its end by itself.

        With `by_xla` it is what XLA, where it compiles them, need compile for few lengths of the arrays only.
        """
        left = self.num_examples - self.position
        if left <= 0:
            return None
        if self._stream is not None:
            return self._streamed(self._stream, max_updates, batches)
        layout = self._layout(left, batches, by_xla)
        num_updates = min(max_updates, left // layout.size, layout.max_updates)
        order, at = self._find(Window(self.epoch, self.position, num_updates * layout.size))
        arrays, length = self._resident, []
        if by_xla and self._may_pad:
            arrays, length = self._pad(), [tf.constant(self.num_examples, tf.int64)]
        tensors = [arrays, order, tf.constant(at, tf.int64), *length]
        return Block(layout, tensors, num_updates, num_updates * layout.size)

    def _find(self, window: Window) -> tuple[tf.Tensor, int]:
        """What tells a layout the examples of a part of a pass, and where in it they begin."""
        return (tf.constant(0, tf.int64), window.start) if self._order is None else self._order.find(window)

    @property
    def must_read(self) -> bool:
        """Whether training waits until the next block is read."""
        return self._stream is not None and self._stream.must_read

    def read_ahead(self, after: Block, max_updates: int, batches: int) -> None:
        """Begins to read the updates that come after this block, or the order of those on the device; see `Stream`."""
        if self._stream is None:
            self._prepare_order(after)
            return
        position = self.position + after.size * self.batch_size
        if position < self.num_examples:
            self._stream.read_ahead(after, min(max_updates, self._num_alike(position, batches)), batches)

    def _prepare_order(self, after: Block) -> None:
        """Of as many examples as in the largest block so far, in the next pass if this one is over then."""
        if self._order is None:
            return
        self._largest = max(self._largest, after.size)
        position = self.position + after.size
        epoch, position = (self.epoch, position) if position < self.num_examples else (self.epoch + 1, 0)
        self._order.prepare(Window(epoch, position, min(self._largest, self.num_examples - position)))

    def settle(self) -> None:
        """Nothing: what was read ahead can be read again."""

    def layout(self, batches: int, by_xla: bool = False) -> Layout:
        """Of the updates of `batches` batches at the beginning of a pass."""
        return self._layout(self.num_examples, batches, by_xla) if self._stream is None else self._stream.layout(batches)

    def advance(self, block: Block) -> None:
        """Says that the block's updates were committed."""
        if self._stream is None:
            self.position += block.size
        else:
            self._stream.advance(block.size)
            self.position = min(self.position + block.size * self.batch_size, self.num_examples)
            self._stream_at = self.epoch, self.position

    def close(self) -> None:
        """Lets go of what was read ahead."""
        if self._order is not None:
            self._order.close()
        if self._stream is not None:
            self._stream.close()
            self._stream_at = None

    def first_batch(self) -> Batch:
        """The first batch in the given order."""
        first = [leaf for leaf in tf.nest.flatten(cutting.take(self.arrays, 0, self.batch_size)) if leaf is not None]
        return self._pack([leaf if isinstance(leaf, Composite) else tf.convert_to_tensor(leaf) for leaf in first])

    def batch_specs(self) -> Batch:
        """What one batch is."""
        return self._specs(min(self.batch_size, self.num_examples))

    def _layout(self, left: int, batches: int, by_xla: bool) -> ArrayLayout | TrailingLayout:
        key = batches, by_xla
        if key not in self._layouts:
            specs = one_of_equal(tuple(tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in self._resident))
            seed = 0 if self.shuffle else None  # the order is looked up outside: whatever the seed, the program is one
            is_padded = by_xla and self._may_pad
            layout = ArrayLayout(self._restore, specs, self._structure, self.batch_size, batches, 0, seed, is_padded=is_padded)
            self._layouts[key] = layout
        whole = self._layouts[key]
        return whole if left >= whole.size else TrailingLayout(whole, left, is_pass=self.num_examples < whole.size)

    @property
    def _padded_length(self) -> int:
        return 1 << (self.num_examples - 1).bit_length()

    @property
    def _may_pad(self) -> bool:
        """Whether XLA is given padded arrays; it takes no strings."""
        num_bytes = sum(_num_bytes(array) for array in self._resident) * self._padded_length // max(self.num_examples, 1)
        return num_bytes <= MAX_PADDED_BYTES and all(array.dtype != tf.string for array in self._resident)

    def _pad(self) -> list[tf.Tensor]:
        """The arrays, longer ones in place of them: nobody reads the rows at their end."""
        missing = self._padded_length - self.num_examples
        if not self._padded:
            self._padded = [tf.pad(array, [[0, missing], *[[0, 0]] * (array.shape.rank - 1)]) for array in self._resident]
        return self._padded

    def _specs(self, size: int | None) -> Batch:
        return self._pack([cutting.sized(spec, size) for spec in self._leaf_specs])

    def _streamed(self, stream: Stream, max_updates: int, batches: int) -> Block | None:
        if self._stream_at != (self.epoch, self.position):
            stream.open(iter(self._dataset(self.epoch, self.position)))
            self._stream_at = self.epoch, self.position
        return stream.block(min(max_updates, self._num_alike(self.position, batches)), batches)

    def _num_alike(self, position: int, batches: int) -> int:
        """Updates from there on that may share a block: a smaller batch must not, in arrays on the device it does not either."""
        return max((self.num_examples - position) // (self.batch_size * batches), 1)

    def _dataset(self, epoch: int, position: int) -> tf.data.Dataset:
        """The rest of a pass, batch by batch; NumPy reads the rows, from wherever the arrays are."""
        dense = [leaf for leaf in self._leaves if not isinstance(leaf, Composite)]
        specs = [spec for spec in self._leaf_specs if isinstance(spec, tf.TensorSpec)]
        takes = [rows_of(leaf) for leaf in self._leaves if isinstance(leaf, Composite)]

        def rows(indices: np.ndarray) -> list[np.ndarray]:
            return [_rows(leaf, indices) for leaf in dense]

        def batch(start: tf.Tensor) -> Batch:
            size = tf.constant(self.num_examples, tf.int64)
            indices = tf.range(start, tf.minimum(start + self.batch_size, size))
            if self.shuffle:
                indices = shuffled(self.seed, tf.constant(epoch, tf.int64), indices, size)
            tensors = tf.numpy_function(rows, [indices], [spec.dtype for spec in specs], stateful=False) if dense else []
            for tensor, spec in zip(tensors, specs, strict=True):
                tensor.set_shape(spec.shape)
            others = (take(indices) for take in takes)
            given = iter(tensors)
            return self._pack([next(others) if isinstance(leaf, Composite) else next(given) for leaf in self._leaves])

        starts = tf.data.Dataset.range(position, self.num_examples, self.batch_size)
        return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def describe_update(batch_size: int, batches: int) -> str:
    """What an update is made of, in words.

    Example:
        >>> describe_update(batch_size=16, batches=4)
        '64 examples = 4 batches of 16'
    """
    examples = f"{batches * batch_size} examples"
    return examples if batches == 1 else f"{examples} = {batches} batches of {batch_size}"


def size_of_batches(num_examples: int, batch_size: int | None, steps: int | None, batches: int = 1) -> int:
    """Examples a batch of arrays, as Keras has it: 32, or so many that so many steps take all there are.

    Args:
        num_examples: in the arrays.
        batch_size: if it was given.
        steps: in an epoch, if that was given; `keras.config.set_max_steps_per_epoch` gives it too.
        batches: that a step takes.

    Example:
        >>> size_of_batches(1000, None, None), size_of_batches(1000, None, 10), size_of_batches(1000, None, 10, batches=4)
        (32, 100, 25)
    """
    if batch_size is not None:
        return batch_size
    given = [number for number in (steps, keras.config.max_steps_per_epoch()) if number]
    return -(-num_examples // (min(given) * batches)) if given else 32


class Whereabouts:
    """Where the last `fit` stopped in its arrays: a further one on the same arrays goes on there."""

    def __init__(self) -> None:
        # The data, how they were gone through, epoch and position in them, passes before.
        self._last: tuple[SameData, tuple[int, bool], int, int, int] | None = None

    def remember(self, source: Any, data: Any) -> None:
        """Keeps where a source stands in `data`, which it was made of; nothing of a stream."""
        if isinstance(source, ArraySource):
            self._last = SameData(data), _order_of(source), source.epoch, source.position, source.ahead[0]

    def go_on(self, source: Any, data: Any, initial_epoch: int) -> None:
        """Puts a source there: in the middle of a pass, if the last one was over the same examples in the same order."""
        if not isinstance(source, ArraySource):
            return
        source.epoch = initial_epoch
        if self._last is None:
            return
        last, order, epoch, position, ahead = self._last
        is_same = last.matches(data) and order == _order_of(source)
        source.epoch = max(epoch + (not is_same and position > 0), initial_epoch)
        if is_same and source.epoch == epoch and position < source.num_examples:
            source.position = position
        source.ahead = source.epoch - initial_epoch, ahead if is_same else 0


def _order_of(source: ArraySource) -> tuple[int, bool]:
    """What a place in a pass is a place of: with another share held out, or unshuffled, others come before it."""
    return source.num_examples, source.shuffle


def _restored(structure: Any, specs: list[tf.TensorSpec], tensors: list[tf.Tensor]) -> Batch:
    """A batch of rows that were gathered from what is on the device."""
    return pack(structure, [device.restored(rows, spec) for rows, spec in zip(tensors, specs, strict=True)])


def _rows(leaf: Any, indices: np.ndarray) -> np.ndarray:
    if not isinstance(leaf, np.ndarray):
        return tf.gather(leaf, indices).numpy()
    rows = leaf[indices]
    return rows.astype(object) if rows.dtype.kind == "U" else rows  # of which TensorFlow takes ASCII only


def _put(leaves: list[Any]) -> list[tf.Tensor]:
    """The arrays on the device; none, where somebody else has taken so much of its memory that they do not fit."""
    try:
        return [device.put(leaf) for leaf in leaves]
    except tf.errors.OpError as error:
        if not device.is_out_of_memory(error):
            raise
        return []


def _num_bytes(leaf: Any) -> int:
    return int(leaf.nbytes) if hasattr(leaf, "nbytes") else int(np.prod(leaf.shape)) * max(tf.as_dtype(leaf.dtype).size, 1)
