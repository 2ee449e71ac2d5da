"""Whether a function remembers: in what it closes over, in globals, in classes, in the objects whose methods it calls."""

from __future__ import annotations

import collections.abc
import dis
import functools
import inspect
import itertools
import logging
import sys
import types
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import moves_on
from trainlab.objective import keras_internals
from trainlab.runs.manifest.plain import is_generator, is_installed

# What a checkpoint holds, or has a `get_state` of its own, or only passes on what it is told.
_KEPT = (keras.Model, keras.Layer, keras.Optimizer, keras.callbacks.Callback, logging.Logger)
_CHANGING = frozenset(
    "add append appendleft assign assign_add assign_sub clear discard extend extendleft fill insert pop popitem popleft put "
    "remove reverse rotate setdefault sort update write writelines writerow".split()
)
# These draw from a state of the process.
_RANDOM = [getattr(tf.random, name) for name in "categorical gamma normal poisson shuffle truncated_normal uniform".split()]
_RANDOM += [tf.random.get_global_generator]
# And these, unless they are given a seed.
_UNLESS_SEEDED = [value for value in vars(keras.random).values() if isinstance(value, types.FunctionType)]
_SETTERS = frozenset({"setattr", "delattr", "globals", "vars"})


class _Change(NamedTuple):
    """Something that code sets, or changes in place.

    Attributes:
        name: of the variable by which it gets there; None for one without a name.
        path: attributes, from there to what is changed.
        is_set: whether an attribute or element is set; otherwise a method is called whose name says that it changes something.
    """

    name: str | None
    path: tuple[str, ...]
    is_set: bool


def remembers(function: Any) -> bool:
    """Whether what a function does may depend on earlier calls of it, and on nothing that a checkpoint holds.

    It reads the instructions, of the function and of those of the user's that it calls: what is changed in place or set of a
    variable that is not the function's own. Iterators, files and generators of random numbers remember by themselves.

    Example:
        >>> rates, seen = [0.1, 0.01], []
        >>> remembers(lambda epoch: rates[epoch // 10]), remembers(lambda epoch, logs: seen.append(epoch))
        (False, True)
    """
    with suppress(Exception):  # an object that pretends to be what it is not, instructions to come: nobody is accused
        return _remembers(function, frozenset(), set())
    return False


def remembers_in_methods(value: Any, kept: Collection[str]) -> bool:
    """Whether a callback's hooks, those that the user wrote, set or change more of it than the attributes that are kept.

    What an installed class of it calls, and the user has written anew, is as good as a hook.
    """
    classes = type(value).__mro__
    theirs = {name for cls in classes if is_installed(cls) for name in vars(cls) if not name.startswith(("__", "set_"))}
    anew = {name for cls in classes if not is_installed(cls) for name in vars(cls)} & theirs
    hooks = [name for name in dir(type(value)) if name.startswith("on_") or name in anew]
    with suppress(Exception):
        return any(_remembers_in(value, name, kept, set()) for name in hooks)
    return False


def _remembers_in(value: Any, name: str, kept: Collection[str], seen: set[Any]) -> bool:
    """The same of one method, and of those that it calls."""
    owner = value if isinstance(value, type) else type(value)
    method = inspect.getattr_static(owner, name, None)
    function = getattr(method, "__func__", method)
    if not isinstance(function, types.FunctionType) or _is_ours_or_installed(function) or (function, owner) in seen:
        return False
    seen.add((function, owner))
    own = function.__code__.co_varnames[: 0 if isinstance(method, staticmethod) else 1]
    is_changed = any(
        change.name in own and "model" not in change.path and not set(change.path[:1]) & set(kept)
        for change in _changes(function.__code__)
        if change.is_set or change.path
    )
    called = {i.argval for code in _codes(function.__code__) for i in dis.get_instructions(code) if _is_attribute(i)}
    return (
        is_changed
        or _remembers(function, frozenset(), seen)
        or any(_remembers_in(value, other, kept, seen) for other in called if other in dir(owner))
        or any(_remembers_held(value, name, called, seen) for name in _attributes_of(function.__code__, own) if name not in kept)
    )


def _remembers_held(value: Any, name: str, called: Collection[str], seen: set[Any]) -> bool:
    """Whether what an object holds by this name remembers, of which something is called by one of these names."""
    held = getattr(value, "__dict__", {}).get(name, inspect.getattr_static(value, name, None))
    if _is_moving(held):
        return True
    if isinstance(held, keras.callbacks.Callback):  # one that is not in the list, and so not kept
        return any(isinstance(held, kind) and names for kind, names in keras_internals.CALLBACK_STATE.items())
    if isinstance(held, (type, types.ModuleType, types.FunctionType, *_KEPT)) or not _is_users(held):
        return False
    return any(_remembers_in(held, method, (), seen) for method in called)


