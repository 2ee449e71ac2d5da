import numpy as np
import pytest
import tensorflow as tf

from trainlab.pulling import Puller


def puller():
    return Puller([tf.TensorSpec([None], tf.int64)], lambda element: [element])


def lists(pulled):
    """What was pulled, as lists of numbers."""
    read = tf.raw_ops.TensorListGetItem
    return [
        [int(n) for n in read(input_handle=pulled.lists[0], index=i, element_shape=[-1], element_dtype=tf.int64)]
        for i in range(pulled.num_batches)
    ]


def test_takes_as_many_as_asked_for_and_no_more():
    data = tf.data.Dataset.range(6).batch(1)
    pull, iterator = puller(), iter(data)
    pulled = pull(iterator, 2)
    assert (lists(pulled), pulled.has_more, pulled.problem) == ([[0], [1]], True, None)
    pulled = pull(iterator, 9)
    assert (lists(pulled), pulled.has_more) == ([[2], [3], [4], [5]], False)
    assert (pulled.num_batches, pulled.num_bytes) == (4, 32)
    pulled = pull(iterator, 9)
    assert (lists(pulled), pulled.has_more) == ([], False)


def test_batches_of_different_lengths_and_kinds():
    data = tf.data.Dataset.from_generator(
        lambda: ((np.arange(n), "x" * n) for n in (2, 0, 3)),
        output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.string)),
    )
    pull = Puller([tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.string)], list)
    pulled = pull(iter(data), 5)
    assert lists(pulled) == [[0, 1], [], [0, 1, 2]]
    texts = tf.raw_ops.TensorListGetItem(input_handle=pulled.lists[1], index=2, element_shape=[], element_dtype=tf.string)
    assert texts.numpy() == b"xxx"


@pytest.mark.parametrize("max_batches", [3, 4, 100])
def test_an_error_costs_none_of_the_batches_before_it(max_batches):
    def fail(i):
        if i == 3:
            raise ArithmeticError("unreadable")
        return i

    data = tf.data.Dataset.range(6).map(lambda i: tf.ensure_shape(tf.numpy_function(fail, [i], tf.int64), [])).batch(1)
    pull, iterator = puller(), iter(data)
    pulled = pull(iterator, max_batches)
    assert (lists(pulled), pulled.has_more) == ([[0], [1], [2]], True)
    assert (pulled.problem is None) == (max_batches == 3)
    assert pulled.problem is None or "unreadable" in str(pulled.problem)
    if pulled.problem is not None:  # and what comes after it is clean
        pulled = pull(iterator, max_batches)
        assert (lists(pulled), pulled.problem) == ([[4], [5]], None)
