"""Data from a file of named columns: CSV, and Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.datasets import tasks
from trainlab.datasets.checks import checked_seed, library, num_drawn
from trainlab.datasets.data import Data
from trainlab.datasets.tables.columns import Encoding, floats, is_number, is_text, numbered, sorted_values
from trainlab.datasets.tables.files import read_csv, read_parquet, table_of

Names = str | Sequence[str]
PathLike = str | os.PathLike[str]


def csv(
    path: PathLike,
    target: Names,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    test: PathLike | None = None,
    test_fraction: float | None = 0.2,
    missing: str = "refuse",
    standardize: bool = True,
    task: str | None = None,
    seed: int = 0,
) -> Data:
    r"""A CSV file with a first line of names, read by pandas (`pip install 'trainlab[tables]'`).

    Statistics (means, medians, categories) are those of the training part alone.

    Args:
        path: The file; a leading `~` is expanded.
        target: The column that is learned, or several.
        columns: Those that it is learned from; None for all others.
        categories: Those among them that hold categories; None for those of text.
        test: Another file with the test part.
        test_fraction: Where there is no other file, the fraction of the rows that form the test part, in (0, 1); None for no
            test part. The rows that stay keep their order.
        missing: What is done with empty fields. `"refuse"` says which columns have how many. `"fill"` takes the median of
            numbers, with a column of zeros and ones more that says where, and for categories a category of its own.
        standardize: Whether numbers are shifted and scaled to mean 0 and standard deviation 1.
        task: As in `Data`. None takes a target of floats for regression, one of integers, booleans or text for classes, which are
            numbered in their order, several of zeros and ones for labels, and other numbers for regression.
        seed: Which rows are drawn for the test part.

    Returns:
        `x` float32 `(n, numbers)`; with categories a dictionary of `"numbers"` and int32 `(n,)` by the names of their columns,
        0 for one that the training part does not have (`Data.vocabularies` says what the others stand for): the model `tabular`
        takes both. `y` int32 `(n,)` of classes, or float32.

    Raises:
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: pandas is not installed.
        ValueError: The file cannot be read, a column is missing or holds what cannot be learned from, or an argument breaks its
            rule.

    Example:
        >>> from pathlib import Path
        >>> _ = Path("pets.csv").write_text("kind,weight,age\ncat,4.5,3\ndog,9,8\ncat,3.5,2\ndog,20,5\n")
        >>> data = csv("pets.csv", target="age", task="regression", test_fraction=None)
        >>> data.input_shape, data.vocabularies["kind"]
        ({'numbers': (1,), 'kind': one of 3}, ('[unknown]', 'cat', 'dog'))
    """
    library("pandas", "csv", "tables")
    arguments = {"columns": columns, "categories": categories, "missing": missing, "standardize": standardize, "task": task}
    return _data(read_csv, Path(path), target, test, test_fraction, seed, **arguments)


def parquet(
    path: PathLike,
    target: Names,
    columns: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    test: PathLike | None = None,
    test_fraction: float | None = 0.2,
    missing: str = "refuse",
    standardize: bool = True,
    task: str | None = None,
    seed: int = 0,
) -> Data:
    """A Parquet file, or a folder of them, read by pandas and pyarrow (`pip install 'trainlab[tables]'`).

    Args:
        path: The file.
        target, columns, categories, test, test_fraction, missing, standardize, task, seed: As those of `csv`.

    Returns:
        The same as `csv`.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: As `csv`.

    Example:
        >>> data = parquet("houses.parquet", target="price", categories=["town"])  # doctest: +SKIP
    """
    library("pandas", "parquet", "tables")
    library("pyarrow", "parquet", "tables")
    arguments = {"columns": columns, "categories": categories, "missing": missing, "standardize": standardize, "task": task}
    return _data(read_parquet, Path(path), target, test, test_fraction, seed, **arguments)


def from_tables(
    name: str,
    tables: Sequence[tuple[str, Any]],
    target: Names,
    columns: Sequence[str] | None,
    categories: Sequence[str] | None,
    missing: str,
    standardize: bool,
    task: str | None,
) -> Data:
    """Data of a training table and perhaps one to test with.

    Args:
        name: Of the data.
        tables: Each as a data frame, with where it is from.
        target, columns, categories, missing, standardize, task: As those of `csv`.
    """
    if missing not in ("refuse", "fill"):
        raise ValueError(f'missing={missing!r}: must be "refuse" or "fill"')
    tasks.check(task)
    targets, inputs = _named(tables, target, columns, categories)
    chosen = _categories(tables[0], inputs, categories)
    numbers = [column for column in inputs if column not in chosen]
    for where, table in tables:
        _check_values(where, table, [*targets, *inputs])
        _check_numbers(where, table, numbers)
        _check_alike(where, table, tables[0], chosen)
        _check_gaps(where, table, targets, "a target must not: leave these rows out")
        if missing == "refuse":
            _check_gaps(where, table, inputs, 'write missing="fill", or leave the columns out by columns=')
    encoding = Encoding.of(tables[0][1], inputs, chosen, standardize)
    labels, found, classes = _labels(tables, targets, task)
    parts = [(encoding.encode(table), y) for (_, table), y in zip(tables, labels, strict=True)]
    num_outputs = len(classes) if found == "classification" else len(targets)
    vocabularies = encoding.vocabularies
    if found == "classification":
        if "y" in vocabularies:
            raise ValueError(f"{tables[0][0]}: a column of categories must not be called 'y', as the classes are: rename it")
        vocabularies["y"] = tuple(map(str, classes))
    test = parts[1] if len(parts) > 1 else None
    return Data(name, parts[0], test, num_outputs, task=found, vocabularies=vocabularies)


def _data(
    read: Callable[..., Any],
    path: Path,
    target: Names,
    test: PathLike | None,
    test_fraction: float | None,
    seed: int,
    **arguments: Any,
) -> Data:
    path = path.expanduser()
    table = table_of(read, path)
    if test is not None:
        other = Path(test).expanduser()
        return from_tables(path.stem, [(str(path), table), (str(other), table_of(read, other, table))], target, **arguments)
    if test_fraction is None:
        return from_tables(path.stem, [(str(path), table)], target, **arguments)
    number = num_drawn("test_fraction", test_fraction, len(table), "test")
    is_test = np.zeros(len(table), bool)
    is_test[np.random.default_rng(checked_seed(seed)).permutation(len(table))[:number]] = True
    return from_tables(path.stem, [(str(path), table[~is_test]), (str(path), table[is_test])], target, **arguments)


def _named(
    tables: Sequence[tuple[str, Any]], target: Names, columns: Sequence[str] | None, categories: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The columns that are learned, and those that they are learned from."""
    if not isinstance(target, (str, Sequence)):
        raise ValueError(f"target={target!r}: must be the name of a column, or a list of names")
    targets = [target] if isinstance(target, str) else list(target)
    for name, given in (("columns", columns), ("categories", categories)):
        if isinstance(given, str):
            raise ValueError(f"{name}={given!r}: must be a list of names, {name}=[{given!r}]")
    for what, names in (("target", targets), ("columns", columns or ()), ("categories", categories or ())):
        if twice := [name for number, name in enumerate(names) if name in names[:number]]:
            raise ValueError(f"{what}: has {twice[0]!r} twice: leave one out")
    inputs = [str(name) for name in tables[0][1].columns if name not in targets] if columns is None else list(columns)
    for what, names in (("target", targets), ("columns", inputs), ("categories", categories or ())):
        for where, table in tables:
            if unknown := [name for name in names if name not in table.columns]:
                has = ", ".join(map(str, table.columns))
                raise ValueError(f"{what}: {where} has no column {', '.join(map(repr, unknown))}; it has {has}")
    if columns is None and (unnamed := [name for name in inputs if re.fullmatch(r"Unnamed: \d+", name)]):  # so pandas calls it
        raise ValueError(
            f"{tables[0][0]}: column {unnamed[0].split()[1]} has no name (row numbers that were saved with the table?): "
            "say what to learn from by columns=, or give it a name"
        )
    if both := sorted({*targets} & {*inputs}):
        raise ValueError(f"columns: {both[0]!r} is the target, which is not to be learned from itself: leave it out")
    if others := [name for name in categories or () if name not in inputs]:
        raise ValueError(f"categories: {others[0]!r} is not among columns")
    if not targets or not inputs:
        raise ValueError(f"{'columns' if targets else 'target'}: no column is left; name at least one")
    return targets, inputs


