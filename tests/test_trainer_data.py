"""Whatever Keras' `fit` takes for data trains as there: same weights, same logs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import FIT, as_keras, assert_equal, fitted, seeded
from keras import layers, ops
from moving import Sliced
from small import assert_same, everything

import trainlab as tl

N = 12
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 5)).astype("float32"), RNG.normal(size=(N, 1)).astype("float32")
THIN = np.where(X > 0.3, X, 0).astype("float32")
WORDS = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [7, 8, 9, 1], [2], [3, 4], [1], [2, 3], [5, 5, 5], [6], [7], [8, 9]])
SPARSE = tf.sparse.from_dense(THIN)


class MeanOfWords(keras.Model):
    """Looks into a ragged batch, which no symbolic tensor of Keras' allows."""

    def __init__(self):
        super().__init__()
        self.embedding, self.dense = layers.Embedding(10, 4), layers.Dense(1)

    def call(self, words):
        vectors = self.embedding(words.values)
        return self.dense(tf.reduce_mean(words.with_values(vectors), axis=1))


class PaddedWords(MeanOfWords):
    def call(self, words):
        return self.dense(ops.mean(self.embedding(words.to_tensor()), axis=1))


class SparseProduct(keras.Model):
    def __init__(self):
        super().__init__()
        self.kernel = self.add_weight(shape=(5, 1), name="kernel")

    def call(self, x):
        return tf.sparse.sparse_dense_matmul(x, tf.convert_to_tensor(self.kernel))


class SparseInside(SparseProduct):
    def call(self, x):
        return super().call(tf.sparse.from_dense(x))


class RaggedInside(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        ragged = tf.RaggedTensor.from_tensor(x)
        return self.dense(ragged.with_values(2 * ragged.values).to_tensor(shape=[None, 5]))


class Mixture(MeanOfWords):
    def call(self, x):
        return super().call(x["words"]) + self.dense(
            tf.matmul(tf.sparse.to_dense(x["thin"]) + x["dense"], np.eye(5, 4, dtype="float32"))
        )


class SumOfVectors(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(1)

    def call(self, x):
        return tf.reduce_sum(x.with_flat_values(self.dense(x.flat_values)), axis=1)


def sparse_input():
    inputs = keras.Input([5], sparse=True)
    return keras.Model(inputs, layers.Dense(1)(inputs))


def ragged_input():
    inputs = keras.Input([None], ragged=True, dtype="int32")
    lengths = layers.Lambda(lambda words: tf.cast(words.row_lengths(), tf.float32)[:, None], output_shape=(1,))(inputs)
    return keras.Model(inputs, layers.Dense(1)(lengths))


def dense_input():
    return keras.Sequential([keras.Input([5]), layers.Dense(1)])


VECTORS = tf.ragged.constant([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0]], [[2.0, 0.0]]] * 4, ragged_rank=1, inner_shape=(2,))
CASES = {
    "ragged, values": (MeanOfWords, WORDS),
    "ragged, padded": (PaddedWords, WORDS),
    "ragged, an input": (ragged_input, WORDS),
    "ragged, vectors": (SumOfVectors, VECTORS),
    "ragged, float64": (SumOfVectors, tf.cast(VECTORS, tf.float64)),
    "sparse, an input": (sparse_input, SPARSE),
    "sparse, a product": (SparseProduct, SPARSE),
    "sparse, float64": (sparse_input, tf.cast(SPARSE, tf.float64)),
    "sparse, whole numbers": (sparse_input, tf.sparse.from_dense((THIN > 0).astype("int64"))),
    "sparse into a dense input": (dense_input, SPARSE),
    "dense, sparse inside": (SparseInside, X),
    "dense, ragged inside": (RaggedInside, X),
    "several": (Mixture, {"words": WORDS, "thin": SPARSE, "dense": X}),
}


def is_built(model, x):
    """Calls it on a few examples, as its user may have done."""

    def first(leaf):
        return tf.sparse.slice(leaf, [0, 0], [2, 5]) if isinstance(leaf, tf.SparseTensor) else leaf[:2]

    model(tf.nest.map_structure(first, x))
    return model


