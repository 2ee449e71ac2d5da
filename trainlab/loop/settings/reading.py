"""Reads the settings of layers, losses, optimizers and strategies, again and again: so little that every `fit` can do it.

A manifest (see `trainlab.runs.manifest`) compares with another process and so makes text of everything; here it is the same
process, where code is what it was if it is the same object. What both know of code stands in `code`.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.loop.settings import code
from trainlab.objective import keras_internals
from trainlab.strategies import StepStrategy

_PLAIN = frozenset({bool, int, str, bytes, complex, range, slice, type(None), type(Ellipsis)})
_BASES: tuple[Any, ...] = (int, float, complex, str, bytes)  # of classes of the user's
_CONTAINERS = (Mapping, list, tuple, deque, set, frozenset)
# What has a state of its own that is no setting, or that is one thing as long as it is the same object.
_THINGS: tuple[type, ...] = (tf.Variable, keras.random.SeedGenerator, keras.KerasTensor)
_THINGS += (
    keras.callbacks.Callback,
    keras.utils.PyDataset,
    keras.initializers.Initializer,
    tf.Module,
    tf.TypeSpec,
    tf.DType,
    random.Random,
    enum.Enum,
)
_OF_PYTHON = (*code.ROUTINES, types.BuiltinFunctionType, types.MethodWrapperType, type)
_MAX_BYTES = 2**20  # of an array that are looked at
_MAX_VALUES = 200_000  # of what belongs to one Trainer; the largest models have 60,000
_MAX_DEPTH = 40
_MAX_FOREIGN = 4  # objects in objects of packages that are not known here


class Settings:
    """The settings of what is traced together, as they were when it was.

    Noticed are: plain attributes (numbers, strings, lists and the like) and arrays of layers, losses, metrics, regularizers,
    constraints, the optimizer with its schedule, and strategies, private ones too, but not what their own methods set while
    training; which objects, functions and variables those hold; whether a layer is frozen; for functions, and for methods of
    the user's classes, their defaults, what they close over, and the globals that they and their helpers name; the
    configuration of Keras. Not noticed are: what a function asks of something else (a file, the environment), what an object
    of a package keeps in C, more than a sample of the bytes of an array beyond a megabyte.

    Args:
        parts: returns what is traced.

    Example:
        >>> layer = keras.layers.Dropout(0.5)
        >>> before = Settings(lambda: [layer])
        >>> before == Settings(lambda: [layer])
        True
        >>> layer.rate = 0.1
        >>> before == Settings(lambda: [layer])
        False
    """

    def __init__(self, parts: Callable[[], Iterable[Any]]):
        self._parts = parts
        self._values = self._read()
        self._is_mixed = False

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Settings):
            return NotImplemented
        return self is other or not (self._is_mixed or other._is_mixed) and self._values == other._values

    __hash__ = None  # type: ignore[assignment]

    def _read(self) -> list[Any]:
        parts, reader = list(self._parts()), _Reader()  # held: what is gone would give its id away
        for part in parts:
            reader.read(part)
        return reader.values

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """To be open while something is traced: what tracing itself sets is no change.

        What was changed before it, since these were read, is: programs that were traced already do not know of it, so that these
        settings are from then on equal to none.
        """
        self._is_mixed |= self._read() != self._values
        yield
        self._values = self._read()

    def keep(self) -> None:
        """Takes everything as it is now: nothing that was traced is kept."""
        self._values = self._read()


class _Same:
    """Equal to what holds the same object, which it keeps: an id could be given out again."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class _Constant(_Same):
    """A tensor, which nobody can change: equal to another of the same values."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant):
            return False
        mine, others = self.value, other.value
        if mine is others:
            return True
        is_alike = mine.dtype == others.dtype and mine.shape == others.shape and mine.dtype not in (tf.resource, tf.variant)
        return bool(is_alike and mine.numpy().tobytes() == others.numpy().tobytes())

    __hash__ = None  # type: ignore[assignment]


class _Reader:
    """Makes a list of what can be compared quickly."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._seen: dict[int, int] = {}  # by id, of what lives longer than the reading; where they were first met
        self._depth = self._foreign = 0

    def read(self, value: Any) -> None:
        kind = type(value)
        if kind in _PLAIN:
            self.values += (kind, value)
        elif kind is float:
            self.values += (kind, value if value == value else "nan")
        else:
            self._read_once(value, kind)

    def _read_once(self, value: Any, kind: type) -> None:
        place = self._seen.setdefault(id(value), len(self.values))
        if place != len(self.values) or self._depth > _MAX_DEPTH or len(self.values) > _MAX_VALUES:
            # Met before: what it holds stands there already.
            self.values.append(place if place != len(self.values) else _Same(value))
            return
        self._depth += 1
        try:
            _way(kind)(self, value)  # type: ignore[arg-type]
        except Exception:  # users' objects may raise anything when they are looked into
            self.same(value)
        finally:
            self._depth -= 1

    def same(self, value: Any) -> None:
        self.values.append(_Same(value))

    def variable(self, value: keras.Variable) -> None:
        self.same(value)
        self.read(value.regularizer)
        self.read(value.constraint)

    def constant(self, value: Any) -> None:
        if not tf.is_symbolic_tensor(value):  # one that tracing made says nothing of what it will be traced with
            self.values.append(_Constant(value))

    def composite(self, value: Any) -> None:
        for part in tf.nest.flatten(value, expand_composites=True):
            self.constant(part)

    def array(self, value: np.ndarray) -> None:
        self.values += (value.shape, value.dtype.str)
        if value.dtype.kind == "O":
            for item in value.ravel()[:_MAX_VALUES]:
                self.read(item)
            return
        self.values.append(hashlib.blake2b(_sample(value), digest_size=16).digest())

    def scalar(self, value: np.generic) -> None:
        self.values += (type(value), value.tobytes())

    def number(self, value: Any) -> None:
        base = next(base for base in _BASES if isinstance(value, base))
        self.values += (type(value), base(value))

    def items(self, value: Any) -> None:
        self.values += (type(value), len(value))
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.read(key)
                self.read(item)
        elif len(value) > 1000 and all(type(item) in _PLAIN for item in value):  # as a vocabulary
            self.values.append(tuple(value))
        elif isinstance(value, (set, frozenset)) and all(type(item) in _PLAIN for item in value):
            self.values.append(frozenset(value))
        else:
            for item in value:
                self.read(item)

    def own_items(self, value: Any) -> None:
        self.items(value)
        self.attributes(value)

    def routine(self, value: Any) -> None:
        if not isinstance(value, types.FunctionType):
            self.values.append(type(value))
            if isinstance(value, types.MethodType):
                self.read(value.__self__)
            elif isinstance(value, (functools.partial, functools.partialmethod)):
                self.items(value.args)
                self.items(value.keywords)
            for part in code.functions_inside(value):
                self.read(part)
            return
        self.same(value.__code__)
        for given in (value.__defaults__, value.__kwdefaults__):
            if given:
                self.items(given)
        for name, item in code.closed_over(value):
            self.values.append(name)
            self.read(item)
        if code.is_installed(value):
            return
        facts = code.facts(value.__code__)
        for name, item in code.globals_used(facts, value.__globals__).items():
            if not code.is_changed(name, item, facts.stored_names):
                self.values.append(name)
                self.read(item)

    def traceable(self, value: Any) -> None:
        self.read(value.python_function)

    def cls(self, value: type) -> None:
        self.same(value)
        if code.is_installed(value):
            return
        stored, _ = code.training(value)
        for base in value.__mro__:
            if code.is_installed(base):
                continue
            for name, item in vars(base).items():
                if not name.startswith("__") or isinstance(item, code.ROUTINES):
                    if not code.is_changed(name, item, stored):
                        self.values.append(name)
                        self.read(item)

    def attributes(self, value: Any) -> None:
        """An object: its class, and its attributes but for what training itself sets."""
        kind: Any = type(value)
        self.read(kind)
        stored: frozenset[str] = frozenset() if code.is_installed(kind) else code.training(kind)[0]
        for name, item in [*getattr(value, "__dict__", {}).items(), *_slots(value)]:
            if not keras_internals.is_bookkeeping(name) and not (stored and code.is_changed(name, item, stored)):
                self.values.append(name)
                self.read(item)

    def foreign(self, value: Any) -> None:
        """An object of a package that is not known here: a configuration perhaps, or a machine with a life of its own."""
        if self._foreign == _MAX_FOREIGN:
            self.same(value)
            return
        self._foreign += 1
        self.attributes(value)
        self._foreign -= 1