def _categories(table: tuple[str, Any], inputs: Sequence[str], categories: Sequence[str] | None) -> list[str]:
    chosen = [name for name in inputs if is_text(table[1][name])] if categories is None else list(categories)
    if "numbers" in chosen:
        raise ValueError(
            f"{table[0]}: a column of categories must not be called 'numbers', as all numbers together are: rename it"
        )
    return chosen


def _check_values(where: str, table: Any, names: Sequence[str]) -> None:
    for name in names:
        values = table[name].dropna() if str(table[name].dtype) == "object" else ()
        if nested := [value for value in values if type(value).__hash__ is None]:
            raise ValueError(
                f"{where}: column {name!r} holds a {type(nested[0]).__name__} in a field, which cannot be learned from: "
                "leave it out by columns=, or write a column for each of its numbers"
            )


def _check_numbers(where: str, table: Any, names: Sequence[str]) -> None:
    for name in names:
        if not is_number(table[name]):
            raise ValueError(
                f"{where}: column {name!r} holds {table[name].dtype}, which is no number: "
                f"name it in categories=, or leave it out by columns="
            )
        _check_finite(where, "column", name, table[name])


def _check_finite(where: str, what: str, name: str, column: Any) -> None:
    values = floats(column)
    if (is_huge := np.abs(values) > np.finfo(np.float32).max).any():  # a gap is NaN, and not above
        raise ValueError(
            f"{where}: {what} {name!r} has {values[is_huge][0]:g}, which float32 does not hold: leave such rows out, or scale it"
        )


