"""What the functions of this package check of their arguments: fractions, seeds, counts."""

import operator
from typing import Any

import numpy as np


def num_drawn(name: str, fraction: float, num_examples: int, part: str) -> int:
    """How many of the examples a fraction puts into another part.

    Raises:
        ValueError: It is no number in (0, 1), or leaves one of the two empty.
    """
    number = isinstance(fraction, (int, float, np.number)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction < 1:
        raise ValueError(f"{name}={fraction!r}: must be a number in (0, 1), for example 0.2")
    drawn = round(num_examples * float(fraction))
    if not 0 < drawn < num_examples:
        raise ValueError(
            f"{name}={fraction!r}: puts {drawn} of {num_examples} examples into the {part} set, "
            "and both sides need at least one; use for example 0.2"
        )
    return drawn


def checked_seed(seed: int) -> int:
    """An integer of at least 0, or ValueError."""
    if not is_integer(seed) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be an integer >= 0, for example seed=0")
    return seed


def is_integer(value: Any) -> bool:
    """Whether it is one, and no boolean."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
