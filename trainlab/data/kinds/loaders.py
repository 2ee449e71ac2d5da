"""Loaders whose iterators say where they stand, and go there: Grain's; each pass begins with a new iterator."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from trainlab.data.kinds.states import as_json, from_json
from trainlab.datasets import Batches


def is_loader(data: Any) -> bool:
    """Whether it is one of Grain's, or such a one with the specs of its batches."""
    return isinstance(data, Batches) or Batches.are_in(data)


class _Pass:
    """One pass: the iterator that it begins with, and after each batch that it gave where that stood."""

    def __init__(self, iterator: Any, num_batches: int, mark: Any):
        self.iterator, self.num_batches, self.marks = iterator, num_batches, {num_batches: mark}


class Loader:
    """Such a loader as a function that gives the batches of a pass, and keeps where its iterator stood after each.

    Batches are read ahead; a checkpoint needs where the iterator stood after the last one that was used.

    Args:
        data: has an iterator with `get_state()` and `set_state(state)`.

    Raises:
        TypeError: it is an iterator itself.

    Attributes:
        remembers: nothing: here for `Feed`, which takes its place for generators.
    """

    is_used_up = False

    def __init__(self, data: Any):
        Batches.check_begins_anew(data)
        self._data = data
        self.remembers = True
        self._used = 0
        self._prepared: _Pass | None = None
        self._pass: _Pass | None = None

    def first(self) -> Iterator[Any]:
        """The first two batches, which tell what all are."""
        for batch in itertools.islice(iter(self._data), 2):
            yield _plain(batch)

    def begin(self) -> None:
        """Says that a pass begins: from its beginning, or where `go_to` has put it."""
        self._pass, self._prepared = self._prepared or _Pass(None, 0, None), None
        self._used = self._pass.num_batches

    def __call__(self) -> Iterator[Any]:
        """The batches of the pass that has begun; where none has, all of them."""
        current = self._pass or _Pass(None, 0, None)
        iterator, current.iterator = current.iterator or iter(self._data), None
        number = min(current.marks)
        for batch in iterator:
            number += 1
            current.marks[number] = iterator.get_state()
            yield _plain(batch)

    def use(self, num_batches: int) -> None:
        """Says that so many were used: where the iterator stood before is of no interest any more."""
        self._used += num_batches
        if self._pass is not None:
            for number in [number for number in self._pass.marks if number < self._used]:
                del self._pass.marks[number]

    def state(self) -> dict[str, Any]:
        """Where the iterator stood after the last batch that was used, as JSON holds it; nothing where that cannot be held."""
        try:
            return {} if self._pass is None else {"iterator": as_json(self._pass.marks[self._used])}
        except (KeyError, TypeError):
            return {}

    def go_to(self, state: Mapping[str, Any]) -> bool:
        """Puts the next pass there; a warning says where that cannot be done."""
        if "iterator" not in state:
            return not state["is_open"]  # the next pass begins at its beginning
        mark = from_json(state["iterator"])
        iterator = iter(self._data)
        try:
            if mark is not None:
                iterator.set_state(mark)  # type: ignore[attr-defined]
        except Exception as error:  # Grain's own checks have several
            reason = " ".join(str(error).split())
            warnings.warn(f"x does not go where it stood, and is read again up to there: {reason}", stacklevel=5)
            return False
        self._prepared = _Pass(iterator, state["batches"], mark)
        return True


def _plain(batch: Any) -> Any:
    """A tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays."""
    batch = keras.tree.lists_to_tuples(batch)
    batch = batch if isinstance(batch, tuple) else (batch,)
    return keras.tree.map_structure(lambda leaf: leaf if leaf is None or hasattr(leaf, "shape") else np.asarray(leaf), batch)
