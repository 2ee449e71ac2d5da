import numpy as np
import pytest
import tensorflow as tf
from small import compiled, dense_model

from trainlab import Vector
from trainlab.parameters.vector import Rows

NUM_ROWS = 6
INDICES = [4, 1, 4, 0, 4]  # row 4 three times


def slices(dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=(len(INDICES), 2)).astype(dtype)


def table(dtype="float32", seed=0):
    """What the slices are, written out: duplicates summed."""
    dense = np.zeros((NUM_ROWS, 2), dtype)
    np.add.at(dense, INDICES, slices(dtype, seed))
    return dense


def rows(dtype="float32", seed=0):
    return Rows(tf.constant(slices(dtype, seed)), tf.constant(INDICES), NUM_ROWS)


def mixed(seed=0):
    """A Vector with a matrix, a scalar and a row-sparse leaf, and the same as NumPy arrays."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(2, 3)).astype("float32"), np.float32(rng.normal()), table(seed=seed)]
    return Vector([*arrays[:2], rows(seed=seed)]), arrays


def dense(vector):
    return [np.asarray(leaf.to_dense() if isinstance(leaf, Rows) else leaf) for leaf in vector.leaves]


def assert_close(vector, arrays, rtol=1e-6):
    assert isinstance(vector, Vector)
    for leaf, array in zip(dense(vector), arrays, strict=True):
        np.testing.assert_allclose(leaf, array, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("runner", ["eager", "graph", "xla"])
@pytest.mark.parametrize(
    "fn",
    [
        lambda a, b, s: a + b,
        lambda a, b, s: a - b,
        lambda a, b, s: a * b,
        lambda a, b, s: -a,
        lambda a, b, s: a * s,
        lambda a, b, s: s * a,
        lambda a, b, s: a / s,
        lambda a, b, s: a + s,
        lambda a, b, s: s + a,
        lambda a, b, s: a - s,
        lambda a, b, s: s - a,
        lambda a, b, s: (a + 3 * b - a / 2) * s,
    ],
    ids=["a+b", "a-b", "a*b", "-a", "a*s", "s*a", "a/s", "a+s", "s+a", "a-s", "s-a", "long"],
)
def test_arithmetic_is_that_of_the_leaves(fn, runner):
    (a, a_arrays), (b, b_arrays) = mixed(0), mixed(1)
    scalar = tf.constant(1.75)
    run = fn if runner == "eager" else tf.function(fn, jit_compile=runner == "xla")
    expected = [fn(x, y, np.float32(1.75)) for x, y in zip(a_arrays, b_arrays, strict=True)]
    assert_close(run(a, b, scalar), expected, rtol=2e-6)


def test_division_by_a_vector_is_element_by_element():
    (a, a_arrays), (b, b_arrays) = mixed(0), mixed(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert_close(a / b, [x / y for x, y in zip(a_arrays, b_arrays, strict=True)])  # rows that neither has: 0/0
        assert_close(2 / a, [np.float32(2) / x for x in a_arrays])


@pytest.mark.parametrize(
    "scalar",
    [
        2,
        2.0,
        np.float32(2),
        np.float64(2),
        np.int64(2),
        np.array(2.0),
        tf.constant(2.0),
        tf.constant(2.0, tf.float64),
        tf.constant(2.0, tf.bfloat16),
        tf.constant(2),
        tf.Variable(2.0),
    ],
    ids=lambda scalar: f"{type(scalar).__name__}-{getattr(scalar, 'dtype', '')}",
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_scalar_of_any_type_leaves_the_leaves_their_dtype(scalar, dtype):
    leaf = tf.cast([1.5, -3.0], dtype)
    vector = Vector([leaf, Rows(leaf[:, None], tf.constant([1, 1]), 3)])
    for result, expected in [(scalar * vector, 2), (vector * scalar, 2), (vector / scalar, 0.5)]:
        assert isinstance(result, Vector)
        assert [part.dtype for part in result.leaves] == [leaf.dtype, leaf.dtype]
        np.testing.assert_array_equal(np.asarray(result.leaves[0], "float64"), np.array([1.5, -3.0]) * expected)
        np.testing.assert_array_equal(np.asarray(result.leaves[1].to_dense(), "float64"), np.array([[0], [-1.5], [0]]) * expected)


def test_leaves_of_several_dtypes_live_together():
    vector = Vector([tf.constant([3.0]), tf.constant([4.0], tf.float64), tf.constant([12.0], tf.bfloat16)])
    assert float(vector.norm()) == 13.0
    assert vector.norm().dtype == tf.float64
    halves = vector / vector.norm()
    assert [leaf.dtype for leaf in halves.leaves] == [tf.float32, tf.float64, tf.bfloat16]


def test_a_norm_of_low_precision_leaves_is_taken_in_float32():
    vector = Vector([tf.ones([1024], tf.bfloat16)])
    assert vector.norm().dtype == tf.float32
    assert float(vector.dot(vector)) == 1024.0
    assert float(tf.foldl(lambda a, b: a + b, tf.ones([1024], tf.bfloat16))) == 256.0  # what a bfloat16 sum gives


def test_rows_sum_duplicates_once():
    leaf = rows().unique()
    np.testing.assert_allclose(leaf.to_dense(), table(), rtol=1e-6)
    np.testing.assert_allclose(rows().to_dense(), table(), rtol=1e-6)
    named = leaf.indices.numpy()[np.abs(leaf.values.numpy()).sum(axis=1) > 0]
    assert sorted(named) == [0, 1, 4]
    # Control: the slices as they came have another norm, which clipping would see.
    assert abs(np.linalg.norm(slices()) - np.linalg.norm(table())) > 0.04
    assert leaf.values.shape == (5, 2)  # static, as XLA needs


@pytest.mark.parametrize("indices", [[0], [2, 2, 2], [5, 4, 3, 2, 1, 0], [0, 0, 5, 5]], ids=str)
@pytest.mark.parametrize("index_dtype", [tf.int32, tf.int64], ids=["int32", "int64"])
def test_rows_of_any_indices(indices, index_dtype):
    values = np.random.default_rng(3).normal(size=(len(indices), 2, 2))
    expected = np.zeros((NUM_ROWS, 2, 2))
    np.add.at(expected, indices, values)
    leaf = Rows(tf.constant(values), tf.constant(indices, index_dtype), NUM_ROWS)
    np.testing.assert_allclose(leaf.to_dense(), expected, rtol=1e-13)
    np.testing.assert_allclose(leaf.unique().to_dense(), expected, rtol=1e-13)
    assert leaf.unique().indices.dtype == index_dtype
    assert leaf.shape == (NUM_ROWS, 2, 2)
    assert leaf.dtype == tf.float64
    back = leaf.to_indexed_slices()
    assert back.indices.dtype == index_dtype
    np.testing.assert_allclose(tf.convert_to_tensor(back), expected, rtol=1e-13)


def test_rows_of_no_slices_are_all_zero():
    leaf = Rows(tf.zeros([0, 2]), tf.zeros([0], tf.int64), NUM_ROWS)
    np.testing.assert_array_equal(leaf.to_dense(), np.zeros((NUM_ROWS, 2)))
    assert float(Vector([leaf]).norm()) == 0.0


def test_what_stays_row_sparse():
    a, b, ones = Vector([rows(seed=0)]), Vector([rows(seed=1)]), Vector([tf.ones([NUM_ROWS, 2])])
    for vector in (a + b, a - b, -a, 2 * a, a / 2, a * b, a * ones, ones * a):
        assert isinstance(vector.leaves[0], Rows)
    for vector in (a + ones, ones - a, a + 1, 1 - a, a / ones, 1 / a, a.map(tf.sign)):
        assert isinstance(vector.leaves[0], tf.Tensor)


@pytest.mark.parametrize("runner", ["eager", "graph", "xla"])
def test_dot_and_norm_equal_the_dense_ones(runner):
    (a, a_arrays), (b, b_arrays) = mixed(0), mixed(1)
    flat_a, flat_b = (np.concatenate([np.ravel(leaf) for leaf in arrays]).astype("float64") for arrays in (a_arrays, b_arrays))

    def both(a, b):
        return a.dot(b), a.norm(), (a + b).norm(), (a * b).norm(), a.dot(b.map(tf.identity)), b.map(tf.identity).dot(a)

    run = both if runner == "eager" else tf.function(both, jit_compile=runner == "xla")
    expected = [flat_a @ flat_b, np.linalg.norm(flat_a), np.linalg.norm(flat_a + flat_b), np.linalg.norm(flat_a * flat_b)]
    np.testing.assert_allclose(run(a, b), [*expected, expected[0], expected[0]], rtol=1e-6)


def test_a_row_sparse_sum_of_the_same_rows_cancels():
    a = Vector([rows()])
    assert float((a - a).norm()) < 1e-6
    # Control: concatenated slices that were not summed would have a norm.
    assert np.linalg.norm(np.concatenate([slices(), -slices()])) > 1


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_vector_passes_through_loops_and_branches(jit_compile):
    a, arrays = mixed()

    @tf.function(jit_compile=jit_compile)
    def run(vector, use):
        _, doubled = tf.while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v * 2.0), [0, vector])
        return tf.cond(use, lambda: doubled, lambda: vector)

    assert_close(run(a, tf.constant(True)), [8 * leaf for leaf in arrays])
    assert_close(run(a, tf.constant(False)), arrays)
    assert isinstance(run(a, tf.constant(True)).leaves[2], Rows)


def test_a_function_does_not_retrace_for_another_vector_of_the_model():
    traces = []

    @tf.function
    def run(vector):
        traces.append(1)
        return vector.norm()

    norms = {float(run(mixed(seed)[0])) for seed in range(3)}
    assert len(norms) == 3
    assert len(traces) == 1


def test_map_applies_to_every_element_zeros_included():
    vector, arrays = mixed()
    assert_close(vector.map(tf.sign), [np.sign(leaf) for leaf in arrays])
    assert_close(vector.map(tf.cos), [np.cos(leaf) for leaf in arrays])


def test_nothing_changes_a_vector():
    vector, arrays = mixed()
    other = vector
    other += vector
    other *= 2
    assert_close(vector, arrays)
    assert_close(other, [4 * leaf for leaf in arrays])
    with pytest.raises(AttributeError):
        vector.leaves = ()


def test_a_vector_is_made_of_a_models_variables():
    model = compiled(dense_model())
    vector = Vector(v.value for v in model.trainable_variables)
    assert_close(vector, model.get_weights())
    model.trainable_variables[0].assign_add(tf.ones([3, 1]))  # values, not variables
    assert np.abs(vector.leaves[0].numpy() - model.get_weights()[0]).min() > 0.9


def test_repr_says_how_many():
    assert repr(mixed()[0]) == "Vector(3 leaves, 19 elements)"


@pytest.mark.parametrize(
    "fn", [lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a.dot(b)]
)
def test_vectors_of_different_models_do_not_mix(fn):
    a = Vector([tf.zeros([2, 3]), tf.zeros([3])])
    with pytest.raises(ValueError, match=r"2 leaves against 1; both must come from the same model"):
        fn(a, Vector([tf.zeros([2, 3])]))
    with pytest.raises(ValueError, match=r"leaf 1 has shape \(3,\) against \(4,\); both must come from the same model"):
        fn(a, Vector([tf.zeros([2, 3]), tf.zeros([4])]))
    # Control: broadcasting is what the check prevents.
    with pytest.raises(ValueError, match="leaf 1"):
        fn(a, Vector([tf.zeros([2, 3]), tf.zeros([1])]))


@pytest.mark.parametrize("other", ["2", None, True, [1.0], np.ones(3), tf.ones([3]), {}], ids=lambda other: type(other).__name__)
def test_what_is_no_number_is_refused(other):
    vector = Vector([tf.ones([3])])
    with pytest.raises(TypeError, match="unsupported operand|Vector"):
        vector * other
    # A tensor on the left answers with TensorFlow's own ValueError, which names the Vector too.
    with pytest.raises((TypeError, ValueError), match="unsupported operand|Vector|concatenat|must be str"):
        other + vector


def test_dot_takes_vectors_only():
    with pytest.raises(TypeError, match="takes a Vector, not float"):
        Vector([tf.ones([3])]).dot(2.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("num_rows", [8, 10**7], ids=["listed", "sorted"])
def test_a_row_that_is_named_often_is_summed_wide(dtype, num_rows):
    number = 5000  # in a bfloat16 256 ones stick, in a float16 2048
    rows = Rows(tf.ones([number, 1], dtype), tf.zeros([number], tf.int32), num_rows)
    found = [tf.reduce_max(rows.unique().values), tf.reduce_max(rows.sums())]
    found += [rows.to_dense()[0, 0]] if num_rows < 100 else []
    assert all(each.dtype == dtype for each in found)
    np.testing.assert_allclose([float(each) for each in found], number, rtol=0.004)
