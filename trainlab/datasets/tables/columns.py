"""Columns of a table as a model takes them: numbers standardised, categories numbered, gaps filled, by the training part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = "[unknown]"  # what number 0 of every vocabulary stands for
MISSING = "[missing]"
_ROUNDING = 4 * np.finfo(np.float64).eps  # of a column's largest number: values that are no further apart are one


@dataclasses.dataclass(frozen=True)
class Number:
    """A column of numbers, as the training part has it.

    Attributes:
        name: Of the column.
        mean, scale: What is subtracted, and then divided by.
        median: What fills a gap.
        has_gaps: Whether a column of zeros and ones beside it says where there was one.
    """

    name: str
    mean: float
    scale: float
    median: float
    has_gaps: bool

    @classmethod
    def of(cls, name: str, column: Any, standardize: bool) -> Number:
        """From the training part's column; the mean and the deviation are those of the filled one."""
        values, is_gap = floats(column), np.asarray(column.isna())
        median = float(np.median(values[~is_gap])) if not is_gap.all() else 0.0
        filled = np.where(is_gap, median, values)
        mean, scale = (float(filled.mean()), float(filled.std())) if standardize else (0.0, 1.0)
        if standardize and np.ptp(filled) <= _ROUNDING * np.abs(filled).max():  # what is left of the deviation says nothing
            mean, scale = float(filled.min()), 1.0
        return cls(name, mean, scale, median, bool(is_gap.any()))

    def encode(self, column: Any) -> list[np.ndarray]:
        """One float column `[n]`, and a second that marks gaps where the training part had some."""
        is_gap = np.asarray(column.isna())
        values = (np.where(is_gap, self.median, floats(column)) - self.mean) / self.scale
        return [values, is_gap.astype(np.float64)] if self.has_gaps else [values]


@dataclasses.dataclass(frozen=True)
class Category:
    """A column of categories, numbered from 1; 0 is one that the training part did not have.

    Attributes:
        name: Of the column.
        values: The training part's, in their order.
        has_gaps: Whether a gap is a category of its own, the last.
    """

    name: str
    values: tuple[Any, ...]
    has_gaps: bool

    @classmethod
    def of(cls, name: str, column: Any) -> Category:
        """From the training part's column."""
        return cls(name, sorted_values(column), bool(column.isna().any()))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """What each number stands for."""
        return (UNKNOWN, *map(str, self.values), *([MISSING] if self.has_gaps else []))

    def encode(self, column: Any) -> np.ndarray:
        """Integers int32 `[n]`."""
        numbers = numbered(column, self.values) + 1
        if self.has_gaps:
            numbers[np.asarray(column.isna())] = len(self.values) + 1
        return numbers.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What is made of the columns of a table.

    Attributes:
        numbers: The columns of numbers, in their order.
        categories: The columns of categories.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]

    @classmethod
    def of(cls, table: Any, names: Sequence[str], categories: Sequence[str], standardize: bool) -> Encoding:
        """From the training part."""
        return cls(
            tuple(Number.of(name, table[name], standardize) for name in names if name not in categories),
            tuple(Category.of(name, table[name]) for name in names if name in categories),
        )

    def encode(self, table: Any) -> Any:
        """Numbers float32 `[n, k]`; with categories a dictionary of `"numbers"` and int32 `[n]` by their names."""
        columns = [column for number in self.numbers for column in number.encode(table[number.name])]
        numbers = np.stack(columns, axis=1).astype(np.float32) if columns else None
        if not self.categories:
            return numbers
        named = {category.name: category.encode(table[category.name]) for category in self.categories}
        return named if numbers is None else {"numbers": numbers, **named}

    @property
    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """What the numbers of each category stand for."""
        return {category.name: category.vocabulary for category in self.categories}


def is_number(column: Any) -> bool:
    """Whether a column holds numbers or booleans."""
    from pandas.api import types

    return bool(types.is_numeric_dtype(column.dtype)) and not types.is_complex_dtype(column.dtype)


def is_text(column: Any) -> bool:
    """Whether it holds text, or categories of a data frame."""
    from pandas.api import types

    return bool(types.is_string_dtype(column.dtype) or types.is_object_dtype(column.dtype) or str(column.dtype) == "category")


def sorted_values(column: Any) -> tuple[Any, ...]:
    """The different values: numbers by their size, others by their text."""
    values = list(column.dropna().astype(object).unique())
    return tuple(sorted(values) if is_number(column) else sorted(values, key=str))


def numbered(column: Any, values: Sequence[Any]) -> np.ndarray:
    """The place of each entry among the values, -1 where it is none of them."""
    numbers = {value: number for number, value in enumerate(values)}
    return np.array([numbers.get(value, -1) for value in column.astype(object)], np.int64)


def floats(column: Any) -> np.ndarray:
    """Numbers or booleans as float64 `[n]`, NaN for a gap."""
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
