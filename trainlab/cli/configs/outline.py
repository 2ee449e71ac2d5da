"""What a config may name, and which parameters that has, read off the sources of trainlab and Keras without running them.

A typo is answered from this, before seconds go into importing TensorFlow. What cannot be read off here is left to the live
objects: an outline may know less than they do, and never refuses what they would take.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_TRAINLAB = Path(__file__).parents[2]
# What stands beside those that a config may build, and is none.
_OTHERS = frozenset(
    "StepStrategy State Step TABLEAUS Tableau Optimizer OptimizerMap Loss LearningRateSchedule Metric Callback CallbackList "
    "History ProgbarLogger".split()
)
# The names that Keras' `compile` itself gives a meaning, in capitals or not.
_SHORT = {"metrics": ("accuracy", "acc"), "losses": ("crossentropy", "ce")}


class Place(NamedTuple):
    """Where something is defined: a file, and its name there."""

    file: Path
    name: str


@functools.cache
def places() -> Mapping[str, Place]:
    """Everything of trainlab's and Keras' that a config may name, by full name; empty where the sources cannot be read.

    Example:
        >>> sorted(name for name in places() if name.startswith("trainlab.") and "model" not in name)[:3]
        ['trainlab.Accumulate', 'trainlab.AdaptiveStep', 'trainlab.Asam']
    """
    try:
        return {**dict(_ours()), **dict(_keras_classes())}
    except (OSError, SyntaxError, ValueError):
        return {}


def names_given(package: str) -> frozenset[str]:
    """What a string may say that stands for something of `keras.metrics` or `keras.losses`; empty where nobody knows.

    Args:
        package: "metrics" or "losses".

    Example:
        >>> {"accuracy", "Precision", "mean_squared_error"} <= names_given("metrics"), "acuracy" in names_given("metrics")
        (True, False)
    """
    try:
        file = _keras() / "src" / package / "__init__.py"  # where Keras makes its table: what it imports, and shorter names
        found = _imported(file, _keras()).items()
        names = {name for name, place in found if place.file.parent.name in ("metrics", "losses")} | {*_texts_of_tables(file)}
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    return frozenset(names | {_snake(name) for name in names} | set(_SHORT[package]))


def is_given(package: str, name: str) -> bool:
    """Whether a string stands for something of `keras.metrics` or `keras.losses`; True where nobody knows.

    Args:
        package: "metrics" or "losses".
        name: The string.

    Example:
        >>> is_given("metrics", "Accuracy"), is_given("losses", "CE"), is_given("losses", "accuracy")
        (True, True, False)
    """
    known = names_given(package)
    return not known or name in known or name.lower() in _SHORT[package]


@functools.cache
def parameters(selector: str) -> tuple[str, ...] | None:
    """The names of the parameters of something that a config may name.

    Args:
        selector: Its full name.

    Returns:
        The names; None if it takes others as well, or if that cannot be read off.

    Example:
        >>> parameters("trainlab.Accumulate")
        ('num_batches', 'inner')
    """
    place = places().get(selector)
    if place is None:
        return None
    try:
        body = ast.parse(place.file.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return None
    definition = next((node for node in body if getattr(node, "name", None) == place.name), None)
    if isinstance(definition, ast.ClassDef):
        definition = next((node for node in definition.body if getattr(node, "name", None) == "__init__"), None)
    if not isinstance(definition, ast.FunctionDef):
        return None
    arguments = definition.args
    if arguments.vararg or (arguments.kwarg and not re.fullmatch(r"keras\.optimizers\.\w+", selector)):
        return None
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return tuple(names[1:] if definition.name == "__init__" else names)


def _ours() -> Iterator[tuple[str, Place]]:
    for name, place in _imported(_TRAINLAB / "strategies" / "__init__.py", _TRAINLAB).items():
        if name not in _OTHERS:
            yield f"trainlab.{name}", place
    for module in ("datasets", "models"):
        for name, place in _imported(_TRAINLAB / module / "__init__.py", _TRAINLAB).items():
            if name[0].islower():  # the others are classes, which are no names of a config
                yield f"trainlab.{module}.{name}", place


def _keras_classes() -> Iterator[tuple[str, Place]]:
    for module in ("optimizers", "optimizers.schedules", "losses", "callbacks", "metrics"):
        for name, place in _imported(_keras().joinpath(*module.split("."), "__init__.py"), _keras()).items():
            if place.name[0].isupper() and name not in _OTHERS:
                yield f"keras.{module}.{name}", place


def _keras() -> Path:
    spec = importlib.util.find_spec("keras")  # looked up, not imported
    if spec is None or not spec.submodule_search_locations:
        raise OSError("there is no Keras")
    return Path(spec.submodule_search_locations[0])


def _imported(file: Path, package: Path) -> dict[str, Place]:
    """What a file imports from its own package, by the name that it has there."""
    found: dict[str, Place] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package.name:
            module = package.joinpath(*node.module.split(".")[1:])
            source = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
            found |= {alias.asname or alias.name: Place(source, alias.name) for alias in node.names}
    return found


def _texts_of_tables(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def _snake(name: str) -> str:
    """A class' name as Keras spells it in strings too."""
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
