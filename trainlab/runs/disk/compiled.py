"""What XLA has compiled, kept in a run's directory, so that a run that goes on need not wait for it again.

TensorFlow can keep compiled programs in files, by their contents. It trusts what it finds there, and an update fails where such a
file cannot be read, or written. So the files that it sees are in memory only; those on the disk are ours, each with a digest of
its own, and whatever is wrong with one of them means that it is not there.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
from contextlib import suppress
from pathlib import Path

import tensorflow as tf

from trainlab.parameters import tensorflow_internals
from trainlab.runs.disk.files import write_atomically

_FLAGS = "TF_XLA_FLAGS"
_MEMORY = "ram://trainlab-compiled"
_ASKS = "--tf_xla_persistent_cache_directory="
# As TensorFlow names them; of a GPU's programs nobody has looked whether they stay the same.
_NAME = re.compile(r"xla_compile_cache__\d+__\d+__XLA_CPU_JIT\.pb")
_ASIDE = re.compile(r"\.writing-.*")
_DIGEST_SIZE = hashlib.sha256().digest_size
_SAYS_WHICH = re.compile(r"vendor_id|cpu family|model|stepping|flags|CPU |Features")
# A run has a few programs; of those of other lengths of the data, which it may go through, the last are kept.
MOST = 16


def ask() -> bool:
    """Has TensorFlow keep what XLA compiles in memory; to be called before it looks for its devices, which read this once.

    Returns:
        Whether it is asked; not where the user has it kept elsewhere, nor on a machine whose processor is not told.
    """
    flags = os.environ.get(_FLAGS, "")
    if processor() is None or (_ASKS.strip("-=") in flags and _MEMORY not in flags):
        return False
    if _MEMORY not in flags:
        os.environ[_FLAGS] = f"{flags} {_ASKS}{_MEMORY}".strip()
    return True


class Compiled:
    """The compiled programs of a run; those of another processor, or of another TensorFlow, are apart and left alone.

    Nothing here raises: without them a run only waits longer.

    Args:
        folder: where they are; made when there is something to keep.
    """

    def __init__(self, folder: Path):
        self._folder = folder / _kind()
        self._known: set[str] = set()

    def bring(self) -> None:
        """Gives TensorFlow those that are whole, and removes what is not."""
        with suppress(OSError):
            for path in sorted(self._folder.iterdir()):
                if not (_NAME.fullmatch(path.name) or _ASIDE.fullmatch(path.name)):
                    continue  # somebody else's
                program = _read(path)
                if program is None or not _NAME.fullmatch(path.name):
                    with suppress(OSError):
                        path.unlink()
                else:
                    self._known.add(path.name)
                    _put(path.name, program)

    def keep(self) -> None:
        """Writes those that have come since; and lets go of the oldest, where they are many."""
        new = [name for name in _names() if name not in self._known]
        with suppress(OSError):
            for name in new:
                self._known.add(name)  # what cannot be written is not tried at every epoch
                program = _get(name)
                if program is not None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(self._folder / name, lambda path, it=program: path.write_bytes(_digest(it) + it))  # type: ignore[misc]
            if new:
                paths = [path for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
                for path in sorted(paths, key=lambda path: path.stat().st_mtime)[:-MOST]:
                    path.unlink()


def _read(path: Path) -> bytes | None:
    """The program in a file, if it is whole."""
    try:
        written = path.read_bytes()
    except OSError:
        return None
    digest, program = written[:_DIGEST_SIZE], written[_DIGEST_SIZE:]
    return program if digest == _digest(program) else None


def _digest(program: bytes) -> bytes:
    return hashlib.sha256(program).digest()


def _names() -> list[str]:
    try:
        return [name for name in tf.io.gfile.listdir(_MEMORY) if _NAME.fullmatch(name)]
    except tf.errors.OpError:  # nothing was compiled
        return []


def _get(name: str) -> bytes | None:
    try:
        with tf.io.gfile.GFile(f"{_MEMORY}/{name}", "rb") as file:
            return bytes(file.read())
    except tf.errors.OpError:
        return None


def _put(name: str, program: bytes) -> None:
    with suppress(tf.errors.OpError):
        tf.io.gfile.makedirs(_MEMORY)
        with tf.io.gfile.GFile(f"{_MEMORY}/{name}", "wb") as file:
            file.write(program)


def _kind() -> str:
    """A name for all that a compiled program depends on, and TensorFlow does not look at."""
    threads = tf.config.threading
    what = [
        tf.version.VERSION,
        tf.version.GIT_VERSION,
        processor(),
        _num_cores(),
        tensorflow_internals.is_op_determinism_enabled(),
        threads.get_intra_op_parallelism_threads(),
        threads.get_inter_op_parallelism_threads(),
        *(os.environ.get(name) for name in (_FLAGS, "XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS")),
    ]
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def _num_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@functools.cache  # of a machine of many cores there is much to read
def processor() -> str | None:
    """The kind of processor: instructions that another lacks would end the process. None where it is not told."""
    with suppress(OSError):
        told = Path("/proc/cpuinfo").read_text(errors="replace")
        first = told.partition("\n\n")[0]
        kept = [line for line in first.splitlines() if _SAYS_WHICH.match(line)]
        if any(line.startswith(("flags", "Features")) for line in kept):
            return "\n".join([platform.machine(), *kept])
    return None
