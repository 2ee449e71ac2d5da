"""Any setting as plain data, so that two are equal if they mean the same: code by what it does, not by where it stands."""

from __future__ import annotations

import contextlib
import copyreg
import enum
import functools
import hashlib
import inspect
import io
import itertools
import json
import os
import sys
import types
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.loop import code
from trainlab.objective import keras_internals
from trainlab.parameters import Vector
from trainlab.runs.manifest.fingerprints import fingerprint, of_variable
from trainlab.runs.manifest.left_out import left_out
from trainlab.runs.manifest.operations import first_names
from trainlab.runs.manifest.records import (
    LEFT_OUT,
    NOT_COMPARED,
    WHICH,
    comparable,
    new_in,
    not_compared,
    of_variables,
    reasons,
    renamed,
)
from trainlab.strategies import StepStrategy

ROUTINES, digest, is_generator, is_installed = code.ROUTINES, code.digest, code.is_generator, code.is_installed
_CHANGES = {NOT_COMPARED: "set while training"}
_MAX_DEPTH = 40  # of objects in objects, of helpers of helpers
_MAX_LOOKED_INTO = 1000  # elements of a list that may hold code
_VARIABLES = (tf.Variable, keras.Variable)
_ARRAYS = (np.ndarray, tf.Tensor, *_VARIABLES)
_NOT_DATA = (tf.random.Generator, types.ModuleType, types.GeneratorType, io.IOBase, weakref.ref, keras.KerasTensor)
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
# Of a class: what says where it stands, how it is shown, or what its other entries say too.
_NO_CODE = frozenset("__doc__ __module__ __qualname__ __firstlineno__ __static_attributes__ __dict__ __weakref__".split())
_NO_CODE |= {"__annotations__", "__annotate__", "__annotate_func__", "__slots__", "__repr__", "__str__", "__classdictcell__"}


def plain(value: Any) -> Any:
    """Any setting as what JSON holds, so that two are equal if they mean the same.

    Arrays are told apart by their bytes; objects by class and attributes, those of the user's classes by their methods too;
    functions by their bytecode, what they close over, and the helpers and constants of the user's that they use. Packages that
    are installed are told apart by their versions elsewhere. What cannot be compared is `{"not compared": why}`.

    Example:
        >>> import threading
        >>> plain({"rate": np.float32(0.5), "shape": (2, 3)})
        {'rate': 0.5, 'shape': [2, 3]}
        >>> plain(threading.Lock())
        {'not compared': 'a lock'}
    """
    return Reader().read(value)


