"""Between two calls: the chief says what comes next, and hears what keeps the others from it; one tiny exchange a call.

The chief is who decides: how many updates, from where in the data, when it is over. The others follow: whatever a callback, a
checkpoint or an epoch's end does to variables is done at the chief, whose values all others take before the next call.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import tensorflow as tf

from trainlab.data import StopRequested, stoppable, waited_for
from trainlab.distribution.workers.cluster import Cluster
from trainlab.distribution.workers.collectives import Collectives
from trainlab.distribution.workers.errors import Refused, StopAsked, WorkerLost, is_collective
from trainlab.distribution.workers.signs import Signs
from trainlab.parameters import tensorflow_internals

WAIT, RUN, SYNC, FOUND, STATE, END = 1, 2, 3, 4, 5, 6
_COMMAND, _NUMBERS, _WIDTH = 0, 3, 9  # places in an exchange: the command; a signal; who cannot go on; numbers
_SIGNAL, _PROBLEM = 1, 2
_BEAT = 1.0  # seconds between two signs of life while the chief is at something else
# How long one waits for all to come to a `fit`: before it each does what it likes.
_SECONDS_TO_MEET = 600.0
_SECONDS_TO_LEARN_WHO = 2.0  # after all of them would have been seen to be silent
_AGAIN = "start all of them again, and the same call goes on from the chief's last checkpoint"


Variables = Callable[[], Sequence[tf.Variable]]
Errors = tuple[type[BaseException], ...]


class Told(NamedTuple):
    """What the chief said.

    Attributes:
        command: `RUN`, `SYNC`, `FOUND`, `STATE` or `END`.
        numbers: with it.
        signum: the signal that one of them was sent, known to all with this; 0 for none.
    """

    command: int
    numbers: list[int]
    signum: int = 0


class Link:
    """This process' end of the line.

    Args:
        cluster: who there is.
        signs: of life; None where the workers have not joined by `join_workers`.

    Attributes:
        collectives: what processes compute together.
        variables: returns those that must be the same everywhere; None as long as not all of them are known here.
        held: what holds programs of fits that all came to, whose operations all have counted alike since.
        is_stale: whether they may have changed at the chief since all had the same.
        signal: returns the signal that this worker was sent, to be told to all; 0 for none.
        on_signal: called, at the chief, with the signal that another was sent.
    """

    def __init__(self, cluster: Cluster, signs: Signs | None):
        self.cluster = cluster
        self.collectives = Collectives(cluster.size, cluster.rank, _WIDTH)
        self._signs = signs
        self._is_in_fit = self._is_meeting = False
        if signs is not None:
            signs.on_lost = self._lose
        self.variables: Variables | None = None
        self.held: weakref.WeakSet[object] = weakref.WeakSet()
        self.is_stale = True
        self.signal: Callable[[], int] = _none
        self.on_signal: Callable[[int], None] = _nobody
        self.lost: WorkerLost | None = None
        self._heard = 0  # the last signal that one was sent in this fit
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_chief(self) -> bool:
        """Whether this is the worker that decides."""
        return self.cluster.is_chief

    def meet(self, mine: bytes, differs: Callable[[bytes], str | None], made: object, flag: bool) -> tuple[bool, bool]:
        """Begins a fit with all others.

        Args:
            mine: what this worker is about to do; the chief's is told to the others.
            differs: from the chief's to a line that says why this worker cannot go on with that; None if it can.
            made: holds the programs that this worker would go on with; see `held`.
            flag: whatever this worker has to say.

        Returns:
            Whether all must make anew what holds them: some have it since an earlier fit, whose programs others do not have, or
            have traced at another count; and whether one has raised the flag.

        Raises:
            Refused: one cannot.
            WorkerLost: one does not come.
        """
        with self._lock, self._explained():
            self._is_meeting = True
            self._is_in_fit = True
            self.signal, self.on_signal = _none, _nobody  # those of the last fit
            for rank, why in list(self._signs.lost.items() if self._signs is not None else []):
                self._lose(rank, why)
            self.check()
            # Not in the main thread, which hears no Ctrl-C in the middle of it, and may wait for minutes.
            counted_alike = waited_for(lambda: self.collectives.agree_on_count(_SECONDS_TO_MEET))
            if not counted_alike:
                self.held.clear()
            self._is_meeting = False
            self._heed_silence(True)
            theirs = self.collectives.broadcast(mine, 0)
            line = None if self.is_chief else differs(theirs)
            try:
                self._agree(line)
            except Refused:
                self._leave_fit()
                raise
            is_held = made in self.held
            said = self.collectives.exchange([0] * _NUMBERS + [is_held, not is_held, flag])
            some, others, any_flag = map(bool, said[_NUMBERS : _NUMBERS + 3])
        self.variables, self.is_stale, self._heard = None, True, 0
        self._is_over.clear()
        if self.is_chief:
            self._thread = threading.Thread(target=self._beat, daemon=True, name="trainlab workers")
            self._thread.start()
        return not counted_alike or (some and others), any_flag

    def _agree(self, line: str | None) -> None:
        """Lets everybody know what keeps one of them from going on.

        Raises:
            Refused: something does.
            StopAsked: one was sent a signal.
        """
        _, signum, rank, *_ = self._exchange([0, self.signal(), 0 if line is None else self.cluster.rank + 1])
        if signum:
            raise StopAsked(signum)
        if rank:
            text = self.collectives.broadcast(None if line is None else line.encode(), rank - 1).decode()
            raise Refused(f"{self.cluster.name(rank - 1)} {text}")

    @contextmanager
    def call(self, numbers: Sequence[int], alike: Errors) -> Iterator[None]:
        """Round a call of the chief's: all others are told to make the same.

        Args:
            numbers: what it is of.
            alike: the errors that come at all of them.

        Raises:
            StopAsked: a worker was sent a signal; nothing was run.
            WorkerLost: one has ended.
        """
        with self._lock, self._explained():
            self.check()
            if self.is_stale:
                self._sync()
            self._tell(RUN, *numbers)
            with self._leaving(alike):
                yield

    def announce(self, command: int, message: bytes) -> None:
        """Tells the others, at the chief, what they must know before any call; and the variables' values, once these are known.

        Raises:
            StopAsked, WorkerLost: as `call`.
        """
        with self._lock, self._explained():
            self.check()
            if self.variables is not None:
                self._sync()
            self._tell(command)
            self.collectives.broadcast(message, 0)

    def hear(self) -> Told:
        """Waits, at another worker, for what the chief says.

        Raises:
            WorkerLost: it has ended.
        """
        with self._explained():
            while True:
                command, signum, _, *numbers = self.collectives.exchange([0, self.signal()])
                if command == END or (command > WAIT and not signum):
                    return Told(command, numbers, signum)

    def share(self) -> None:
        """Takes, at another worker, the chief's values of the variables."""
        with self._explained():
            self._share()

    @contextmanager
    def answer(self, alike: Errors = ()) -> Iterator[None]:
        """Round what all do together, once they have heard of it: `alike` are the errors that come at all of them."""
        with self._explained(), self._leaving(alike):
            yield

    def agree(self, line: str | None) -> None:
        """Lets everybody know, in the middle of a call, what keeps one of them from making it.

        Raises:
            Refused: something does.
            StopAsked: one was sent a signal.
        """
        with self._explained():
            self._agree(line)

    def message(self) -> bytes:
        """What the chief announces."""
        with self._explained():
            return self.collectives.broadcast(None, 0)

    @contextmanager
    def _leaving(self, alike: Errors) -> Iterator[None]:
        try:
            yield
        except alike:
            raise
        except BaseException as error:
            if not is_collective(error):
                self.give_up(error)
            raise

    def _sync(self) -> None:
        self._tell(SYNC)
        self._share()
        self.is_stale = False

    def _share(self) -> None:
        assert self.variables is not None
        with self._leaving(()):  # for which one may have too little memory
            self.collectives.share(self.variables())

    def end(self, message: bytes) -> int:
        """Ends a fit, at the chief: all take the message, and its values of the variables, if these were known.

        Returns:
            The signal that one was sent since the last call, of which all know now; 0 for none.
        """
        self._is_over.set()
        if self.lost is not None:
            self._leave_fit()
            return 0
        with self._lock, self._explained():
            signum = self._exchange([END, self.signal(), 0, int(self.variables is not None)])[_SIGNAL]
            if self.variables is not None:
                self._share()
            self.collectives.broadcast(message, 0)
        self._leave_fit()
        if self._thread is not None:
            self._thread.join()
        return signum

    def take_end(self, has_variables: bool) -> bytes:
        """The same at the others, which returns the message."""
        with self._explained():
            if has_variables:
                self._share()
            message = self.collectives.broadcast(None, 0)
        self._leave_fit()
        return message

    def _leave_fit(self) -> None:
        self._is_in_fit, self.variables = False, None
        self._heed_silence(False)

    def _heed_silence(self, is_on: bool) -> None:
        if self._signs is not None:
            self._signs.heed_silence(is_on)

    @contextmanager
    def reading(self, may_last: bool = False) -> Iterator[None]:
        """Round the reading of data that others wait for: if they hang, a signal ends that, or else this worker is lost.

        Args:
            may_last: whether the others wait however long it takes, such as for all passes that were: then only a signal ends it.

        Raises:
            StopAsked: one was sent a signal.
            WorkerLost: this one, or another.
        """

        def signum() -> int:
            return self.signal() or self._heard

        is_over = lambda: self.lost is not None or signum() != 0  # noqa: E731
        with stoppable(is_over), nullcontext() if self._signs is None or may_last else self._signs.reading():
            try:
                yield
            except StopRequested:
                self.check()
                if signum():
                    raise StopAsked(signum()) from None
                raise

    def give_up(self, error: BaseException) -> None:
        """Lets the others know at once that this worker will not come to what they wait for."""
        if self.lost is None:
            text = " ".join(str(error).split())[:500]
            reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
            self.lost = WorkerLost(f"{self.cluster.name(self.cluster.rank)} has left the training: {reason}; {_AGAIN}")
            if self._signs is not None:
                self._signs.leave(reason)
            tensorflow_internals.abort_collectives(str(self.lost))

    def _lose(self, rank: int, why: str) -> None:
        """Ends what this process waits for, since a worker is lost; called in a thread."""
        if self._is_in_fit and self.lost is None:
            self.lost = WorkerLost(f"{self.cluster.name(rank)} was lost: it {why}; {_AGAIN}")
            tensorflow_internals.abort_collectives(str(self.lost))

    def _tell(self, command: int, *numbers: int, heeds: bool = True) -> None:
        signum = self._exchange([command, self.signal() if heeds else 0, 0, *numbers])[_SIGNAL]
        if signum and heeds:
            raise StopAsked(signum)

    def _exchange(self, numbers: Sequence[int]) -> list[int]:
        answer = self.collectives.exchange(numbers)
        if answer[_SIGNAL]:
            self._heard = answer[_SIGNAL]
            self.on_signal(answer[_SIGNAL])
        return answer

    def check(self) -> None:
        """Raises WorkerLost if a worker is lost."""
        if self.lost is not None:
            raise self.lost

    def _beat(self) -> None:
        """Signs of life, while the chief saves, validates, or is in somebody's hook."""
        while not self._is_over.wait(_BEAT):
            with self._lock:
                if self._is_over.is_set() or self.lost is not None:
                    return
                try:
                    with self._explained():
                        self._tell(WAIT, heeds=False)
                except WorkerLost:  # the next call says so; or, if there is none, whoever ends the fit
                    return

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Tells, in one line, what an error of a collective operation means."""
        try:
            yield
        except tf.errors.OpError as error:
            if not is_collective(error):
                raise
            until = time.monotonic() + self._seconds_to_learn_who
            while self.lost is None and self._signs is not None and time.monotonic() < until:
                time.sleep(0.05)
            if self.lost is None:
                self.lost = WorkerLost(self._line(error))
                tensorflow_internals.abort_collectives(str(self.lost))
            raise self.lost from error

    @property
    def _seconds_to_learn_who(self) -> float:
        return _SECONDS_TO_LEARN_WHO + (self._signs.seconds if self._signs is not None and not self._is_meeting else 0.0)

    def _line(self, error: tf.errors.OpError) -> str:
        cluster = self.cluster
        others = [rank for rank in range(cluster.size) if rank != cluster.rank]
        names = ", ".join(map(cluster.name, cluster.unreachable() or others))
        if self._is_meeting and isinstance(error, tf.errors.DeadlineExceededError):
            return f"{names} did not come to this fit within {_SECONDS_TO_MEET:g} s; {_AGAIN}"
        return f"{names} was lost; {_AGAIN}"


_links: dict[Cluster, Link] = {}


def link_of(cluster: Cluster, signs: Signs | None = None) -> Link:
    """The link of this process: one for all Trainers, since operations are counted."""
    if cluster not in _links:
        _links[cluster] = Link(cluster, signs)
    return _links[cluster]


def _none() -> int:
    return 0


def _nobody(signum: int) -> None:
    del signum
