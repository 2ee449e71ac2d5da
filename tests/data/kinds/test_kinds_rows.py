"""Rows of ragged and sparse tensors, and of SciPy's matrices, against rows taken one by one."""

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data.kinds import as_sparse, first_place, is_sparse_matrix, rows_of, spec_of
from trainlab.objective import cutting

RNG = np.random.default_rng(0)
DENSE = np.where(RNG.normal(size=(6, 4)) > 0.3, RNG.normal(size=(6, 4)), 0).astype("float32")
DENSE[2] = 0  # a row without entries

RAGGED = {
    "rows of numbers": tf.ragged.constant([[1, 2, 3], [], [4], [5, 6], [7, 8, 9, 1], [2]]),
    "rows of vectors": tf.ragged.constant([[[1.0, 2.0]], [], [[3.0, 4.0], [5.0, 6.0]]] * 2, ragged_rank=1, inner_shape=(2,)),
    "rows of rows": tf.ragged.constant([[[1, 2], []], [], [[3], [4, 5], [6]]] * 2),
    "int32 splits": tf.ragged.constant([[1, 2], [3], []] * 2, row_splits_dtype="int32"),
    "text": tf.ragged.constant([["a", "b"], [], ["c"]] * 2),
}
SPARSE = {
    "a matrix": tf.sparse.from_dense(DENSE),
    "a cube": tf.sparse.from_dense(np.where(RNG.normal(size=(6, 3, 2)) > 0, 1.0, 0.0)),
    "whole numbers": tf.sparse.from_dense((DENSE > 0).astype("int64")),
    "nothing": tf.sparse.from_dense(np.zeros([6, 4])),
    "in no order": tf.SparseTensor([[5, 0], [0, 3], [0, 1]], [1.0, 2.0, 3.0], [6, 4]),
}
INDICES = [[0], [5, 0, 2, 2, 1], [], [4, 3, 2, 1, 0, 5]]


def dense(value):
    return tf.sparse.to_dense(value).numpy() if isinstance(value, tf.SparseTensor) else value


class Coordinates:
    """What SciPy's matrices are to trainlab: whatever can give its entries' places."""

    def __init__(self, array):
        self.row, self.col = (places[::-1] for places in np.nonzero(array))  # in no order
        self.data, self.shape, self.dtype = array[self.row, self.col], array.shape, array.dtype

    def tocoo(self):
        return self


@pytest.mark.parametrize("indices", INDICES, ids=str)
@pytest.mark.parametrize("name", RAGGED)
def test_rows_of_a_ragged_tensor(name, indices):
    found = tf.function(rows_of(RAGGED[name]))(tf.constant(indices, tf.int64))
    assert found.to_list() == [RAGGED[name].to_list()[i] for i in indices]
    assert spec_of(RAGGED[name]).is_compatible_with(found)


@pytest.mark.parametrize("indices", INDICES, ids=str)
@pytest.mark.parametrize("name", SPARSE)
def test_rows_of_a_sparse_tensor(name, indices):
    whole = as_sparse(SPARSE[name])
    found = tf.function(rows_of(whole))(tf.constant(indices, tf.int64))
    np.testing.assert_array_equal(dense(found), dense(whole)[np.array(indices, int)])
    np.testing.assert_array_equal(found.indices, tf.sparse.reorder(found).indices)
    assert spec_of(whole).is_compatible_with(found)


def test_entries_come_in_the_order_of_the_rows():
    found = as_sparse(SPARSE["in no order"])
    np.testing.assert_array_equal(found.indices, [[0, 1], [0, 3], [5, 0]])
    np.testing.assert_array_equal(found.values, [3.0, 2.0, 1.0])


def test_whatever_gives_its_coordinates_is_a_sparse_matrix():
    matrix = Coordinates(DENSE)
    assert is_sparse_matrix(matrix) and not is_sparse_matrix(DENSE) and not is_sparse_matrix(SPARSE["a matrix"])
    np.testing.assert_array_equal(dense(as_sparse(matrix)), DENSE)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia", "lil", "dok"])
@pytest.mark.parametrize("holder", ["matrix", "array"])
def test_every_format_of_scipy(kind, holder):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = getattr(sparse, f"{kind}_{holder}")(DENSE)
    assert is_sparse_matrix(matrix)
    np.testing.assert_array_equal(dense(as_sparse(matrix)), DENSE)


@pytest.mark.parametrize("leaf", [*RAGGED.values(), *SPARSE.values(), DENSE, tf.constant(DENSE)])
@pytest.mark.parametrize("size", [None, 6])
def test_specs(leaf, size):
    leaf = as_sparse(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
    spec = cutting.sized(spec_of(leaf), size)
    assert spec.shape[0] == size and spec.is_compatible_with(tf.convert_to_tensor(leaf) if leaf is DENSE else leaf)
    assert not cutting.sized(spec, 5).is_compatible_with(tf.convert_to_tensor(leaf) if leaf is DENSE else leaf)


class TestFirstPlace:
    @pytest.mark.parametrize("example", range(6))
    def test_of_a_sparse_tensor(self, example):
        array = DENSE.copy()
        array[example, 3] = np.nan
        assert first_place(tf.sparse.from_dense(array), np.isnan)[0] == example
        assert first_place(array, np.isnan)[0] == example

    @pytest.mark.parametrize("nest", [RAGGED["rows of numbers"], RAGGED["rows of rows"]], ids=["numbers", "rows"])
    def test_of_a_ragged_tensor(self, nest):
        values = np.array(nest.flat_values, "float32")
        examples = (
            np.repeat(np.arange(6), nest.with_flat_values(tf.ones(len(values))).merge_dims(1, -1).row_lengths())
            if (nest.ragged_rank > 1)
            else nest.value_rowids().numpy()
        )
        for place, example in enumerate(examples):
            bad = values.copy()
            bad[place] = np.inf
            assert first_place(nest.with_flat_values(tf.constant(bad)), np.isinf) == (example, np.inf)

    def test_of_nothing(self):
        for leaf in (DENSE, tf.sparse.from_dense(DENSE), RAGGED["rows of vectors"]):
            assert first_place(leaf, np.isnan) is None
