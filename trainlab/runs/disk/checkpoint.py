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
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainlab.runs.disk.files import NoWay, free, remove_unfinished, sha256, sync, without_patterns, write_atomically

_NAME = re.compile(r"(\d{8,})-step-(\d+)")
_SUMS = "SHA256SUMS"
_STATE = "state.json"
# Of what is written here; of an older form everything can be read, and of a newer one nothing is touched.
FORMAT = 2
_ASIDE = re.compile(rf"\.(writing|removing)-{_NAME.pattern}")
_OVERWRITTEN = ".overwritten"
# The files of a checkpoint; what TensorFlow was writing when somebody killed it has another end.
_OWN = re.compile(r"(tensors|iterators)\.(index|data-\d{5}-of-\d{5})(\.tempstate\d+)?|state\.json|SHA256SUMS")


class Damaged(ValueError):
    """A checkpoint is not what was written; the line says how."""


class Newer(ValueError):
    """A checkpoint was written by a later version of trainlab, in a form that this one does not know."""


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
        with without_patterns(self.path) as place:
            where = str(place / "iterators")
            values = tf.raw_ops.RestoreV2(prefix=where, tensor_names=names, shape_and_slices=slices, dtypes=dtypes)
        return dict(zip(names, values, strict=True))


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: made with the first one.
        keep: how many of the last are kept; the best, and the one of a finished run, come on top.

    Attributes:
        run: names the run whose checkpoints are written, and removed when there are more of them: those of another one in the
          same directory, whose weights it began with, stay.
        on_written: called, in the thread that writes, after each one.

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
        self.run: str | None = None
        self.on_written: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._problem: BaseException | None = None
        self._published: Path | None = None

    @property
    def directory(self) -> Path:
        """Where they are."""
        return self._directory

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
        overwritten = self._overwritten()
        found = [path for path in self._directory.iterdir() if _NAME.fullmatch(path.name) and _is_checkpoint(path)]
        return sorted((path for path in found if path.name not in overwritten), key=_serial, reverse=True)

    def _overwritten(self) -> list[str]:
        """The names of those that were to be removed, all in one stroke, when somebody killed this."""
        try:
            return json.loads((self._directory / _OVERWRITTEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []

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

    def check(self) -> None:
        """Makes the directory, before anything is trained.

        Raises:
            OSError: it cannot be one, or TensorFlow cannot write to a path of this name.
        """
        try:
            str(self._directory.absolute()).encode("utf-8")
        except UnicodeEncodeError:
            raise OSError(f"{self._directory}: TensorFlow writes to paths in UTF-8 only: give another directory") from None
        if os.path.lexists(self._directory) and not self._directory.is_dir():
            what = "a link to nothing" if self._directory.is_symlink() else "a file"
            raise NotADirectoryError(f"{self._directory}: is {what}, and checkpoints go there: move it away")

    def tidy(self) -> None:
        """Removes what a killed run left half written, half removed or half overwritten; nobody else's files."""
        if self._directory.is_dir():
            for path in list(self._directory.iterdir()):
                if (aside := _ASIDE.fullmatch(path.name)) and not path.is_symlink():
                    _empty(path, path.with_name(path.name.removeprefix(f".{aside[1]}-")))
            for name in self._overwritten():
                self._remove(self._directory / name)
            (self._directory / _OVERWRITTEN).unlink(missing_ok=True)
            for file in (self._directory / _OVERWRITTEN, self._directory.with_name("best.json")):
                remove_unfinished(file)

    def clear(self) -> None:
        """Removes them all, and nothing else that is there."""
        self.wait()
        if paths := self.paths():
            # In one stroke: half of them would be another run.
            names = json.dumps([path.name for path in paths])
            write_atomically(self._directory / _OVERWRITTEN, lambda path: path.write_text(names, encoding="utf-8"))
        self.tidy()
        self._published = None

    def save(
        self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any], iterators: Mapping[str, tf.Tensor] | None = None
    ) -> None:
        """Writes one, in a thread.

        Args:
            step: for its name.
            tensors: by name; they must not change any more.
            state: for JSON. Of its entries `"metric"` (a number, less is better) says which is the best of all those whose
              `"metric_name"` and `"mode"` are the same, and `"finished"` that a run ended there.
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
                _write(folder, tensors, {**state, "run": self.run}, iterators or {})
                os.rename(folder, self._directory / name)
                sync(self._directory)
                self._published = self._directory / name
                self._prune()
                self.on_written()
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
        self.raise_problem()

    def raise_problem(self) -> None:
        """Raises what went wrong with the last one, once, as `wait` does; waits for nothing."""
        problem, self._problem = self._problem, None
        if problem is None:
            return
        kept = f"the last good one is {self.last}" if self.last else "there is none before it"
        reason = _reason(problem)
        raise OSError(f"{self._directory}: a checkpoint could not be written ({reason}); {kept}") from problem

    def _prune(self) -> None:
        states = {path: peek(path) for path in self.paths()}
        own = [path for path, state in states.items() if state.get("run") == self.run]
        kept = [path for path in own if not states[path].get("finished")][: self._keep]
        kept += [path for path in own if states[path].get("finished")][:1]
        kept += self._best(own, states)
        for path in own:
            if path not in kept:
                self._remove(path)

    @property
    def best(self) -> Path | None:
        """The best one of this run, or of the one that wrote the newest, by the metric of the newest that has one."""
        states = {path: peek(path) for path in self.paths()}
        run = self.run or next((state.get("run") for state in states.values()), None)
        return next(iter(self._best([path for path in states if states[path].get("run") == run], states)), None)

    @staticmethod
    def _best(paths: list[Path], states: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
        measured = [path for path in paths if isinstance(states[path].get("metric"), (int, float))]
        if not measured:
            return []
        scale = states[measured[0]].get("metric_name"), states[measured[0]].get("mode")
        return [min((p for p in measured if is_of_scale(states[p], *scale)), key=lambda p: states[p]["metric"])]

    def _remove(self, path: Path) -> None:
        if path.is_symlink():  # somebody moved it to another disk
            path.unlink()
            return
        hidden = path.with_name(f".removing-{path.name}")  # in one stroke: half of one would look damaged
        try:
            os.rename(path, hidden)
        except OSError:
            return
        _empty(hidden, path)


def read(path: Path) -> Loaded:
    """Reads a checkpoint, every byte verified.

    Raises:
        Damaged: it is not what was written.
        Newer, NoWay: it is of a later version; TensorFlow cannot be told where it is.
    """
    try:
        text = (path / _SUMS).read_bytes().decode("utf-8", errors="replace")
        sums = {name: digest for digest, _, name in (line.partition("  ") for line in text.split("\n")[:-1])}
        if set(sums) != {file.name for file in path.iterdir()} - {_SUMS} or _STATE not in sums:
            raise Damaged(f"files are missing, or do not belong there: {_SUMS} names others")
        if text != _sums(sums):
            raise Damaged(f"{_SUMS} has changed since it was written")
        for name, digest in sums.items():
            if sha256(path / name) != digest:
                raise Damaged(f"{name} has changed since it was written")
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        _check_state(path, state)
        return Loaded(path, _tensors(path, state["tensors"]) if state["tensors"] else {}, state)
    except (Damaged, Newer, NoWay):
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, tf.errors.OpError) as error:
        raise Damaged(f"{type(error).__name__}: {_first_line(error)}") from error


def _check_state(path: Path, state: Any) -> None:
    form = state.get("format", 1) if isinstance(state, dict) else None
    if isinstance(form, int) and form > FORMAT:
        raise Newer(
            f"{path}: was written by a later version of trainlab (its format is {form}, this version reads up to {FORMAT}): "
            "update trainlab, or give another directory"
        )
    names = [state.get(key) for key in ("tensors", "iterators")] if isinstance(form, int) else [None]
    if not all(isinstance(value, list) and all(isinstance(name, str) for name in value) for value in names):
        raise Damaged(f"{_STATE} is not what a checkpoint holds")


def _tensors(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    # By a reader that starts no device: who reads a checkpoint may want to fork.
    with without_patterns(path) as place:
        reader = tf.train.load_checkpoint(str(place / "tensors"))
        return {name: reader.get_tensor(_key(name)) for name in names}


def _write(folder: Path, tensors: Mapping[str, Any], state: Mapping[str, Any], iterators: Mapping[str, tf.Tensor]) -> None:
    with tf.device("CPU:0"):
        # No variables: these would be a copy of all of it.
        values = {name: tf.convert_to_tensor(value) for name, value in tensors.items()}
    for prefix, saved in (("tensors", {_key(name): value for name, value in values.items()}), ("iterators", iterators)):
        if saved:
            names, slices = list(saved), [""] * len(saved)
            path = str(folder / prefix)
            tf.raw_ops.SaveV2(prefix=path, tensor_names=names, shape_and_slices=slices, tensors=list(saved.values()))
    text = json.dumps({"format": FORMAT, **state, "tensors": list(values), "iterators": list(iterators)}, indent=1)
    (folder / _STATE).write_text(text + "\n", encoding="utf-8")
    files = sorted(file for file in folder.iterdir() if file.is_file())
    (folder / _SUMS).write_bytes(_sums({file.name: sha256(file) for file in files}).encode())
    for file in [*files, folder / _SUMS, folder]:
        sync(file)


def _sums(digests: Mapping[str, str]) -> str:
    """What `sha256sum -c` reads: the digest of each file by its name."""
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def _key(name: str) -> str:
    """What `tf.train.Checkpoint(tensors={name: ...})` calls it in its files."""
    return f"tensors/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def _serial(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def peek(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, without verifying it; nothing if it cannot be read."""
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) else {}


