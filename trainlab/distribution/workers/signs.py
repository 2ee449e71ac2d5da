"""Signs of life: each worker and the chief hear of one another, whatever their main threads are in.

TensorFlow notices at once that a process has ended, and never that one hangs. A time limit of its own for each operation costs a
thread each, which sleeps as long.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

_BEAT = 0.5  # seconds between two signs


class Signs:
    """Sends signs of life over connections, and listens for those of the others.

    The chief is connected to every other worker, and these to the chief, which hands on who is lost.

    Args:
        rank: this process' number.
        connections: to whom, by number; open.
        seconds: so long a worker may say nothing in a fit, or wait for its own data while others wait for it.

    Attributes:
        seconds: the same.
        lost: who is lost, and why, in words.
        on_lost: called, in a thread, with both when one is.
    """

    def __init__(self, rank: int, connections: Mapping[int, socket.socket], seconds: float):
        self.lost: dict[int, str] = {}
        self.on_lost: Callable[[int, str], None] = _nobody
        self._rank, self._connections, self.seconds = rank, dict(connections), seconds
        self._heard = dict.fromkeys(connections, time.monotonic())
        self._former: list[socket.socket] = []
        self._pending = dict.fromkeys(connections, b"")
        self._busy_since: float | None = None
        self._heeds_silence = False
        self._is_over = False
        self._lock = threading.Lock()
        for connection in self._connections.values():
            connection.setblocking(False)
        _all.add(self)
        self._thread = threading.Thread(target=self._run, daemon=True, name="trainlab signs")
        self._thread.start()

    def heed_silence(self, is_on: bool) -> None:
        """Whether whoever says nothing is lost, counted from now: in a fit that all have come to. Before, nobody waits for it."""
        self._heard = dict.fromkeys(self._heard, time.monotonic())
        self._heeds_silence = is_on

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While open, this worker reads its data, which may hang, and others may wait for it."""
        self._busy_since = time.monotonic()
        try:
            yield
        finally:
            self._busy_since = None

    def leave(self, reason: str) -> None:
        """Tells the others that this worker has left a call."""
        self._send_all(f"left {' '.join(reason.split())}")

    def let_go(self) -> None:
        """In a process that was forked: the connections are not its own."""
        self._is_over = True
        for connection in (*self._connections.values(), *self._former):
            connection.close()

    def _run(self) -> None:
        next_beat = 0.0
        while not self._is_over and self._connections:
            now = time.monotonic()
            if now >= next_beat:  # and not whenever another's has come, which would be answered at once, and so on
                busy = 0.0 if (since := self._busy_since) is None else now - since
                self._send_all(f"beat {busy:.1f}")
                next_beat = now + _BEAT
            self._listen(max(next_beat - time.monotonic(), 0.0))

    def _listen(self, seconds: float) -> None:
        ranks = {connection.fileno(): rank for rank, connection in self._connections.items()}
        poll = select.poll()
        for descriptor in ranks:
            if descriptor >= 0:  # not closed meanwhile
                poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(1000 * seconds):
            if self._is_over:
                return
            self._receive(ranks[descriptor])
        for rank in list(self._connections):
            silent = time.monotonic() - self._heard[rank]
            if self._heeds_silence and silent > self.seconds:
                self._lose(rank, f"has given no sign of life for {silent:.0f} s")

    def _receive(self, rank: int) -> None:
        try:
            received = self._connections[rank].recv(2**16)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._lose(rank, "has ended")
            return
        self._heard[rank] = time.monotonic()
        *lines, self._pending[rank] = (self._pending[rank] + received).split(b"\n")
        for line in lines:
            self._take(rank, line.decode(errors="replace"))

    def _take(self, rank: int, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "beat" and float(rest) > self.seconds:
            self._lose(rank, f"has waited for its data for {float(rest):.0f} s")
        elif word == "left":
            self._lose(rank, f"has left the training: {rest}")
        elif word == "lost":
            other, _, why = rest.partition(" ")
            self._lose(int(other), why)

    def _lose(self, rank: int, why: str) -> None:
        """Takes a worker for lost, perhaps this one itself, and says so to all."""
        if self._is_over:  # the connections have been let go, and say so
            return
        is_new = rank not in self.lost
        if is_new:
            self.lost[rank] = why
            self._send_all(f"lost {rank} {why}")
        if connection := self._connections.pop(rank, None):
            self._former.append(connection)  # to close it now could cost what was said last
        if is_new:
            self.on_lost(rank, why)

    def _send_all(self, line: str) -> None:
        with self._lock:
            for connection in list(self._connections.values()):
                with suppress(OSError):  # full, or gone: which the other end shows
                    connection.send(f"{line}\n".encode())


_all: weakref.WeakSet[Signs] = weakref.WeakSet()


def _nobody(rank: int, why: str) -> None:
    del rank, why


def _let_go() -> None:
    for signs in list(_all):
        signs.let_go()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
