import os
import signal
import threading

import pytest

from trainlab.runs.signals import Signals, stop


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_only_sets_a_flag_and_handlers_come_back(signum):
    before = signal.getsignal(signum)
    with Signals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), signum)
        assert signals.received == signum
    assert signal.getsignal(signum) == before


def test_a_second_sigint_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), Signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGINT, before)


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
    with pytest.raises(SystemExit) as error:
        stop(signal.SIGTERM)
    assert error.value.code == 143
