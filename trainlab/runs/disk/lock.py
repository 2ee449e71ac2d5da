"""One writer for a run's directory: a lock that dies with its holder."""

from __future__ import annotations

import datetime
import errno
import json
import os
import socket
from contextlib import suppress
from pathlib import Path

_FOREIGN = "was not made by a run: move it away, or give another directory"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class InUse(OSError):
    """Another process, or another Trainer of this one, writes there."""


class Lock:
    """An exclusive lock on a file; its holder, host, process and start, can be read there.

    Args:
        path: of the file; it stays.

    Attributes:
        is_known: whether it is a run's, whatever it holds: a disk may have damaged it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "lock"
        >>> with Lock(path):
        ...     Lock(path).__enter__()  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        ...
        trainlab.runs.disk.lock.InUse: ...
    """

    def __init__(self, path: Path):
        self._path = path
        self.is_known = False
        self._descriptor: int | None = None

    def __enter__(self) -> Lock:
        """Takes it.

        Raises:
            InUse: somebody has it; the line says who.
            FileExistsError: there is something of this name that no lock has made; it is left alone.
            OSError: the file cannot be made, or the file system has no locks.
        """
        import fcntl  # only where a run has a directory: Windows has no such module

        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.is_known and not _is_ours(os.pread(descriptor, 1000, 0)):
                raise FileExistsError(f"{self._path}: {_FOREIGN}")
        except BlockingIOError:
            holder = _holder(os.pread(descriptor, 1000, 0))
            os.close(descriptor)
            raise InUse(
                f"{self._path.parent}: another run is writing there ({holder}): wait for it, or give another directory"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            raise OSError(
                f"{self._path.parent}: its file system has no locks (flock: {error.strerror}), so that two runs could write into "
                "each other's: give a directory on another"
            ) from None
        self._descriptor = descriptor
        if not self.is_held:
            self._forget()  # its last holder has removed it since it was opened
            return self.__enter__()
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        with suppress(OSError):  # on a full disk the lock holds all the same
            os.ftruncate(descriptor, 0)
            os.write(descriptor, (json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": now}) + "\n").encode())
        os.register_at_fork(after_in_child=self._forget)  # a worker that outlives this process must not hold it
        return self

    @property
    def is_held(self) -> bool:
        """Whether this object has the lock, and the file is still there for others to see."""
        if self._descriptor is None:
            return False
        try:
            there = os.stat(self._path, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def check(self, name: object) -> None:
        """Makes sure that it is held still.

        Args:
            name: of the directory, as its owner has given it.

        Raises:
            OSError: it is not.
        """
        if not self.is_held:
            raise OSError(
                f"{name}: was removed, or its lock was, while this run was writing there: another run may have it "
                "now, and nothing more is written"
            )

    def _open(self) -> int:
        try:
            # Not through a link: what it leads to is somebody's, and would be overwritten.
            return os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise FileExistsError(f"{self._path}: {_FOREIGN}") from None
            raise

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __exit__(self, *error: object) -> None:
        """Lets it go."""
        self._forget()


def _is_ours(text: bytes) -> bool:
    """Whether a lock has written this; one that could not write, on a full disk, leaves nothing."""
    if not text.strip(b"\0 \r\n"):
        return True
    try:
        return set(json.loads(text)) == {"host", "pid", "start"}
    except (ValueError, TypeError):
        return False


def _holder(text: bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}, since {holder['start']}"
    except (ValueError, KeyError, TypeError):  # it has only just begun to write
        return "process unknown"
