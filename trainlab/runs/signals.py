"""SIGINT, SIGTERM and SIGHUP as requests: heard between two calls, when everything is in order; or else seen to from outside.

Python hears a signal in its main thread, between two of its instructions. While that thread is in one long call (an update, a
compiler, somebody's data that hang) nothing is heard; so a second thread is told too, and ends the process if that lasts.
Nothing of this is inherited over a fork.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from trainlab.data import StopRequested, is_anything_left_behind, stoppable
from trainlab.distribution import StopAsked

# Errors that are the doing of a signal, where one came: Ctrl-C ends what the output is piped into as well.
OF_A_SIGNAL = (StopRequested, StopAsked, BrokenPipeError)
HANDLED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# Within so many seconds a further signal is the same request: `timeout` sends two, as do terminals and init systems.
_SAME = 0.5
# The main thread may be in one call for so long after a signal; and so long after a second one.
_PATIENCE, _NO_PATIENCE = 3.0, 0.5
# It is asked so often whether it is.
_SECONDS_A_LOOK = 1.0
# Saving from outside may take so long.
_RESCUE_SECONDS = 60.0
# After the end of the main thread the process may take so long to end, where something was left behind that could hold it.
_GRACE = 1.0


def stop(signum: int) -> NoReturn:
    """Ends training as the signal would have: KeyboardInterrupt for SIGINT, SystemExit with 128 + its number for others."""
    be_quiet_if_nobody_reads()
    see_to_the_end(128 + signum)
    raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)


class Signals:
    """While entered, SIGINT, SIGTERM and SIGHUP only set a flag; a second one ends at once, as `stop` does.

    Outside the main thread, where Python handles no signals, it does nothing. A signal that is ignored (SIGHUP under `nohup`,
    SIGINT in a shell's background job) stays so. If the main thread stays in one and the same call for three seconds after a
    signal, the process is ended from outside, with the status that the signal asked for; but not by SIGINT where
    somebody sits at a prompt.

    Args:
        rescue: saves what can be saved before it is ended from outside; called in another thread, while the main one is in a
            call that may never end.
        at_once: whether already the first signal ends at once.

    Attributes:
        received: the signal that came, or None.
        is_insisted_on: whether another one came after it: nothing is waited for any more.

    Example:
        >>> with Signals() as signals:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     signals.received == signal.SIGTERM
        True
    """

    def __init__(self, rescue: Callable[[], object] | None = None, at_once: bool = False):
        self.received: int | None = None
        self._rescue = rescue
        self._at_once = at_once
        self._received_at = 0.0
        self._num_heard = 0
        self._is_asked = self.is_insisted_on = False
        self._before: dict[int, Any] = {}
        self._left: dict[int, Any] = {}  # by signal, whom somebody's handler that is still there may expect behind this one
        self.watch: _Watch | None = None

    def __enter__(self) -> Signals:
        self.received, self._is_asked, self.is_insisted_on, self._left = None, False, False, {}
        if threading.current_thread() is threading.main_thread():
            for signum in (s for s in HANDLED if signal.getsignal(s) != signal.SIG_IGN):
                self._before[signum] = signal.signal(signum, self._handle)
            if self._before and hasattr(signal, "pthread_kill"):
                self.watch = _Watch(self)
            _entered.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self in _entered:  # and not in a process that was forked from the one that entered it
            _entered.remove(self)
            if self.watch is not None:
                self.watch.close()
            self.let_go()

    def let_go(self) -> None:
        """Puts the handlers from before back, but for those that somebody has put in place of these meanwhile."""
        for signum, handler in list(self._before.items()):
            if self.handles(signum):
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
                del self._before[signum]
        self._left, self._before = self._before, {}

    @property
    def num_heard(self) -> int:
        """How often the main thread has heard a signal, or has answered."""
        return self._num_heard

    def handles(self, signum: int) -> bool:
        """Whether this signal comes here."""
        return signum in self._before and signal.getsignal(signum) == self._handle

    def ask(self, signum: int) -> None:
        """Lets the main thread count `num_heard` up as soon as it can hear."""
        self._is_asked = True
        signal.pthread_kill(threading.main_thread().ident or 0, signum)

    def end_at_once(self) -> None:
        """Ends the process where it is, with the status that was asked for; not where somebody sits at a prompt."""
        if self.received is not None and not _is_interactive():
            _end(128 + self.received)

    def end(self, signum: int, saves: bool) -> None:
        """Ends the process from outside, whatever the main thread is in; not where somebody at a prompt pressed Ctrl-C."""
        if signum == signal.SIGINT and _is_interactive():
            return
        if saves and self._rescue is not None:
            _call_in_thread(self._call_rescue, _RESCUE_SECONDS)
        _end(128 + signum)

    def _call_rescue(self) -> None:
        with stoppable(lambda: True):
            if self._rescue is not None:
                self._rescue()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if signum in self._left:  # called by the one in its place, when nothing is under way any more
            _hand_on(self._left[signum], signum, frame)
            return
        self._num_heard += 1
        is_asked, self._is_asked = self._is_asked, False
        if self.received is None:
            self.received, self._received_at = signum, time.monotonic()
            if signum == getattr(signal, "SIGHUP", None):
                be_quiet_if_nobody_reads()  # already for what callbacks print until then
            if self._at_once:
                stop(signum)
        elif not is_asked and time.monotonic() - self._received_at > _SAME:
            self.is_insisted_on = True
            stop(signum)


def _hand_on(handler: Any, signum: int, frame: FrameType | None) -> None:
    """Does what a handler would have done."""
    if callable(handler):
        handler(signum, frame)
    elif handler != signal.SIG_IGN:
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


class _Watch:
    """Is told of signals in a thread of its own, by the one means that does not wait for the main thread: a wakeup descriptor."""

    def __init__(self, signals: Signals):
        self._signals = signals
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        outer = _entered[-1].watch if _entered else None
        self.others: int = self._before if outer is None else outer.others  # an event loop's, say: it is told as ever
        self._is_closing = False
        self._surplus = 0  # of signals that were heard over those that were sent from here
        self._thread = threading.Thread(target=self._run, daemon=True, name="trainlab signals")
        self._thread.start()

    def close(self) -> None:
        """Puts the descriptor from before back."""
        self._is_closing = True
        with suppress(OSError):  # full: then it is awake
            os.write(self._writer, b"\0")
        self._thread.join()
        self.let_go()

    def let_go(self) -> None:
        """The same in a process that was forked: there is no thread in it."""
        now = signal.set_wakeup_fd(-1)
        with suppress(OSError, ValueError):  # closed meanwhile
            signal.set_wakeup_fd(self._before if now == self._writer else now)  # or somebody else's by now
        os.close(self._reader)
        os.close(self._writer)

    def _run(self) -> None:
        while not self._is_closing:
            if (signum := self._hear(None)) is not None:
                self._see_to(signum)

    def _hear(self, seconds: float | None) -> int | None:
        """The last signal that came meanwhile, other than those sent from here."""
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        if not poll.poll(None if seconds is None else 1000 * seconds) or self._is_closing:
            return None
        told = os.read(self._reader, 4096)
        if self.others != -1:
            with suppress(OSError):  # full, or closed: as Python does
                os.write(self.others, told)
        ours = [signum for signum in told if self._signals.handles(signum)]
        self._surplus += len(ours)
        return ours[-1] if self._surplus > 0 else None

    def _see_to(self, signum: int) -> None:
        """Ends the process if the main thread is in one and the same call for too long, now or later on its way out."""
        since = time.monotonic()
        while not self._is_closing and self._signals.handles(signum):
            heard, until, saves = self._signals.num_heard, time.monotonic() + _PATIENCE, True
            self._surplus = -1
            self._signals.ask(signum)
            while self._signals.num_heard == heard and not self._is_closing:
                again = self._hear(0.05)
                if again is not None and time.monotonic() - since > _SAME:
                    signum, until, saves = again, min(until, time.monotonic() + _NO_PATIENCE), False
                if time.monotonic() >= until:
                    self._signals.end(signum, saves)
                    until = time.monotonic() + _PATIENCE
            looked = time.monotonic()
            while not self._is_closing and time.monotonic() - looked < _SECONDS_A_LOOK:
                self._hear(0.05)


_entered: list[Signals] = []
_statuses: list[int] = []
_kept: list[BaseException] = []
_released = threading.Event()
_masks = threading.local()


@contextmanager
def seen_to_the_end() -> Iterator[None]:
    """Where no signal is handled: what an interrupt leaves behind, data that hang, does not keep the process from ending."""
    try:
        yield
    except KeyboardInterrupt:
        see_to_the_end(128 + signal.SIGINT)
        raise


def see_to_the_end(status: int) -> None:
    """Once the main thread has ended, ends the process if what was left behind (reading, workers) would not let it.

    What the exception under way holds is kept until then: an iterator of data that hang cannot be deleted, and would hold the
    main thread in the attempt.
    """
    _statuses.append(status)
    error = sys.exc_info()[1]
    if error is not None and not _is_interactive():
        _kept.append(error)
    if len(_statuses) == 1:
        _released.clear()
        threading.Thread(target=_see_to_the_end, daemon=True, name="trainlab end").start()


def _see_to_the_end() -> None:
    threading.main_thread().join()
    for name in ("last_value", "last_exc", "last_traceback"):  # of an interrupt that nobody caught; it is printed by now
        if hasattr(sys, name):
            setattr(sys, name, None)
    _kept.clear()
    gc.collect()
    _released.set()
    time.sleep(_GRACE)
    while any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        time.sleep(0.05)  # somebody's work, which Python waits for
    while not (is_anything_left_behind() or _workers()):
        time.sleep(0.05)
    _end(_statuses[-1])


@atexit.register
def _leave() -> None:
    """Where something hangs, ends the process here, while this can still be done: later on Python runs no other thread."""
    if _statuses and (not _released.wait(_GRACE) or is_anything_left_behind()):
        _flush()
        _end(_statuses[-1])


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _workers() -> list[Any]:
    """Processes that are not meant to outlive this one."""
    return [process for process in multiprocessing.active_children() if process.daemon]


def _end(status: int) -> NoReturn:
    with suppress(RuntimeError):  # no new thread at the very end
        _call_in_thread(_flush, 1.0)  # whoever does not read, or is in the middle of a write, may block it
    sys.setswitchinterval(1000)  # no other thread runs from here on: a pool replaces a worker that dies
    for process in _workers():
        os.kill(process.pid, signal.SIGKILL)
    os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _call_in_thread(fn: Callable[[], object], seconds: float) -> None:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    thread.join(seconds)


def be_quiet_if_nobody_reads() -> None:
    """Where the terminal is gone, or what the output was piped into, to write there would be an error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            poll = select.poll()
            poll.register(descriptor, 0)
            if poll.poll(0):  # POLLHUP or POLLERR
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


def say(line: str) -> None:
    """Prints a line on the way out, which nothing that is wrong with the output keeps from going on."""
    try:
        print(line, flush=True)
    except OSError:  # Ctrl-C has ended `tee` as well; a full disk
        be_quiet_if_nobody_reads()


def _hold_signals() -> None:
    """Before a fork: what the child is sent must not be taken for the parent's, nor be lost."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED) if _entered else None


def _release_signals() -> None:
    if _masks.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _forget() -> None:
    """In a forked process: signals do what they did before anybody entered here."""
    _statuses.clear()
    while _entered:
        signals = _entered.pop()
        if signals.watch is not None:
            signals.watch.let_go()
        signals.let_go()
    _release_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget)
