"""Numbers and times as people read them."""

from __future__ import annotations

import math


def number(value: float | None) -> str:
    """Four digits; a dash for what is not known.

    Example:
        >>> number(0.123456), number(12345.0), number(1e-7), number(float("nan"))
        ('0.1235', '12,345', '1e-07', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value) or (value and not 1e-4 <= abs(value) < 1e7):
        return f"{value:.4g}"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def count(value: float) -> str:
    """A whole number; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(0.25), duration(75), duration(7322)
        ('0.25 s', '1 min 15 s', '2 h 02 min')
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def many(num: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> many(1, "run"), many(2, "run")
        ('1 run', '2 runs')
    """
    return f"{num:,} {noun}{'' if num == 1 else 's'}"
