"""Waits for data that hang: they end when training is to stop, and leave what they waited for to itself."""

import gc
import threading
import time

import pytest
import tensorflow as tf

from trainlab.data import stream as streams
from trainlab.data.stream import StopRequested, Stream, finishes, is_anything_left_behind, stoppable, waited_for

SPEC = (tf.TensorSpec([None], tf.int64), None, None)
LONG = 30


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(streams, "_PATIENCE", 0.2)


class Hanging:
    """Numbers, one of which does not come until it may."""

    def __init__(self, at, count=8):
        self.may_go_on, self.hangs = threading.Event(), threading.Event()

        def slow(i):
            if i == at:
                self.hangs.set()
                self.may_go_on.wait(2 * LONG)
            return i

        data = tf.data.Dataset.range(count)
        self.data = data.map(lambda i: tf.ensure_shape(tf.numpy_function(slow, [i], tf.int64), [])).batch(1)


@pytest.fixture
def hanging():
    made = []

    def make(*args):
        made.append(Hanging(*args))
        return made[-1]

    yield make
    for data in made:
        data.may_go_on.set()
    until = time.monotonic() + LONG
    while is_anything_left_behind() and time.monotonic() < until:
        time.sleep(0.01)


def opened(data):
    stream = Stream(SPEC)
    stream.open(iter(data))
    return stream


def use(stream, count):
    block = stream.block(count, 1)
    stream.advance(block.size)
    return block.size


def hangs(stream, data):
    """Whether a read of the stream's own is under way and gets nothing: TensorFlow reads ahead too."""
    return lambda: data.hangs.is_set() and not stream.must_read


def within(seconds, fn):
    started = time.monotonic()
    result = fn()
    assert time.monotonic() - started < seconds
    return result


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_stop_ends_the_wait_and_loses_nothing(is_ahead, hanging):
    data = hanging(3)
    stream = opened(data.data)
    block = stream.block(2, 1)
    if is_ahead:
        stream.read_ahead(block, 3, 1)
    stream.advance(2)
    with stoppable(hangs(stream, data)), pytest.raises(StopRequested):
        stream.block(3, 1)
    assert stream.is_open and not stream.is_settled and is_anything_left_behind()
    data.may_go_on.set()
    assert use(stream, 3) == 3  # the same read
    for _ in range(600):  # of other tests too, whose threads end when a busy machine lets them
        if not is_anything_left_behind():
            break
        time.sleep(0.1)
    assert stream.is_settled and not is_anything_left_behind()


def test_what_comes_in_time_is_still_taken(hanging, monkeypatch):
    monkeypatch.setattr(streams, "_PATIENCE", LONG)
    data = hanging(3)
    stream = opened(data.data)
    use(stream, 2)
    timer = threading.Timer(0.2, data.may_go_on.set)
    timer.start()
    reading = stream._read(3, 1)
    stream._ahead = reading
    with stoppable(lambda: True):
        assert use(stream, 3) == 3
    timer.join()


def test_nothing_is_begun_once_training_is_to_stop():
    stream = opened(tf.data.Dataset.range(8).batch(1))
    use(stream, 2)
    with stoppable(lambda: True), pytest.raises(StopRequested):
        stream.block(2, 1)
    assert stream.is_settled and int(next(stream.iterator)[0]) == 2
    stream = opened(tf.data.Dataset.range(8).batch(1))
    stream.block(4, 1)
    with stoppable(lambda: True):
        assert stream.block(2, 1).size == 2  # at hand: nothing is read
    stream.close()


@pytest.mark.parametrize("how", ["end", "close", "close at once", "open"])
def test_nobody_waits_twice_for_what_was_given_up(how, hanging):
    data = hanging(3)
    stream = opened(data.data)
    use(stream, 2)
    with stoppable(hangs(stream, data)), pytest.raises(StopRequested):
        stream.block(3, 1)
    other = iter(tf.data.Dataset.range(40, 43).batch(1))
    ends = {"end": stream.end, "close": stream.close, "close at once": lambda: stream.close(at_once=True)}
    within(LONG, ends.get(how, lambda: stream.open(other)))
    if how != "open":
        assert stream.has_left_behind and stream.iterator is None
        stream.open(other)
    assert stream.is_open
    data.may_go_on.set()  # what it brings now is nobody's
    assert use(stream, 9) == 3
    assert stream.block(9, 1) is None
    stream.close()


