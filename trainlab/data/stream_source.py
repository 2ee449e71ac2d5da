"""A stream of batches as a source: a `tf.data.Dataset`, `PyDataset`, generator or loader, taken as it comes."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import keras
import tensorflow as tf

from trainlab.data import arrays, iterators, pipelines
from trainlab.data.blocks import Block, Layout
from trainlab.data.kinds import Loader, differences, from_json, weighing
from trainlab.data.stream import StopRequested, Stream, in_thread, leaves_of, unpack, waited_for
from trainlab.data.stream_blocks import leaves_at
from trainlab.objective import Batch, keras_internals

_MOMENTS = itertools.count(1)  # data sets may share a shuffle: they are put back in the order in which they were opened


class StreamSource:
    """A `tf.data.Dataset`, `PyDataset`, generator or loader, taken as it comes.

    Args:
        data: any of these; its batches are `x`, `(x, y)` or `(x, y, sample_weight)`.
        class_weight: weights by class, as in Keras.
        shuffle: for a `PyDataset`, whether its order of batches changes.
        are_labels: whether a `y` of so many axes holds a label in each element, to look class weights up by.
        may_be_whole: whether batches may be anything (see `unpack`).
        keeps_place: whether a generator goes on where the last pass ended; otherwise each pass begins with its first two batches
          and then goes on, as in Keras.

    Attributes:
        is_endless: whether a pass has no end.
        is_to_be_saved: whether `serialized` will be called.
        name: of the argument that the data are, for warnings.
        most: how many batches a pass has at most; 0 if `restore` need not read the passes that were, and opening them will do.
    """

    is_to_be_saved = False
    name = "x"
    most: float = math.inf
    arrays = None

    def __init__(
        self,
        data: Any,
        class_weight: Mapping[int, float] | None,
        shuffle: bool,
        are_labels: Callable[[int | None], bool] = lambda rank: False,
        may_be_whole: bool = False,
        keeps_place: bool = True,
    ):
        self._settings = {"class_weight": {str(k): float(w) for k, w in (class_weight or {}).items()}, "shuffle": bool(shuffle)}
        self._data, self._before = data, arrays.passes_of(data)
        self._ordered = arrays.ordered_of(data) if shuffle else None
        self._feed = arrays.feed_of(data)
        self._adapter = keras_internals.data_adapter(self._ordered or (self._feed.first() if self._feed else data), None, False)
        if self._feed is not None:
            self._feed.remembers = keeps_place
            self._adapter.generator = self._feed  # in place of one that gives its first batches again in each pass
        self._dataset = self._adapter.get_tf_dataset()
        self._dataset = self._dataset.map(weighing(class_weight, are_labels)) if class_weight else self._dataset
        self._dataset = self._dataset.prefetch(tf.data.AUTOTUNE)
        self._num_batches = self._adapter.num_batches
        self.is_endless = self._num_batches is None and (
            isinstance(data, keras.utils.PyDataset) or self._dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        )
        self._used = self._passes = 0
        self._start: tf.Tensor | None = None
        self._opened_at = 0
        self._own: Any = None
        self._has_moved_on = self._has_warned = False
        self._last: Callable[[], list[tf.Tensor]] | None = None  # returns the last batch used
        self._last_lists: list[tf.Tensor] | None = None
        self._why_not = ""
        self._may_be_whole = may_be_whole
        self.element_spec = unpack(self._dataset.element_spec, may_be_whole)
        self._leaf_specs = leaves_of(self.element_spec)
        self._stream = Stream(self.element_spec)

    dataset = property(lambda self: self._dataset, doc="The batches, for somebody else to read.")
    is_used_up = property(lambda self: self._feed is not None and self._feed.is_used_up, doc="Whether a generator is at its end.")

    @functools.cached_property
    def _nature(self) -> pipelines.Nature:
        return pipelines.nature_of(self._dataset)

    @property
    def at_end(self) -> bool:
        """Whether this pass is known to be over; that of data of unknown size shows only when no batch comes."""
        return self._num_batches is not None and self._used >= self._num_batches and self._stream.is_open

    def updates_per_pass(self, batches: int) -> int | None:
        """How many updates of `batches` batches a pass makes; None if unknown or endless."""
        return None if self._num_batches is None else -(-self._num_batches // batches)

    def first_batch(self) -> Batch:
        """The first batch of a pass."""
        is_copyable = isinstance(self._data, tf.data.Dataset) and self._nature.is_copyable
        with iterators.explained():
            return unpack(waited_for(lambda: pipelines.first_of(self._dataset, is_copyable)), self._may_be_whole)

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
            if not (self.at_end or self._stream.is_over):
                arrays.note_cut(self._data)
            self._stream.end(self.at_end and isinstance(self._data, tf.data.Dataset))
            if self._stream.has_left_behind:
                in_thread(self._adapter.on_epoch_end)  # which would wait for the same
            elif getattr(self._adapter, "enqueuer", None) is not None:
                with suppress(StopRequested):
                    waited_for(self._adapter.on_epoch_end)  # for workers, of which some may be gone
            else:
                self._adapter.on_epoch_end()

    def place(self) -> tuple[int, int]:
        """Where training stands, as another process is told: the pass, and the batch in it."""
        return self._passes, self._used

    def go_to(self, place: tuple[int, int]) -> None:
        """Goes where another process stands, or raises ValueError: at most to the beginning of a later pass."""
        while self._passes < place[0]:
            self._end_pass()
            self._open()
        if self.place() != place:
            raise ValueError(f"x stands at batch {self._used} of pass {self._passes}, the chief at {place[1]} of {place[0]}")

    def block(self, max_updates: int, batches: int, by_xla: bool = False) -> Block | None:
        """The next updates of `batches` batches; at the end of a pass one of fewer; None after it."""
        with iterators.explained():
            if not self._stream.is_open:
                self._open()
            block = self._stream.block(max_updates, batches)
        if self._last is not None and block is not None and block.tensors[0] is not self._last_lists:
            last = self._last() if self.is_to_be_saved else []
            self._last, self._last_lists = (lambda: last) if last else None, None  # rather than all that were read with it
        return block

    def read_ahead(self, after: Block, max_updates: int, batches: int) -> None:
        """Begins to read the updates that come after this block; see `Stream`."""
        if self._num_batches is not None:
            max_updates = min(max_updates, -(-(self._num_batches - self._used - after.size) // batches))
        self._stream.read_ahead(after, max_updates, batches)

    must_read = property(lambda self: self._stream.must_read, doc="Whether training waits until the next block is read.")
    is_settled = property(lambda self: self._stream.is_settled, doc="Whether the iterator stands where training does.")

    def settle(self) -> None:
        """Reads nothing ahead until it does."""
        self._stream.settle()

    def layout(self, batches: int, by_xla: bool = False) -> Layout:
        """Of updates of `batches` batches."""
        return self._stream.layout(batches)

    def describe_update(self, batches: int) -> str:
        """What an update of so many batches is made of, in words."""
        return f"{batches} of x's batches"

    def warn(self, batches: int, updates_per_epoch: int | None = None) -> None:
        """Warns where epochs are no passes, and the data listen for them; whether updates are small nobody knows."""
        if self.is_endless or updates_per_epoch not in (None, self.updates_per_pass(batches)):
            arrays.warn_of_hooks(self._data)

    def describe(self) -> dict[str, Any]:
        """What the batches are."""
        return {"element_spec": str(self.element_spec), "batches": self._num_batches, **self._settings}

    def state(self) -> dict[str, Any]:
        """Where training stands in the data, as JSON holds it.

        For data that keep account of their own state, that is in it: as this pass began, since they may have been read ahead.
        """
        state: dict[str, Any] = {"passes": self._passes, "batches": self._used, "is_open": self._stream.is_open}
        if self._ordered is not None:  # before any pass: other processes are told of it once, then
            state["order"] = self._ordered.drawn()
        if self._passes:
            if self._last is not None:
                state["last_batch"] = iterators.checksum(self._last())
            state["opened_at"] = self._opened_at
            state["before"], state["is_any_cut_short"] = self._before.begun, arrays.passes_of(self._data).is_any_cut_short
            if self._feed is not None:
                state |= self._feed.state()
            if self.is_to_be_saved:
                state["seeds"] = differences.known_seeds(self._nature.seeds)
                state["interleaves"] = self._nature.interleaves
            state["own"] = self._own if self._stream.is_open else self._own_state()
        return state

    def serialized(self) -> dict[str, tf.Tensor]:
        """The same for `tf.data`: where the iterator stands and, since it knows the order of the next pass, where it began.

        TensorFlow restores an iterator exactly, but where its shuffle buffer had seen the end of its input the next pass would
        come in another order; restoring its beginning once more puts that right.

        Raises:
            ValueError: it cannot be saved, or not so that it would go on exactly; the line says why.
        """
        if self._passes == 0 or self._own is not None or isinstance(self._feed, Loader):
            return {}
        try:
            if self._start is None:
                raise ValueError(self._why_not)
            now = waited_for(lambda: iterators.serialize(self._stream.iterator))
        except (ValueError, tf.errors.OpError) as error:
            why = str(error) if isinstance(error, ValueError) else iterators.reason(error)
            others = [f"{chance}, or its batches are others when it is read again" for chance in self._nature.chance]
            raise ValueError("; ".join([why, *others])) from error
        if self._nature.is_unseeded and not self._has_warned:
            self._has_warned = True
            differences.tell_of_order(self.name, self._nature.chance_in_words, "a resume would end this pass as it is")
        return {**self.beginning(), "now": now}

    def beginning(self) -> dict[str, tf.Tensor]:
        """Of that, where the pass began; nothing where it is not known to be restored exactly."""
        return {} if self._start is None else {"start": self._start}

    def restore(self, state: Mapping[str, Any], serialized: Mapping[str, tf.Tensor]) -> None:
        """Puts it there. Where others than the same batches come, or may come, a warning says so.

        Args:
            state: what `state` returned.
            serialized: what `serialized` returned; where that raised, nothing, and the data are read again up to there.

        Raises:
            ValueError: it cannot be put there.
        """
        if self._ordered is not None and ("order" in state or state["passes"]):
            self._ordered.root = state.get("order")
        if state["passes"] == 0:
            return
        arrays.take_owed(self._data)  # what fits before had read counts in this state
        with iterators.explained():
            if state.get("own") is not None and (own := arrays.own_state(self._data)) is not None:
                own[1](from_json(state["own"]))
                if state["is_open"]:
                    self._passes = state["passes"] - 1
                    self._open_at(state["batches"], state)
            elif isinstance(self._feed, Loader) and self._feed.go_to(state):
                self._open()
            elif isinstance(self._feed, arrays.Feed):
                self._open_at(self._feed.way_to(state), state)
            elif self._interleaves_as(state) and serialized and not self._nature.why_not_saved:
                self._deserialize(state, serialized)
            else:
                self._read_again(state)
        self._passes, self._used = state["passes"], state["batches"]
        if not state["is_open"] and self._stream.is_open:
            self._end_pass()

    def pass_over(self, state: Mapping[str, Any]) -> None:
        """In place of `restore`, for a fit that is over: what it had read is read when somebody opens the same data again."""
        if state["passes"]:
            arrays.owe(self._data, state)

    def _pay(self, owed: Mapping[str, Any]) -> None:
        root = None if self._ordered is None else self._ordered.root
        self.restore(owed, {})
        self._end_pass()
        self._passes, self._before = 0, arrays.passes_of(self._data)
        if self._ordered is not None:
            self._ordered.root = root

    def _deserialize(self, state: Mapping[str, Any], serialized: Mapping[str, tf.Tensor]) -> None:
        if "now" in serialized:
            self._open()
            iterators.deserialize(self._stream.iterator, serialized["now"])
        elif state["is_open"]:
            self._open_at(state["batches"], state, serialized["start"])
        self._opened_at = next(_MOMENTS)
        beginning = iter(self._dataset)
        iterators.deserialize(beginning, serialized["start"])
        self._start = serialized["start"]
        if self._nature.is_unordered:
            warnings.warn(f"{self.name} may give other batches than before: {self._nature.chance_in_words}", stacklevel=4)
        why = self._nature.chance_in_words if self._nature.is_unseeded and not self._before.begun else ""
        if why := differences.OTHER_SEEDS if differences.has_other_seeds(state, self._nature.seeds) else why:
            differences.tell_of_order(self.name, why, "this pass ends as it would have")

    def _interleaves_as(self, state: Mapping[str, Any]) -> bool:
        """Whether its interleaves are those of the state; from now on, if they were not and can be."""
        copy = pipelines.interleaved_as(self._dataset, self._nature, state.get("interleaves"), self.name)
        if copy is not None and copy is not self._dataset:
            self._begin_anew(copy)
        return copy is not None

    def _begin_anew(self, copy: tf.data.Dataset) -> None:
        self._dataset, self._before = copy, arrays.Passes()
        self.__dict__.pop("_nature", None)
        arrays.note_passes(self._data, self._before)

    def _read_again(self, state: Mapping[str, Any]) -> None:
        """Begins where the first pass began, in other fits' passes if need be, and drops what training has used."""
        before = arrays.Passes(state.get("before", 0), state.get("is_any_cut_short", False))
        self._has_moved_on = self._before.begun > before.begun
        if self._has_moved_on and isinstance(self._data, tf.data.Dataset) and self._nature.is_copyable:
            self._begin_anew(pipelines.copied(self._dataset))  # this one's shuffles would go on where they are
        for _ in range(before.begun - self._before.begun):
            self._pass_by(1 if self.is_endless else self.most)
        self._passes, self._before = 0, max(before, self._before)
        for _ in range(state["passes"] - (self.most > 0)):
            self._pass_by(self.most)
        if self.most > 0:
            self._open_at(state["batches"], state)
            if not (state["is_open"] or self.is_endless):
                self._stream.see_end()

    def _pass_by(self, num_batches: float) -> None:
        self._open()
        self._stream.skip(num_batches)
        self._end_pass()

    def _open_at(self, num_batches: float, state: Mapping[str, Any], start: tf.Tensor | None = None) -> None:
        """Begins a pass, as the one that began at `start`, and drops so many batches; makes sure that the last is what it was."""
        self._open()
        if start is not None:
            iterators.deserialize(self._stream.iterator, start)
        was, found, is_same = state.get("last_batch"), 0, True
        if num_batches:
            found = self._stream.skip(num_batches - 1)
            last = waited_for(lambda: iterators.next_of(self._stream.iterator, None))
            if last is not None:
                found += 1
                is_same = was is None or was == iterators.checksum(leaves_of(last))
        if self._feed is not None:
            self._feed.use(found)
        if found < num_batches < math.inf:
            raise ValueError(f"{self.name} gave fewer than the {num_batches} batches that it gave before: it is not the same")
        self._warn_of_others(state, is_same, is_sure=is_same and was is not None)

    def _warn_of_others(self, state: Mapping[str, Any], is_same: bool, is_sure: bool) -> None:
        """Says what may come otherwise than before; whether the last batch `is_same` counts only if that `is_sure`."""
        may_be = {
            **dict.fromkeys(self._nature.chance, True),
            differences.OTHER_SEEDS: differences.has_other_seeds(state, self._nature.seeds),
            differences.OTHER_INTERLEAVES: differences.has_other_interleaves(state, self._nature.interleaves),
            differences.NO_ORDER: self._ordered is not None and "order" not in state,
            differences.MOVED_ON: self._has_moved_on and not is_sure,
            differences.CUT_SHORT: self._before.is_any_cut_short and not is_sure and bool(self._nature.why_not_saved),
        }
        differences.tell(self.name, state, [reason for reason, is_so in may_be.items() if is_so], is_same)

    def _open(self) -> None:
        if self._passes == 0 and (owed := arrays.take_owed(self._data)) is not None:
            self._pay(owed)
        arrays.note_pass(self._data)
        self._own, self._opened_at = self._own_state(), next(_MOMENTS)
        self._passes, self._used, self._last = self._passes + 1, 0, None
        if self._ordered is not None:
            self._ordered.shuffle(self._passes)
        self._adapter.on_epoch_begin()
        if self._feed is not None:
            self._feed.begin()
        self._stream.open(iter(self._dataset))
        self._start = None
        if self.is_to_be_saved and self._own is None:
            self._why_not = self._why_not or self._nature.why_not_saved
            try:
                self._start = None if self._why_not else iterators.serialize(self._stream.iterator)
            except tf.errors.OpError as error:
                self._why_not = iterators.reason(error)

    def _own_state(self) -> Any:
        """Of data that keep account of it, as JSON holds it; None of all others."""
        state, why = arrays.told_state(self._data)
        self._why_not = why or self._why_not
        return state

    def advance(self, block: Block) -> None:
        """Says that the block's updates were committed."""
        self._used += block.size
        self._stream.advance(block.size)
        if self._feed is not None and self._feed.remembers:
            self._feed.use(block.size)
        self._last_lists, first = block.tensors
        self._last = functools.partial(leaves_at, self._last_lists, int(first) + block.size - 1, self._leaf_specs)
