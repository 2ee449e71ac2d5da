"""The workers of a cluster: who they are by TF_CONFIG, and how a process joins them without waiting for ever."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import tensorflow as tf

from trainlab.distribution.workers.watch import line_of, lost_of, silenced, watched

_VARIABLE = "TF_CONFIG"
_RULE = (
    f"{_VARIABLE} must be JSON such as "
    '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, "task": {"type": "worker", "index": 0}}'
)
_LAST_PORT = 2**16 - 1
_GREETING = "trainlab"
_GO = "go\n"
_WAIT = "wait"
_DOUBLED = "doubled\n"
_PATIENCE = 10.0  # seconds that one has with the chief, beyond those that it waits: it says who is missing


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Workers, in order; the first is the chief, which writes the run, prints, and calls callbacks.

    Attributes:
        addresses: "host:port" of each worker.
        rank: the number of this process, from 0.
    """

    addresses: tuple[str, ...]
    rank: int

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the first."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """A worker, in words."""
        return f"worker {rank} ({self.addresses[rank]})"

    def unreachable(self) -> list[int]:
        """The other workers whose address nobody answers at: their processes have ended."""
        return [rank for rank in range(self.size) if rank != self.rank and not _answers(self.addresses[rank])]


def cluster_of(config: str | None) -> Cluster | None:
    """The cluster that TF_CONFIG describes; None without one, or of a single worker.

    Raises:
        ValueError: it cannot be read, or describes something else; one line.

    Example:
        >>> cluster_of('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
        Cluster(addresses=('a:1', 'b:1'), rank=1)
    """
    described = described_by(config)
    return None if described is None or described.size == 1 else described


def described_by(config: str | None) -> Cluster | None:
    """The same, with those of a single worker, as a launcher describes them that was asked for one.

    Raises:
        ValueError: as there.
    """
    if not config:
        return None
    try:
        given = json.loads(config)
        jobs = {job: list(addresses) for job, addresses in dict(given.get("cluster") or {}).items()}
        task = dict(given.get("task") or {})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{_RULE}; it cannot be read: {error}") from None
    if not jobs:
        return None
    if others := set(jobs) - {"chief", "worker"}:
        raise ValueError(f"{_RULE}; a cluster has jobs of the names worker and chief, not {', '.join(sorted(others))}")
    return _placed(jobs, task)


def _placed(jobs: Mapping[str, list[Any]], task: Mapping[str, Any]) -> Cluster:
    addresses = tuple(str(address) for job in ("chief", "worker") for address in jobs.get(job, []))
    job, index = task.get("type"), task.get("index")
    there = len(jobs.get(job, [])) if isinstance(job, str) else 0
    if not isinstance(job, str) or isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < there:
        raise ValueError(f"{_RULE}; its task is {dict(task)}, which is none of the {len(addresses)} of the cluster")
    if len(set(addresses)) < len(addresses):
        raise ValueError(f"{_RULE}; two workers have one address: {', '.join(addresses)}")
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not (host and port.isdecimal() and 1 <= int(port) <= _LAST_PORT):
            raise ValueError(f"{_RULE}; {address!r} is no host:port, the port from 1 to {_LAST_PORT}")
    rank = index + (len(jobs.get("chief", [])) if job == "worker" else 0)
    return Cluster(addresses, rank)


def join(cluster: Cluster, seconds: float) -> tuple[tf.distribute.MultiWorkerMirroredStrategy, dict[int, socket.socket]]:
    """Joins the workers of a cluster; see `join_workers`.

    Returns:
        The strategy; and connections by rank, of the chief to all others, of these to the chief.

    Raises:
        ConnectionError, OSError, TimeoutError: as there.
    """
    until = time.monotonic() + seconds
    connections = (_gather if cluster.is_chief else _report)(cluster, until)
    names = {rank: cluster.name(rank) for rank in range(cluster.size)}
    try:
        with watched(connections, names, max(seconds, 30.0)):  # all are there by now: a bound for the worst
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:  # at the others, if the chief ends
        if lost := lost_of(connections, seconds=2.0):  # its own watcher may hold the connection a moment longer
            raise ConnectionError(line_of([names[rank] for rank in lost])) from error
        raise
    finally:
        heed_signals()
    return strategy, connections


def no_workers() -> ValueError:
    """What to raise where TF_CONFIG names no workers."""
    return ValueError(f"{_VARIABLE} names no workers to join. {_RULE}")


def heed_signals() -> None:
    """Puts back what SIGTERM did before TensorFlow put its own handler there, which only takes note of it."""
    with suppress(ValueError):  # not in the main thread
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)


def _gather(cluster: Cluster, until: float) -> dict[int, socket.socket]:
    """The chief waits for all others to report, and lets them go on."""
    found: dict[int, socket.socket] = {}
    with _listener(cluster) as listener:
        while len(found) < cluster.size - 1 and (left := until - time.monotonic()) > 0:
            listener.settimeout(min(left, 1.0))
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                rank = _greeted(connection)
                _forget_ended(found)  # one that has ended since may have been started again
                if rank is not None and rank not in found and 0 < rank < cluster.size:
                    connection.settimeout(None)
                    found[rank] = connection
                    with suppress(OSError):  # it may have come late, and would else not wait as long
                        connection.sendall(f"{_WAIT} {max(until - time.monotonic(), 0):.1f}\n".encode())
                    continue
                with connection, suppress(OSError):
                    connection.sendall(_DOUBLED.encode() if rank in found or rank == 0 else b"")
        _forget_ended(found)
    missing = [rank for rank in range(1, cluster.size) if rank not in found]
    for connection in found.values():
        with suppress(OSError):
            connection.sendall((f"missing {' '.join(map(str, missing))}\n" if missing else _GO).encode())
    if missing:
        for connection in found.values():
            connection.close()
        raise _missing(cluster, missing)
    return found


def _listener(cluster: Cluster) -> socket.socket:
    """A socket at this worker's own port, for whichever kind of address the others reach it by.

    Raises:
        OSError: it cannot be had; one line.
    """
    port = int(cluster.addresses[cluster.rank].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, backlog=cluster.size, dualstack_ipv6=both
        )
    except OSError as error:
        raise OSError(
            f"{cluster.name(cluster.rank)}: this process cannot listen there ({os.strerror(error.errno or 0)}): give another port"
        ) from None


def _forget_ended(found: dict[int, socket.socket]) -> None:
    for rank in silenced(found):
        found.pop(rank).close()


def _greeted(connection: socket.socket) -> int | None:
    """The rank of a worker that has connected; None if it is none."""
    connection.settimeout(5.0)
    words = _line(connection).split()
    return int(words[1]) if words[:1] == [_GREETING] and len(words) == 2 and words[1].isdigit() else None


def _line(connection: socket.socket) -> str:
    """The next line, and nothing of what follows; empty where none comes."""
    line = b""
    with suppress(OSError):
        while not line.endswith(b"\n") and len(line) < 1000 and (byte := connection.recv(1)):
            line += byte
    return line.decode(errors="replace")


def _report(cluster: Cluster, until: float) -> dict[int, socket.socket]:
    """Another worker reports to the chief, and waits until all have."""
    _listener(cluster).close()  # TensorFlow is to listen there, and would not say in a line that it cannot
    host, _, port = cluster.addresses[0].rpartition(":")
    while True:
        words: list[str] = []
        with suppress(OSError):
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=5.0)
            connection.sendall(f"{_GREETING} {cluster.rank}\n".encode())
            connection.settimeout(max(until - time.monotonic(), 0) + _PATIENCE)
            while (words := _line(connection).split())[:1] == [_WAIT]:
                connection.settimeout(float(words[1]) + _PATIENCE)
            if words == _GO.split():
                connection.settimeout(None)
                return {0: connection}
            connection.close()
        if words[:1] == ["missing"]:
            raise _missing(cluster, [int(word) for word in words[1:]])
        if words == _DOUBLED.split():
            raise OSError(
                f"{cluster.name(cluster.rank)}: another process has joined as this worker already: "
                f"{_VARIABLE} must give each process an index of its own"
            )
        if time.monotonic() >= until:
            raise _missing(cluster, [0])
        time.sleep(0.1)


def _missing(cluster: Cluster, ranks: list[int]) -> TimeoutError:
    names = ", ".join(map(cluster.name, ranks))
    verb = "has" if len(ranks) == 1 else "have"
    return TimeoutError(
        f"{names} {verb} not started, or {verb} ended: start the same program for each of the {cluster.size} workers"
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            return True
    except OSError:
        return False
