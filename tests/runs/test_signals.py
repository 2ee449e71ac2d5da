import contextlib
import hashlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time

import pytest

from trainlab.data.stream import StopRequested, waited_for
from trainlab.runs import signals as module
from trainlab.runs.signals import HANDLED, Signals, stop

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")

LONG = 30


@pytest.fixture(autouse=True)
def ended(monkeypatch):
    """The statuses with which the process would have been ended from outside."""
    found = []
    monkeypatch.setattr(module, "_end", found.append)
    monkeypatch.setattr(module, "see_to_the_end", lambda status: None)
    return found


@pytest.fixture
def again_at_once(monkeypatch):
    """However soon a second signal comes, it is another."""
    monkeypatch.setattr(module, "_SAME", 0.0)


def send(signum):
    os.kill(os.getpid(), signum)


def a_long_call():
    """In C, where Python hears nothing: some seconds."""
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 6_000_000)


def wait_for(condition):
    until = time.monotonic() + LONG
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("signum", HANDLED)
def test_a_signal_only_sets_a_flag_and_handlers_come_back(signum):
    before = {s: signal.getsignal(s) for s in HANDLED}
    with Signals() as signals:
        assert signals.received is None
        send(signum)
        assert signals.received == signum
    assert {s: signal.getsignal(s) for s in HANDLED} == before
    with signals:
        assert signals.received is None


@pytest.mark.parametrize("hands_on", [True, False])
def test_a_handler_that_somebody_sets_meanwhile_stays(hands_on):
    heard, outer = [], []
    first = signal.signal(signal.SIGTERM, lambda *_: outer.append(1))
    try:
        with Signals() as signals:

            def handle(*args):
                heard.append(1)
                if hands_on:
                    before(*args)

            before = signal.signal(signal.SIGTERM, handle)
            send(signal.SIGTERM)
            assert (heard, outer, signals.received) == ([1], [], signal.SIGTERM if hands_on else None)
        assert signal.getsignal(signal.SIGTERM) is handle
        send(signal.SIGTERM)
        assert (heard, outer) == ([1, 1], [1] * hands_on)
    finally:
        signal.signal(signal.SIGTERM, first)
    with Signals():
        pass
    assert signal.getsignal(signal.SIGTERM) == first


def test_the_one_of_a_terminal_that_closes_is_among_them():
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} == set(HANDLED)


@pytest.mark.parametrize("signum", HANDLED)
@pytest.mark.parametrize("first", HANDLED)
def test_a_second_signal_ends_at_once(first, signum, again_at_once):
    with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else SystemExit) as error, Signals():
        send(first)
        time.sleep(0.01)
        send(signum)
        time.sleep(LONG)
    assert signum == signal.SIGINT or error.value.code == 128 + signum
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("second", HANDLED)
def test_two_in_a_row_are_one_request(second):
    """`timeout` sends its signal to the process and to its group; some init systems send SIGHUP after SIGTERM."""
    with Signals() as signals:
        send(signal.SIGTERM)
        send(second)
        assert signals.received == signal.SIGTERM


@pytest.mark.parametrize("signum", HANDLED)
def test_what_is_ignored_stays_so(signum):
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        with Signals() as signals:
            send(signum)
            assert signals.received is None and signal.getsignal(signum) == signal.SIG_IGN
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", HANDLED)
def test_the_first_may_end_at_once(signum):
    with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else SystemExit), Signals(at_once=True):
        send(signum)
        time.sleep(LONG)


def test_another_thread_hears_nothing_and_breaks_nothing():
    heard = []

    def work():
        with Signals() as signals:
            heard.append(signals.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [None]


def test_how_training_ends():
    with pytest.raises(KeyboardInterrupt):
        stop(signal.SIGINT)
    for signum, status in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)):
        with pytest.raises(SystemExit) as error:
            stop(signum)
        assert error.value.code == status


