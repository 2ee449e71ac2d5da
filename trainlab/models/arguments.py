"""What the models check of their arguments, and the small parts that they share."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import keras


def flat(x):
    """Each example as one row."""
    return x if len(x.shape) == 2 else keras.layers.Flatten(name="flatten")(x)


def l2_penalty(l2: float):
    """A regularizer, or none."""
    # No regularizer rather than a zero one, which still costs an operation and an entry in `model.losses`.
    return keras.regularizers.L2(l2) if l2 else None


def checked_count(name: str, value) -> int:
    """A positive integer, or ValueError."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name}={value!r}: must be a positive integer, for example {name}=10")
    return number


def checked_counts(name: str, values, empty: str) -> tuple[int, ...]:
    """Positive integers, at least one, or ValueError; `empty` says what to use for none."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise ValueError(f"{name}={values!r}: must be a sequence of positive integers, for example {name}=(64,)")
    if not values:
        raise ValueError(f"{name}={values!r}: must name at least one layer; {empty}")
    return tuple(checked_count(f"{name}[{i}]", value) for i, value in enumerate(values))


def checked_shape(values) -> tuple[int, ...]:
    """The shape of an example, or ValueError."""
    return checked_counts("input_shape", values, empty="write the shape of one example, for example (28, 28, 1)")


def _number(value) -> float:
    if isinstance(value, (bool, str, bytes)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def checked_rate(name: str, value) -> float:
    """A fraction in [0, 1), or ValueError."""
    rate = _number(value)
    if not 0 <= rate < 1:  # also refuses NaN
        raise ValueError(f"{name}={value!r}: must be a number in [0, 1); use {name}=0.0 for none")
    return rate


def checked_penalty(name: str, value) -> float:
    """A finite number >= 0, or ValueError."""
    penalty = _number(value)
    if not 0 <= penalty < math.inf:
        raise ValueError(f"{name}={value!r}: must be a finite number >= 0; use {name}=0.0 for none")
    return penalty


def checked_activation(value):
    """A Keras activation, or ValueError."""
    try:
        return keras.activations.get(value)
    except (TypeError, ValueError):
        raise ValueError(
            f'activation={value!r}: must be a Keras activation or a function, for example activation="relu"'
        ) from None


def checked_flag(name: str, value: Any) -> bool:
    """A boolean, or ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: must be True or False")
    return value


def num_values_of(shape: Any, given: Any, name: str = "num_values") -> int | None:
    """How many values the integers of an input may have: as given, or as its shape says; None where it holds numbers.

    Args:
        shape: Of an example; `trainlab.datasets.Integers` says it.
        given: None leaves it to the shape.
        name: What it is called.
    """
    number = getattr(shape, "num_values", None) if given is None else given
    return None if number is None else checked_count(name, number)


def checked_sequence(input_shape: Any, num_values: int | None, model: str) -> tuple[int | None, ...]:
    """The shape of a sequence, `(length,)` of integers or `(length, features)` of numbers, or ValueError.

    Args:
        input_shape: The length may be None where it differs from batch to batch.
        num_values: Of the integers; None for numbers.
        model: Who needs it.
    """
    is_shape = isinstance(input_shape, (tuple, list)) and input_shape
    shape = (
        (input_shape[0], *checked_counts("input_shape", input_shape[1:], ""))
        if is_shape and len(input_shape) > 1
        else input_shape
    )
    if not is_shape or len(shape) != (2 if num_values is None else 1):
        raise ValueError(
            f"input_shape={input_shape!r}: {model} needs (length, features) of numbers, or (length,) of integers that stand for "
            "words: say how many there are, num_values=1000"
        )
    length = None if shape[0] is None else checked_count("input_shape[0]", shape[0])
    return (length, *shape[1:])
