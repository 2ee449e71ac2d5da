"""Frames and series, pandas' where it is there and others that are like them, and arrays of objects."""

import numpy as np
import pytest

from trainlab.data.arrays import as_arrays
from trainlab.data.kinds import from_objects, from_table, is_table


class Series:
    """A column of pandas', as far as is asked of it; nullable where there is a mask."""

    class Dtype:
        def __init__(self, dtype):
            self.numpy_dtype, self.kind = np.dtype(dtype), np.dtype(dtype).kind

        def __str__(self):
            return f"nullable {self.numpy_dtype}"

    iloc = None

    def __init__(self, values, mask=None):
        self.values, self.mask = np.asarray(values), mask
        self.shape, self.dtype = self.values.shape, self.values.dtype if mask is None else self.Dtype(self.values.dtype)

    def __array__(self, dtype=None, copy=None):
        return self.values if self.mask is None else self.values.astype(object)

    def isna(self):
        return np.array(self.mask)

    def to_numpy(self, dtype, na_value=None):
        found = self.values.astype(dtype)
        if na_value is not None:
            found[np.array(self.mask)] = na_value
        return found


class Frame:
    """A frame of pandas', as far as is asked of it: its array is of objects."""

    def __init__(self, **columns):
        self.columns, self._columns = list(columns), list(columns.values())
        self.shape = (*self._columns[0].shape, len(columns))

    @property
    def iloc(self):
        class Locator:
            def __getitem__(locator, key):
                return self._columns[key[1]]

        return Locator()

    def __array__(self, dtype=None, copy=None):
        return np.stack([np.asarray(column).astype(object) for column in self._columns], axis=1)

    def to_numpy(self):
        return np.asarray(self)


FLOATS, INTS, BOOLS = np.array([0.5, 1.5], "float32"), np.array([3, 4]), np.array([True, False])


def test_what_a_table_is():
    assert is_table(Series(FLOATS)) and is_table(Frame(a=Series(FLOATS)))
    assert not any(map(is_table, (FLOATS, [FLOATS], {"a": FLOATS}, None, 1.0, "a")))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ([Series(FLOATS), Series(BOOLS)], np.array([[0.5, 1], [1.5, 0]], "float32")),
        ([Series(INTS), Series(BOOLS)], np.array([[3, 1], [4, 0]])),
        ([Series(FLOATS), Series(INTS, [False, False])], np.array([[0.5, 3], [1.5, 4]])),
        ([Series(FLOATS), Series(INTS, [False, True])], np.array([[0.5, 3], [1.5, np.nan]])),
        ([Series(BOOLS, [True, False]), Series(FLOATS)], np.array([[np.nan, 0.5], [0, 1.5]])),
        ([Series(BOOLS, [False, False]), Series(BOOLS)], np.array([[True, True], [False, False]])),
        ([Series(np.array([1, 2.5], object)), Series(INTS)], np.array([[1, 3], [2.5, 4]])),
        ([Series(np.array(texts, object)) for texts in (["a", "bc"], ["d", "e"])], np.array([["a", "d"], ["bc", "e"]], object)),
    ],
    ids=["bool", "ints", "nullable", "missing", "missing bool", "bools", "objects", "text"],
)
def test_columns_of_several_dtypes(columns, expected):
    found = from_table(Frame(**{f"c{i}": column for i, column in enumerate(columns)}))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype.kind == expected.dtype.kind


@pytest.mark.parametrize("series", [Series(FLOATS), Series(INTS, [False, False]), Series(np.array([1.5, True], object))])
def test_a_series_is_a_column(series):
    assert from_table(series).shape == (2, 1)
    assert as_arrays(series).shape == (2, 1)


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            {"a": Series(FLOATS), "b": Series(np.array(["x", "y"], object))},
            "column 'b' holds strings and others hold numbers: .*",
        ),
        ({"a": Series(np.array(["x", 1.0], object))}, "column 'a' of dtype object holds no numbers, nor strings only: .*"),
        ({"t": Series(np.array(["2020-01-01"] * 2, "datetime64[s]"))}, "column 't' of dtype datetime64.* convert it with astype"),
    ],
    ids=["text beside numbers", "text among numbers", "times"],
)
def test_columns_that_hold_no_numbers_are_named(columns, line):
    with pytest.raises(TypeError, match=f"^{line}$"):
        from_table(Frame(**columns))


@pytest.mark.parametrize(
    ("items", "kind"),
    [
        (["a", "größe"], "O"),
        ([b"a\x00", b"a"], "O"),
        ([1, 2], "i"),
        ([1.5, 2], "f"),
        ([True, False], "b"),
        ([np.float32(1), 2.5], "f"),
    ],
)
def test_objects_that_are_all_of_a_kind(items, kind):
    array = np.array([items, items], object)
    assert from_objects(array).dtype.kind == kind
    np.testing.assert_array_equal(from_objects(array).astype(object), array)


@pytest.mark.parametrize("items", [["a", 1.0], [None, 1.0], [{}, {}], [1j, 1.0], []], ids=str)
def test_others_are_none_of_these(items):
    array = np.array(items, object)
    assert from_objects(array) is None


class TestPandas:
    """The same of pandas' own."""

    @pytest.mark.parametrize("dtype", ["bool", "boolean", "Int64", "UInt8", "Float32", "Float64", "object", "int8"])
    def test_a_column_beside_floats(self, dtype):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"a": FLOATS, "b": pandas.array([1, 0], dtype="Int64").astype(dtype)})
        found = as_arrays(frame)
        np.testing.assert_array_equal(found, [[0.5, 1], [1.5, 0]])
        assert found.dtype == "float32"

    @pytest.mark.parametrize("dtype", ["Int64", "boolean", "Float32"])
    def test_a_missing_value_is_nan(self, dtype):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"a": FLOATS, "b": pandas.array([1, None], dtype=dtype)})
        np.testing.assert_array_equal(as_arrays(frame), np.array([[0.5, 1], [1.5, np.nan]], "float32"))

    def test_categories_of_text_are_named(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"a": FLOATS, "c": pandas.Categorical(["x", "y"])})
        with pytest.raises(TypeError, match="^column 'c' holds strings and others hold numbers"):
            as_arrays(frame)

    def test_text(self):
        pandas = pytest.importorskip("pandas")
        assert as_arrays(pandas.Series(["a", "bc"])).tolist() == [["a"], ["bc"]]
