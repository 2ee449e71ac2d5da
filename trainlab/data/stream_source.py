"""A stream of batches as a source: a `tf.data.Dataset`, `PyDataset`, generator or loader, taken as it comes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.data import iterators
from trainlab.data.blocks import Block, Layout
from trainlab.data.stream import Stream, unpack
from trainlab.objective import Batch, keras_internals


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
    arrays = None

    def __init__(self, data: Any, class_weight: Mapping[int, float] | None, shuffle: bool):
        weights = {str(label): float(weight) for label, weight in (class_weight or {}).items()}
        self._settings = {"class_weight": weights, "shuffle": bool(shuffle)}
        shuffle = shuffle and isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
        self._adapter = keras_internals.data_adapter(data, class_weight, shuffle)
        self.dataset = self._adapter.get_tf_dataset().prefetch(tf.data.AUTOTUNE)
        self._num_batches = self._adapter.num_batches
        self._is_endless = self._num_batches is None and (
            isinstance(data, keras.utils.PyDataset) or self.dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        )
        self._used = 0
        self._passes = 0
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
        # Before anybody begins another pass: it may hold a file of a cache that it has not finished.
        self._stream.close(at_once=is_cut_short)

    def _end_pass(self) -> None:
        """Ends a pass that has begun; its workers stop."""
        if self._stream.is_open:
            self._stream.end()
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

    def describe_update(self, batches: int) -> str:
        """What an update of so many batches is made of, in words."""
        return f"{batches} of x's batches"

    def warn_if_small(self, batches: int) -> None:
        """Nothing: nobody knows."""

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
            return {"start": self._start, "now": iterators.serialize(self._stream.iterator)}
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
            iterators.deserialize(self._stream.iterator, serialized["now"])
            beginning = iter(self.dataset)
            iterators.deserialize(beginning, serialized["start"])
            self._start = serialized["start"]
        else:
            for _ in range(state["passes"] - 1):
                self._open()
                for _ in self._stream.iterator:
                    pass
                self._end_pass()
            self._open()
            for _ in range(state["batches"]):
                if next(self._stream.iterator, None) is None:
                    raise ValueError(f"x gave fewer than the {state['batches']} batches that it gave before: it is not the same")
        self._passes, self._used = state["passes"], state["batches"]
        if not state["is_open"]:
            self._end_pass()

    def _open(self) -> None:
        self._adapter.on_epoch_begin()
        self._passes, self._used = self._passes + 1, 0
        self._stream.open(iter(self.dataset))
        self._start = None
        if self.is_to_be_saved:
            if iterators.repeats_a_shuffle(self.dataset):
                self._why_not = "it repeats what it shuffles: leave the repeat out, and epochs will"
                return
            try:
                self._start = iterators.serialize(self._stream.iterator)
            except tf.errors.OpError as error:
                self._why_not = iterators.reason(error)

    def advance(self, block: Block) -> None:
        """Says that the block's updates were committed."""
        self._used += block.size
        self._stream.advance(block.size)
