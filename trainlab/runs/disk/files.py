"""Files that are whole or not there, and how to name them to TensorFlow."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under another name, brings it to the disk, and renames it: nobody ever finds half of it.

    Args:
        path: of the file.
        write: writes it where it is told.
    """
    # A name that nobody can foresee, and so put a link there; the suffix stays: Keras wants `.keras`.
    aside = path.with_name(f".writing-{os.urandom(8).hex()}-{path.name}")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        write(aside)
        sync(aside)
        os.replace(aside, path)
        sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def move(path: Path, place: Path) -> None:
    """Gives a file another path, where there is nothing, on another file system too; at no moment is it at neither, nor half."""
    try:
        path.rename(place)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_atomically(place, lambda aside: shutil.copy2(path, aside))
        path.unlink()


def sync(path: Path) -> None:
    """Brings a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def without_patterns(path: Path) -> Iterator[Path]:
    """A way to the same directory that TensorFlow's readers, which take `[` and the like for patterns, take as it is."""
    if not set(str(path)) & set("*?[]\\"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.absolute(), target_is_directory=True)
        yield link


def free(path: Path) -> Path:
    """This path, or where there is something, the first of `path.2`, `path.3`, ... where there is nothing."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found
