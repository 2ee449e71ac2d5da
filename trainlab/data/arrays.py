"""What users hand over: arrays told from streams, and converted; recognised when it comes again; what was read of it."""

from __future__ import annotations

import dataclasses
import math
import random
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data.kinds import (
    Composite,
    Loader,
    as_json,
    as_sparse,
    from_objects,
    from_table,
    is_loader,
    is_sparse_matrix,
    is_table,
)


def as_arrays(data: Any) -> Any:
    """Numbers in any of the containers that Keras takes, as NumPy arrays or tensors; floats in Keras' floatx.

    A series is `[n, 1]`, as Keras has it; sparse and ragged tensors stay what they are, SciPy's become `tf.SparseTensor`.

    Raises:
        TypeError: something in it is no array.
    """
    if data is None or is_sparse_matrix(data):  # of which one is a dictionary
        return _as_array(data)
    return tf.nest.map_structure(_as_array, data)


def is_stream(x: Any) -> bool:
    """Whether `x` is something that hands out batches, rather than arrays."""
    if isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)) or hasattr(x, "__next__"):
        return True
    is_torchs = any(kind.__module__.partition(".")[0] == "torch" for kind in type(x).__mro__)
    return is_loader(x) or (is_torchs and not hasattr(x, "shape"))


class SameData:
    """Remembers, without keeping it alive, what was trained on: the position in one data set means nothing in another."""

    def __init__(self, data: Any):
        self._references = [_reference(leaf) for leaf in tf.nest.flatten(data) if leaf is not None]

    def matches(self, data: Any) -> bool:
        """Whether `data` holds the very same arrays."""
        leaves = [leaf for leaf in tf.nest.flatten(data) if leaf is not None]
        return len(leaves) == len(self._references) and all(
            reference() is leaf for reference, leaf in zip(self._references, leaves, strict=True)
        )


class Passes(NamedTuple):
    """What was read of data in this process.

    Attributes:
        begun: how many passes were: what the data draw from may have moved on.
        is_any_cut_short: whether one ended before the data did. Those may have been read ahead, nobody knows how far.
    """

    begun: int = 0
    is_any_cut_short: bool = False


_passes: dict[int, tuple[weakref.ref[Any], Passes]] = {}


def passes_of(data: Any) -> Passes:
    """Those over these very data."""
    reference, passes = _passes.get(id(data), (None, Passes()))
    return passes if reference is not None and reference() is data else Passes()


def note_passes(data: Any, passes: Passes) -> None:
    """Remembers them, as long as the data live."""
    key = id(data)
    with suppress(TypeError):  # of what cannot be watched nothing is known
        _passes[key] = weakref.ref(data, lambda _: _passes.pop(key, None)), passes


def note_pass(data: Any) -> None:
    """Remembers that one more was begun."""
    passes = passes_of(data)
    note_passes(data, passes._replace(begun=passes.begun + 1))


def note_cut(data: Any) -> None:
    """Remembers that one was cut short."""
    note_passes(data, passes_of(data)._replace(is_any_cut_short=True))


_owed: dict[int, tuple[weakref.ref[Any], Mapping[str, Any]]] = {}


def owe(data: Any, state: Mapping[str, Any]) -> None:
    """Remembers, as long as the data live, that they are to be read up to there before anything else is read of them."""
    key = id(data)
    with suppress(TypeError):
        _owed[key] = weakref.ref(data, lambda _: _owed.pop(key, None)), state


def take_owed(data: Any) -> Mapping[str, Any] | None:
    """How far these very data are to be read, and that they need not be any more."""
    reference, state = _owed.pop(id(data), (None, None))
    return state if reference is not None and reference() is data else None


@dataclasses.dataclass
class _Kept:
    """Batches of a generator, by their number, of which some were used; and the first ones, which tell what all are."""

    first: list[Any] = dataclasses.field(default_factory=list)
    batches: dict[int, Any] = dataclasses.field(default_factory=dict)
    num_read: int = 0
    num_used: int = 0
    is_over: bool = False
    reading: threading.Lock = dataclasses.field(default_factory=threading.Lock)


