"""One process of a run: started, watched while it trains, sent a signal when it is time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import mmap
import os
import re
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from trainlab.loop.loop import Loop
from trainlab.runs import evaluating

_PATIENCE = 600.0  # seconds that a process may take


class Gauge:
    """What a run is doing, told to the process that watches it, through memory that both have."""

    _FORMAT = "qq"

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, struct.calcsize(self._FORMAT))

    def _read(self) -> tuple[int, ...]:
        return struct.unpack_from(self._FORMAT, self._memory)

    def _write(self, updates: int, is_evaluating: bool) -> None:
        struct.pack_into(self._FORMAT, self._memory, 0, updates, is_evaluating)

    @property
    def updates(self) -> int:
        """How many were made so far, by this process."""
        return self._read()[0]

    @property
    def is_evaluating(self) -> bool:
        """Whether a data set is being evaluated."""
        return bool(self._read()[1])

    def attach(self) -> None:
        """Follows this process from now on."""
        run = Loop.run

        def counted(*args: Any, **kwargs: Any) -> int:
            updates = run(*args, **kwargs)
            self._write(self.updates + updates, False)
            return updates

        def shown(evaluate: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(evaluate)
            def evaluated(*args: Any, **kwargs: Any) -> Any:
                self._write(self.updates, True)
                try:
                    return evaluate(*args, **kwargs)
                finally:
                    self._write(self.updates, False)

            return evaluated

        Loop.run = counted  # type: ignore[method-assign]
        evaluating.evaluate = shown(evaluating.evaluate)  # what is compiled, in training and after it
        keras.Model.evaluate = shown(keras.Model.evaluate)  # what is not


@dataclasses.dataclass
class Attempt:
    """One process of a run.

    Attributes:
        process: its number, and that of its group.
        resumed_at: the update that it said it went on from; None if it said it began, -1 if it said nothing.
        newest: the update of the newest checkpoint when it started.
        status: its exit status; None if it was killed, or took longer than it may.
        was_stopped: whether it was sent a signal.
        updates: how many it made.
        lost: updates it had made beyond the newest checkpoint when it ended.
        log: all that it said.
    """

    process: int
    resumed_at: int | None
    newest: int | None
    status: int | None
    was_stopped: bool
    updates: int
    lost: int
    log: str

    def is_group_gone(self, seconds: float) -> bool:
        """Whether the processes that it has left behind end within so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                os.killpg(self.process, 0)
            except ProcessLookupError:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)

    def end_group(self) -> None:
        """Ends them."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)


def start(
    directory: Path, train: Callable[[], int], is_due: Callable[[Gauge], bool] | None, signum: int = signal.SIGKILL
) -> Attempt:
    """Trains in a process of its own, until it ends or is sent a signal because it is time.

    Args:
        directory: of the run.
        train: trains there, and returns the status.
        is_due: tells from what the run is doing when it is time; None for never.
        signum: what it is sent.
    """
    newest = newest_update(directory)
    log = directory.with_suffix(".log")
    gauge = Gauge()
    process = os.fork()  # TensorFlow is imported, and nothing more: a new process for less than its start costs
    if process == 0:
        _train_and_exit(log, gauge, train)
    try:
        was_stopped, status = _watch(process, gauge, is_due, signum)
    except BaseException:  # Ctrl-C: it is in another group than this process, and would not hear of it
        os.killpg(process, signal.SIGKILL)
        raise
    said = log.read_text(errors="replace")
    where = re.search(r"^run .*: (begun|(?:resumed|finished) at update ([\d,]+))", said, re.MULTILINE)
    resumed_at = -1 if where is None else int(where[2].replace(",", "")) if where[2] else None
    code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    was_stopped = was_stopped and code != 0  # it may have come too late
    lost = max((newest or 0) + gauge.updates - (newest_update(directory) or 0), 0)
    return Attempt(process, resumed_at, newest, code, was_stopped, gauge.updates, lost, said)


def _watch(process: int, gauge: Gauge, is_due: Callable[[Gauge], bool] | None, signum: int) -> tuple[bool, int]:
    """Waits until it ends; returns whether it was sent a signal because it was time, and the status of `os.waitpid`."""
    begun, was_stopped = time.monotonic(), False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return was_stopped, status
        if is_due is not None and not was_stopped and is_due(gauge):
            os.kill(process, signum)
            was_stopped = True
        if time.monotonic() - begun > _PATIENCE:
            os.kill(process, signal.SIGKILL)
            was_stopped = False
        time.sleep(0.002)


def _train_and_exit(log: Path, gauge: Gauge, train: Callable[[], int]) -> None:
    """What the new process does."""
    status = 1
    try:
        with contextlib.suppress(OSError):  # so that what it leaves behind can be found
            os.setpgid(0, 0)
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        gauge.attach()
        status = train()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            print(end="", flush=True)
        os._exit(status)


def newest_update(directory: Path) -> int | None:
    """The update of the newest checkpoint."""
    folder = directory / "checkpoints"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return int(names[-1].rpartition("-")[2]) if names else None