def _check_alike(where: str, table: Any, first: tuple[str, Any], names: Sequence[str]) -> None:
    """Categories by number and by text would have nothing in common."""
    for name in names:
        if is_text(table[name]) != is_text(first[1][name]) and not table[name].isna().all():
            raise ValueError(
                f"{where}: column {name!r} holds {table[name].dtype}, and {first[1][name].dtype} in {first[0]}: "
                "categories must be text in both, or numbers in both"
            )


def _check_gaps(where: str, table: Any, names: Sequence[str], remedy: str) -> None:
    gaps = {name: int(table[name].isna().sum()) for name in names}
    if found := [f"{name!r} has {number:,}" for name, number in gaps.items() if number]:
        raise ValueError(f"{where}: of {len(table):,} rows, missing values: column {', '.join(found)}; {remedy}")


def _labels(
    tables: Sequence[tuple[str, Any]], targets: Sequence[str], task: str | None
) -> tuple[list[np.ndarray], str, tuple[Any, ...]]:
    """The labels of each table, the task, and its classes."""
    first = tables[0][1]
    if task == "sequence_labeling":
        raise ValueError('task="sequence_labeling": a table has one row an example and no sequences; take another task')
    if task is None:
        kinds = {_target_kind(first[name]) for name in targets}
        is_several = len(targets) > 1
        task = "classification" if not is_several and kinds != {"floats"} else "regression"
        if is_several and all(set(sorted_values(first[name])) <= {0, 1} for name in targets):
            task = "multilabel"
    if task == "classification":
        if len(targets) > 1:
            raise ValueError(f"target={list(targets)!r}: classes have one column; take task='multilabel' or 'regression'")
        return (*_classes(tables, targets[0]),)  # type: ignore[return-value]
    labels = []
    for where, table in tables:
        for name in targets:
            if not is_number(table[name]):
                raise ValueError(f"{where}: target {name!r} holds {table[name].dtype}, and {task} needs numbers")
            _check_finite(where, "target", name, table[name])
        y = np.stack([table[name].to_numpy(np.float32) for name in targets], axis=1)
        labels.append(y[:, 0] if len(targets) == 1 and task == "regression" else y)
    return labels, task, ()


def _target_kind(column: Any) -> str:
    return "floats" if is_number(column) and "float" in str(column.dtype).lower() else "classes"


def _classes(tables: Sequence[tuple[str, Any]], target: str) -> tuple[list[np.ndarray], str, tuple[Any, ...]]:
    for where, table in tables:
        if str(table[target].dtype).startswith(("datetime", "timedelta")):
            raise ValueError(
                f"{where}: target {target!r} holds {table[target].dtype}: write it as a number, or as text for classes"
            )
    values = sorted_values(tables[0][1][target])
    labels = [numbered(table[target], values).astype(np.int32) for _, table in tables]
    for (where, table), y in zip(tables, labels, strict=True):
        if (y < 0).any():
            other = table[target].astype(object).iloc[int(np.argmax(y < 0))]
            number = ', or write task="regression"' if is_number(table[target]) else ""
            raise ValueError(
                f"{where}: target {target!r} has {other!r}, a class that the training part "
                f"does not have: leave such rows out{number}"
            )
    return labels, "classification", values