_kept: weakref.WeakKeyDictionary[Any, _Kept] = weakref.WeakKeyDictionary()


class Feed:
    """A generator, which can be read only once, with memory: what was read ahead and not used comes first the next time.

    Args:
        generator: of batches. Whoever makes another feed of it goes on where the last one stood.

    Attributes:
        remembers: whether somebody says by `use` what was used.

    Example:
        >>> numbers = (i for i in range(5))
        >>> feed = Feed(numbers)
        >>> ahead = feed()
        >>> next(ahead), next(ahead), next(ahead)
        (0, 1, 2)
        >>> feed.use(1)
        >>> list(Feed(numbers)())
        [1, 2, 3, 4]
    """

    def __init__(self, generator: Generator[Any, None, None]):
        self._generator = generator
        self._kept = _kept.setdefault(generator, _Kept())
        self.remembers = True

    @property
    def num_used(self) -> int:
        """Batches of the generator that were used in this process."""
        return self._kept.num_used

    @property
    def is_used_up(self) -> bool:
        """Whether it is known that it gives no more, and all that it gave was used."""
        return self._kept.is_over and self._kept.num_used == self._kept.num_read

    def begin(self) -> None:
        """Nothing: it goes on where it stands."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs of it."""
        return {"generator": self.num_used}

    def way_to(self, state: Mapping[str, Any]) -> float:
        """How many batches are to be read until training stands where it stood.

        Raises:
            ValueError: it is past that.
        """
        older = state["batches"] if state["passes"] == 1 else math.inf
        to, at = state.get("generator", older), self.num_used
        if at > to:
            raise ValueError(
                f"x is a generator that this process has trained on up to batch {at}, and the checkpoint stands at batch {to}: "
                "it cannot be read again, so give a new one"
            )
        return float(to - at)

    def first(self) -> Iterator[Any]:
        """The first two that it ever gave, which tell what all are."""
        for _, batch in zip(range(2 - len(self._kept.first)), self(), strict=False):
            self._kept.first.append(batch)
        yield from self._kept.first

    def __call__(self) -> Iterator[Any]:
        """The batches from where it stands."""
        if not self.remembers:
            yield from list(self._kept.batches.values())
            yield from self._generator
            return
        at, nothing = self._kept.num_used, object()
        while True:
            with self._kept.reading:
                if at == self._kept.num_read:
                    batch = next(self._generator, nothing)
                    if batch is nothing:
                        self._kept.is_over = True
                        return
                    self._kept.batches[at] = batch
                    self._kept.num_read += 1
                elif at in self._kept.batches:
                    batch = self._kept.batches[at]
                else:  # used by a later pass: nobody is interested in this one any more
                    return
            at += 1
            yield batch

    def use(self, num_batches: int) -> None:
        """Says that so many were used."""
        for number in range(self._kept.num_used, self._kept.num_used + num_batches):
            self._kept.batches.pop(number, None)
        self._kept.num_used += num_batches


class Ordered(keras.utils.PyDataset):
    """A `PyDataset` whose batches come in an order of their own in each pass: a function of one number and the pass.

    Keras' own order depends on what else draws from Python's random numbers.

    Args:
        data: finite.

    Attributes:
        root: the number, drawn at once: whoever goes on draws as many as one who begins. None draws when it is needed.
    """

    def __init__(self, data: keras.utils.PyDataset):
        super().__init__(workers=data.workers, use_multiprocessing=data.use_multiprocessing, max_queue_size=data.max_queue_size)
        self._data = data
        self._order: list[int] | None = None
        self.root: int | None = random.getrandbits(63)

    @property
    def num_batches(self) -> int | None:
        """That of the data."""
        return self._data.num_batches

    def __getitem__(self, index: int) -> Any:
        """A batch of this pass."""
        return self._data[index if self._order is None else self._order[index]]

    def on_epoch_begin(self) -> None:
        """Tells the data."""
        self._data.on_epoch_begin()

    def on_epoch_end(self) -> None:
        """Tells the data."""
        self._data.on_epoch_end()

    def drawn(self) -> int:
        """The number, drawn if it is needed for the first time."""
        if self.root is None:
            self.root = random.getrandbits(63)
        return self.root

    def shuffle(self, number: int) -> None:
        """Takes the order of the pass of this number."""
        self._order = list(range(self._data.num_batches or 0))
        random.Random(f"{self.drawn()} {number}").shuffle(self._order)


