"""Settings of Keras' own objects, or of what users derive from them, that `get_config` does not say."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.runs.manifest.records import LEFT_OUT

# Names, which Keras counts up; seeds, which it draws where none is given; what other rows, or the class, say.
_TOLD = ("name", "seed", "trainable", "learning_rate", "fn", "rank")
_PLAIN = (bool, int, float, complex, str, bytes, np.ndarray, np.generic, re.Pattern, tf.DType)
# Of objects, those whose settings matter after the beginning, and that are no part of the model.
_OBJECTS: tuple[type, ...] = (keras.Regularizer, keras.constraints.Constraint, keras.losses.Loss)
_OBJECTS += (keras.optimizers.schedules.LearningRateSchedule,)
# Arguments of a loss's or metric's function, and what `exclude_from_weight_decay` was told, are kept under these names alone,
# but for a line before them.
_ARGUMENTS, _EXCLUDED, _PATTERN = "fn_kwargs", "exclude_from_weight_decay", "exclude_from_weight_decay_pattern"


def left_out(
    value: Any, held: Mapping[str, Any], told: Mapping[str, Any], read: Callable[[Any], Any], variables: Sequence[Any]
) -> dict[str, Any]:
    """What the constructors of Keras' classes were given, and its methods set, unless it is the default or told already.

    Args:
        value: an object of a class of Keras', or of one that is derived from it.
        held: its attributes, but for those that training sets.
        told: what its record holds of it already, and its configuration.
        read: makes plain data of a value.
        variables: those of the model, by which others are numbered.

    Returns:
        An entry of its record; none if there is nothing to say.
    """
    if not hasattr(value, "get_config") or isinstance(value, (keras.Model, keras.Initializer)):
        return {}
    cls: Any = type(value)
    defaults = _defaults(cls)
    found = {}
    by_name = {attribute.strip("_"): item for attribute, item in held.items()}
    arguments = by_name.get(_ARGUMENTS, {})
    for attribute, item in [*sorted(held.items()), *arguments.items()]:
        name = attribute.strip("_")
        if (name in defaults or attribute in arguments) and name not in _TOLD and _is_setting(item):
            record = read(item)
            # Of what is no plain value the configuration has another form: that it is there must do.
            is_told = any(key in told and (not _is_plain(item) or told[key] == record) for key in (attribute, name))
            is_default = any(_is_plain(default) and read(default) == record for default in defaults.get(name, ()))
            if not is_told and (not is_default or attribute in arguments):
                found[name] = record
    if by_name.get(_EXCLUDED):
        found["excluded from weight decay"] = _numbers(by_name[_EXCLUDED], variables)
    if (pattern := by_name.get(_PATTERN)) is not None:  # Keras joins a set, in another order in each process
        found["names excluded from weight decay"] = sorted(pattern.pattern.split("|"))
    if hasattr(value, "get_vocabulary") and hasattr(value, "lookup_table"):
        found["vocabulary"] = read(_vocabulary(value))
    found = {name: record for name, record in found.items() if record is not None}
    return {LEFT_OUT: found} if found else {}


def _is_setting(value: Any) -> bool:
    return _is_plain(value) or isinstance(value, _OBJECTS) or (callable(value) and not isinstance(value, (type, keras.Layer)))


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether it is a number, text, an array, or a container of them."""
    if isinstance(value, Mapping):
        return depth > 0 and all(_is_plain(item, depth - 1) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple, set, frozenset)):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, _PLAIN)


@functools.cache
def _defaults(cls: type) -> dict[str, list[Any]]:
    """The arguments of the constructors of Keras' classes that a class is derived from, with their defaults."""
    found: dict[str, list[Any]] = {}
    for base in cls.__mro__:
        constructor = vars(base).get("__init__")
        if base.__module__.partition(".")[0] == "keras" and inspect.isfunction(constructor):
            for name, parameter in inspect.signature(constructor).parameters.items():
                found.setdefault(name, []).extend([] if parameter.default is parameter.empty else [parameter.default])
    if "dtype" in found:
        found["dtype"].append(keras.config.floatx())
    return found


def _vocabulary(layer: Any) -> np.ndarray | None:
    try:
        return np.asarray(layer.get_vocabulary())
    except Exception:  # not adapted yet
        return None


def _numbers(keys: Iterable[Any], variables: Sequence[Any]) -> list[int]:
    """Which variables an optimizer knows by these keys: their paths, with a number that TensorFlow counts up, or their ids."""
    known = {part for key in keys for part in (key, str(key).rpartition("_")[0])}
    return [i for i, variable in enumerate(variables) if id(variable) in known or variable.path in known]
