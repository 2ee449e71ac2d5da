"""What workers say of a signal to another, of one that is lost at the very end, and of errors of their own."""

import datetime
import json
import os
import re
import signal
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from resuming import small
from small import compiled, regression

from trainlab.data import checksum_of
from trainlab.data.stream import waited_for
from trainlab.data.stream_source import StreamSource
from trainlab.distribution import END, FOUND, RUN, STATE, SYNC, Cluster, Link, Refused, StopAsked, WorkerLost
from trainlab.distribution.workers.link import Told
from trainlab.loop import Findings, NonFiniteError
from trainlab.loop.leading import find
from trainlab.parameters import tensorflow_internals
from trainlab.runs import workers

X, Y = regression(40)


class Hearing(keras.callbacks.Callback):
    """Another worker's signal, known at the beginning of an update; with or without the chief's hearing of it."""

    def __init__(self, keeper, at, hears=True):
        super().__init__()
        self.keeper, self.at, self.hears = keeper, at, hears

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.at:
            if self.hears:
                self.keeper.hear(signal.SIGTERM)
            raise StopAsked(signal.SIGTERM)

    def get_state(self):
        return None

    def set_state(self, state):
        pass


@pytest.mark.parametrize("save_steps", [1, 2, 3, 100])
def test_it_says_where_it_is_saved_though_it_was_saved_before(save_steps, tmp_path, capsys):
    trainer = small(tmp_path, save_steps=save_steps, save_seconds=None)
    with pytest.raises(SystemExit, match="143"):
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[Hearing(trainer._keeper, 4)])
    said = re.findall(r"stopped by a signal at update 4: saved in (\S+);", capsys.readouterr().out)
    assert said == [str(trainer.last_checkpoint)] and trainer.last_checkpoint.name.endswith("step-4")


