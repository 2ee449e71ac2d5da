import collections
import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, labelled, regression, weights

from trainlab import Accumulate, Trainer
from trainlab.data import ArraySource, SameData, StreamSource, as_arrays, class_weights, is_stream, shuffled


@tf.function
def _orders(seed, epochs, num_examples):
    return tf.map_fn(lambda epoch: shuffled(seed, epoch, tf.range(num_examples), num_examples), epochs)


def orders(num_examples, epochs, seed=0):
    return _orders(seed, tf.constant(epochs, tf.int64), tf.constant(num_examples, tf.int64)).numpy()


def order(num_examples, epoch=0, seed=0):
    return orders(num_examples, [epoch], seed)[0]


class TestOrder:
    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 9, 31, 32, 33, 100, 255, 256, 257, 1000, 4099])
    def test_is_a_permutation(self, size):
        for epoch in range(3):
            np.testing.assert_array_equal(np.sort(order(size, epoch)), np.arange(size))

    def test_differs_by_seed_and_epoch_and_repeats(self):
        found = {(seed, epoch): tuple(order(50, epoch, seed)) for seed in range(5) for epoch in range(5)}
        assert len(set(found.values())) == 25
        assert tuple(order(50, 3, 2)) == found[2, 3]
        assert sorted(found[0, 0]) == list(range(50)) != list(found[0, 0])

    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    def test_large_seeds_and_epochs(self, seed):
        assert len({tuple(order(20, epoch, seed)) for epoch in (0, 1, 10**6, 2**40)}) == 4

    @pytest.mark.parametrize("chunk", [1, 7, 64, 100])
    def test_does_not_depend_on_how_positions_are_asked_for(self, chunk):
        size, epoch = tf.constant(100, tf.int64), tf.constant(4, tf.int64)
        parts = [
            shuffled(9, epoch, tf.range(start, min(start + chunk, 100), dtype=tf.int64), size) for start in range(0, 100, chunk)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), order(100, 4, 9))
        backwards = shuffled(9, epoch, tf.range(99, -1, -1, dtype=tf.int64), size)
        np.testing.assert_array_equal(backwards[::-1], order(100, 4, 9))


NUM_EPOCHS = 400
# Each statistic below is standard normal for truly random orders: 5 is exceeded by chance once in a million times, and the
# largest of up to 1000 of them stays under 5.5 as surely.
LIMITS = {"mean position": 5.5, "rising neighbours": 5, "falling neighbours": 5, "fixed points": 5, "next epoch": 5}


def statistics(found):
    """How far some orders `[epochs, n]` are from random ones, each number in its standard deviations."""
    epochs, size = found.shape
    positions = np.argsort(found, axis=1)
    mean_position = (positions.mean(axis=0) - (size - 1) / 2) / math.sqrt((size**2 - 1) / 12 / epochs)
    steps = np.diff(found, axis=1)
    # In a random order each of the n - 1 pairs (i, i + 1) is adjacent with probability 1/n; such counts are near Poisson.
    expected = epochs * (size - 1) / size
    return {
        "mean position": np.abs(mean_position).max(),
        "rising neighbours": abs((steps == 1).sum() - expected) / math.sqrt(expected),
        "falling neighbours": abs((steps == -1).sum() - expected) / math.sqrt(expected),
        "fixed points": abs((found == np.arange(size)).sum() - epochs) / math.sqrt(epochs),
        "next epoch": abs(np.corrcoef(positions[:-1].ravel(), positions[1:].ravel())[0, 1]) * math.sqrt(epochs * size),
    }


def far_from_random(found):
    return {name: value for name, value in statistics(np.array(found)).items() if not value < LIMITS[name]}


