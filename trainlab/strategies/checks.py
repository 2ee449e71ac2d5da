"""What is checked of a strategy's arguments, in one line each."""

from __future__ import annotations

import math
import operator
from typing import Any

from trainlab.strategies.base import StepStrategy
from trainlab.strategies.sgd import SGD


def check_count(owner: str, name: str, value: Any) -> int:
    """A whole number of at least 1.

    Raises:
        TypeError, ValueError: it is not.

    Example:
        >>> check_count("Lookahead", "k", 0)
        Traceback (most recent call last):
        ...
        ValueError: Lookahead: k must be at least 1, not 0
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{owner}: {name} must be an int, not {value!r}")
    if (number := operator.index(value)) < 1:
        raise ValueError(f"{owner}: {name} must be at least 1, not {number}")
    return number


def check_number(owner: str, name: str, value: Any, most: float = math.inf, is_positive: bool = False) -> float:
    """A finite number of at least 0, or above it.

    Args:
        owner, name: of the argument, for the message.
        value: what it is.
        most: the largest that it may be.
        is_positive: whether it may not be 0.

    Raises:
        TypeError, ValueError: it is not.

    Example:
        >>> check_number("Sam", "rho", -1)
        Traceback (most recent call last):
        ...
        ValueError: Sam: rho must be a finite number of at least 0, not -1
    """
    rule = "above 0" if is_positive else "of at least 0"
    rule += f" and at most {most:g}" if most < math.inf else ""
    try:
        if isinstance(value, (bool, str)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {name} must be a number {rule}, not {value!r}") from None
    if not math.isfinite(number) or number > most or number < 0 or (is_positive and number == 0):
        raise ValueError(f"{owner}: {name} must be a finite number {rule}, not {value!r}")
    return number


def check_inner(owner: str, inner: Any) -> StepStrategy:
    """A strategy that another one wraps; `SGD()` for None.

    Raises:
        TypeError: it is none.
    """
    if inner is None:
        return SGD()
    if not isinstance(inner, StepStrategy):
        hint = f"; write {inner.__name__}()" if isinstance(inner, type) else ""
        raise TypeError(f"{owner}: inner must be a StepStrategy, not {inner!r}{hint}")
    return inner