def test_of_what_nobody_was_sent_nothing_is_said(tmp_path, capsys):
    """Control."""
    trainer = small(tmp_path, save_steps=1, save_seconds=None)
    with pytest.raises(StopAsked):
        trainer.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[Hearing(trainer._keeper, 4, hears=False)])
    assert "stopped by" not in capsys.readouterr().out


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_worker_that_is_lost_when_all_is_done_is_a_warning(is_lost):
    """Nothing that is left to do would say it."""
    model = compiled()
    model.history = keras.callbacks.History()
    model.history.history, model.history.epoch = {"loss": [0.5]}, [0]
    ended = []
    lost = WorkerLost("worker 1 (b:1) was lost") if is_lost else None
    link = SimpleNamespace(lost=lost, end=ended.append)
    keeper = SimpleNamespace(hear=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with workers.led(link, model, keeper):
            pass
    assert [str(w.message) for w in caught] == is_lost * [
        "training is complete here, but not at all workers: worker 1 (b:1) was lost"
    ]
    assert b'["loss", [0.5]]' in ended[0]


class Line:
    """A follower's end of the line: what the chief says, one after the other, and whether this one gave up."""

    end = b'{"ended_by": "TypeError", "text": "the chief\'s"}'

    def __init__(self, *told):
        self.told, self.lost, self.variables, self.left = list(told), None, None, []
        self.held = SimpleNamespace(add=lambda loop: None)
        self.cluster = SimpleNamespace(name=str)

    def hear(self):
        return Told(*self.told.pop(0))

    def message(self):
        return b'{"jit_compile": null, "micro_batch_size": null}'

    def take_end(self, has_variables):
        return self.end

    def give_up(self, error):
        self.left.append(error)


def follow(line, **loop):
    """What a follower raises."""
    model = compiled()
    inputs = SimpleNamespace(source=None, close=lambda: None)
    made = SimpleNamespace(is_eager=False, update=SimpleNamespace(variables={}), **loop)
    with pytest.raises(Exception) as caught:
        workers.follow(line, Findings(None, None), lambda: made, inputs, model)
    return caught.value


def fails(source, *_):
    raise TypeError("its own")


def passes(source, *_):
    pass


def test_what_a_follower_cannot_do_either_is_its_own_error_and_nobody_is_lost():
    line = Line((FOUND, []), (END, [0]))
    assert str(follow(line, prepare=fails)) == "its own" and line.left == [] and line.told == []


def test_control_of_a_follower_that_has_no_error():
    line = Line((FOUND, []), (RUN, [1]), (END, [1]))
    error = follow(line, prepare=passes, follow=passes)
    assert isinstance(error, workers.ChiefEnded) and "the chief's" in str(error) and line.left == []


@pytest.mark.parametrize("told", [(STATE, []), (SYNC, []), (RUN, [1]), (END, [1])])
def test_what_a_follower_alone_cannot_do_is_told_when_the_chief_goes_on(told):
    line = Line((FOUND, []), told)
    error = follow(line, prepare=fails)
    assert str(error) == "its own" and line.left == [error]


def test_an_error_in_a_call_is_told_at_once_but_for_one_that_comes_at_all():
    line = Line((FOUND, []), (RUN, [1]), (END, [1]))
    error = follow(line, prepare=passes, follow=fails)
    assert line.left == [error] and line.told == [(END, [1])]

    def explodes(source, numbers):
        raise NonFiniteError("update 3 is not finite")

    line = Line((FOUND, []), (RUN, [1]), (END, [1]))
    assert isinstance(follow(line, prepare=passes, follow=explodes), NonFiniteError) and line.left == line.told == []


def test_what_ends_the_chief_is_not_replaced_by_the_loss_of_a_worker_that_had_it_too():
    def lose(message):
        raise WorkerLost("worker 1 was lost")

    link = SimpleNamespace(lost=None, end=lose)
    with pytest.raises(TypeError, match="its own"), workers.led(link, None, SimpleNamespace(hear=None)):
        fails(None)
    model = SimpleNamespace(history=keras.callbacks.History())
    model.history.epoch = []
    with pytest.raises(WorkerLost), workers.led(link, model, SimpleNamespace(hear=None)):  # control: there nothing else says it
        pass


def ended(history, end):
    """A fit at the chief that has come to this history."""
    model = SimpleNamespace(history=keras.callbacks.History())
    model.history.epoch, model.history.history = [0], history
    with workers.led(SimpleNamespace(lost=None, end=end), model, SimpleNamespace(hear=None)):
        yield


@pytest.mark.parametrize("signum, status", [(signal.SIGTERM, 143), (0, None)])
def test_a_signal_that_comes_too_late_for_a_call_stops_all(signum, status):
    """It is known with the end of the fit; control: without one nothing stops."""
    told = []

    def end(message):
        told.append(message)
        return signum

    def chief():
        yield from ended({}, end)

    line = Line((FOUND, []), (END, [1], signum))
    if status is None:
        assert list(chief()) == [None]
        assert "the chief's" in str(follow(line, prepare=passes))
        return
    for stopped in (lambda: list(chief()), lambda: follow(line, prepare=passes)):
        with pytest.raises(SystemExit) as caught:
            stopped()
        assert caught.value.code == status
    assert b"history" in told[0] and line.left == []


def test_one_to_the_chief_at_the_very_end_is_not_lost_either():
    told = []
    with pytest.raises(SystemExit, match="143"):
        for _ in ended({}, told.append):
            os.kill(os.getpid(), signal.SIGTERM)
    assert len(told) == 1


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_data_that_hang():
    link = Link(Cluster(("a:1", "b:1"), 1), None)
    for sent in (lambda: setattr(link, "signal", lambda: 15), lambda: setattr(link, "_heard", 15)):
        link.signal = lambda: 0
        sent()
        with pytest.raises(StopAsked) as caught, link.reading():
            waited_for(threading.Event().wait)
        assert caught.value.signum == 15 and link.lost is None
    link.signal, link._heard = (lambda: 0), 0
    with link.reading():  # control
        assert waited_for(lambda: 7) == 7


def test_who_was_told_to_stop_before_a_call_hears_the_chief_end_it():
    def stops(source, numbers):
        raise StopAsked(signal.SIGTERM)

    line = Line((FOUND, []), (RUN, [1]), (END, [1]))
    line.end = b'{"ended_by": "SystemExit", "status": 143, "text": ""}'
    with pytest.raises(SystemExit, match="143"):
        follow(line, prepare=passes, follow=stops)
    assert line.left == line.told == []


@pytest.mark.parametrize(
    "shuffle, num_passes, is_named",
    [
        (lambda data: data.shuffle(16, seed=1), 1, True),
        (lambda data: data.shuffle(16, seed=1), 0, False),
        (lambda data: data.shuffle(16, seed=1, reshuffle_each_iteration=False), 1, False),
        (lambda data: data, 1, False),
    ],
)
def test_other_batches_in_a_later_pass_may_come_of_a_shuffle_that_the_chief_has_moved_on(shuffle, num_passes, is_named):
    data = shuffle(tf.data.Dataset.from_tensor_slices((X, Y))).take(16).batch(4)
    source = StreamSource(data, None, True)
    guard = SimpleNamespace(progress=SimpleNamespace(epoch=0, done=0))
    loop = SimpleNamespace(guard=guard, block=lambda source, number: source.block(number, 1))
    block, line = find(Link(Cluster(("a:1", "b:1"), 1), None), loop, source, [1, num_passes, 0, -1, 0, 0])
    source.close()
    assert block is None and line.startswith("has other batches than the chief: ")
    assert ("reshuffle_each_iteration=False" in line) == is_named


def test_whatever_stands_in_the_logs_comes_to_the_others():
    """As in a checkpoint: exactly, or as text where it is of a type that no checkpoint holds."""
    day, table = datetime.date(2021, 2, 3), np.arange(6, dtype="int16").reshape(2, 3)
    half = np.array([0.5, -1.5], tf.bfloat16.as_numpy_dtype)
    history = {"loss": [0.1, float("nan")], "day": [day], "table": [table, np.float32(0.1)], "half": [half], "path": [Path("a")]}
    told = []
    with pytest.warns(UserWarning, match="the logs hold a PosixPath, which the other workers get as text"):
        list(ended(history, told.append))
    line, model = Line((FOUND, []), (END, [1])), compiled()
    line.end = told[0]
    made = SimpleNamespace(is_eager=False, update=SimpleNamespace(variables={}), prepare=passes)
    inputs = SimpleNamespace(source=None, close=lambda: None)
    found = workers.follow(line, Findings(None, None), lambda: made, inputs, model)
    assert found.epoch == [0] and list(found.history) == list(history)
    for name in ("loss", "day"):
        np.testing.assert_array_equal(found.history[name], history[name])
    for value, wanted in zip((*found.history["table"], *found.history["half"]), (*history["table"], half), strict=True):
        assert value.dtype == wanted.dtype and np.array_equal(value, wanted)
    assert found.history["path"] == ["a"]


class Sulking:
    """Nobody can say what it is."""

    def __repr__(self):
        raise ValueError("no")


def test_what_no_message_holds_ends_the_others_too():
    """They had waited as long as the chief lived."""
    told = []
    with pytest.raises((TypeError, ValueError)):
        list(ended({"mood": [Sulking()]}, told.append))
    assert len(told) == 1 and b"ended_by" in told[0]


class Numbers(keras.utils.PyDataset):
    """Ten batches that are numbered."""

    num_batches = 10

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        return np.full([2, 1], index, "float32"), np.zeros([2, 1], "float32")


def test_the_order_of_a_shuffled_sequence_is_the_chiefs():
    """Whatever each process has drawn of Python's random numbers, and before any pass has begun."""
    chief, other, stranger = (StreamSource(Numbers(), None, True) for _ in range(3))
    other.restore(json.loads(json.dumps(chief.state())), {})
    first, second, third = (checksum_of(source.block(10, 1)) for source in (chief, other, stranger))
    assert first == second != third
    for source in (chief, other, stranger):
        source.close()


@pytest.mark.parametrize("is_lost", [True, False])
def test_who_reads_again_up_to_where_the_chief_is_hears_of_signals_and_losses(is_lost):
    """All passes that were, however long they take; before any call."""
    link = Link(Cluster(("a:1", "b:2"), 1), None)
    link.message = lambda: b"{}"
    source = SimpleNamespace(restore=lambda *_: waited_for(threading.Event().wait))
    calls = workers._Calls(link, None, None, SimpleNamespace(source=source))
    calls._loop = SimpleNamespace()
    if is_lost:
        link.lost = WorkerLost("worker 0 (a:1) was lost")
    else:
        link.signal = lambda: signal.SIGTERM
    with pytest.raises(WorkerLost if is_lost else StopAsked):
        calls.make(STATE, [])


@pytest.fixture
def link(monkeypatch):
    """A line whose end can be told, and nothing else."""
    monkeypatch.setattr(tensorflow_internals, "abort_collectives", lambda reason: None)
    return Link(Cluster(("a:1", "b:1"), 1), None)


def begin_fit(link, make_loop=lambda anew=False: None):
    return workers.meet(link, {}, make_loop, SimpleNamespace())


def test_ctrl_c_ends_the_wait_for_the_others(link):
    queue = tf.queue.FIFOQueue(1, [tf.int32])  # a wait of TensorFlow's, in which the main thread would hear nothing
    link.collectives.agree_on_count = lambda seconds: bool(queue.dequeue())
    late, interrupt = threading.Timer(60.0, queue.enqueue, [1]), threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT])
    late.start()
    interrupt.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            begin_fit(link)
        assert not late.finished.is_set()
    finally:
        late.cancel()
        queue.enqueue(1)
    assert str(link.lost).startswith("worker 1 (b:1) has left the training: KeyboardInterrupt; start all of them again")


def test_what_keeps_one_from_beginning_is_told_to_the_others_who_have_come(link):
    def make_loop(anew=False):
        if anew:
            raise MemoryError("no room")

    link.meet = lambda *_: (True, False)
    with pytest.raises(MemoryError):
        begin_fit(link, make_loop)
    assert "has left the training: MemoryError: no room; " in str(link.lost)


@pytest.mark.parametrize("error", [None, Refused("worker 0 is about to train something else")])
def test_control_of_what_comes_at_all_of_them_before_the_first_call(error, link):
    def meet(*_):
        if error is not None:
            raise error
        return False, False

    link.meet = meet
    with pytest.raises(Refused) if error is not None else nullcontext():
        assert begin_fit(link)
    assert link.lost is None
