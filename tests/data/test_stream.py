import threading
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data import stream as streams
from trainlab.data.iterators import Puller
from trainlab.data.stream import Stream

SPEC = (tf.TensorSpec([None], tf.int64), None, None)


@pytest.fixture
def asked(monkeypatch):
    """How many batches each read was to bring."""
    found = []
    pull = Puller.__call__

    def spy(self, iterator, max_updates, batches):
        found.append(max_updates * batches)
        return pull(self, iterator, max_updates, batches)

    monkeypatch.setattr(Puller, "__call__", spy)
    return found


def opened(data):
    stream = Stream(SPEC)
    stream.open(iter(data))
    return stream


def numbers(block):
    """What is in the batches of a block."""
    found = []
    block.layout.program(lambda parts: found.extend(_read(parts)), None)(*block.arguments)
    return [int(x[0]) for x in found]


def _read(parts):
    return [part.fetch(tf.constant(i))[0] for part in parts for i in range(part.num_batches)]


def used(stream, max_updates, batches=1):
    block = stream.block(max_updates, batches)
    stream.advance(block.size)
    return numbers(block)


def test_what_was_read_ahead_comes_next(asked):
    stream = opened(tf.data.Dataset.range(12).batch(1))
    found, sizes = [], []
    assert stream.must_read
    while (block := stream.block(3, 1)) is not None:
        assert not stream.must_read
        stream.read_ahead(block, 2, 1)
        assert not stream.is_settled
        found += numbers(block)
        sizes.append(block.num_updates)
        stream.advance(block.size)
    assert found == list(range(12))
    assert sizes == [3, 2, 2, 2, 2, 1]
    assert asked == [3, 2, 2, 2, 2, 2]
    assert stream.is_settled


def test_nothing_is_read_ahead_of_what_is_at_hand_nor_twice_nor_of_no_updates(asked):
    stream = opened(tf.data.Dataset.range(12).batch(1))
    block = stream.block(4, 1)
    half = stream.block(2, 1)
    stream.read_ahead(half, 4, 1)
    stream.read_ahead(block, 0, 1)
    assert asked == [4]
    stream.read_ahead(block, 4, 1)
    stream.read_ahead(block, 4, 1)
    stream.advance(4)
    assert used(stream, 9) == [4, 5, 6, 7]
    assert asked == [4, 4]


def test_an_update_of_several_batches_and_a_smaller_one_at_the_end():
    stream = opened(tf.data.Dataset.range(11).batch(1))
    block = stream.block(1, 4)
    stream.read_ahead(block, 2, 4)
    stream.advance(4)
    assert used(stream, 2, 4) == [4, 5, 6, 7]
    assert used(stream, 2, 4) == [8, 9, 10]
    assert stream.block(2, 4) is None


def test_settles_once_it_is_asked_to_and_reads_ahead_again():
    stream = opened(tf.data.Dataset.range(12).batch(1))
    block = stream.block(2, 1)
    stream.read_ahead(block, 2, 1)
    stream.settle()
    stream.advance(2)
    assert not stream.is_settled
    block = stream.block(2, 1)
    stream.read_ahead(block, 2, 1)
    stream.advance(2)
    assert stream.is_settled and int(next(stream.iterator)[0]) == 4  # it stands where training does
    block = stream.block(2, 1)
    stream.read_ahead(block, 2, 1)
    assert not stream.is_settled
    stream.advance(2)
    assert used(stream, 2) == [7, 8]


def test_an_interrupt_while_it_waits_loses_nothing(monkeypatch):
    stream = opened(tf.data.Dataset.range(6).batch(1))
    stream.block(2, 1)
    stream._ahead = futures.Future()  # which is not done yet
    stream.advance(2)

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(streams.futures, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.block(2, 1)
    reading = stream._read(2, 1)
    reading.add_done_callback(lambda read: stream._ahead.set_result(read.result()))
    assert used(stream, 2) == [2, 3]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_an_error_costs_none_of_the_batches_before_it(is_ahead):
    def fail(i):
        if i == 3:
            raise ArithmeticError("unreadable")
        return i

    data = tf.data.Dataset.range(6).map(lambda i: tf.ensure_shape(tf.numpy_function(fail, [i], tf.int64), [])).batch(1)
    stream = opened(data)
    block = stream.block(1, 1)
    if is_ahead:
        stream.read_ahead(block, 9, 1)
    stream.advance(1)
    assert used(stream, 9) == [1, 2]
    assert not stream.is_settled
    with pytest.raises(tf.errors.OpError, match="unreadable"):
        stream.block(9, 1)
    assert used(stream, 9) == [4, 5]


def test_any_other_error_is_raised_once(monkeypatch):
    def broken(*args):
        monkeypatch.undo()
        raise TypeError("not a batch")

    stream = opened(tf.data.Dataset.range(6).batch(1))
    monkeypatch.setattr(Puller, "__call__", broken)
    with pytest.raises(TypeError, match="not a batch"):
        stream.block(2, 1)
    assert used(stream, 2) == [0, 1]


def test_another_iterator_waits_until_nobody_reads_the_last_one():
    may_go_on, is_reading = threading.Event(), threading.Event()

    def slow(i):
        if i == 1:
            is_reading.set()
            assert may_go_on.wait(30)
        return i

    data = tf.data.Dataset.range(4).map(lambda i: tf.ensure_shape(tf.numpy_function(slow, [i], tf.int64), [])).batch(1)
    stream = opened(data)
    block = stream.block(1, 1)
    stream.read_ahead(block, 1, 1)
    assert is_reading.wait(30)
    timer = threading.Timer(0.2, may_go_on.set)
    timer.start()
    stream.open(iter(tf.data.Dataset.range(40, 46).batch(1)))
    assert may_go_on.is_set()
    assert used(stream, 9) == list(range(40, 46))
    timer.join()


def test_blocks_of_large_batches_are_small(monkeypatch):
    monkeypatch.setattr(streams, "_MAX_BLOCK_BYTES", 3 * 8)
    stream = opened(tf.data.Dataset.range(20).batch(1))
    block = stream.block(10, 1)
    stream.read_ahead(block, 10, 1)
    stream.advance(block.size)
    assert numbers(block) == [0, 1, 2]
    assert used(stream, 10) == [3, 4, 5]


def test_places_without_a_tensor():
    tensors = [tf.constant([1.0]), tf.constant([2.0])]
    x, y, sample_weight = streams.pack((True, None, True), tensors)
    assert y is None
    np.testing.assert_array_equal([x[0], sample_weight[0]], [1.0, 2.0])
    optional = tf.experimental.Optional.empty(tf.TensorSpec([]))
    assert streams.unpack((tensors[0], optional)) == (tensors[0], None, None)
