import threading

import pytest
import tensorflow as tf

from trainlab import iterators


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


@pytest.mark.parametrize(
    ("data", "is_repeated"),
    [
        (shuffled(), False),
        (shuffled().repeat(), True),
        (tf.data.Dataset.range(20).repeat().shuffle(8), False),
        (tf.data.Dataset.range(2).flat_map(lambda _: shuffled()), True),
        (tf.data.Dataset.range(20).repeat(), False),
    ],
)
def test_whether_a_shuffle_is_repeated(data, is_repeated):
    assert iterators.repeats_a_shuffle(data) == is_repeated


class Slow:
    """Takes until it may to be deleted."""

    def __init__(self, may_go, gone):
        self.may_go, self.gone = may_go, gone

    def __del__(self):
        assert self.may_go.wait(30)
        self.gone.set()


def test_nobody_waits_for_an_iterator_to_go():
    may_go, gone = threading.Event(), threading.Event()
    held = [Slow(may_go, gone)]
    iterators.let_go(held)
    assert not gone.is_set()
    may_go.set()
    assert gone.wait(30)
    assert held == []


def test_of_none_there_is_nothing_to_let_go(monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    iterators.let_go([None])
