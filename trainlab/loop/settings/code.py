"""What code does: its instructions, the names that it uses and the attributes that it sets; not where it stands."""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import os
import random
import re
import site
import sys
import sysconfig
import types
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# How a hash of code begins: only the same Python would make it again.
BYTECODE = "bytecode "
ROUTINES: tuple[type, ...] = (types.FunctionType, types.MethodType, functools.partial, functools.partialmethod)
ROUTINES += (staticmethod, classmethod, property, functools.cached_property)

# What training calls of an object of the user's: what these methods set is no setting.
_ENTRIES = {
    "init",
    "step",
    "call",
    "__call__",
    "update_step",
    "apply",
    "apply_gradients",
    "update_state",
    "result",
    "reset_state",
}
_ENTRIES |= {"compute_loss", "compute_metrics", "compute_mask"}
_MUTATORS = set("append appendleft extend insert add update setdefault pop popitem popleft clear remove discard sort".split())
_MUTATORS |= {"reverse", "assign", "assign_add", "assign_sub"}
_NAMES_A_CLASS_BODY_SETS = {"__qualname__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
_FLAGS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS | inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_SKIPPED = {"NOP", "EXTENDED_ARG", "CACHE", "RESUME"}  # of layout, and of the interpreter


class Facts(NamedTuple):
    """What a code object says, those in it included.

    Attributes:
        body: the instructions, as nested tuples of what has a stable `repr`.
        globals: dotted names that it looks up.
        imports: `(level, module, names)` that it imports.
        attributes: names of attributes that it reads.
        stored: names of attributes that it sets, or changes in place; with `()` of those that only a method may change.
        stored_names: the same of global names, and of those closed over.
    """

    body: Any
    globals: frozenset[tuple[str, ...]]
    imports: frozenset[tuple[int, str, tuple[str, ...]]]
    attributes: frozenset[str]
    stored: frozenset[str]
    stored_names: frozenset[str]


@functools.cache
def facts(code: types.CodeType) -> Facts:
    """Reads a code object.

    Lines, file names, comments, docstrings and the names of local variables leave no trace.

    Example:
        >>> def f(x):
        ...     '''Doubles.'''
        ...     return SCALE.value * x
        >>> facts(f.__code__).body == facts((lambda x: SCALE.value * x).__code__).body, sorted(facts(f.__code__).globals)
        (True, [('SCALE', 'value')])
    """
    instructions = [i for i in dis.get_instructions(code) if i.opname not in _SKIPPED]
    offsets = [i.offset for i in instructions]
    inner = [facts(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS
    hidden = _saying_where(instructions)
    steps = tuple(_step(i, offsets) for k, i in enumerate(instructions) if k not in hidden)
    entries = getattr(dis.Bytecode(code), "exception_entries", ())
    handlers = tuple(tuple(bisect_left(offsets, offset) for offset in (e.start, e.end, e.target)) for e in entries)
    looked_up: set[Any] = set()
    imported: set[Any] = set()
    read: set[str] = set()
    stored: set[str] = set()
    stored_names: set[str] = set()
    for k, i in enumerate(instructions):
        if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = itertools.takewhile(_is_attribute, instructions[k + 1 :])
            looked_up.add((i.argval, *(step.argval for step in chain)))
        elif i.opname == "IMPORT_NAME":
            names = tuple(instructions[k - 1].argval or ())
            imported.add((instructions[k - 2].argval, i.argval, names))
        elif _is_attribute(i):
            read.add(i.argval)
        changed = _changed(instructions, k)
        if changed is not None:
            is_call = _is_attribute(i)
            (stored if "ATTR" in changed.opname else stored_names).add(changed.argval + "()" * is_call)
    if {("setattr",), ("vars",)} & looked_up or "__dict__" in read:
        stored |= {constant for constant in code.co_consts if isinstance(constant, str) and constant.isidentifier()}
    own = [looked_up, imported, read, stored, stored_names]
    merged = (frozenset(mine).union(*(part[n] for part in inner)) for n, mine in enumerate(own, start=1))
    return Facts((counts, arguments, steps, handlers), *merged)


def _step(instruction: dis.Instruction, offsets: Sequence[int]) -> tuple[str, Any]:
    """An instruction and its argument, as far as it does anything."""
    if instruction.opcode in dis.hasconst:
        return instruction.opname, _constant(instruction.argval)
    if instruction.opcode in (*dis.hasjrel, *dis.hasjabs):
        return instruction.opname, bisect_left(offsets, instruction.argval)
    return instruction.opname, instruction.arg if instruction.opcode in dis.haslocal else repr(instruction.argval)


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return facts(value).body
    if isinstance(value, tuple):
        return ("tuple", *(_constant(item) for item in value))
    if isinstance(value, frozenset):  # whose order is another in each process
        return ("set", *sorted(map(repr, value)))
    return f"{type(value).__name__} {value!r}"


def _saying_where(instructions: Sequence[dis.Instruction]) -> set[int]:
    """Which instructions only give a class that is made here its name, its documentation or its line."""
    names = [k for k, i in enumerate(instructions) if i.opname == "STORE_NAME" and i.argval in _NAMES_A_CLASS_BODY_SETS]
    return {at for k in names for at in (k - 1, k)}


def _is_attribute(instruction: dis.Instruction) -> bool:
    name = instruction.opname
    return name.startswith("LOAD_") and ("ATTR" in name or "METHOD" in name)


def _changed(instructions: Sequence[dis.Instruction], k: int) -> dis.Instruction | None:
    """The instruction that names what this one sets, or changes in place; None if it does neither."""
    i, names = instructions[k], ("LOAD_GLOBAL", "LOAD_DEREF")
    if i.opname in ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF"):
        return i
    before = None
    if _is_attribute(i) and i.argval in _MUTATORS and k:
        before = instructions[k - 1]
    elif i.opname in ("STORE_SUBSCR", "DELETE_SUBSCR"):
        before = _container(instructions, k)
    return before if before is not None and (_is_attribute(before) or before.opname in names) else None


def _container(instructions: Sequence[dis.Instruction], k: int) -> dis.Instruction | None:
    """What the container was loaded by whose element is set: the stack is followed back over the key."""
    depth = 0
    for at in range(k - 1, 0, -1):
        depth += dis.stack_effect(instructions[at].opcode, instructions[at].arg, jump=False)
        if depth == 1:
            return instructions[at - 1]
    return None


def digest(value: Any) -> str:
    """A hash of what code is, or of what holds it."""
    return BYTECODE + hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The variables that a function closes over, by name; without the class that `super()` needs, and those not set yet."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            continue
        if name != "__class__":
            yield name, value


def globals_used(found: Facts, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """What the global names that code looks up stand for, by dotted name; built-in names are left out."""
    used: dict[str, Any] = {}
    for name, *attributes in found.globals:
        if name not in namespace or name.startswith("__"):  # of a module's own: where it stands
            continue
        value, place = namespace[name], name
        while attributes and isinstance(value, types.ModuleType) and attributes[0] in vars(value):
            value, place = vars(value)[attributes[0]], f"{place}.{attributes.pop(0)}"
        used[place] = value
    for level, module, names in found.imports:
        used |= _imported(level, module, names, found.attributes, namespace)
    for place, value in [*used.items()]:
        if isinstance(value, types.ModuleType) and not is_installed_module(value.__name__):  # used by another name
            parts = {f"{place}.{name}": vars(value)[name] for name in found.attributes if name in vars(value)}
            used = {k: v for k, v in used.items() if k != place or not parts} | parts
    return used


def _imported(
    level: int, module: str, names: Iterable[str], attributes: Iterable[str], namespace: Mapping[str, Any]
) -> dict[str, Any]:
    """What a function imports when it runs: the step will do so anyway."""
    try:
        package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
        full = importlib.util.resolve_name("." * level + module, package) if level else module
        if is_installed_module(full):
            return {}
        found = importlib.import_module(full)
        for name in names:
            if name not in vars(found):
                importlib.import_module(f"{full}.{name}")
    except Exception:  # what cannot be imported now may never be
        return {}
    return {f"{full}.{name}": vars(found)[name] for name in names or attributes if name in vars(found)}


def functions_inside(value: Any) -> list[Any]:
    """The functions that a routine is made of: wrapped, bound, closed over."""
    names = ("__func__", "__wrapped__", "fget", "fset", "fdel", "func", "python_function")
    inside = [part for name in names if (part := getattr(value, name, None)) is not None]
    if isinstance(value, types.FunctionType):
        inside += [part for _, part in closed_over(value)]
    return inside


def _functions_of(value: Any, depth: int = 4) -> Iterator[types.FunctionType]:
    """Every function of Python's that a routine is made of."""
    if isinstance(value, types.FunctionType):
        yield value
    if depth and not isinstance(value, type):
        for part in functions_inside(value):
            if isinstance(part, ROUTINES) or hasattr(type(part), "python_function"):
                yield from _functions_of(part, depth - 1)


@functools.lru_cache(maxsize=256)
def training(cls: type, called: frozenset[str] = frozenset()) -> tuple[frozenset[str], frozenset[str]]:
    """What the methods of a user's class do that training calls, or that have one of these names, and those that they use.

    Returns:
        The names of attributes that they set, as `Facts.stored`, and those that they read.
    """
    seen: set[str] = set()
    stored: set[str] = set()
    ahead = {name for name in (_ENTRIES | called) if hasattr(cls, name)}
    while ahead:
        seen |= ahead
        members = [vars(base)[name] for base in cls.__mro__ for name in ahead if name in vars(base) and not is_installed(base)]
        functions = [function for member in members for function in _functions_of(member) if not is_installed(function)]
        found = [facts(function.__code__) for function in functions]
        stored |= {name for fact in found for name in fact.stored}
        read = {name for fact in found for name in fact.attributes}
        called |= read
        ahead = {name for name in read | stored if hasattr(cls, name)} - seen
    return frozenset(stored), called


def is_changed(name: str, value: Any, stored: frozenset[str]) -> bool:
    """Whether training sets what has this name, or changes it in place: a list by `append`, an object of the user's by itself."""
    return name in stored or (f"{name}()" in stored and is_installed(type(value)))


@functools.lru_cache(maxsize=256)
def stored_by(cls: type, installed: bool) -> frozenset[str]:
    """Names of attributes that the methods of a class set: of its classes that are installed, or of those that are not."""
    bases = [base for base in cls.__mro__ if is_installed(base) == installed and not base.__module__.startswith("trainlab.")]
    members = [member for base in bases for member in vars(base).values() if isinstance(member, ROUTINES)]
    functions = [function for member in members for function in _functions_of(member)]
    return frozenset(name for function in functions for name in facts(function.__code__).stored)


def is_installed(value: Any) -> bool:
    """Whether a class or function is of Python, of an installed package or of trainlab, which versions tell; not the user's."""
    if isinstance(value, types.FunctionType):
        file, named = value.__code__.co_filename, value.__module__
        is_made = file.startswith("<") and named is not None  # by exec, as dataclasses do: the module says more
        return is_installed_module(named) if is_made else _is_installed_file(file)
    module = getattr(value, "__module__", None)
    if isinstance(value, type) and module == "builtins":  # so says a class too that was made by exec
        return not value.__flags__ & 2**9 or value.__name__ in vars(sys.modules["builtins"])
    return module is None or is_installed_module(module)


def is_installed_module(name: str) -> bool:
    """The same of a module."""
    top = name.partition(".")[0]
    module = sys.modules.get(name) or sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is not None:
        return _is_installed_file(file)
    if module is not None and top != "__main__" and hasattr(module, "__path__"):  # a package without a file of its own
        return all(map(_is_installed_file, module.__path__))
    if module is None and top not in sys.stdlib_module_names:
        spec = importlib.util.find_spec(top) if top else None
        return spec is not None and spec.origin is not None and _is_installed_file(spec.origin)
    return top in sys.stdlib_module_names and top != "__main__"


def _is_installed_file(path: str) -> bool:
    return not path.startswith("<") and _is_in(path, _places(tuple(sys.path)))


@functools.cache
def _is_in(path: str, places: frozenset[Path]) -> bool:
    # Of links, that of a folder tells (a checkout that stands among packages is the user's), not that of a file (installers
    # link to their cache).
    file = Path(path)
    file = file.parent.resolve() / file.name
    return not places.isdisjoint([file, *file.parents])


@functools.cache
def _places(paths: tuple[str, ...]) -> frozenset[Path]:
    """Where packages are installed: Python's folders, and elsewhere what an installer has put into one that is imported from."""
    known = [path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[2])]
    # A checkout of one of these too, which has more code than anybody's training, and no end of it.
    specs = [importlib.util.find_spec(name) for name in ("keras", "numpy", "tensorflow")]
    known += [os.path.dirname(spec.origin) for spec in specs if spec is not None and spec.origin]
    places = {Path(path).resolve() for path in known}
    # `pip install --target`, a folder of a container or a cluster on PYTHONPATH: the user's own code may stand beside.
    folders = {Path(path).resolve() for path in paths if path} - places
    records = (record for folder in folders for record in folder.glob("*.dist-info/RECORD"))
    return frozenset(places | {record.parents[1] / name for record in records for name in _top_names(record)})


def _top_names(record: Path) -> set[str]:
    """Files and folders that an installed package consists of, by the list that its installer wrote."""
    return {re.split("[/,]", line, maxsplit=1)[0] for line in record.read_text(encoding="utf-8", errors="replace").splitlines()}


def is_generator(value: Any) -> bool:
    """Whether this is a generator of random numbers, Python's or NumPy's.

    Asked by name: `numpy.random` need not be imported for it.
    """
    return isinstance(value, random.Random) or any(base.__module__.startswith("numpy.random") for base in type(value).__mro__)
