"""Where batches come from, one block at a time: arrays, addressed by (seed, epoch, position), or a stream, taken as it comes.

A source hands out blocks, and moves on only when told that the block's updates were committed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab import iterators, resident
from trainlab.blocks import ArrayLayout, Block, Layout
from trainlab.model_function import Batch
from trainlab.order import shuffled
from trainlab.stream import Stream, pack, unpack

# Arrays that take a larger share of the device's memory are streamed, batch by batch, in the same order.
RESIDENT_SHARE = 0.25
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of what a container on Linux may use


class ArraySource:
    """Arrays, cut into batches of `batch_size`; each pass visits every example once, the last batch being what is left.

    Arrays that take at most `RESIDENT_SHARE` of the device's memory are put there whole; of larger ones each batch is
    brought by `tf.data`, in the same order.

    Args:
        arrays: `(x, y, sample_weight)`, nests of arrays with the same first axis, or None.
        batch_size: examples a batch.
        shuffle: whether each pass takes its own order; the given order otherwise.
        seed: the run's.

    Attributes:
        given: the arrays.
        epoch: passes begun before this one.
        position: examples of this pass already used.
    """

    is_endless = False
    is_settled = True
    is_to_be_saved = False

    def __init__(self, arrays: Batch, batch_size: int, shuffle: bool, seed: int):
        self._leaves = [leaf for leaf in tf.nest.flatten(arrays) if leaf is not None]
        structure = tf.nest.map_structure(lambda leaf: None if leaf is None else True, arrays)
        self._pack = functools.partial(pack, structure)
        self._leaf_specs = [tf.TensorSpec([None, *leaf.shape[1:]], tf.as_dtype(leaf.dtype)) for leaf in self._leaves]
        self._structure = f"{structure} of {self._leaf_specs}"
        # Not a method: traces keep it, and must not keep the arrays.
        self._restore = functools.partial(_restored, structure, self._leaf_specs)
        self.given = arrays
        self.num_examples = int(self._leaves[0].shape[0])
        self.batch_size = int(batch_size)
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._arrays: list[tf.Tensor] = []
        self._stream: Stream | None = None
        self._iterator: Any = None  # of the stream
        self._stream_at: tuple[int, int] | None = None  # the epoch and position that the stream's next block begins at
        if sum(_num_bytes(leaf) for leaf in self._leaves) <= RESIDENT_SHARE * device_memory():
            self._arrays = [resident.put(leaf) for leaf in self._leaves]
        else:
            self._stream = Stream(self._specs(None))

    @property
    def is_resident(self) -> bool:
        """Whether the arrays are on the device whole."""
        return self._stream is None

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

    def block(self, max_updates: int, batches: int) -> Block | None:
        """The next updates of `batches` batches each; those of one pass, and a smaller one at its end by itself."""
        left = self.num_examples - self.position
        if left <= 0:
            return None
        if self._stream is not None:
            return self._streamed(self._stream, max_updates, batches)
        layout = self._layout(left, batches)
        num_updates = min(max_updates, max(left // (self.batch_size * batches), 1), layout.max_updates)
        tensors = [self._arrays, tf.constant(self.epoch, tf.int64), tf.constant(self.position, tf.int64)]
        return Block(layout, tensors, num_updates, num_updates * layout.size)

    @property
    def must_read(self) -> bool:
        """Whether training waits until the next block is read."""
        return self._stream is not None and self._stream.must_read

    def read_ahead(self, after: Block, max_updates: int, batches: int) -> None:
        """Begins to read the updates that come after this block, where they are not on the device; see `Stream`."""
        position = self.position + after.size * self.batch_size
        if self._stream is not None and position < self.num_examples:
            self._stream.read_ahead(after, min(max_updates, self._num_alike(position, batches)), batches)

    def settle(self) -> None:
        """Nothing: what was read ahead can be read again."""

    def layout(self, batches: int) -> Layout:
        """Of the updates of `batches` batches at the beginning of a pass."""
        return self._layout(self.num_examples, batches) if self._stream is None else self._stream.layout(batches)

    def advance(self, block: Block) -> None:
        """Says that the block's updates were committed."""
        if self._stream is None:
            self.position += block.size
        else:
            self._stream.advance(block.size)
            self.position = min(self.position + block.size * self.batch_size, self.num_examples)
            self._stream_at = self.epoch, self.position

    def close(self) -> None:
        """Lets go of what a stream has read ahead."""
        if self._stream is not None:
            self._stream.reset()
            self._stream_at = None
            held, self._iterator = [self._iterator], None
            iterators.let_go(held)

    def first_batch(self) -> Batch:
        """The first batch in the given order."""
        return self._pack([tf.convert_to_tensor(leaf[: self.batch_size]) for leaf in self._leaves])

    def batch_specs(self) -> Batch:
        """What one batch is."""
        return self._specs(min(self.batch_size, self.num_examples))

    def _layout(self, left: int, batches: int) -> ArrayLayout:
        full, rest = batches, 0
        if left < self.batch_size * batches:
            full, rest = divmod(left, self.batch_size)
        specs = tuple(tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in self._arrays)
        seed = self.seed if self.shuffle else None
        return ArrayLayout(self._restore, specs, self._structure, self.batch_size, full, rest, seed)

    def _specs(self, size: int | None) -> Batch:
        return self._pack([tf.TensorSpec([size, *spec.shape[1:]], spec.dtype) for spec in self._leaf_specs])

    def _streamed(self, stream: Stream, max_updates: int, batches: int) -> Block | None:
        if self._stream_at != (self.epoch, self.position):
            last, self._iterator = [self._iterator], iter(self._dataset(self.epoch, self.position))
            stream.reset(self._iterator)
            iterators.let_go(last)
            self._stream_at = self.epoch, self.position
        return stream.block(min(max_updates, self._num_alike(self.position, batches)), batches)

    def _num_alike(self, position: int, batches: int) -> int:
        """Updates from there on that may share a block: a smaller batch must not, in arrays on the device it does not either."""
        return max((self.num_examples - position) // (self.batch_size * batches), 1)

    def _dataset(self, epoch: int, position: int) -> tf.data.Dataset:
        """The rest of a pass, batch by batch; NumPy reads the rows, from wherever the arrays are."""
        dtypes = [spec.dtype for spec in self._leaf_specs]

        def rows(indices: np.ndarray) -> list[np.ndarray]:
            return [leaf[indices] if isinstance(leaf, np.ndarray) else tf.gather(leaf, indices).numpy() for leaf in self._leaves]

        def batch(start: tf.Tensor) -> Batch:
            size = tf.constant(self.num_examples, tf.int64)
            indices = tf.range(start, tf.minimum(start + self.batch_size, size))
            if self.shuffle:
                indices = shuffled(self.seed, tf.constant(epoch, tf.int64), indices, size)
            tensors = tf.numpy_function(rows, [indices], dtypes, stateful=False)
            for tensor, spec in zip(tensors, self._leaf_specs, strict=True):
                tensor.set_shape(spec.shape)
            return self._pack(tensors)

        starts = tf.data.Dataset.range(position, self.num_examples, self.batch_size)
        return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class StreamSource:
    """A `tf.data.Dataset`, `PyDataset`, generator or loader, taken as it comes.

    Args:
        data: any of these; its batches are `x`, `(x, y)` or `(x, y, sample_weight)`.
        class_weight: weights by class, as in Keras.
        shuffle: for a `PyDataset`, whether its order of batches changes.

    Attributes:
        is_to_be_saved: whether `serialized` will be called.
    """

    is_to_be_saved = False

    def __init__(self, data: Any, class_weight: Mapping[int, float] | None, shuffle: bool):
        # Keras' adapters know every kind of loader, workers included; this is the one use of them.
        from keras.src.trainers.data_adapters import get_data_adapter

        weights = {str(label): float(weight) for label, weight in (class_weight or {}).items()}
        self._settings = {"class_weight": weights, "shuffle": bool(shuffle)}
        shuffle = shuffle and isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
        self._adapter = get_data_adapter(data, class_weight=class_weight, shuffle=shuffle)
        self.dataset = self._adapter.get_tf_dataset().prefetch(tf.data.AUTOTUNE)
        self._num_batches = self._adapter.num_batches
        self._is_endless = self._num_batches is None and (
            isinstance(data, keras.utils.PyDataset) or self.dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        )
        self._used = 0
        self._passes = 0
        self._iterator: Any = None  # of the pass under way, or of the last one: its end knows what the next order is
        self._start: tf.Tensor | None = None
        self._why_not = ""
        self.element_spec = unpack(self.dataset.element_spec)
        self._stream = Stream(self.element_spec)

    @property
    def is_endless(self) -> bool:
        """Whether a pass has no end."""
        return self._is_endless

    @property
    def at_end(self) -> bool:
        """Whether this pass is known to be over; that of data of unknown size shows only when no batch comes."""
        return self._num_batches is not None and self._used >= self._num_batches and self._stream.is_open

    def updates_per_pass(self, batches: int) -> int | None:
        """How many updates of `batches` batches a pass makes; None if unknown or endless."""
        return None if self._num_batches is None else -(-self._num_batches // batches)

    def first_batch(self) -> Batch:
        """The first batch of a pass."""
        return unpack(next(iter(self.dataset)))

    def batch_specs(self) -> Batch:
        """What one batch is; unknown sizes are None."""
        return self.element_spec

    def next_pass(self) -> None:
        """Starts from the beginning."""
        self._end_pass()

    def close(self) -> None:
        """Ends a pass that has begun, and lets go of it."""
        is_cut_short = self._stream.is_open
        self._end_pass()
        held, self._iterator = [self._iterator], None
        if is_cut_short:
            held.clear()  # before anybody begins another pass: it may hold a file of a cache that it has not finished
        else:
            iterators.let_go(held)

    def _end_pass(self) -> None:
        """Ends a pass that has begun; its workers stop."""
        if self._stream.is_open:
            self._stream.reset()
            self._adapter.on_epoch_end()

    def block(self, max_updates: int, batches: int) -> Block | None:
        """The next updates of `batches` batches; at the end of a pass one of fewer; None after it."""
        if not self._stream.is_open:
            self._open()
        return self._stream.block(max_updates, batches)

    def read_ahead(self, after: Block, max_updates: int, batches: int) -> None:
        """Begins to read the updates that come after this block; see `Stream`."""
        if self._num_batches is not None:
            max_updates = min(max_updates, -(-(self._num_batches - self._used - after.size) // batches))
        self._stream.read_ahead(after, max_updates, batches)

    @property
    def must_read(self) -> bool:
        """Whether training waits until the next block is read."""
        return self._stream.must_read

    @property
    def is_settled(self) -> bool:
        """Whether the iterator stands where training does."""
        return self._stream.is_settled

    def settle(self) -> None:
        """Reads nothing ahead until it does."""
        self._stream.settle()

    def layout(self, batches: int) -> Layout:
        """Of updates of `batches` batches."""
        return self._stream.layout(batches)

    def describe(self) -> dict[str, Any]:
        """What the batches are."""
        return {"element_spec": str(self.element_spec), "batches": self._num_batches, **self._settings}

    def state(self) -> dict[str, Any]:
        """Where training stands in the data."""
        return {"passes": self._passes, "batches": self._used, "is_open": self._stream.is_open}

    def serialized(self) -> dict[str, tf.Tensor]:
        """The same for `tf.data`: where the iterator stands and, since it knows the order of the next pass, where it began.

        TensorFlow restores an iterator exactly, but where its shuffle buffer had seen the end of its input the next pass would
        come in another order; restoring its beginning once more puts that right.

        Raises:
            ValueError: it cannot be saved, or not so that it would go on exactly; the line says why.
        """
        if self._passes == 0:
            return {}
        if self._start is None:
            raise ValueError(self._why_not)
        try:
            return {"start": self._start, "now": iterators.serialize(self._iterator)}
        except tf.errors.OpError as error:
            raise ValueError(iterators.reason(error)) from error

    def restore(self, state: Mapping[str, Any], serialized: Mapping[str, tf.Tensor]) -> None:
        """Puts it there.

        Args:
            state: what `state` returned.
            serialized: what `serialized` returned; where that raised, nothing, and the data are read again up to there.
        """
        if state["passes"] == 0:
            return
        if serialized:
            self._open()
            iterators.deserialize(self._iterator, serialized["now"])
            beginning = iter(self.dataset)
            iterators.deserialize(beginning, serialized["start"])
            self._start = serialized["start"]
        else:
            for _ in range(state["passes"] - 1):
                self._open()
                for _ in self._iterator:
                    pass
                self._end_pass()
            self._open()
            for _ in range(state["batches"]):
                if next(self._iterator, None) is None:
                    raise ValueError(f"x gave fewer than the {state['batches']} batches that it gave before: it is not the same")
        self._passes, self._used = state["passes"], state["batches"]
        if not state["is_open"]:
            self._end_pass()

    def _open(self) -> None:
        self._adapter.on_epoch_begin()
        self._passes, self._used = self._passes + 1, 0
        last, self._iterator = [self._iterator], iter(self.dataset)
        self._stream.reset(self._iterator)
        iterators.let_go(last)
        self._start = None
        if self.is_to_be_saved:
            if iterators.repeats_a_shuffle(self.dataset):
                self._why_not = "it repeats what it shuffles: leave the repeat out, and epochs will"
                return
            try:
                self._start = iterators.serialize(self._iterator)
            except tf.errors.OpError as error:
                self._why_not = iterators.reason(error)

    def advance(self, block: Block) -> None:
        """Says that the block's updates were committed."""
        self._used += block.size
        self._stream.advance(block.size)


def device_memory() -> int:
    """Bytes of memory of the device that the step runs on."""
    if tf.config.list_physical_devices("GPU"):
        from tensorflow.python.client import device_lib  # the one place that says

        return max(device.memory_limit for device in device_lib.list_local_devices() if device.device_type == "GPU")
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(everything, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # there is none, or it says "max"
        return everything


def _restored(structure: Any, specs: list[tf.TensorSpec], tensors: list[tf.Tensor]) -> Batch:
    """A batch of rows that were gathered from what is on the device."""
    return pack(structure, [resident.restored(rows, spec) for rows, spec in zip(tensors, specs, strict=True)])


def _num_bytes(leaf: Any) -> int:
    return int(leaf.nbytes) if hasattr(leaf, "nbytes") else int(np.prod(leaf.shape)) * max(tf.as_dtype(leaf.dtype).size, 1)
