import keras
import numpy as np
import pytest
import tensorflow as tf
from small import classifier, labelled, regression, weights

from trainlab import Trainer
from trainlab.data.arrays import SameData, as_arrays, class_weights, is_stream


class TestConversion:
    @pytest.mark.parametrize("floatx", ["float32", "float64"])
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_floats_become_floatx(self, floatx, dtype):
        before = keras.config.floatx()
        keras.config.set_floatx(floatx)
        try:
            assert as_arrays(np.ones([2, 2], dtype)).dtype == floatx
            assert as_arrays(tf.ones([2, 2], dtype)).dtype == floatx
        finally:
            keras.config.set_floatx(before)

    @pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "bool"])
    def test_whole_numbers_stay(self, dtype):
        assert as_arrays(np.ones([2], dtype)).dtype == dtype
        assert as_arrays(tf.ones([2], dtype)).dtype == dtype

    def test_what_is_not_copied(self):
        x = np.ones([2, 2], "float32")
        assert as_arrays(x) is x or as_arrays(x).base is x

    def test_strings(self):
        assert as_arrays(np.array(["a", "bc"])).dtype.kind == "U"
        with pytest.raises(TypeError, match="dtype object .* convert it with astype"):
            as_arrays(np.array(["a", "bc"], object))

    def test_variables_and_nests(self):
        nest = {"a": tf.Variable([1.0, 2.0]), "b": (keras.Variable([1.0, 2.0]), None)}
        converted = as_arrays(nest)
        assert not isinstance(converted["a"], tf.Variable)
        assert not isinstance(converted["b"][0], keras.Variable)
        assert converted["b"][1] is None
        assert as_arrays(None) is None

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (tf.sparse.from_dense([[1.0]]), "SparseTensor is no dense array: convert it"),
            (tf.ragged.constant([[1.0], []]), "RaggedTensor is no dense array: convert it"),
            (np.array([{}, {}]), "dtype object"),
            (np.array([1j, 2j]), "dtype complex128"),
            (np.float32(3.0), "single value"),
            ([1.0, 2.0], r"np\.array"),
        ],
        ids=["sparse", "ragged", "objects", "complex", "scalar", "list"],
    )
    def test_what_is_no_array(self, value, message):
        with pytest.raises(TypeError, match=message) as error:
            as_arrays(value)
        assert "\n" not in str(error.value)

    def test_what_is_a_stream(self):
        x, y = regression(4)
        assert is_stream(tf.data.Dataset.from_tensors((x, y)))
        assert is_stream(keras.utils.PyDataset())
        assert is_stream(iter([(x, y)]))
        for value in (x, tf.constant(x), [x, x], {"a": x}, None):
            assert not is_stream(value)


class TestClassWeights:
    WEIGHT = {0: 2.0, 2: 0.5}

    @pytest.mark.parametrize(
        "labels",
        [
            np.array([0, 1, 2, 0]),
            np.array([[0], [1], [2], [0]]),
            np.array([0.0, 1.0, 2.0, 0.0]),
            np.eye(3)[[0, 1, 2, 0]],
            tf.constant([0, 1, 2, 0]),
        ],
        ids=["labels", "column", "floats", "one-hot", "tensor"],
    )
    def test_one_weight_an_example(self, labels):
        np.testing.assert_array_equal(class_weights(labels, self.WEIGHT), [2.0, 1.0, 0.5, 2.0])

    def test_equal_keras(self):
        x, y = labelled(20)
        weight = {0: 3.0, 1: 0.5, 2: 1.0, 3: 2.0}
        results = []
        for use_keras in (True, False):
            model = classifier()
            fit = model.fit if use_keras else Trainer(model).fit
            history = fit(x, y, batch_size=5, shuffle=False, class_weight=weight, verbose=0)
            results.append((weights(model), history.history["loss"]))
        for ours, theirs in zip(results[1][0], results[0][0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        assert results[1][1] == pytest.approx(results[0][1], rel=1e-5)


class TestSameData:
    def test_is_about_the_very_arrays(self):
        x, y = regression()
        same = SameData((x, y))
        assert same.matches((x, y))
        assert same.matches((x, y))
        assert not same.matches((x.copy(), y))
        assert not same.matches((y, x))
        assert not same.matches((x, None))
        assert not same.matches((x, y, y))

    def test_keeps_nothing_alive(self):
        x, y = regression()
        same, y_id = SameData((x, y)), id(y)
        del y
        assert not same.matches((x, np.ones(3)))
        assert y_id
        assert same._references[1]() is None

    def test_tensors(self):
        x = tf.ones([3])
        assert SameData((x, None)).matches((x, None))
        assert not SameData((x, None)).matches((tf.ones([3]), None))