@pytest.mark.slow
@pytest.mark.parametrize("signum", HANDLED)
def test_a_call_that_lasts_is_ended_from_outside_and_saved(signum, ended, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    saved = []
    with Signals(rescue=lambda: saved.append(1)) as signals:
        timer = threading.Timer(0.1, send, [signum])
        timer.start()
        a_long_call()
        timer.join()
    assert ended and set(ended) == {128 + signum} and len(saved) == len(ended)
    assert signals.received == signum  # heard in the end


@pytest.mark.slow
def test_a_second_signal_does_not_wait_for_a_call_that_lasts(ended, monkeypatch, again_at_once):
    saved = []
    monkeypatch.setattr(module, "_NO_PATIENCE", 0.1)
    with contextlib.suppress(SystemExit), Signals(rescue=lambda: saved.append(1)):
        timers = [threading.Timer(seconds, send, [signal.SIGTERM]) for seconds in (0.1, 0.6)]
        for timer in timers:
            timer.start()
        a_long_call()
    assert ended[:1] == [143] and not saved


def test_whoever_hears_is_left_alone(ended, monkeypatch):
    """Python that works or waits, in its main thread, for as long as it likes: it may be writing something."""
    monkeypatch.setattr(module, "_PATIENCE", LONG)
    monkeypatch.setattr(module, "_SECONDS_A_LOOK", 0.05)
    waits = (lambda: sum(range(1000)), lambda: time.sleep(0.1), lambda: threading.Event().wait(0.1))
    with Signals() as signals:
        send(signal.SIGTERM)
        for wait in waits:
            heard, until = signals.num_heard, time.monotonic() + LONG
            while signals.num_heard < heard + 2 and time.monotonic() < until:
                wait()
            assert signals.num_heard >= heard + 2
    assert ended == []


@pytest.mark.slow
def test_what_saves_from_outside_waits_for_no_data(ended, monkeypatch):
    """Those that hang may be why."""
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    found = []

    def rescue():
        with pytest.raises(StopRequested):
            waited_for(lambda: time.sleep(LONG), patience=0.0)
        found.append(1)

    with Signals(rescue):
        timer = threading.Timer(0.1, send, [signal.SIGTERM])
        timer.start()
        a_long_call()
    assert found and ended


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["ps1", "ipykernel"])
def test_who_sits_at_a_prompt_loses_nothing(prompt, ended, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    if prompt == "ps1":
        monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "ipykernel", module)
    with Signals():
        timer = threading.Timer(0.1, send, [signal.SIGINT])
        timer.start()
        a_long_call()
    assert ended == []


def test_an_event_loop_is_told_as_ever():
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno())
    try:
        with Signals(), Signals():
            send(signal.SIGTERM)
            ours.settimeout(LONG)
            assert signal.SIGTERM in ours.recv(10)
        assert signal.set_wakeup_fd(theirs.fileno()) == theirs.fileno()
    finally:
        signal.set_wakeup_fd(before)
        ours.close()
        theirs.close()


def test_one_inside_another():
    with Signals() as outer:
        with Signals() as inner:
            send(signal.SIGHUP)
        send(signal.SIGTERM)
    assert (outer.received, inner.received) == (signal.SIGTERM, signal.SIGHUP)


def report(queue):
    queue.put(([signal.getsignal(s) == module.signal.SIG_DFL for s in (signal.SIGTERM, signal.SIGHUP)], signal.set_wakeup_fd(-1)))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    queue.put(not blocked & set(HANDLED))


@pytest.mark.slow
def test_a_forked_process_inherits_nothing():
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    with Signals(at_once=True), Signals() as signals:
        worker = context.Process(target=report, args=(queue,))
        worker.start()
        assert queue.get() == ([True, True], -1)
        assert queue.get()
        worker.join(LONG)
        for _ in range(20):  # as soon as there is one
            worker = context.Process(target=time.sleep, args=(LONG,), daemon=True)
            worker.start()
            worker.terminate()
            worker.join(LONG)
            assert worker.exitcode == -signal.SIGTERM
        assert signals.received is None and signal.getsignal(signal.SIGTERM) == signals._handle
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(HANDLED)


def test_a_pool_made_meanwhile_ends_with_its_block():
    started = time.monotonic()
    with Signals() as signals:
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
        pool.join()
        assert signals.received is None
    assert time.monotonic() - started < LONG