def _attributes_of(code: types.CodeType, own: Sequence[str]) -> Iterator[str]:
    """The attributes that code reads of a variable of one of these names."""
    for part in _codes(code):
        instructions = list(dis.get_instructions(part))
        for k, i in enumerate(instructions):
            if _is_attribute(i) and k and _origin(instructions, k) in [(name, (i.argval,)) for name in own]:
                yield i.argval


def _remembers(function: Any, changed: frozenset[str], seen: set[Any]) -> bool:
    if isinstance(function, functools.partial):
        given = [*function.args, *function.keywords.values()]
        return any(map(_is_moving, given)) or _remembers_with(function.func, given, seen)
    if isinstance(function, types.MethodType):
        return _remembers_in(function.__self__, function.__name__, (), seen) if not _is_kept(function.__self__) else False
    function = inspect.unwrap(getattr(function, "python_function", function))
    if isinstance(function, types.BuiltinMethodType):
        owner = function.__self__
        return (isinstance(owner, (list, dict, set)) or is_generator(owner)) and function.__name__ in _CHANGING
    if not isinstance(function, types.FunctionType):
        return not isinstance(function, type) and not _is_kept(function) and _remembers_in(function, "__call__", (), seen)
    if _is_ours_or_installed(function) or (function, changed) in seen:
        return False
    seen.add((function, changed))
    code = function.__code__
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if isinstance(p.default, (list, dict, set))}
    values = _outer(function)
    for change in _changes(code):
        name = change.name
        if name is None or name in changed:
            return True
        if name in values or name in defaults:
            if not _is_harmless(change, values.get(name, defaults.get(name))):
                return True
    is_seeded = any("seed" in names for part in _codes(code) for names in part.co_consts if isinstance(names, tuple))
    drawing = [] if is_seeded else _UNLESS_SEEDED
    if any(_is_moving(value) or any(value is one for one in drawing) for value in _read(function, values)):
        return True
    called = {i.argval for part in _codes(code) for i in dis.get_instructions(part) if _is_attribute(i)}
    whole = set(_used_whole(code))
    for name, value in values.items():
        if isinstance(value, (types.FunctionType, functools.partial)):
            others = [other for other in values.values() if other is not value and not isinstance(other, types.FunctionType)]
            if _remembers(value, frozenset(), seen) or _remembers_with(value, others, seen):
                return True
        elif isinstance(value, type):
            if any(_remembers_in_class(value, method, seen) for method in called):
                return True
        elif not isinstance(value, (types.ModuleType, *_KEPT)):
            methods = called | ({"__call__"} if name in whole else set())
            if any(_remembers_in(value, method, (), seen) for method in methods):
                return True
    return False


def _remembers_in_class(cls: type, name: str, seen: set[Any]) -> bool:
    is_of_class = isinstance(inspect.getattr_static(cls, name, None), (classmethod, staticmethod))
    return is_of_class and _remembers_in(cls, name, (), seen)


def _remembers_with(function: Any, given: Sequence[Any], seen: set[Any]) -> bool:
    """Whether a function changes what it is given, if that may be one of these."""
    is_changeable = any(isinstance(value, (list, dict, set, np.ndarray)) or _is_users(value) for value in given)
    parameters = getattr(getattr(function, "__code__", None), "co_varnames", ())
    return is_changeable and _remembers(function, frozenset(parameters), seen)


