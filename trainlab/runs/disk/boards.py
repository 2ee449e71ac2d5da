"""The event files of a `TensorBoard`, cut back to what they held when a checkpoint was written: every step is in them once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from trainlab.objective import keras_internals

_EVENTS = "events.out.tfevents."
_KNOWN = "trainlab_files_before"  # on the board: of the processes that have gone before


def places(board: keras.callbacks.TensorBoard) -> dict[str, Any]:
    """How long the files of a board are now, and which process writes them.

    Returns:
        `process`, and `sizes` by the path below the board's directory: of the files of this process, and of those that
        `go_back` was told of.
    """
    keras_internals.flush_board(board)
    folder = Path(board.log_dir)
    known: set[str] = getattr(board, _KNOWN, set())
    paths = [path for path in files(folder) if _is_of(path, _process()) or str(path.relative_to(folder)) in known]
    return {"process": _process(), "sizes": {str(path.relative_to(folder)): path.stat().st_size for path in paths}}


def go_back(board: keras.callbacks.TensorBoard, place: Mapping[str, Any], directory: Path) -> None:
    """Drops what was written after a checkpoint: it will be written again.

    Files that the interrupted process began after the checkpoint are removed where they lie in the run's own directory;
    elsewhere, where others may write too, they get a name under which TensorBoard does not find them.

    Args:
        board: which writes to files of its own again.
        place: what `places` returned.
        directory: of the run.
    """
    folder, sizes = Path(board.log_dir), place["sizes"]
    setattr(board, _KNOWN, set(sizes))
    is_ours = folder.absolute().is_relative_to(directory)
    for path in files(folder):
        name = str(path.relative_to(folder))
        with suppress(OSError):  # it is gone, or somebody else's
            if name in sizes:
                if path.stat().st_size > sizes[name]:
                    os.truncate(path, sizes[name])
            elif _is_of(path, _process()):
                continue
            elif is_ours:
                path.unlink()
            elif _is_of(path, place["process"]):
                path.rename(path.with_name(path.name.replace(_EVENTS, "superseded.")))


def clear(folder: Path, those: Iterable[Path] | None = None) -> None:
    """Removes the event files of a board, and folders that are empty then; what else lies there is somebody's.

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


def files(folder: Path) -> list[Path]:
    """The event files of a board, which need not exist."""
    return sorted(folder.rglob(f"{_EVENTS}*")) if folder.is_dir() else []


def _process() -> str:
    return f"{socket.gethostname()}.{os.getpid()}"


def _is_of(path: Path, process: str) -> bool:
    """Whether a process has made a file: its host and its number stand behind the time in the name."""
    return f".{process}." in path.name
