"""What the functions of this package check of their arguments: fractions, seeds, counts."""

import importlib
import operator
from collections.abc import Callable
from typing import Any

import numpy as np


def num_drawn(name: str, fraction: float, num_examples: int, part: str, rounded: Callable[[float], int] = round) -> int:
    """How many of the examples a fraction, rounded so, puts into another part.

    Raises:
        ValueError: It is no number in (0, 1), or leaves one of the two empty.
    """
    number = isinstance(fraction, (int, float, np.number)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction < 1:
        raise ValueError(f"{name}={fraction!r}: must be a number in (0, 1), for example 0.2")
    drawn = rounded(num_examples * float(fraction))
    if not 0 < drawn < num_examples:
        fits = "one example cannot be divided" if num_examples < 2 else f"use for example {0.2 if num_examples >= 5 else 0.5}"
        raise ValueError(
            f"{name}={fraction!r}: puts {drawn} of {num_examples} examples into the {part} set, "
            f"and both sides need at least one; {fits}"
        )
    return drawn


def checked_seed(seed: int) -> int:
    """An integer of at least 0, or ValueError."""
    if not is_integer(seed) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be an integer >= 0, for example seed=0")
    return seed


def checked_count(name: str, value: Any, at_least: int = 1) -> int:
    """An integer of at least so much, or ValueError."""
    if not is_integer(value) or value < at_least:
        raise ValueError(f"{name}={value!r}: must be an integer >= {at_least}")
    return operator.index(value)


def is_integer(value: Any) -> bool:
    """Whether it is one, and no boolean."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def library(name: str, function: str, extra: str) -> Any:
    """An optional library, imported where it is used.

    Args:
        name: Of the module.
        function: Who needs it.
        extra: Of trainlab, which installs it.

    Raises:
        ModuleNotFoundError: It is not there; the line says what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise  # it is there, and something that it needs is not
        raise ModuleNotFoundError(f"{function}() needs {name}: pip install 'trainlab[{extra}]'", name=name) from None
