"""What the models check of their arguments, and the small parts that they share."""

import math
import operator
from collections.abc import Sequence

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
