"""Checkpoints on disk: whole or not there, verified before they are used, the last few kept.

A checkpoint is a directory, `00000012-step-3400`, of

    tensors.*     arrays by name, as `tf.train.Checkpoint` writes them
    iterators.*   where `tf.data` iterators stood, if any did
    state.json    everything else
    SHA256SUMS    of all of these; `sha256sum -c` reads it

It is written under another name, brought to the disk, and renamed: what has this name is whole. Nothing in it is code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

_NAME = re.compile(r"(\d{8,})-step-(\d+)")
_SUMS = "SHA256SUMS"


class Damaged(ValueError):
    """A checkpoint is not what was written; the line says how."""


class Loaded(NamedTuple):
    """A checkpoint that was read and verified.

    Attributes:
        path: its directory.
        arrays: by name.
        state: what JSON held.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]

    def iterators(self) -> dict[str, tf.Tensor]:
        """The serialized `tf.data` iterators, by name."""
        names = self.state["iterators"]
        if not names:
            return {}
        dtypes, slices = [tf.variant] * len(names), [""] * len(names)
        prefix = str(self.path / "iterators")
        values = tf.raw_ops.RestoreV2(prefix=prefix, tensor_names=names, shape_and_slices=slices, dtypes=dtypes)
        return dict(zip(names, values, strict=True))


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: made with the first one.
        keep: how many of the last are kept; the best, and the one of a finished run, come on top.

    Example:
        >>> import tempfile
        >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()), keep=2)
        >>> for step in (10, 20, 30):
        ...     checkpoints.save(step, {"w": np.full(2, step)}, {"epoch": step / 10})
        >>> checkpoints.wait()
        >>> [path.name for path in checkpoints.paths()]
        ['00000003-step-30', '00000002-step-20']
        >>> next(checkpoints.readable()).arrays
        {'w': array([30, 30])}
    """

    def __init__(self, directory: Path, keep: int = 3):
        self._directory = directory
        self._keep = keep
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._published: Path | None = None

    @property
    def directory(self) -> Path:
        """Where they are."""
        return self._directory

    @property
    def _removed(self) -> Path:
        return self._directory.with_name(f".removing-{self._directory.name}")

    @property
    def is_busy(self) -> bool:
        """Whether one is being written."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def last(self) -> Path | None:
        """The last one that is whole: written by this object, or else found."""
        return self._published or next(iter(self.paths()), None)

    def paths(self) -> list[Path]:
        """Those there are, the newest first; whether they can be read is another matter."""
        if not self._directory.is_dir():
            return []
        found = [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_serial, reverse=True)

    def readable(self, on_damage: Callable[[Path, str], None] = lambda path, reason: None) -> Iterator[Loaded]:
        """Those that verify, the newest first, read whole.

        Args:
            on_damage: told of each that does not, and why.
        """
        for path in self.paths():
            try:
                yield read(path)
            except Damaged as error:
                on_damage(path, str(error))

    def tidy(self) -> None:
        """Removes what a killed run left half written or half removed."""
        shutil.rmtree(self._removed, ignore_errors=True)
        if self._directory.is_dir():
            for path in self._directory.iterdir():
                if path.name.startswith((".writing-", ".removing-")):
                    shutil.rmtree(path, ignore_errors=True)

    def clear(self) -> None:
        """Removes them all."""
        self.wait()
        if self._directory.exists():
            os.rename(self._directory, self._removed)  # in one stroke: half of them would be another run
        self.tidy()
        self._published = None

    def save(
        self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any], iterators: Mapping[str, tf.Tensor] | None = None
    ) -> None:
        """Writes one, in a thread.

        Args:
            step: for its name.
            tensors: by name; they must not change any more.
            state: for JSON. Of its entries `"metric"` (a number, less is better) says which is the best of all, and
              `"finished"` that a run ended there.
            iterators: `tf.data` iterators as `tf.raw_ops.SerializeIterator` makes them variants, by name.

        Raises:
            OSError: the last one could not be written.
        """
        self.wait()
        serial = _serial(paths[0]) + 1 if (paths := self.paths()) else 1
        name = f"{serial:08d}-step-{step}"
        folder = self._directory / f".writing-{name}"

        def write() -> None:
            try:
                folder.mkdir(parents=True)
                _write(folder, tensors, state, iterators or {})
                os.rename(folder, self._directory / name)
                _sync(self._directory)
                self._published = self._directory / name
                self._prune()
            except BaseException as error:
                self._problem = error
                shutil.rmtree(folder, ignore_errors=True)

        self._thread = threading.Thread(target=write, name="trainlab checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the one being written.

        Raises:
            OSError: it could not be, in one line; those before it are as they were.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raises what went wrong with the last one, once, as `wait` does; waits for nothing."""
        problem, self._problem = self._problem, None
        if problem is None:
            return
        kept = f"the last good one is {self.last}" if self.last else "there is none before it"
        reason = _reason(problem)
        raise OSError(f"{self._directory}: a checkpoint could not be written ({reason}); {kept}") from problem

    def _prune(self) -> None:
        paths = self.paths()
        states = {path: _peek(path) for path in paths}
        metrics = {path: state["metric"] for path, state in states.items() if state.get("metric") is not None}
        kept = [path for path in paths if not states[path].get("finished")][: self._keep]
        kept += [path for path in paths if states[path].get("finished")][:1]
        if metrics:
            kept.append(min(metrics, key=lambda path: metrics[path]))
        for path in paths:
            if path not in kept:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        hidden = path.with_name(f".removing-{path.name}")  # in one stroke: half of one would look damaged
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def read(path: Path) -> Loaded:
    """Reads a checkpoint, every byte verified.

    Raises:
        Damaged: it is not what was written.
    """
    try:
        text = (path / _SUMS).read_bytes().decode("utf-8", errors="replace")
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in text.split("\n")[:-1])}
        if set(sums) != {file.name for file in path.iterdir()} - {_SUMS} or "state.json" not in sums:
            raise Damaged(f"files are missing, or do not belong there: {_SUMS} names others")
        if text != _sums(sums):
            raise Damaged(f"{_SUMS} has changed since it was written")
        for name, digest in sums.items():
            if _digest(path / name) != digest:
                raise Damaged(f"{name} has changed since it was written")
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        reader = tf.train.load_checkpoint(str(path / "tensors"))
        return Loaded(path, {name: reader.get_tensor(_key(name)) for name in state["tensors"]}, state)
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, tf.errors.OpError) as error:
        raise Damaged(f"{type(error).__name__}: {_first_line(error)}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name, brings it to the disk, and renames it: nobody ever finds half of it.

    Args:
        path: of the file.
        write: writes it where it is told.
    """
    aside = path.with_name(f".writing-{path.name}")  # the suffix stays: Keras wants `.keras`
    try:
        write(aside)
        _sync(aside)
        os.replace(aside, path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _write(folder: Path, tensors: Mapping[str, Any], state: Mapping[str, Any], iterators: Mapping[str, tf.Tensor]) -> None:
    with tf.device("CPU:0"):
        variables = {name: tf.Variable(value, trainable=False) for name, value in tensors.items()}
    tf.train.Checkpoint(tensors=variables).write(str(folder / "tensors"))
    if iterators:
        names, values = list(iterators), list(iterators.values())
        prefix = str(folder / "iterators")
        tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
    text = json.dumps({**state, "tensors": list(tensors), "iterators": list(iterators)}, indent=1)
    (folder / "state.json").write_text(text + "\n", encoding="utf-8")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    (folder / _SUMS).write_bytes(_sums({file.name: _digest(file) for file in files}).encode())
    for file in [*files, folder / _SUMS, folder]:
        _sync(file)


def _sums(digests: Mapping[str, str]) -> str:
    """What `sha256sum -c` reads: the digest of each file by its name."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _key(name: str) -> str:
    """What `tf.train.Checkpoint(tensors={name: ...})` calls it in its files."""
    return f"tensors/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _serial(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _peek(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without verifying it; nothing if it cannot be read."""
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _reason(problem: BaseException) -> str:
    is_full = getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(problem)
    return "the disk is full: make room, then start again" if is_full else f"{type(problem).__name__}: {_first_line(problem)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