@pytest.mark.parametrize("name", CASES)
class TestRaggedAndSparse:
    @pytest.mark.slow
    def test_arrays(self, name):
        build, x = CASES[name]
        as_keras(seeded(build), {"x": x, "y": Y})

    @pytest.mark.slow
    def test_a_data_set(self, name):
        build, x = CASES[name]
        as_keras(seeded(build), lambda: {"x": tf.data.Dataset.from_tensor_slices((x, Y)).batch(4), "batch_size": None})

    @pytest.mark.slow
    def test_weighted_measured_and_held_out(self, name):
        build, x = CASES[name]
        weights = np.linspace(1, 2, N)
        make = seeded(build, metrics=["mae"], weighted_metrics=["mse"])
        as_keras(make, {"x": x, "y": Y, "sample_weight": weights, "validation_split": 0.25})
        as_keras(make, {"x": x, "y": Y, "validation_data": (x, Y, weights)})

    @pytest.mark.slow
    def test_a_model_that_was_called_before(self, name):
        build, x = CASES[name]
        as_keras(seeded(lambda: is_built(build(), x)), {"x": x, "y": Y})

    @pytest.mark.slow
    def test_eagerly(self, name):
        build, x = CASES[name]
        as_keras(seeded(build, metrics=["mae"], run_eagerly=True), {"x": x, "y": Y})

    @pytest.mark.slow
    def test_the_law_of_accumulation(self, name):
        build, x = CASES[name]
        pieces = fitted(seeded(build), {"x": x, "y": Y, "batch_size": 2}, strategy=tl.Accumulate(2, tl.Heun()))
        assert_equal(pieces, fitted(seeded(build), {"x": x, "y": Y}, strategy=tl.Heun()))
        micro = fitted(seeded(build), {"x": x, "y": Y}, strategy=tl.Heun(), micro_batch_size=3)
        assert_equal(micro, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ragged, values", "sparse, an input", "several"])
def test_rows_are_shuffled_as_those_of_dense_arrays(name):
    build, x = CASES[name]
    seen = []

    class Seeing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["loss"])

    fit = {"y": Y, "shuffle": True, "batch_size": 5, "callbacks": [Seeing()]}
    by_row = fitted(seeded(build), {"x": x, **fit}, seed=3)
    indices = np.arange(N)[:, None]
    order = []

    class Watching(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, i):
            order.append(i.numpy()[:, 0])
            return self.dense(tf.cast(i, tf.float32))

    fitted(seeded(Watching, run_eagerly=True), {"x": indices, **fit, "callbacks": []}, seed=3)
    order = order[-6:]  # what came before built the model
    assert sorted(np.concatenate(order[:3])) == list(range(N)) and not np.array_equal(np.concatenate(order[:3]), np.arange(N))

    def batches():
        for rows in order:
            take = lambda leaf: (  # noqa: E731
                tf.sparse.from_dense(THIN[rows]) if leaf is SPARSE else tf.gather(leaf, rows)  # noqa: B023
            )
            yield tf.nest.map_structure(take, x), tf.constant(Y[rows])

    spec = tf.nest.map_structure(
        lambda leaf: (
            tf.RaggedTensorSpec([None, None], leaf.dtype, 1)
            if isinstance(leaf, tf.RaggedTensor)
            else tf.SparseTensorSpec([None, 5], leaf.dtype)
            if isinstance(leaf, tf.SparseTensor)
            else tf.TensorSpec([None, 5], tf.float32)
        ),
        x,
    )
    data = tf.data.Dataset.from_generator(batches, output_signature=(spec, tf.TensorSpec([None, 1])))
    like = fitted(seeded(build), {"x": data, "batch_size": None, "epochs": 1}, use_keras=True)
    for ours, theirs in zip(by_row[0], like[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ragged, values", "sparse, an input", "several"])
def test_a_run_goes_on_exactly(name, tmp_path):
    build, x = CASES[name]
    fit = {"y": Y, "batch_size": 5, "verbose": 0, "validation_split": 0.25}
    whole, first, second = (seeded(build)() for _ in range(3))
    tl.Trainer(whole, tl.Heun()).fit(x, **fit, steps=5)
    tl.Trainer(first, tl.Heun(), run=tl.Run(tmp_path, save_steps=1)).fit(x, **fit, steps=3)
    trainer = tl.Trainer(second, tl.Heun(), run=tl.Run(tmp_path))
    trainer.fit(x, **fit, steps=5)
    assert trainer.resumed_at == 3
    assert_same(everything(second), everything(whole))
    negative = lambda leaf: tf.sparse.map_values(tf.negative, leaf) if isinstance(leaf, tf.SparseTensor) else -leaf  # noqa: E731
    other = tf.nest.map_structure(lambda leaf: leaf[::-1] if leaf is WORDS else negative(leaf), x)
    with pytest.raises(ValueError, match="data"):
        tl.Trainer(seeded(build)(), tl.Heun(), run=tl.Run(tmp_path)).fit(other, **fit, steps=6)


@pytest.mark.parametrize("value, words", [(np.nan, "NaN"), (np.inf, "an infinite number")])
def test_what_is_not_finite_in_them_is_named(value, words):
    thin = THIN.copy()
    thin[7, 2] = value
    with pytest.raises(ValueError, match=f"^x holds {words} in example 7: clean the data"):
        fitted(seeded(sparse_input), {"x": tf.sparse.from_dense(thin), "y": Y})
    vectors = VECTORS.with_flat_values(tf.tensor_scatter_nd_update(VECTORS.flat_values, [[9, 1]], [value]))
    with pytest.raises(ValueError, match=f"^x holds {words} in example 6: clean the data"):
        fitted(seeded(SumOfVectors), {"x": vectors, "y": Y})


@pytest.mark.parametrize("kind", ["csr", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("csc", "coo", "dok"))])
def test_scipys(kind):
    sparse = pytest.importorskip("scipy.sparse")
    matrix = getattr(sparse, f"{kind}_matrix")(THIN.astype("float64"))
    make, like = seeded(sparse_input), {"x": SPARSE, "y": Y}
    as_keras(make, {"x": matrix, "y": Y}, like=like)
    as_keras(make, {"x": matrix, "y": Y, "validation_split": 0.25}, like={**like, "validation_split": 0.25})
    as_keras(make, {"x": matrix, "y": Y, "validation_data": (matrix, Y)}, like={**like, "validation_data": (SPARSE, Y)})


class TestTables:
    """pandas' frames and series; the numbers themselves are what Keras is given where it refuses the frame."""

    MAKE = staticmethod(seeded(dense_input, metrics=["mae"]))

    @pytest.fixture
    def frame(self):
        return pytest.importorskip("pandas").DataFrame(X, columns=list("abcde"))

    @pytest.mark.parametrize("dtype", ["bool", "boolean", "Int64", "Float32"])
    def test_a_column_that_is_no_float(self, frame, dtype):
        flags = (X[:, 4] > 0).astype("int64")
        frame["e"] = type(frame["a"])(flags, dtype="Int64").astype(dtype)
        as_keras(self.MAKE, {"x": frame, "y": Y}, like={"x": np.column_stack([X[:, :4], flags]), "y": Y})

    @pytest.mark.parametrize("arguments", [{}, {"validation_split": 0.25}, {"sample_weight": True}, {"validation_data": True}])
    def test_series(self, frame, arguments):
        y = type(frame["a"])(Y[:, 0])
        given = {"sample_weight": type(y)(np.linspace(1, 2, N)), "validation_data": (frame, y)}
        as_keras(self.MAKE, {"x": frame, "y": y, **{k: given.get(k, v) for k, v in arguments.items()}})

    @pytest.mark.slow
    def test_a_series_can_be_evaluated_on_after_a_split(self, frame):
        y = type(frame["a"])(Y[:, 0])
        results = []
        for use_keras in (True, False):
            model = self.MAKE()
            (model if use_keras else tl.Trainer(model)).fit(frame, y, validation_split=0.25, **FIT)
            results.append(model.evaluate(frame, y, verbose=0))
        assert results[1] == pytest.approx(results[0], rel=1e-5)

    def test_a_missing_value_is_named(self, frame):
        frame["e"] = type(frame["a"])([1] * 7 + [None] + [0] * 4, dtype="Int64")
        with pytest.raises(ValueError, match="^x holds NaN in example 7: clean the data"):
            fitted(self.MAKE, {"x": frame, "y": Y})


@pytest.mark.parametrize("as_objects", [np.array, lambda words, dtype: words.astype(dtype)])
def test_strings_as_objects(as_objects):
    def build():
        inputs = keras.Input([], dtype="string")
        vectors = layers.Embedding(3, 2)(layers.StringLookup(vocabulary=["a", "b"])(inputs))
        return keras.Model(inputs, layers.Dense(1)(vectors))

    as_keras(seeded(build), {"x": as_objects(np.array(list("abcabcabcabc")), dtype=object), "y": Y})


@pytest.mark.parametrize(
    "stream",
    [
        lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(4),
        lambda: Sliced(X, Y),
        lambda: ((X[i : i + 4], Y[i : i + 4]) for i in (0, 4, 8)),
    ],
    ids=["data set", "PyDataset", "generator"],
)
@pytest.mark.parametrize("validation", [None, (X, Y)], ids=["alone", "validated on arrays"])
def test_batch_size_beside_batches_is_ignored_and_said(stream, validation):
    fit = lambda: {"x": stream(), "batch_size": 7, "epochs": 1, "validation_data": validation}  # noqa: E731
    with pytest.warns(UserWarning, match=r"^batch_size=7 is ignored: x is a \w+, which makes its own batches$"):
        ours = fitted(seeded(dense_input), fit)
    assert_equal(ours, fitted(seeded(dense_input), fit, use_keras=True))


@pytest.mark.parametrize("given", [np.int64(2), np.int32(2), np.array(2), tf.constant(2), np.array([2]), (2,), range(2, 3), {2}])
def test_validation_freq_is_any_whole_number_or_collection(given):
    fit = {"x": X, "y": Y, "validation_data": (X, Y)}
    like = {**fit, "validation_freq": 2}
    assert len(as_keras(seeded(dense_input), {**fit, "validation_freq": given}, like=like)[1]["val_loss"]) == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [("2", "'2'"), (np.float64(0.5), "0.5"), (True, "True"), ({2: 1}, "{2: 1}"), (None, "None")],
    ids=["word", "half", "bool", "dict", "none"],
)
def test_and_nothing_else(given, line):
    with pytest.raises(TypeError, match=f"^validation_freq must be a whole number, not {line}"):
        fitted(seeded(dense_input), {"x": X, "y": Y, "validation_data": (X, Y), "validation_freq": given})


