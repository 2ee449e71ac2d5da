import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled, dense_model

from trainlab.distribution.shards import Shard, ShardFunction, bounds, known_size, num_examples_of, shards_of
from trainlab.objective import Batches, ModelFunction


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [0, 1, 2, 5, 6, 13])
def test_shards_in_order_are_the_batch(size, number):
    parts = [range(*bounds(size, replica, number)) for replica in range(number)]
    assert [i for part in parts for i in part] == list(range(size))
    sizes = [len(part) for part in parts]
    assert sizes == [num_examples_of(size, replica, number) for replica in range(number)]
    assert max(sizes) - min(sizes) <= 1 and sizes[0] == max(sizes)
    for replica in range(number):
        as_tensors = bounds(tf.constant(size), tf.constant(replica), number)
        assert tuple(map(int, as_tensors)) == bounds(size, replica, number)


def cut(batch, size, number=3, part=None, told=None):
    batches = Batches(1, lambda _: batch, size=told, part=part)
    found = []
    for replica in range(number):
        examples = None if size is None else num_examples_of(size, replica, number)
        if examples != 0:
            found.append(shards_of(batches, size, examples, tf.constant(replica), number, contextlib.nullcontext).fetch(0))
    return found


def batch_of(kind, n):
    x = np.arange(3.0 * n).reshape(n, 3).astype("float32")
    if kind == "sparse":
        x = tf.sparse.from_dense(x)
    elif kind == "ragged":
        x = tf.ragged.constant([[float(i)] * (i % 3) for i in range(n)], ragged_rank=1)
    else:
        x = tf.constant(x)
    return {"a": x, "b": tf.range(n)}, None, tf.ones([n])


@pytest.mark.parametrize("kind", ["dense", "sparse", "ragged"])
@pytest.mark.parametrize("size", [5, 2, 1])
def test_what_is_cut(kind, size):
    batch = batch_of(kind, size)
    for known in (size, None):
        shards = cut(batch, known)
        there = [shard for shard, is_there, _ in shards if is_there is None or bool(is_there)]
        shares = [num_examples_of(size, replica, 3) / size for replica in range(len(shards))]
        np.testing.assert_allclose([float(share) for _, _, share in shards], shares, rtol=1e-15)
        assert [int(i) for (x, _, _) in there for i in x["b"]] == list(range(size))
        assert all(y is None for _, y, _ in there)
        dense = {"sparse": tf.sparse.to_dense, "ragged": lambda r: r.to_tensor(shape=[None, 3]), "dense": tf.identity}[kind]
        np.testing.assert_array_equal(np.concatenate([dense(x["a"]) for x, _, _ in there]), dense(batch_of(kind, size)[0]["a"]))
        if known is None:  # the others hold an example all the same
            assert len(shards) == 3 and all(int(tf.size(shard[2])) >= 1 for shard, _, _ in shards)


def test_only_a_part_is_fetched_where_it_can_be():
    asked = []

    def part(index, start, count):
        asked.append((int(start), int(count)))
        return tf.zeros([int(count), 2]), None, None

    batches = Batches(1, lambda _: pytest.fail("fetched whole"), size=5, part=part)
    assert known_size(batches, contextlib.nullcontext) == 5
    for replica in range(2):
        shards_of(batches, 5, num_examples_of(5, replica, 2), replica, 2, contextlib.nullcontext).fetch(0)
    assert asked == [(0, 3), (3, 2)]
    asked.clear()
    open_size = batches._replace(size=lambda: tf.constant(4))
    assert known_size(open_size, contextlib.nullcontext) is None
    for replica in range(2):
        shards_of(open_size, None, None, replica, 2, contextlib.nullcontext).fetch(0)
    assert asked == [(0, 2), (2, 2)]


class Counting(keras.layers.Layer):
    """Counts how often it is traced."""

    calls = 0

    def call(self, x):
        Counting.calls += 1
        return x


@pytest.mark.parametrize(
    ("loss", "denominator"),
    [
        ("mse", lambda n: n),
        (keras.losses.MeanSquaredError("sum"), lambda n: 1),
        (keras.losses.MeanSquaredError("mean_with_sample_weight"), lambda n: n),
    ],
    ids=["mean", "sum", "mean with sample weight"],
)
def test_denominators_without_a_forward_pass_where_shapes_tell(loss, denominator):
    function = ModelFunction(_built(loss))
    shard_function = ShardFunction(function)
    operations = {}

    def count(x, y, is_there):
        found = shard_function.denominators(function.read_parameters(), function.read_state(), Shard((x, y, None), is_there))
        operations["MatMul"] = [op for op in tf.compat.v1.get_default_graph().get_operations() if op.type == "MatMul"]
        return found

    specs = tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]), tf.TensorSpec([], tf.bool)
    counted = tf.function(count, autograph=False).get_concrete_function(*specs)
    assert operations["MatMul"] == []
    for n in (1, 4, 9):
        np.testing.assert_array_equal(counted(tf.zeros([n, 3]), tf.zeros([n, 1]), tf.constant(True)), [denominator(n), n])
    np.testing.assert_array_equal(counted(tf.zeros([1, 3]), tf.zeros([1, 1]), tf.constant(False)), [0, 0])


@pytest.mark.slow
def test_a_forward_pass_where_only_the_data_tell():
    model = keras.Sequential([keras.Input([4, 2]), keras.layers.Masking(), keras.layers.LSTM(3, return_sequences=True)])
    model.compile(loss="mse", optimizer="sgd")
    model.train_on_batch(np.ones([2, 4, 2]), np.ones([2, 4, 3]))
    function = ModelFunction(model)

    def count(x, y, is_there):
        shard = Shard((x, y, None), is_there)
        return ShardFunction(function).denominators(function.read_parameters(), function.read_state(), shard)

    specs = tf.TensorSpec([None, 4, 2]), tf.TensorSpec([None, 4, 3]), tf.TensorSpec([], tf.bool)
    counted = tf.function(count, autograph=False).get_concrete_function(*specs)
    x = np.ones([2, 4, 2], "float32")
    x[0, 2:] = 0
    np.testing.assert_allclose(counted(x, np.ones([2, 4, 3], "float32"), tf.constant(True)), [6, 2])


def _built(loss):
    model = compiled(dense_model(), loss=loss)
    model.train_on_batch(np.ones([2, 3]), np.ones([2, 1]))
    return model
