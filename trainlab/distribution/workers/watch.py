"""Watches over a process while it is in what holds Python's lock: who of the others has ended is said, and ends it.

`tf.distribute.MultiWorkerMirroredStrategy()` waits for all workers, in C++, without a limit (that of the coordination service's
registration does nothing) and without letting go of Python's lock; SIGTERM is only taken note of. So only another process can
look after it: a small one, of this file run by itself, which shares the connections to the others and imports nothing of ours.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

_LOOK = 0.2  # seconds between two looks
_GRACE = 5.0  # who has joined and ended at once has let this one join too, which may take a moment
_AGAIN = "start all of them again"


@contextmanager
def watched(connections: Mapping[int, socket.socket], names: Mapping[int, str], seconds: float) -> Iterator[None]:
    """While open, this process is ended, by SIGKILL after a line, if another has ended, or after so many seconds.

    Args:
        connections: to others, by number; the chief's tell the others who has ended.
        names: of all workers, by number.
        seconds: how long it may take.
    """
    numbers = [f"{rank}:{connection.fileno()}" for rank, connection in connections.items()]
    called = [f"{rank}:{name}" for rank, name in names.items()]
    command = [sys.executable or "python3", "-I", "-S", __file__, str(os.getpid()), str(seconds), *numbers, "--", *called]
    watcher = None
    with suppress(OSError):  # no process can be started: nobody watches
        watcher = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # closed when this is over, or its process is
            pass_fds=[connection.fileno() for connection in connections.values()],
            start_new_session=True,  # Ctrl-C is not for it
        )
    try:
        yield
    finally:
        if watcher is not None and watcher.stdin is not None:
            watcher.stdin.close()
            watcher.wait()


def _watch(process: int, seconds: float, connections: Mapping[int, socket.socket], names: Mapping[int, str]) -> None:
    until = time.monotonic() + seconds
    ended_at: dict[int, float] = {}
    while not select.select([sys.stdin], [], [], _LOOK)[0]:
        now = time.monotonic()
        for rank in silenced(connections):
            ended_at.setdefault(rank, now)
        lost = _told(connections) or [rank for rank, at in ended_at.items() if now - at > _GRACE]
        if not lost and now < until:
            continue
        for connection in connections.values():
            with suppress(OSError):
                connection.send("".join(f"lost {rank} has ended\n" for rank in lost).encode(), socket.MSG_DONTWAIT)
        if os.getppid() == process:  # it has not ended meanwhile
            others = ", ".join(names[rank] for rank in connections)
            late = f"all workers have started, and not joined within {seconds:g} s: {others} may hang; {_AGAIN}"
            print(line_of([names[rank] for rank in lost]) if lost else late, file=sys.stderr, flush=True)
            os.kill(process, signal.SIGKILL)
        return


def line_of(names: Sequence[str]) -> str:
    """What is said of workers that have ended before all had joined."""
    return f"{', '.join(names)} ended while the workers joined; {_AGAIN}"


def lost_of(connections: Mapping[int, socket.socket], seconds: float = 0.0) -> list[int]:
    """Who has ended, by what the chief says or by their connections; waits so long until that is known."""
    until = time.monotonic() + seconds
    while not (lost := _told(connections) or silenced(connections)) and time.monotonic() < until:
        time.sleep(0.05)
    return lost


def _told(connections: Mapping[int, socket.socket]) -> list[int]:
    """Who has ended, by what the chief says."""
    words = [line.split() for each in connections.values() for line in (_peeked(each) or b"").split(b"\n")[:-1]]
    return [int(word[1]) for word in words if word[:1] == [b"lost"] and len(word) > 1 and word[1].isdigit()]


def silenced(connections: Mapping[int, socket.socket]) -> list[int]:
    """Whose processes have ended; what they have sent is left to be read.

    Args:
        connections: by number, without a timeout, which would be waited for.
    """
    return [rank for rank, connection in connections.items() if _peeked(connection) == b""]


def _peeked(connection: socket.socket) -> bytes | None:
    """What could be read, without reading it; None for nothing yet, empty where nothing will come."""
    try:
        return connection.recv(2**16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


if __name__ == "__main__":
    at = sys.argv.index("--")
    given = [each.split(":", 1) for each in sys.argv[3:at]]
    called = [each.split(":", 1) for each in sys.argv[at + 1 :]]
    _watch(
        int(sys.argv[1]),
        float(sys.argv[2]),
        {int(rank): socket.socket(fileno=int(number)) for rank, number in given},
        {int(rank): name for rank, name in called},
    )
