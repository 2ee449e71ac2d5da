"""Butcher tableaus: where a Runge–Kutta method evaluates, and what it makes of it."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

_ROUNDING = 1e-12  # of coefficients that are given as floats


@dataclasses.dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit Runge–Kutta method, as floats.

    Stage i evaluates at `w - h * sum_j a[i][j] g_j` with j < i; the step goes along `sum_i b[i] g_i`.

    Args:
        a: for each stage after the first, its coefficients of those before: rows of 1, 2, ... numbers.
        b: the weights of the stages; they sum to 1.
        order: the order of the method, at least 1.
        b_embedded: weights of a second method on the same stages, of another order, whose difference from the first estimates the
          error of a step; None if there is none.

    Those that have a name are in `trainlab.strategies.TABLEAUS`, a dictionary by name.

    Raises:
        ValueError: the numbers are no tableau, in one line.

    Example:
        >>> Tableau(a=((1,),), b=("1/2", "1/2"), order=2) == TABLEAUS["heun"]
        False
        >>> Tableau(a=((1,),), b=("1/2", "1/2"), order=2, b_embedded=(1, 0)) == TABLEAUS["heun"]
        True
    """

    a: Sequence[Sequence[Any]]
    b: Sequence[Any]
    order: int
    b_embedded: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        set_to = object.__setattr__  # it is frozen
        set_to(self, "a", tuple(tuple(map(_number, row)) for row in self.a))
        set_to(self, "b", tuple(map(_number, self.b)))
        set_to(self, "b_embedded", None if self.b_embedded is None else tuple(map(_number, self.b_embedded)))
        num = len(self.b)
        if [len(row) for row in self.a] != list(range(1, num)):
            sizes = ", ".join(str(len(row)) for row in self.a) or "none"
            raise ValueError(
                f"Tableau: {num} stages need rows of a of {_sizes(num)} numbers, not of {sizes}: the method is explicit"
            )
        for name, weights in (("b", self.b), ("b_embedded", self.b_embedded)):
            if weights is not None and len(weights) != num:
                raise ValueError(f"Tableau: {name} has {len(weights)} weights for {num} stages")
            if weights is not None and not math.isclose(math.fsum(weights), 1, abs_tol=_ROUNDING):
                raise ValueError(f"Tableau: {name} sums to {math.fsum(weights):g}; weights of a consistent method sum to 1")
        if isinstance(self.order, bool) or not isinstance(self.order, int) or self.order < 1:
            raise ValueError(f"Tableau: order = {self.order!r}: must be a whole number of at least 1")

    @property
    def stages(self) -> int:
        """How many evaluations a step makes."""
        return len(self.b)

    @property
    def error_weights(self) -> tuple[float, ...] | None:
        """What of each stage is the difference of the two methods; None without a second one."""
        if self.b_embedded is None:
            return None
        return tuple(one - other for one, other in zip(self.b, self.b_embedded, strict=True))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as plain lists and numbers."""
        embedded = None if self.b_embedded is None else list(self.b_embedded)
        return {"a": [list(row) for row in self.a], "b": list(self.b), "order": self.order, "b_embedded": embedded}


def named(tableau: str | Tableau | Mapping[str, Any], owner: str) -> Tableau:
    """The tableau of a name, of a configuration, or itself.

    Args:
        tableau: which.
        owner: who is asked for it, for the message.

    Raises:
        TypeError, ValueError: there is none of that name; it is none.

    Example:
        >>> named("kutta_4", "RungeKutta").stages
        4
    """
    if isinstance(tableau, Tableau):
        return tableau
    if isinstance(tableau, Mapping):
        return Tableau(**tableau)
    if not isinstance(tableau, str):
        raise TypeError(f"{owner}: tableau must be a name ({', '.join(TABLEAUS)}) or a tl.Tableau, not {tableau!r}")
    if tableau not in TABLEAUS:
        close = difflib.get_close_matches(tableau, TABLEAUS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(TABLEAUS)}"
        raise ValueError(f"{owner}: no tableau is called {tableau!r}; {hint}")
    return TABLEAUS[tableau]


def _number(value: Any) -> float:
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ValueError(f"Tableau: {value!r} is no number; write 0.5 or '1/2'") from None
    if not math.isfinite(number):
        raise ValueError(f"Tableau: {value!r}: coefficients must be finite")
    return number


def _sizes(num: int) -> str:
    return ", ".join(map(str, range(1, num))) or "no"


# By name, as `RungeKutta` and `AdaptiveStep` take it; the last argument is the embedded method's, where there is one. Sources:
# E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.1 (midpoint, Heun, Kutta's third and
# fourth orders, the 3/8 rule: W. Kutta, Zeitschrift für Mathematik und Physik 46 (1901), 435) and II.5 (Dormand and Prince, table
# 5.2). A. Ralston, Mathematics of Computation 16 (1962), 431. P. Bogacki, L. F. Shampine, Applied Mathematics Letters 2 (1989),
# 321.
TABLEAUS: Mapping[str, Tableau] = {
    "euler": Tableau((), (1,), 1),
    "midpoint": Tableau((("1/2",),), (0, 1), 2, (1, 0)),
    "heun": Tableau(((1,),), ("1/2", "1/2"), 2, (1, 0)),
    "ralston": Tableau((("2/3",),), ("1/4", "3/4"), 2, (1, 0)),
    "kutta_3": Tableau((("1/2",), (-1, 2)), ("1/6", "2/3", "1/6"), 3, (0, 1, 0)),
    "bogacki_shampine": Tableau(
        (("1/2",), (0, "3/4"), ("2/9", "1/3", "4/9")),
        ("2/9", "1/3", "4/9", 0),
        3,
        ("7/24", "1/4", "1/3", "1/8"),
    ),
    "kutta_4": Tableau((("1/2",), (0, "1/2"), (0, 0, 1)), ("1/6", "1/3", "1/3", "1/6"), 4),
    "three_eighths": Tableau((("1/3",), ("-1/3", 1), (1, -1, 1)), ("1/8", "3/8", "3/8", "1/8"), 4),
    "dormand_prince": Tableau(
        (
            ("1/5",),
            ("3/40", "9/40"),
            ("44/45", "-56/15", "32/9"),
            ("19372/6561", "-25360/2187", "64448/6561", "-212/729"),
            ("9017/3168", "-355/33", "46732/5247", "49/176", "-5103/18656"),
            ("35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84"),
        ),
        ("35/384", 0, "500/1113", "125/192", "-2187/6784", "11/84", 0),
        5,
        ("5179/57600", 0, "7571/16695", "393/640", "-92097/339200", "187/2100", "1/40"),
    ),
}