def ordered_of(data: Any) -> Ordered | None:
    """The same in an order of its own in each pass, of a finite `PyDataset`; None of all other data."""
    is_finite = isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
    return Ordered(data) if is_finite else None


def warn_of_hooks(data: Any) -> None:
    """Warns of what a `PyDataset` of the user's does in its hooks: they belong to passes, which epochs here are not."""
    names = ("on_epoch_begin", "on_epoch_end")
    own = [name for name in names if getattr(type(data), name, None) is not getattr(keras.utils.PyDataset, name)]
    if own and isinstance(data, keras.utils.PyDataset):
        called = f"{' and '.join(own)} of {type(data).__name__} {'is' if len(own) == 1 else 'are'} called"
        warnings.warn(f"an epoch is no pass over x: {called} once a pass, and not once an epoch", stacklevel=4)


def feed_of(data: Any) -> Feed | Loader | None:
    """What gives the batches of a generator, or of a loader of Grain's; None for all other data."""
    if isinstance(data, types.GeneratorType):
        return Feed(data)
    return Loader(data) if is_loader(data) else None


_OWN_STATE = (("get_state", "set_state"), ("state_dict", "load_state_dict"))


def own_state(data: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]] | None:
    """How data that keep account of their own state say it, and take it back; None for all others."""
    for names in _OWN_STATE:
        get, put = (getattr(data, name, None) for name in names)
        if callable(get) and callable(put):
            return get, put
    return None


def told_state(data: Any) -> tuple[Any, str]:
    """Of data that keep account of their own state, that as JSON holds it, None of all others; and if it cannot, why."""
    own = own_state(data)
    try:
        return None if own is None else as_json(own[0]()), ""
    except TypeError as error:
        return None, f"its own state holds {error}"


def _reference(leaf: Any) -> Any:
    try:
        return weakref.ref(leaf)
    except TypeError:
        return lambda: None


def _as_array(leaf: Any) -> Any:
    if leaf is None:
        return None
    if isinstance(leaf, tf.SparseTensor) or is_sparse_matrix(leaf):
        leaf = as_sparse(leaf)
    if isinstance(leaf, (tf.Variable, keras.Variable)):
        leaf = tf.convert_to_tensor(leaf)
    is_tensor = isinstance(leaf, (tf.Tensor, *Composite))
    if not is_tensor:
        leaf = from_table(leaf) if is_table(leaf) else np.asarray(leaf)
        dtype = leaf.dtype
        leaf = from_objects(leaf) if dtype.kind == "O" else leaf
        if leaf is None or (leaf.dtype.kind not in "biufcUSO" and leaf.dtype != tf.bfloat16.as_numpy_dtype):
            raise TypeError(f"an array of dtype {dtype} holds no batch of numbers or strings; convert it with astype")
    if not is_tensor and not leaf.dtype.isnative:  # the device keeps bytes as they are
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    if len(leaf.shape) == 0:
        value = leaf.item() if isinstance(leaf, np.ndarray) else leaf
        raise TypeError(f"{value!r} is a single value, not an array of examples; a list of numbers needs np.array")
    floatx = tf.as_dtype(keras.config.floatx())
    if is_tensor:
        return tf.cast(leaf, floatx) if leaf.dtype.is_floating and leaf.dtype != floatx else leaf
    is_floating = leaf.dtype.kind == "f" or leaf.dtype == tf.bfloat16.as_numpy_dtype
    return leaf.astype(floatx.as_numpy_dtype, copy=False) if is_floating else leaf
