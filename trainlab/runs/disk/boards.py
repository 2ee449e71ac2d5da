"""The event files of a `TensorBoard`, cut back to what they held when a checkpoint was written: every step is in them once.

Others may write into the same directory, another run of the same script among them: touched is what this board has written.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import keras

from trainlab.objective import keras_internals

_EVENTS = "events.out.tfevents."
_SUPERSEDED = "superseded."  # a name under which TensorBoard does not find it
_NAME = re.compile(re.escape(_EVENTS) + r"(\d+)\.(.+\.\d+)\.(\d+)\.v2")
# Below the board's directory, by the name of its writer: it writes nowhere else.
_FOLDERS = {"train": "train", "val": "validation"}
# On the board: the files that it has written, with their writers; and those of the processes that have gone before.
_WRITTEN, _KNOWN = "trainlab_files", "trainlab_files_before"
# And where its directory was when it was first seen, by the name: a callback may change the working directory.
_FOLDER = "trainlab_folder"
_STARTED = int(time.time())  # a container that is started again gives its processes the numbers that they had


class _File(NamedTuple):
    """What the name of an event file says: when, and by which process, it was begun, and as the how manieth of its writers."""

    time: int
    process: str
    number: int


def places(board: keras.callbacks.TensorBoard) -> dict[str, Any]:
    """How long the files of a board are now, and which process writes them.

    Returns:
        `process`; `sizes` by the path below the board's directory, of the files that the board has written, and of those that
        `go_back` or `know` was told of; and `last`, the highest number of a file of this process there, whoever has written it:
        None once the board is closed, which begins no later one.
    """
    folder = _folder(board)
    writers = keras_internals.flush_board(board, folder)
    mine = [path for path in _written(folder) if _is_mine(path)]
    found: dict[str, Any] = vars(board).setdefault(_WRITTEN, {})
    for name, writer in writers.items():
        here = [path for path in mine if path.parent.name == _FOLDERS.get(name)]
        if here and all(writer is not known for known in found.values()):  # its file is the newest: it has just been begun
            found[str(max(here, key=_number).relative_to(folder))] = writer
    names = [name for name in (*getattr(board, _KNOWN, ()), *found) if (folder / name).is_file()]
    sizes = {name: (folder / name).stat().st_size for name in dict.fromkeys(names)}
    is_over = bool(writers) and all(map(_is_closed, writers.values()))
    return {"process": _process(), "sizes": sizes, "last": None if is_over else max(map(_number, mine), default=-1)}


def know(board: keras.callbacks.TensorBoard, place: Mapping[str, Any]) -> None:
    """Tells a board which files are its own, from the processes before: what `places` returned there."""
    setattr(board, _KNOWN, list(place["sizes"]))


def go_back(board: keras.callbacks.TensorBoard, place: Mapping[str, Any], directory: Path) -> None:
    """Drops what was written after a checkpoint: it will be written again.

    Files that the interrupted process began after the checkpoint get a name under which TensorBoard does not find them; in the
    run's own directory those of other processes do too: they began there after the checkpoint, and were killed before the next.

    Args:
        board: which writes to files of its own again.
        place: what `places` returned.
        directory: of the run.
    """
    know(board, place)
    folder, sizes = _folder(board), place["sizes"]
    is_ours = folder.is_relative_to(directory)
    # Until 0.2 it was not noted: what its files say.
    last = place.get("last", max((_number(Path(name)) for name in sizes if _of(Path(name), place["process"])), default=-1))
    for name, size in sizes.items():
        with suppress(OSError):  # it is gone, or somebody else's
            if (folder / name).stat().st_size > size:
                os.truncate(folder / name, size)
    for path in _written(folder):
        is_later = last is not None and _of(path, place["process"]) and _number(path) > last
        if str(path.relative_to(folder)) not in sizes and not _is_mine(path) and (is_ours or is_later):
            with suppress(OSError):
                path.rename(path.with_name(path.name.replace(_EVENTS, _SUPERSEDED)))


def files(folder: Path) -> list[Path]:
    """The event files below the folder of a board, superseded ones too; it need not exist."""
    return [*folder.rglob(f"{_EVENTS}*"), *folder.rglob(f"{_SUPERSEDED}[0-9]*")] if folder.is_dir() else []


def clear(folder: Path, those: Iterable[Path] | None = None) -> None:
    """Removes the event files of a board, and folders that are empty then; what else lies there stays.

    Args:
        folder: of the board; it need not exist.
        those: of its `files`; None for all.
    """
    for path in files(folder) if those is None else those:
        with suppress(OSError):
            path.unlink()
    if folder.is_symlink():
        return
    for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True) if folder.is_dir() else []:
        with suppress(OSError):  # it is not empty
            below.rmdir()
    with suppress(OSError):
        folder.rmdir()


def _folder(board: keras.callbacks.TensorBoard) -> Path:
    known: dict[str, Path] = vars(board).setdefault(_FOLDER, {})
    return known.setdefault(board.log_dir, Path(board.log_dir).absolute())


def _written(folder: Path) -> Iterator[Path]:
    """The files that boards have begun there, this one or another: whatever else lies there is somebody's."""
    for name in _FOLDERS.values():
        yield from (path for path in sorted((folder / name).glob(f"{_EVENTS}*")) if _file(path) is not None)


def _file(path: Path) -> _File | None:
    match = _NAME.fullmatch(path.name)
    return None if match is None else _File(int(match[1]), match[2], int(match[3]))


def _number(path: Path) -> int:
    file = _file(path)
    return -1 if file is None else file.number


def _of(path: Path, process: str) -> bool:
    file = _file(path)
    return file is not None and file.process == process


def _is_mine(path: Path) -> bool:
    """Whether this process has begun it."""
    file = _file(path)
    return file is not None and file.process == _process() and file.time >= _STARTED


def _is_closed(writer: Any) -> bool:
    try:
        with writer.as_default():
            return False
    except RuntimeError:
        return True


def _process() -> str:
    return f"{socket.gethostname()}.{os.getpid()}"