def is_of_scale(state: Mapping[str, Any], name: str | None, mode: str | None) -> bool:
    """Whether a checkpoint's metric can be compared with others: by the same name, and of both more, or less, is better."""
    return state.get("metric_name", name) == name and state.get("mode", mode) == mode


def _empty(hidden: Path, path: Path) -> None:
    """Removes what we have written into a directory that is no checkpoint any more, and that was one at a path.

    Where somebody keeps files of his own in it, it stays, under a name that nothing has.
    """
    with suppress(OSError):  # what cannot be removed now is seen to by the next `tidy`
        for file in list(hidden.iterdir()):
            if _OWN.fullmatch(file.name) and (file.is_symlink() or not file.is_dir()):
                file.unlink(missing_ok=True)
        if not any(hidden.iterdir()):
            hidden.rmdir()
            return
        os.rename(hidden, free(path.with_name(f"{path.name}.kept")))


def _is_checkpoint(path: Path) -> bool:
    """Whether this is a directory that we have written, as far as that can be told of one that may be damaged."""
    if not path.is_dir():
        return False
    files = list(path.iterdir())
    return not files or any(_OWN.fullmatch(file.name) for file in files)


def _reason(problem: BaseException) -> str:
    is_full = getattr(problem, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(problem)
    return "the disk is full: make room, then start again" if is_full else f"{type(problem).__name__}: {_first_line(problem)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
