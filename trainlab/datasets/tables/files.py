"""Files of named columns as data frames, in which a column is one kind of thing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainlab.datasets.tables.columns import is_text


def read_csv(path: Path, like: Any = None) -> Any:
    """A CSV file.

    Args:
        path: Of the file.
        like: A data frame whose columns of text are text here too, whatever the fields look like; None for none.

    Returns:
        A data frame.

    Raises:
        ValueError: Its first line has not one name for each field, or one twice.
    """
    import pandas

    text = {} if like is None else {name: str for name in like.columns if is_text(like[name])}
    # In pieces, as pandas reads by default, a field `1` is a number in one piece of a column and text in another.
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            # By default what is too much is taken for names of the rows, from the left, so that all others move.
            table = pandas.read_csv(path, low_memory=False, dtype=text, index_col=False)
        except pandas.errors.ParserWarning:
            raise ValueError("its rows have more fields than the first line has names: write a name for each") from None
    names = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    if twice := [name for name in names[names.duplicated()] if name]:
        raise ValueError(f"its first line has the name {twice[0]!r} twice: rename one")
    return table


def read_parquet(path: Path, like: Any = None) -> Any:
    """A Parquet file, or a folder of them.

    Args:
        path: Of the file.
        like: Not looked at: the file says itself what its columns hold.

    Returns:
        A data frame.
    """
    import pandas

    return pandas.read_parquet(path)


def table_of(read: Callable[..., Any], path: Path, like: Any = None) -> Any:
    """A data frame, its names as text, decimal numbers as floats.

    Args:
        read: `read_csv` or `read_parquet`.
        path, like: As those of `read_csv`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or has no rows.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        table = read(path, like)
    except Exception as error:  # pandas, pyarrow and their codecs each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read as a table ({reason})") from error
    if len(table) == 0:
        raise ValueError(f"{path}: has no rows")
    return _in_one_dtype(table.rename(columns=str))


def _in_one_dtype(table: Any) -> Any:
    """Columns of Python objects that are all of one kind, in pandas' dtype for it."""
    from pandas.api import types

    dtypes = {"decimal": "float64", "boolean": "boolean", "date": "datetime64[us]"}  # booleans are objects where some are missing
    kinds = {name: types.infer_dtype(table[name], skipna=True) for name in table.columns if types.is_object_dtype(table[name])}
    return table.astype({name: dtypes[kind] for name, kind in kinds.items() if kind in dtypes})