def test_an_interrupt_is_not_waited_for_either(hanging, monkeypatch):
    data = hanging(3)
    stream = opened(data.data)
    use(stream, 2)
    real = streams.futures.wait  # stands for the main thread of a training without a run: it is interrupted there

    def interrupted(*args):
        if hangs(stream, data)():
            monkeypatch.setattr(streams.futures, "wait", real)
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(streams.futures, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stream.block(3, 1)
    within(LONG, stream.close)
    assert stream.has_left_behind


def test_a_stop_while_a_pass_ends_is_no_error(hanging):
    data = hanging(3)
    stream = opened(data.data)
    block = stream.block(2, 1)
    stream.read_ahead(block, 3, 1)
    with stoppable(data.hangs.is_set):
        within(LONG, stream.close)
    assert stream.has_left_behind and not stream.is_open


def test_an_iterator_that_hangs_is_let_go_without_waiting(hanging):
    """Whose data are read ahead by TensorFlow itself: no read of ours is under way."""
    data = hanging(3)
    stream = opened(data.data.prefetch(4))
    use(stream, 2)
    assert data.hangs.wait(LONG) and stream.is_settled
    with stoppable(lambda: True):
        within(LONG, lambda: stream.close(at_once=True))
    gc.collect()
    within(LONG, streams._wait_at_exit)


def test_batches_are_skipped_and_the_wait_for_them_ends(hanging):
    stream = opened(tf.data.Dataset.range(8).batch(1))
    assert stream.skip(3) == 3 and int(next(stream.iterator)[0]) == 3
    assert stream.skip() == 4 and stream.skip(1) == 0
    data = hanging(3)
    stream = opened(data.data)
    with stoppable(data.hangs.is_set), pytest.raises(StopRequested):
        stream.skip()
    data.may_go_on.set()
    failing = tf.data.Dataset.range(3).map(lambda i: tf.debugging.check_numerics(1 / tf.cast(i - 1, tf.float32), "bad"))
    with pytest.raises(tf.errors.OpError, match="bad"):
        opened(failing.map(lambda x: tf.cast(x, tf.int64)).batch(1)).skip()


def test_what_is_waited_for_returns_and_raises_as_if_called_here():
    assert waited_for(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        waited_for(lambda: 1 / 0)
    with stoppable(lambda: True):
        assert waited_for(lambda: time.sleep(0.05) or 4) == 4  # it has a moment


def test_what_does_not_finish_is_left_to_itself():
    done = threading.Event()
    assert finishes(lambda: None, LONG)
    assert not finishes(lambda: done.wait(LONG), 0.05)
    assert not is_anything_left_behind()  # nobody minds it
    with stoppable(lambda: True), pytest.raises(StopRequested):
        finishes(lambda: done.wait(LONG), LONG)
    assert is_anything_left_behind()
    done.set()
    with pytest.raises(ArithmeticError):
        finishes(lambda: 1 / 0, LONG)


def test_a_stop_is_asked_for_in_one_place_at_a_time():
    heard = []

    def work():
        heard.append(waited_for(lambda: time.sleep(0.1) or "done", patience=0.0))

    with stoppable(lambda: True):
        with stoppable(lambda: False):
            assert waited_for(lambda: 1, patience=0.0) == 1
        thread = threading.Thread(target=work)  # another training, which nobody stops
        thread.start()
        thread.join()
        with pytest.raises(StopRequested):
            waited_for(lambda: time.sleep(0.2), patience=0.0)
    assert heard == ["done"]


@pytest.mark.parametrize("who", ["outer", "inner", "nobody"])
def test_a_wait_ends_by_whoever_asks_first(who):
    with stoppable(lambda: who == "outer"), stoppable(lambda: who == "inner"):
        if who == "nobody":
            assert waited_for(lambda: 3) == 3
        else:
            with pytest.raises(StopRequested):
                waited_for(threading.Event().wait, patience=0.1)
