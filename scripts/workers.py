"""Starts a program as N workers on this machine, as a cluster's launcher does on N machines: it only sets TF_CONFIG.

    python scripts/workers.py 2 -- python my_training.py

The first worker's output comes as it is, that of the others behind "worker 1: " and so on. A signal that is sent here is sent to
all. The status is that of the first worker that failed; 0 if none did.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any


def configs(number: int, host: str = "localhost") -> list[str]:
    """TF_CONFIG of each of so many workers on this machine, on ports that are free now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("", 0))
        addresses = [f"{host}:{each.getsockname()[1]}" for each in sockets]
    cluster = {"worker": addresses}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}}) for rank in range(number)]


def start(number: int, command: Sequence[str], **settings: Any) -> list[subprocess.Popen[str]]:
    """Starts the command as so many workers; `settings` are those of `subprocess.Popen`, such as `stdout`.

    Raises:
        OSError: it cannot be started; none is left.
    """
    environment = settings.pop("env", os.environ)
    processes: list[subprocess.Popen[str]] = []
    try:
        for config in configs(number):
            processes.append(subprocess.Popen(list(command), env={**environment, "TF_CONFIG": config}, text=True, **settings))
    except OSError:
        for process in processes:
            process.kill()
        raise
    return processes


def _copy(lines: IO[bytes], rank: int, to: IO[bytes]) -> None:
    """Copies lines, whatever bytes they are, to the end: where nobody reads on, to nowhere, lest the worker wait for ever."""
    prefix = b"" if rank == 0 else f"worker {rank}: ".encode()
    for line in lines:
        try:
            to.write(prefix + line)
            to.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, to.fileno())
            os.close(nowhere)


def main(arguments: Sequence[str] | None = None) -> int:
    """Starts the workers, waits for all of them, and returns the status."""
    parser = argparse.ArgumentParser(description="Starts a program as N workers on this machine.")
    parser.add_argument("number", type=int, help="how many workers, at least 1")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the program with its arguments")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if given.number < 1 or not command:
        parser.error("give a number of workers of at least 1 and a command: scripts/workers.py 2 -- python my_training.py")
    try:
        processes = start(given.number, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError as error:
        parser.error(f"{command[0]!r} cannot be started: {error.strerror}")

    def forward(signum: int, frame: Any) -> None:
        del frame
        for process in processes:
            if process.poll() is None:
                process.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, forward)
    threads = []
    for rank, process in enumerate(processes):
        for source, to in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
            assert isinstance(source, io.TextIOWrapper)
            threads.append(threading.Thread(target=_copy, args=(source.buffer, rank, to.buffer), daemon=True))
            threads[-1].start()
    statuses = [process.wait() for process in processes]
    for thread in threads:
        thread.join(5.0)
    failed = next((status for status in statuses if status), 0)
    return failed if failed >= 0 else 128 - failed


if __name__ == "__main__":
    sys.exit(main())