class Reader:
    """Makes plain data of what belongs together.

    Args:
        known: the layers and variables that are being trained; their values, and what they are made of, are other rows.

    Attributes:
        packages: names of the installed packages that were met.
    """

    def __init__(self, known: Iterable[Any] = ()):
        self._known = {id(part): part for part in known}
        ranks = Counter[type]()
        self._which: dict[int, int] = {}  # of those of one class
        for key, part in self._known.items():
            self._which[key] = ranks[type(part)]
            ranks[type(part)] += 1
        self._open: set[int] = set()  # what is being read: a cycle ends there
        self._read_already: dict[int, tuple[Any, Any]] = {}  # by id, which the object itself keeps from being given out again
        self._called: frozenset[str] = frozenset()  # attributes that the code round what is being read uses
        self.packages: set[str] = set()

    def read(self, value: Any) -> Any:
        """See `plain`."""
        if isinstance(value, enum.Enum):
            return f"{type(value).__name__}.{value.name}: {value.value!r}"
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return self.read(value.item())
        if isinstance(value, (complex, range, slice, np.dtype, np.generic, type(Ellipsis))):
            return repr(value)
        key = id(value)
        if key in self._known or isinstance(value, keras.random.SeedGenerator):  # whose state is in the checkpoint
            return {"class": self.label(type(value))} | ({WHICH: self._which[key]} if key in self._known else {})
        if key in self._read_already:
            return self._read_already[key][1]
        if key in self._open:
            return {"again": self.label(value if isinstance(value, (type, types.FunctionType)) else type(value))}
        if len(self._open) > _MAX_DEPTH:
            return not_compared("nested too deep")
        self._open.add(key)
        try:
            result = self._read(value)
        except Exception:  # users' code may raise anything, and what holds the system's things cannot be taken apart
            result = not_compared(f"a {type(value).__name__}")
        finally:
            self._open.discard(key)
        self._read_already[key] = value, result
        return result

    def _read(self, value: Any) -> Any:
        if is_generator(value) or isinstance(value, _NOT_DATA):
            return not_compared(f"a {type(value).__name__}")
        if isinstance(value, (Mapping, list)) and id(value) in self._of_process:
            return not_compared("it is the process'")  # its environment, arguments, paths
        if isinstance(value, _ARRAYS):
            return self._array(value)
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": hashlib.blake2b(value, digest_size=16).hexdigest()}
        if isinstance(value, type):
            return self.label(value) if is_installed(value) else {"class": self.label(value), **self._members(value)}
        if isinstance(value, ROUTINES) or inspect.isroutine(value):
            return self._routine(value)
        if not isinstance(value, _CONTAINERS) and tf.is_tensor(value):  # of several tensors, as a ragged one
            return {"class": self.label(type(value)), "parts": self.read(tf.nest.flatten(value, expand_composites=True))}
        if hasattr(value, "python_function"):  # a tf.function: what tracing made of it is no setting
            return self.read(value.python_function)
        if isinstance(value, Vector):
            return {"class": self.label(Vector), "leaves": self.read(list(value.leaves))}
        if isinstance(value, (tf.DType, tf.TensorShape, tf.TypeSpec)):
            return str(value)
        if is_installed(type(value)) and not isinstance(value, StepStrategy):
            return self._items(value) if isinstance(value, _CONTAINERS) else self._installed(value)
        items = {"items": self._items(value)} if isinstance(value, _CONTAINERS) else {}
        return {"class": self.label(type(value)), **items, **self._members(type(value)), **self.attributes(value)}

    @functools.cached_property
    def _of_process(self) -> frozenset[int]:
        return frozenset(id(one) for module in (os, sys) for one in vars(module).values())

    def _items(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {self._key(key): self.read(item) for key, item in value.items()}
        items = [self.read(item) for item in value]
        return sorted(items, key=json.dumps) if isinstance(value, (set, frozenset)) else items

    def _key(self, key: Any) -> str:
        key = self.read(key)
        return str(key) if not isinstance(key, (dict, list)) else json.dumps(key, sort_keys=True)

    def _array(self, value: Any) -> Any:
        if isinstance(value, tf.Tensor) and tf.is_symbolic_tensor(value):
            return not_compared("a tensor that tracing made")
        if isinstance(value, _VARIABLES):
            return {"shape": list(value.shape), "dtype": tf.as_dtype(value.dtype).name, "blake2b": of_variable(value)}
        array = np.asarray(value)
        if array.dtype.kind == "O":
            return {"shape": list(array.shape), "items": self.read(array.ravel().tolist())}
        return {"shape": list(array.shape), "dtype": str(array.dtype), "blake2b": fingerprint(array)}

    def _installed(self, value: Any) -> Any:
        """An object of an installed package: by its configuration, or by what `copy.copy` would take of it."""
        label = self.label(type(value))
        if isinstance(value, keras.Layer):  # another model than the one that is trained
            return {"class": label, **self._other_layer(value)}
        if hasattr(value, "get_config"):
            return {"class": label, **self._config(value), **self.held(value)}
        if label.partition(".")[0] in ("tensorflow", "keras", "trainlab"):
            return not_compared(f"a {type(value).__name__}")
        if hasattr(value, "__array__"):
            return {"class": label, **self._array(np.asarray(value))}
        reduce = copyreg.dispatch_table.get(type(value))
        taken = value.__reduce_ex__(4) if reduce is None else reduce(value)
        if isinstance(taken, str):
            return {"class": label, "name": taken}
        parts = self.read([list(part) if isinstance(part, Iterator) else part for part in taken[1:]])
        # What holds a lock or a file is a thing of this process.
        return not_compared(f"a {type(value).__name__}") if any(reasons(parts)) else {"class": label, "parts": parts}

    def _other_layer(self, value: keras.Layer) -> Any:
        layers = keras_internals.layers_of(value)
        names = first_names(value) | {layer.name: f"layer {i}" for i, layer in enumerate(layers)}  # Keras counts names up
        parts = {"layers": [self.held(layer) for layer in layers], "variables": [self._array(v) for v in value.variables]}
        return renamed(self._config(value), names) | parts

    def _config(self, value: Any) -> dict[str, Any]:
        try:
            return self._items(value.get_config())
        except Exception as error:  # whatever a `get_config` raises; of the user's classes the attributes are left
            return {"get_config": not_compared(f"it raises {type(error).__name__}")} if is_installed(type(value)) else {}

    def attributes(self, value: Any) -> dict[str, Any]:
        """What an object of the user's holds, but for what an installed base class of it, or training, has set."""
        cls: Any = type(value)
        found = {**_slots(value), **getattr(value, "__dict__", {})}
        ours, theirs = code.stored_by(cls, installed=False), code.stored_by(cls, installed=True)
        stored, called = code.training(cls, self._called)
        result = {} if isinstance(value, StepStrategy) or not hasattr(value, "get_config") else self._config(value)
        for name, item in sorted(found.items()):
            if name.startswith("__") or isinstance(inspect.getattr_static(cls, name, None), functools.cached_property):
                continue
            if name in theirs and not (name in ours and name != "name" and isinstance(item, (bool, int, float, str))):
                if self._is_base_class_business(cls, name, item):
                    continue
            elif isinstance(value, (keras.Metric, keras.Optimizer)) and _are_variables(item):
                continue  # of the checkpoint
            with self._inside(called):
                result[name] = _CHANGES if code.is_changed(name, item, stored) else self.read(item)
        return result | self._left_out(value, result)

    def held(self, value: Any) -> dict[str, Any]:
        """The user's code in a layer or another object of Keras': all of one whose class is the user's, or what it was given.

        Empty if there is none.
        """
        cls = type(value)
        if not is_installed(cls):
            return {"class": self.label(cls), **self._members(cls), **self.attributes(value)}
        theirs = code.stored_by(keras.Model, installed=True) if isinstance(value, keras.Model) else frozenset()
        own = {name: item for name, item in sorted(getattr(value, "__dict__", {}).items()) if name not in theirs}
        held = {name: self.read(item) for name, item in own.items() if not self._is_base_class_business(cls, name, item)}
        return held | self._left_out(value, {**self._config(value), **held})

    def _left_out(self, value: Any, told: Mapping[str, Any]) -> dict[str, Any]:
        cls: Any = type(value)
        stored = frozenset[str]() if is_installed(cls) else code.training(cls, self._called)[0]
        held = {name: item for name, item in getattr(value, "__dict__", {}).items() if not code.is_changed(name, item, stored)}
        return left_out(value, held, told, self.read, [v for v in self._known.values() if isinstance(v, keras.Variable)])

    def _is_base_class_business(self, cls: type, name: str, item: Any) -> bool:
        """Whether nothing of the user's is in it; Keras puts wrapped methods of a class on its objects."""
        is_wrapped = isinstance(item, types.FunctionType) and is_installed(item) and hasattr(cls, name)
        return is_wrapped or not self.is_own(item)

    def is_own(self, value: Any, depth: int = 4) -> bool:
        """Whether a value is, or holds, code of the user's."""
        if depth == 0 or id(value) in self._known or isinstance(value, (str, bytes, *_ARRAYS)):
            return False
        if isinstance(value, (type, types.FunctionType)) and not is_installed(value):
            return True
        inner: Iterable[Any] = ()
        if isinstance(value, ROUTINES):
            inner = [*code.functions_inside(value), getattr(value, "__self__", None), *getattr(value, "args", ())]
        elif hasattr(value, "python_function"):
            inner = [value.python_function]
        elif isinstance(value, _CONTAINERS):
            inner = value.values() if isinstance(value, Mapping) else value
        elif not isinstance(value, type) and not is_installed(type(value)):
            return not inspect.isroutine(value)
        elif hasattr(value, "get_config") and not isinstance(value, (type, keras.Layer)):
            inner = list(getattr(value, "__dict__", {}).values())
        return any(self.is_own(item, depth - 1) for item in itertools.islice(inner, _MAX_LOOKED_INTO))

    def _members(self, cls: type) -> dict[str, Any]:
        """The methods and attributes of a class, and of those of the user's that it is made of."""
        result: dict[str, Any] = {}
        stored, _ = code.training(cls, self._called)
        for base in (base for base in cls.__mro__ if not is_installed(base)):
            for name, item in sorted(vars(base).items()):
                if name in _NO_CODE or type(item).__name__.endswith("abc_data") or inspect.ismemberdescriptor(item):
                    continue
                if isinstance(item, ROUTINES) or hasattr(item, "python_function") or inspect.isroutine(item):
                    place = f"{name}()" if f"{name}()" not in result else f"{base.__name__}.{name}()"
                    result[place] = self.read(item)
                elif not name.startswith("__"):
                    result.setdefault(name, _CHANGES if code.is_changed(name, item, stored) else self.read(item))
        return result

    def _routine(self, value: Any) -> Any:
        if isinstance(value, (staticmethod, classmethod, functools.cached_property)):
            return self.read(value.func if isinstance(value, functools.cached_property) else value.__func__)
        if isinstance(value, property):
            return {name: self.read(part) for name in ("fget", "fset", "fdel") if (part := getattr(value, name)) is not None}
        if isinstance(value, (functools.partial, functools.partialmethod)):
            return {"partial": [self.read(part) for part in (value.func, value.args, value.keywords)]}
        if isinstance(value, types.MethodType):
            bound = self.read(value.__func__)
            return {**(bound if isinstance(bound, dict) else {"function": bound}), "self": self.read(value.__self__)}
        if not isinstance(value, types.FunctionType):  # of C; one that wraps a function of Python, as a cache does, says so
            wrapped = getattr(value, "__wrapped__", None)
            return self.read(wrapped) if wrapped is not None else {"function": self.label(value)}
        record: dict[str, Any] = {"function": self.label(value)}
        given = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__}
        attributes = {name: item for name, item in vars(value).items() if not name.startswith("_")}
        uses = dict(code.closed_over(value))
        if is_installed(value):
            uses = {**uses, "wrapped": getattr(value, "__wrapped__", None)}
            uses, given, attributes = ({k: v for k, v in part.items() if self._is_given(v)} for part in (uses, given, {}))
            stored = called = frozenset[str]()
        else:
            facts = code.facts(value.__code__)
            record["code"], stored, called = digest(facts.body), facts.stored_names, facts.attributes
            uses = {**code.globals_used(facts, value.__globals__), **uses}
        record |= {key: self.read(part) for key, part in {**given, "attributes": attributes}.items() if part}
        if used := {name: item for name, item in sorted(uses.items()) if self._tells(item)}:
            with self._inside(called):
                record["uses"] = {k: _CHANGES if code.is_changed(k, v, stored) else self._brief(v) for k, v in used.items()}
        return record

    @contextlib.contextmanager
    def _inside(self, called: frozenset[str]) -> Iterator[None]:
        """While open, what is read is used by code that uses attributes of these names."""
        before, self._called = self._called, self._called | called
        try:
            yield
        finally:
            self._called = before

    def _tells(self, value: Any) -> bool:
        """Whether code may do something else because of what it uses: not of what is installed."""
        if isinstance(value, types.ModuleType):
            return not self._is_package(value.__name__)
        if isinstance(value, types.FunctionType) and is_installed(value):
            self.label(value)
            return any(self._is_given(part) for _, part in code.closed_over(value))
        if (isinstance(value, type) and is_installed(value)) or isinstance(value, types.BuiltinFunctionType):
            self.label(value)
            return False
        return True

    def _is_given(self, value: Any) -> bool:
        """Whether a function of a package has it from the user, as far as can be seen."""
        return isinstance(value, (bool, int, float, str, *_ARRAYS)) or self.is_own(value)

    def _brief(self, value: Any) -> Any:
        """What code uses: of what is code itself, a hash of all of it, or each helper would be told at each place of use."""
        record = self.read(value)
        if not isinstance(record, dict) or not ({"function", "class", "partial"} & set(record)):
            return record
        numbers = {name: item for name, item in record.items() if not isinstance(item, (dict, list)) and name != "code"}
        notes = [not_compared(reason) for reason in sorted(set(reasons(record)))]
        apart = {"parts": notes, "variables": {str(i): held for i, held in enumerate(of_variables(record))}}
        new = {LEFT_OUT: digest(json.dumps(found, sort_keys=True))} if (found := new_in(record)) else {}
        told = digest(json.dumps(comparable(record), sort_keys=True))
        return {**numbers, "code": told, **new, **{name: part for name, part in apart.items() if part}}

    def label(self, value: Any) -> str:
        """The name of a class or function: in full, if it is installed."""
        if not is_installed(value) or not self._is_package(getattr(value, "__module__", None) or "builtins"):
            return getattr(value, "__name__", type(value).__name__)
        return qualified(value)

    def _is_package(self, module: str) -> bool:
        is_installed = code.is_installed_module(module)
        if is_installed and module.partition(".")[0] not in sys.stdlib_module_names:
            self.packages.add(module.partition(".")[0])
        return is_installed


def _slots(value: Any) -> dict[str, Any]:
    """The attributes that an object keeps in slots."""
    names = [name for base in type(value).__mro__ for name, item in vars(base).items() if inspect.ismemberdescriptor(item)]
    return {name: getattr(value, name) for name in names if not is_installed(type(value)) and hasattr(value, name)}


def _are_variables(value: Any) -> bool:
    leaves = tf.nest.flatten(value)
    return bool(leaves) and all(isinstance(leaf, _VARIABLES) for leaf in leaves)


def qualified(value: Any) -> str:
    """The full name of a class or a function."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', getattr(value, '__name__', repr(type(value))))}"
