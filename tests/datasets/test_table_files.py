"""Tables that are not as they should be: what a column holds is one kind of thing in both files, or refused in one line."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from trainlab.datasets import csv, parquet

AS_IS = {"target": "y", "test_fraction": None, "standardize": False}


@pytest.fixture
def read(tmp_path):
    """A function that writes CSV files, for training and perhaps to test with, and reads them as data."""

    def read(text, test=None, **arguments):
        for name, content in (("table", text), ("test", test)):
            if content is not None:
                (tmp_path / f"{name}.csv").write_text(content, encoding="utf-8")
        if test is not None:
            arguments["test"] = tmp_path / "test.csv"
        return csv(tmp_path / "table.csv", **AS_IS | arguments)

    return read


@pytest.fixture
def stored(tmp_path):
    """A function that writes a Parquet file and reads it as data."""

    def stored(columns, **arguments):
        pd.DataFrame(columns).to_parquet(tmp_path / "table.parquet")
        return parquet(tmp_path / "table.parquet", **AS_IS | arguments)

    return stored


ODD = {
    "a byte order mark": "\ufeffa,y\n1,0\n3,1\n",
    "quotes and empty lines": '"a","y"\n\n"1","0"\n\n3,1\n\n',
    "a comma at the end of rows": "a,y\n1,0,\n3,1,\n",
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_are_read(read, case):
    data = read(ODD[case])
    np.testing.assert_array_equal(data.train[0], [[1], [3]])
    np.testing.assert_array_equal(data.train[1], [0, 1])


REFUSED = {
    # pandas takes the first field for the name of the row: a would be 2 and y 0
    "a field without a name": ("a,y\n1,2,0\n3,4,1\n", {}, "more fields than the first line has names: write a name for each"),
    "a column twice": ("a,y,y\n1,0,0\n3,1,1\n", {}, "its first line has the name 'y' twice: rename one"),
    "saved row numbers": (",a,y\n0,1,0\n1,3,1\n", {}, "column 0 has no name (row numbers that were saved with the table?): say"),
    "an infinity": ("a,y\ninf,0\n3,1\n", {}, "column 'a' has inf, which float32 does not hold"),
    "a huge number": ("a,y\n1e200,0\n3,1\n", {"standardize": True}, "column 'a' has 1e+200, which float32 does not hold"),
    "a huge target": ("a,y\n1,1e39\n3,1\n", {}, "target 'y' has 1e+39, which float32 does not hold"),
    "categories called as the classes": ("y,t\nq,0\nw,1\n", {"target": "t"}, "a column of categories must not be called 'y'"),
    "a number for the target": ("a,0\n1,0\n", {"target": 0}, "target=0: must be the name of a column, or a list of names"),
    "a target twice": ("a,y\n1,0\n", {"target": ["y", "y"]}, "target: has 'y' twice: leave one out"),
    "columns twice": ("a,y\n1,0\n", {"columns": ["a", "a"]}, "columns: has 'a' twice: leave one out"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_train_on_other_numbers_is_refused(read, case):
    text, arguments, message = REFUSED[case]
    with pytest.raises(ValueError) as error:
        read(text, **arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_saved_row_numbers_may_be_left_out_or_named(read):
    text = ",a,y\n0,1,0\n1,3,1\n"
    np.testing.assert_array_equal(read(text, columns=["a"]).train[0], [[1], [3]])
    np.testing.assert_array_equal(read("row" + text).train[0], [[0, 1], [1, 3]])


def test_text_is_text_in_both_files(read):
    data = read("kind,y\n1,no\n2,no\nx,7\n", "kind,y\n2,7\n1,7\n")
    assert data.vocabularies == {"kind": ("[unknown]", "1", "2", "x"), "y": ("7", "no")}
    np.testing.assert_array_equal(data.test[0]["kind"], [2, 1])
    np.testing.assert_array_equal(data.test[1], [0, 0])
    with pytest.raises(ValueError, match=r"test.csv: column 'kind' holds \w+, and int64 in .*: categories must be text in both"):
        read("kind,y\n1,0\n2,1\n", "kind,y\n1,0\nx,1\n", categories=["kind"])


def test_text_is_text_in_the_whole_file(read):
    rows = 300_000  # more than pandas reads at once by default
    data = read("kind,y\n" + "1,0\n2,1\n" * rows + "x,0\n1,1\n")
    assert data.vocabularies["kind"] == ("[unknown]", "1", "2", "x")
    np.testing.assert_array_equal(data.train[0]["kind"][[0, 1, -2, -1]], [1, 2, 3, 1])


def test_booleans_are_numbers_also_where_some_are_missing(read):
    data = read("a,y\nTrue,0\n,1\nFalse,1\n", "a,y\nTrue,1\n", missing="fill")
    np.testing.assert_array_equal(data.train[0], [[1, 0], [0.5, 1], [0, 0]])
    data = read("a,y\nTrue,0\nFalse,1\n", "a,y\n,1\nTrue,0\n", missing="fill")
    np.testing.assert_array_equal(data.test[0], [[0.5], [1]])


def test_decimal_numbers_are_numbers(stored):
    prices = [decimal.Decimal("1.5"), None, decimal.Decimal("3.5")]
    data = stored({"a": prices, "y": [0, 1, 0]}, missing="fill")
    np.testing.assert_array_equal(data.train[0], [[1.5, 0], [2.5, 1], [3.5, 0]])
    data = stored({"a": [1, 2], "y": prices[::2]})
    assert data.task == "regression" and data.train[1].tolist() == [1.5, 3.5]


DAY = datetime.date(2020, 1, 1)
NO_NUMBERS = {
    "lists": ({"a": [[1, 2], [3, 4]], "y": [0, 1]}, "column 'a' holds a ndarray in a field, which cannot be learned from"),
    "structures": ({"a": [{"b": 1}, {"b": 2}], "y": [0, 1]}, "column 'a' holds a dict in a field"),
    "a target of lists": ({"a": [1, 2], "y": [[1, 0], [0, 1]]}, "column 'y' holds a ndarray in a field"),
    "days": ({"a": [DAY, DAY], "y": [0, 1]}, "column 'a' holds datetime64[us], which is no number"),
    "a target of days": ({"a": [1, 2], "y": [DAY, DAY]}, "target 'y' holds datetime64[us]: write it as a number, or as text"),
}


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_holds_no_numbers_is_said(stored, case):
    columns, message = NO_NUMBERS[case]
    with pytest.raises(ValueError) as error:
        stored(columns)
    assert message in str(error.value) and "\n" not in str(error.value)
