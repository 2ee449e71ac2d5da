"""Files that are whole or not there, and how to name them to TensorFlow."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")


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


def remove_unfinished(path: Path) -> None:
    """Removes what `write_atomically` has left of a file, where somebody killed it."""
    name = re.compile(rf"\.writing-[0-9a-f]{{16}}-{re.escape(path.name)}")
    for aside in list(path.parent.iterdir()) if path.parent.is_dir() else []:
        if name.fullmatch(aside.name):
            aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Brings a file, or the names in a directory, to the disk; of a directory only where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def without_patterns(path: Path) -> Iterator[Path]:
    """A way to the same directory that TensorFlow's readers, which take `[` and the like for patterns, take as it is.

    Raises:
        NoWay: there is none.
        OSError: the directory cannot be opened.
    """
    if _is_plain(path):
        yield path
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        opened = _DESCRIPTORS / str(descriptor)
        if opened.is_dir():  # on Linux: nothing need be written anywhere
            yield opened
            return
    finally:
        os.close(descriptor)
    with _folder_for_links(path) as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(path.absolute(), target_is_directory=True)
        yield link


class NoWay(OSError):
    """A directory that is there cannot be named to TensorFlow; the line says what to do."""


def _folder_for_links(path: Path) -> tempfile.TemporaryDirectory[str]:
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        with suppress(OSError):
            if _is_plain(Path(place)):
                return tempfile.TemporaryDirectory(dir=place)
    raise NoWay(
        f"{path}: TensorFlow's readers take the brackets, stars, question marks or backslashes in this path for patterns, and "
        "there is no directory for a link to it: set TMPDIR to one that can be written, without such signs in its name"
    )


def _is_plain(path: Path) -> bool:
    return not set(str(path)) & set("*?[]\\")


def free(path: Path) -> Path:
    """This path, or where there is something, the first of `path.2`, `path.3`, ... where there is nothing."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found