def _outer(function: types.FunctionType) -> dict[str, Any]:
    """The variables that a function uses and that are not its own, by name; built-in ones are left out."""
    names = {i.argval for code in _codes(function.__code__) for i in dis.get_instructions(code) if "GLOBAL" in i.opname}
    values = {name: function.__globals__[name] for name in names if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # not set yet
            values[name] = None
    values.pop("__class__", None)  # what `super()` needs
    return values


def _read(function: types.FunctionType, values: dict[str, Any]) -> Iterator[Any]:
    """What a function reads of its outer variables; of a module, what it reads of that."""
    for code in _codes(function.__code__):
        instructions = list(dis.get_instructions(code))
        for k, i in enumerate(instructions):
            if ("GLOBAL" in i.opname or "DEREF" in i.opname) and i.argval in values:
                value = values[i.argval]
                for step in itertools.takewhile(_is_attribute, instructions[k + 1 :]):
                    if isinstance(value, types.ModuleType):
                        value = getattr(value, step.argval, None)
                yield value


def _used_whole(code: types.CodeType) -> Iterator[str]:
    """The variables of which code uses more than attributes: it may call them."""
    for part in _codes(code):
        instructions = list(dis.get_instructions(part))
        for i, following in itertools.pairwise(instructions):
            if "LOAD_" in i.opname and not _is_attribute(following):
                yield i.argval


def _changes(code: types.CodeType) -> Iterator[_Change]:
    """What code, that in it included, sets or changes; a variable that it sets only where that is not its own."""
    outer = {*code.co_freevars}
    for part in _codes(code):
        instructions = list(dis.get_instructions(part))
        for k, i in enumerate(instructions):
            if i.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
                i.opname in ("STORE_DEREF", "DELETE_DEREF") and i.argval in outer
            ):
                yield _Change(None, (), True)
            elif i.opname in ("STORE_ATTR", "DELETE_ATTR"):
                name, path = _origin(instructions, _before_copies(instructions, k) - 1)
                yield _Change(name, (*path, i.argval), True)
            elif i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
                name, path = _origin(instructions, _start(instructions, _before_copies(instructions, k)) - 1)
                yield _Change(name or "", path, True)
            elif _is_attribute(i) and i.argval in _CHANGING and k:
                name, path = _origin(instructions, k - 1)
                yield _Change(name or "", path, False)
            elif "GLOBAL" in i.opname and i.argval in _SETTERS:
                yield _Change(None, (), True)


def _origin(instructions: Sequence[dis.Instruction], k: int) -> tuple[str | None, tuple[str, ...]]:
    """The variable, and the attributes of it, of which instruction `k` has put a part on the stack."""
    path: list[str] = []
    while k >= 0 and (_is_attribute(instructions[k]) or instructions[k].opname == "BINARY_SUBSCR"):
        if _is_attribute(instructions[k]):
            path.insert(0, instructions[k].argval)
            k -= 1
        else:
            k = _start(instructions, k) - 1
    if k < 0 or "LOAD_" not in instructions[k].opname or instructions[k].opname == "LOAD_CONST":
        return None, tuple(path)
    name = instructions[k].argval
    return (name[-1] if isinstance(name, tuple) else name), tuple(path)


def _start(instructions: Sequence[dis.Instruction], k: int) -> int:
    """Where that begins which lies on top of the stack before instruction `k`."""
    depth = 0
    for at in range(k - 1, -1, -1):
        depth += dis.stack_effect(instructions[at].opcode, instructions[at].arg, jump=False)
        if depth == 1:
            return at
    return 0


def _before_copies(instructions: Sequence[dis.Instruction], k: int) -> int:
    """`k`, or for `a.b += 1` and `a[b] += 1` where their `a`, and `b`, are put on the stack."""
    if instructions[k - 1].opname != "SWAP":
        return k
    while k > 0 and instructions[k].opname != "COPY":
        k -= 1
    while k > 0 and instructions[k - 1].opname == "COPY":
        k -= 1
    return k


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_attribute(instruction: dis.Instruction) -> bool:
    return instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")


def _is_harmless(change: _Change, value: Any) -> bool:
    if _is_kept(value) or "model" in change.path:
        return True
    return isinstance(value, types.ModuleType) and not change.is_set  # a function of it, whatever its name


def _is_kept(value: Any) -> bool:
    return isinstance(value, _KEPT)


def _is_moving(value: Any) -> bool:
    """Whether reading it changes it."""
    owner = getattr(value, "__self__", None)
    if isinstance(value, tf.data.Dataset):
        return moves_on(value)
    if any(value is stream for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return False  # the process' own: what is printed is no memory
    is_drawn_from = isinstance(value, (keras.random.SeedGenerator, tf.random.Generator)) or any(value is one for one in _RANDOM)
    return is_drawn_from or isinstance(value, collections.abc.Iterator) or is_generator(value) or is_generator(owner)


def _is_users(value: Any) -> bool:
    method = inspect.getattr_static(type(value), "__init__", None)
    return isinstance(method, types.FunctionType) and not _is_ours_or_installed(method) and not _is_kept(value)


def _is_ours_or_installed(function: types.FunctionType) -> bool:
    """Whether it is Python's, an installed package's or trainlab's; what was typed in, or made by exec, is the user's."""
    file = function.__code__.co_filename
    return file.startswith("<frozen ") or (not file.startswith("<") and is_installed(function))
