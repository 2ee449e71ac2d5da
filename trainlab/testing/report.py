"""What was checked, what holds, and a line for what does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Result:
    """One check.

    Attributes:
        name: what was checked.
        holds: whether it holds; None where it could not be looked at.
        line: why not, in one line; empty where it holds.
    """

    name: str
    holds: bool | None
    line: str = ""

    def __str__(self) -> str:
        word = {True: "holds", False: "FAILS", None: "not checked"}[self.holds]
        return f"{word:11} {self.name}" + (f": {self.line}" if self.line else "")


@dataclasses.dataclass(frozen=True)
class Report:
    """All checks of one thing; true if nothing fails, so that `assert check_strategy(...)` is a test, which shows it.

    Attributes:
        of: what was checked.
        results: one a check, in their order.

    Example:
        >>> report = Report("Mine()", [Result("pure", True), Result("evaluations", False, "says 1, makes 2")])
        >>> bool(report)
        False
        >>> print(report)
        Mine():
        holds       pure
        FAILS       evaluations: says 1, makes 2
    """

    of: str
    results: Sequence[Result]

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        return "\n".join([f"{self.of}:", *map(str, self.results)])

    __repr__ = __str__

    @property
    def failures(self) -> list[Result]:
        """What does not hold."""
        return [result for result in self.results if result.holds is False]

    def raise_if_any_fails(self) -> None:
        """For whoever runs no pytest.

        Raises:
            AssertionError: something does not hold; its text is the report.
        """
        if self.failures:
            raise AssertionError(str(self))