@pytest.mark.parametrize("size", [10, 64, 200, 1000])
def test_order_looks_random(size):
    assert far_from_random(orders(size, range(NUM_EPOCHS))) == {}
    # The yardstick accepts NumPy's shuffles, and not the doubtful ones: rotations, a window of 8, one order in four kept.
    rng = np.random.default_rng(size)
    assert far_from_random([rng.permutation(size) for _ in range(NUM_EPOCHS)]) == {}
    assert far_from_random([np.roll(np.arange(size), rng.integers(size)) for _ in range(NUM_EPOCHS)])
    assert far_from_random([np.argsort(np.arange(size) + rng.uniform(0, 8, size)) for _ in range(NUM_EPOCHS)])
    assert far_from_random(np.repeat([rng.permutation(size) for _ in range(NUM_EPOCHS // 4)], 4, axis=0))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_order_of_a_few_examples_is_as_likely(size):
    num_epochs = 1200
    counts = collections.Counter(map(tuple, orders(size, range(num_epochs))))
    permutations = list(itertools.permutations(range(size)))
    expected = num_epochs / len(permutations)
    chi_squared = sum((counts[p] - expected) ** 2 / expected for p in permutations)
    degrees = len(permutations) - 1
    assert chi_squared < degrees + 5 * math.sqrt(2 * degrees)


class TestArraySource:
    def test_specs_positions_and_passes(self):
        x, y = regression(10)
        source = ArraySource((x, y, None), 4, True, 0)
        assert (source.num_examples, source.at_end, source.is_endless) == (10, False, False)
        assert [source.updates_per_pass(n) for n in (1, 2, 3, 4)] == [3, 2, 1, 1]
        assert source.specs == [tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1])]
        assert source.batch_specs() == (tf.TensorSpec([4, 3]), tf.TensorSpec([4, 1]), None)
        source.position = 10
        assert source.at_end
        source.next_pass()
        assert (source.epoch, source.position, source.at_end) == (1, 0, False)

    def test_nests_keep_their_structure(self):
        x, y = regression(6)
        source = ArraySource(({"a": x, "b": [y, y]}, None, y), 2, False, 0)
        packed = source.pack(source.tensors)
        tf.nest.assert_same_structure(packed, ({"a": 0, "b": [0, 0]}, None, 0))
        np.testing.assert_array_equal(packed[0]["b"][1], y)

    def test_a_batch_larger_than_the_data(self):
        x, y = regression(3)
        assert ArraySource((x, y, None), 32, True, 0).batch_specs()[0].shape == (3, 3)

    @pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 64])
    @pytest.mark.parametrize("num_batches", [1, 3])
    def test_every_example_is_seen_once_an_epoch(self, batch_size, num_batches):
        # The gradient of sum(w * x) is the sum of a batch's one-hot examples: each weight counts how often its example came.
        x = np.eye(10, dtype="float32")
        model = dense_model(lambda: keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"), num_features=10)
        compiled(model, keras.optimizers.SGD(1.0), loss=keras.losses.MeanAbsoluteError("sum"))
        trainer = Trainer(model, Accumulate(num_batches))
        target = np.full((10, 1), 1e6, "float32")
        for epoch in range(1, 4):
            trainer.fit(x, target, batch_size=batch_size, verbose=0)
            np.testing.assert_array_equal(model.get_weights()[0], np.full((10, 1), epoch))


class TestStreamSource:
    def test_shapes_and_ends(self):
        x, y = regression(10)
        source = StreamSource(tf.data.Dataset.from_tensor_slices((x, y)).batch(4), None, True)
        assert source.batch_specs() == (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]), None)
        assert source.updates_per_pass(1) == 3
        assert source.updates_per_pass(2) == 2
        assert [len(source.take(2)) for _ in range(3)] == [2, 1, 0]
        assert source.at_end
        source.next_pass()
        assert not source.at_end or source._taken
        np.testing.assert_array_equal(source.take(1)[0][0], x[:4])

    def test_finite_unknown_and_endless(self):
        finite = tf.data.Dataset.range(8).map(lambda i: (tf.ones([1]), tf.ones([1]))).batch(2)
        unknown = finite.filter(lambda *_: True)
        for data, size, is_endless in [(finite, 4, False), (unknown, None, False), (finite.repeat(), None, True)]:
            source = StreamSource(data, None, True)
            assert (source.updates_per_pass(1), source.is_endless) == (size, is_endless)

    def test_class_weights_become_sample_weights(self):
        x, y = labelled(6)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(3)
        source = StreamSource(data, {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}, True)
        sample_weight = np.concatenate([batch[2] for batch in source.take(2)])
        np.testing.assert_array_equal(sample_weight, y + 1)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.x, self.y, self.batch_size, self.epochs_ended = x, y, batch_size, 0

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def __getitem__(self, index):
        part = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.x[part], self.y[part]

    def on_epoch_end(self):
        self.epochs_ended += 1


def test_the_same_batches_train_the_same_whatever_hands_them_out():
    x, y = regression(22)

    def batches():
        for i in range(0, 22, 5):
            yield x[i : i + 5], y[i : i + 5]

    kinds = {
        "arrays": ((x, y), {"batch_size": 5, "shuffle": False}),
        "tensors": ((tf.constant(x), tf.constant(y)), {"batch_size": 5, "shuffle": False}),
        "tf.data": ((tf.data.Dataset.from_tensor_slices((x, y)).batch(5),), {}),
        "PyDataset": ((Batches(x, y, 5),), {"shuffle": False}),
        "generator": ((batches(),), {}),
    }
    results = {}
    for name, (data, kwargs) in kinds.items():
        model = compiled()
        history = Trainer(model).fit(*data, verbose=0, **kwargs)
        results[name] = weights(model), history.history["loss"]
        assert model.optimizer.iterations == 5
    for result, losses in results.values():
        assert_same(result, results["arrays"][0])
        assert losses == pytest.approx(results["arrays"][1])


def test_a_py_dataset_with_workers_is_seen_once_an_epoch_and_hears_of_its_end():
    x, y = regression(20)
    data = Batches(x, y, 5, workers=2, use_multiprocessing=False)
    model = compiled()
    Trainer(model).fit(data, epochs=3, verbose=0)
    assert model.optimizer.iterations == 12
    assert data.epochs_ended == 3


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
        assert ArraySource((np.array(["a", "bc"]), None, None), 2, False, 0).specs == [tf.TensorSpec([None], tf.string)]
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
        assert is_stream(Batches(x, y, 2))
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
