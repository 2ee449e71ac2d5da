import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data import iterators
from trainlab.data.iterators import Puller


def shuffled(**settings):
    return tf.data.Dataset.range(20).shuffle(8, seed=3, **settings).batch(2)


def rest(iterator):
    return [batch.numpy().tolist() for batch in iterator]


def test_an_iterator_goes_on_where_another_stood():
    one, other = iter(shuffled()), iter(shuffled())
    for _ in range(3):
        next(one)
    where = iterators.serialize(one)
    want = rest(one)
    iterators.deserialize(other, where)
    assert rest(other) == want and len(want) == 7


def test_what_depends_on_python_cannot_be_saved_and_the_reason_is_a_line():
    data = tf.data.Dataset.from_generator(lambda: iter(range(4)), output_signature=tf.TensorSpec([], tf.int64))
    with pytest.raises(tf.errors.OpError) as raised:
        iterators.serialize(iter(data))
    reason = iterators.reason(raised.value)
    assert "\n" not in reason and "{{" not in reason and "PyFunc" in reason
    assert iterators.reason(ValueError()) == "ValueError"


def test_checksums_tell_tensors_apart():
    kinds = [[1, 2], [[1, 2]], [1.0, 2.0], [True, False], ["ab", "c"], ["a", "bc"], [], ["", ""]]
    sums = [iterators.checksum([tf.constant(value)]) for value in kinds]
    assert len(set(sums)) == len(kinds)
    assert sums == [iterators.checksum([tf.constant(value)]) for value in kinds]
    one, two = tf.constant([1]), tf.constant([2])
    assert iterators.checksum([one, two]) != iterators.checksum([two, one])


def one_tensor(element):
    return [element]


def puller(max_bytes=2**20):
    return Puller([tf.TensorSpec([None], tf.int64)], one_tensor, max_bytes)


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
    pulled = pull(iterator, 2, 1)
    assert (lists(pulled), pulled.has_more, pulled.problem) == ([[0], [1]], True, None)
    pulled = pull(iterator, 9, 1)
    assert (lists(pulled), pulled.has_more) == ([[2], [3], [4], [5]], False)
    assert pulled.num_batches == 4
    pulled = pull(iterator, 9, 1)
    assert (lists(pulled), pulled.has_more) == ([], False)


def test_batches_of_different_lengths_and_kinds():
    data = tf.data.Dataset.from_generator(
        lambda: ((np.arange(n), "x" * n) for n in (2, 0, 3)),
        output_signature=(tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.string)),
    )
    pull = Puller([tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.string)], list, 2**20)
    pulled = pull(iter(data), 5, 1)
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
    pulled = pull(iterator, max_batches, 1)
    assert (lists(pulled), pulled.has_more) == ([[0], [1], [2]], True)
    assert (pulled.problem is None) == (max_batches == 3)
    assert pulled.problem is None or "unreadable" in str(pulled.problem)
    if pulled.problem is not None:  # and what comes after it is clean
        pulled = pull(iterator, max_batches, 1)
        assert (lists(pulled), pulled.problem) == ([[4], [5]], None)


@pytest.mark.parametrize(
    ("max_bytes", "batches", "sizes"),
    [(1, 1, [1] * 8), (8, 1, [1] * 8), (9, 1, [2] * 4), (9, 3, [3, 3, 2]), (25, 3, [6, 2]), (2**20, 3, [8])],
)
def test_no_more_once_it_is_large_enough_but_whole_updates(max_bytes, batches, sizes):
    pull, iterator = puller(max_bytes), iter(tf.data.Dataset.range(8).batch(1))  # of 8 bytes each
    found = []
    while (pulled := pull(iterator, 9, batches)).num_batches:
        found.append(pulled.num_batches)
    assert found == sizes


def test_two_of_a_kind_do_not_mix():
    one, other = puller(), puller()
    first, second = iter(tf.data.Dataset.range(3).batch(1)), iter(tf.data.Dataset.range(10, 13).batch(1))
    assert lists(one(first, 2, 1)) == [[0], [1]]
    assert lists(other(second, 9, 1)) == [[10], [11], [12]]
    assert lists(one(first, 9, 1)) == [[2]]


def test_an_error_does_not_keep_its_iterator_alive():
    def fail(i):
        raise ArithmeticError("unreadable")

    iterator = iter(tf.data.Dataset.range(6).map(lambda i: tf.ensure_shape(tf.numpy_function(fail, [i], tf.int64), [])).batch(1))
    alive = weakref.ref(iterator)
    gc.collect()
    gc.disable()
    try:
        pulled = puller()(iterator, 2, 1)
        del iterator
        assert pulled.problem is not None and alive() is None
    finally:
        gc.enable()