@functools.lru_cache(maxsize=4096)
def _way(kind: Any) -> Callable[[_Reader, Any], None]:
    """How a value of this class is read."""
    if issubclass(kind, keras.Variable):
        return _Reader.variable
    is_users_module = issubclass(kind, tf.Module) and not code.is_installed(kind)
    if issubclass(kind, _THINGS) and not is_users_module:
        return _Reader.same
    if issubclass(kind, tf.Tensor):
        return _Reader.constant
    if issubclass(kind, (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)):
        return _Reader.composite
    if issubclass(kind, np.ndarray):
        return _Reader.array
    if issubclass(kind, np.generic):
        return _Reader.scalar
    if issubclass(kind, _BASES):
        return _Reader.number
    if issubclass(kind, type):
        return _Reader.cls
    if issubclass(kind, _OF_PYTHON):
        return _Reader.routine
    if hasattr(kind, "python_function"):
        return _Reader.traceable
    is_installed = code.is_installed(kind)
    if issubclass(kind, _CONTAINERS):
        return _Reader.items if is_installed else _Reader.own_items
    top = kind.__module__.partition(".")[0]
    if not is_installed or issubclass(kind, StepStrategy) or top == "keras" or kind is types.SimpleNamespace:
        return _Reader.attributes
    if top in sys.stdlib_module_names or top in ("tensorflow", "numpy", "trainlab"):
        return _Reader.same
    return _Reader.foreign


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for name in _names_of_slots(type(value)):  # type: ignore[arg-type]
        if hasattr(value, name):
            yield name, getattr(value, name)


@functools.lru_cache(maxsize=4096)
def _names_of_slots(kind: Any) -> tuple[str, ...]:
    found = [(name, item) for base in kind.__mro__ if not code.is_installed(base) for name, item in vars(base).items()]
    return tuple(name for name, item in found if isinstance(item, types.MemberDescriptorType))


def _sample(array: np.ndarray) -> Any:
    """Bytes of an array: all of a small one, of a large one blocks that lie spread over it."""
    if array.nbytes <= _MAX_BYTES:
        return array.tobytes()
    flat = array.reshape(-1) if array.flags.c_contiguous else array.ravel()
    size = max(2**14 // array.itemsize, 1)
    starts = np.linspace(0, flat.size - size, _MAX_BYTES // 2**14).astype(np.int64)
    return b"".join(flat[start : start + size].tobytes() for start in starts.tolist())
