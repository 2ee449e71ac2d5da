"""One writer for a run's directory: a lock that dies with its holder."""

from __future__ import annotations

import datetime
import json
import os
import socket
from contextlib import suppress
from pathlib import Path


class InUse(OSError):
    """Another process, or another Trainer of this one, writes there."""


class Lock:
    """An exclusive lock on a file; its holder, host, process and start, can be read there.

    Args:
        path: of the file; it stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> with Lock(path):
        ...     Lock(path).__enter__()  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        trainlab.runs.lock.InUse: ...
    """

    def __init__(self, path: Path):
        self._path = path
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        """Takes it.

        Raises:
            InUse: somebody has it; the line says who.
            OSError: the file cannot be made.
        """
        import fcntl  # only where a run has a directory: Windows has no such module

        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(os.read(descriptor, 1000))
            os.close(descriptor)
            raise InUse(
                f"{self._path.parent}: another run is writing there ({holder}): wait for it, or give another directory"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        if not self._path.exists() or os.stat(self._path).st_ino != os.fstat(descriptor).st_ino:
            os.close(descriptor)  # its last holder has removed it since it was opened
            return self.__enter__()
        self._descriptor = descriptor
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.write(descriptor, (json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": now}) + "\n").encode())
        os.register_at_fork(after_in_child=self._forget)  # a worker that outlives this process must not hold it
        return self

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __exit__(self, *error: object) -> None:
        """Lets it go."""
        self._forget()


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}, since {holder['start']}"
    except (ValueError, KeyError, TypeError):  # it has only just begun to write
        return "process unknown"