def two_outputs(kind):
    inputs = keras.Input([5])
    a, b = layers.Dense(1, name="a")(inputs), layers.Dense(1, name="b")(inputs)
    return keras.Model(inputs, {"dict": {"b": b, "a": a}, "list": [a, b], "tuple": (a, b)}[kind])


@pytest.mark.parametrize("run_eagerly", [pytest.param(False, marks=pytest.mark.slow), True], ids=["compiled", "eager"])
@pytest.mark.parametrize("targets", [{"a": Y, "b": 2 * Y}, [Y, 2 * Y], (Y, 2 * Y)], ids=["dict", "list", "tuple"])
@pytest.mark.parametrize("outputs", ["dict", "list", pytest.param("tuple", marks=pytest.mark.slow)])
def test_targets_of_named_outputs_in_any_container(outputs, targets, run_eagerly):
    settings = {"loss": {"a": "mse", "b": "mae"}, "metrics": {"b": ["mse"]}, "run_eagerly": run_eagerly}
    as_keras(seeded(lambda: two_outputs(outputs), **settings), {"x": X, "y": targets})


class Mixed(keras.Sequential):
    """Takes a number for the whole batch beside its examples."""

    def train_step(self, data):
        x, (y, share) = data
        return super().train_step((x * share, y))


def test_a_number_beside_the_examples_of_a_batch_is_for_a_step_of_ones_own():
    def make():
        keras.utils.set_random_seed(1)
        model = Mixed([keras.Input([5]), layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).map(lambda x, y: (x, (y, tf.constant(0.3))))
    as_keras(make, {"x": data, "batch_size": None})


def test_complex_numbers():
    def build():
        inputs = keras.Input([5], dtype="complex64")
        return keras.Model(
            inputs, layers.Dense(1)(layers.Lambda(lambda z: tf.concat([tf.math.real(z), tf.math.imag(z)], -1))(inputs))
        )

    as_keras(seeded(build), {"x": (X + 1j * X[::-1]).astype("complex64"), "y": Y})
