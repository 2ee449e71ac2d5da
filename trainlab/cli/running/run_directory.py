"""The directory of a run from the command line: its files, and whether this run may write there."""

import hashlib
import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from trainlab.callbacks import json_key
from trainlab.cli.configs.errors import one_line
from trainlab.reports import TIMELINE, is_timeline
from trainlab.runs import Lock, Run, RunKeeper, boards, move, sealed, write_atomically

# What one training leaves, and the next one in its place would overwrite; what says most of it first.
_RESULTS = ("model.keras", "model.weights.h5", "result.json", "config.gin", "metrics.jsonl")
_FILES = (*_RESULTS, "lock", TIMELINE)
# What `write_atomically` leaves of these if it is killed.
_ASIDE = re.compile(rf"\.writing-([0-9a-f]+-)?({'|'.join(map(re.escape, _RESULTS))})")
_OF_CHECKPOINTS = re.compile(r"\..*|best\.json|\d{8,}-step-\d+.*")
_OF_CONFIGS = re.compile(r"^# Parameters for run:", re.MULTILINE)


class RunDirectory:
    r"""Where a run writes: `config.gin`, `metrics.jsonl`, `model.keras`, `result.json`, beside `checkpoints`, `timeline.jsonl`.

    `check` finds out before any work whether the run may go there: files of these names that no run has written are refused.
    `begin` writes the config when the first epoch starts; `release` removes what this process has put there if it made not one
    update, so that the corrected command can be given again.

    Args:
        path: The directory; it may exist, and hold other files.

    Attributes:
        given: The same, as messages show it.
        path: The same, wherever the process goes: what the config names may change the working directory.
        config: Path of what the run used, defaults included.
        metrics: Path of one JSON object a line.
        model: Path of the trained model.
        weights: Path of the weights alone, of a model that cannot be saved whole.
        result: Path of the test metrics; written last, so that a run that has it is complete.

    Example:
        >>> directory = RunDirectory(tempfile.mkdtemp() + "/heun")
        >>> directory.check("auto", overwrite=False)
        >>> directory.begin("run.epochs = 20\n")
        >>> directory.release()
    """

    def __init__(self, path: str | Path):
        self.given, self.path = Path(path), Path(path).absolute()
        files = (self.path / name for name in _FILES)
        self.model, self.weights, self.result, self.config, self.metrics, self._lock, self._timeline = files
        self._results = [self.path / name for name in _RESULTS]
        self._checkpoints, self._board = self.path / "checkpoints", self.path / "tensorboard"
        self._created: list[Path] = []  # folders, innermost first
        self._found: set[Path] | None = None  # what was there when this process came; None as long as it has not looked
        self._made: list[Path] = []  # what it has made since
        self._begun: int | None = None  # of the config that it has written, by which it knows its own again
        self._old_board: list[Path] = []
        self._new: list[Path] | None = None  # what this process will have made; None as long as it has not looked

    @property
    def here(self) -> Path:
        """The directory as it was given, where that still leads there; otherwise `path`."""
        return self.given if self.given.absolute() == self.path else self.path

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        return RunKeeper(Run(self.path)).last_checkpoint is not None

    def check(self, resume: str, overwrite: bool) -> None:
        """Makes the directory and writes a file in it for a moment.

        Args:
            resume, overwrite: As in `Trainer.fit`.

        Raises:
            FileExistsError: It holds a run, and this one is not to go on with it; or files that are no run's.
            ValueError: It is on no file system.
            OSError: It cannot be written.
        """
        Run(self.given)
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self._refuse_what_is_no_run()
            self._refuse_another_run(resume, overwrite)
            found = {path for path in self._paths() if os.path.lexists(path)}
            self.path.mkdir(parents=True, exist_ok=True)
            self._created, self._found = missing, found
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except FileExistsError as error:
            if error.errno is None:
                raise
            raise NotADirectoryError(f"{self.given}: is a file; give a directory with --run_dir") from None
        except OSError as error:
            raise OSError(f"{self.given}: cannot be written ({error.strerror}); give another directory with --run_dir") from None

    def look(self) -> None:
        """Notes what is there, with the lock held and before this run has put anything there: event files, too."""
        self._old_board = boards.files(self._board)
        grow = (self.config, self.metrics, self._timeline)
        self._new = [path for path in grow if not os.path.lexists(path) and path not in (self._found or ())]

    def free_folder(self) -> str:
        """A name for a folder of what an earlier run has left; nothing has it yet."""
        number = 1
        while os.path.lexists(self.path / f"earlier-{number}"):
            number += 1
        return f"earlier-{number}"

    def begin(self, config: str, is_new: bool = True, aside: str | None = None) -> Path | None:
        """Writes `config.gin`; a result that is there is no longer that of the run.

        Args:
            config: The text of the file.
            is_new: Whether the run begins, and does not go on: what an earlier one has put on its board is dropped.
            aside: The folder where what an earlier one has left is kept, where the run begins; None drops it. What it holds
              of it already stays: somebody stopped this before.

        Returns:
            That folder, if there is anything in it.
        """
        self._tidy()
        if self._new is None:
            self.look()
        new = self._new or []
        folder = self._put_aside(self.path / aside) if is_new and aside is not None else None
        if is_new:
            boards.clear(self._board, self._old_board)
        self.result.unlink(missing_ok=True)
        write_atomically(self.config, lambda path: path.write_text(config, encoding="utf-8"))
        self._made, self._begun = new, _inode(self.config)
        return folder

    def _put_aside(self, folder: Path) -> Path | None:
        """Moves the files of the run that is there, but for checkpoints and timeline; returns where they are then."""
        best = self.path / "best.json"  # its checkpoints say it, too, but the next best one is written over it
        results = [*self._results, *([best] if '"checkpoint"' in _text(best) else [])]
        for file in [*self._old_board, *results]:  # the board first, which may be on another disk, and that be full
            place = folder / file.relative_to(self.path)
            if file.exists() and not os.path.lexists(place):
                place.parent.mkdir(parents=True, exist_ok=True)
                move(file, place)
        return folder if folder.is_dir() else None

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Holds the directory while a run that is trained writes its last files.

        Raises:
            OSError: Another run is writing there.
        """
        with Lock(self._lock):
            self._tidy()
            yield

    def release(self) -> None:
        """Removes what this process has put here, and the directory if it made that and nothing else is in it."""
        if self._found is None or (self.path.is_dir() and self.has_checkpoints):
            return
        holder = _holder(self._lock)
        if holder is not None and (holder.get("host"), holder.get("pid")) == (socket.gethostname(), os.getpid()):
            with suppress(OSError), Lock(self._lock):  # not there any more, or another run's by now
                self._remove_made(self._found)
        for folder in [*({self._checkpoints} - self._found), *self._created]:
            with suppress(OSError):  # not there, or somebody else has put something in
                folder.rmdir()

    def _remove_made(self, found: set[Path]) -> None:
        if self._begun is not None and _inode(self.config) == self._begun:  # nobody has begun a run here since
            for path in self._made:
                path.unlink(missing_ok=True)
            if self._board not in found:
                boards.clear(self._board)
        left = [path for path in self._paths() if os.path.lexists(path) and path not in self._folders]
        if self._lock not in found and left == [self._lock]:
            self._lock.unlink(missing_ok=True)

    def result_text(self, checkpoint: Path | None, step: int, test: Mapping[str, Any]) -> str:
        """What `result.json` is to hold: what was measured, and of which model and checkpoint.

        Args:
            checkpoint: The last one, whose model was evaluated.
            step: Updates so far.
            test: The test metrics, as JSON can hold them.
        """
        result = {"checkpoint": checkpoint and checkpoint.name, "step": step, "test": dict(test), **self._digests(checkpoint)}
        return json.dumps({**result, "digest": sealed.digest(result)}) + "\n"

    def result_of(self, checkpoint: Path | None) -> tuple[dict[str, Any] | None, str | None]:
        """The test metrics that are there, if they are of this very checkpoint and all is as it was written.

        Args:
            checkpoint: The last one.

        Returns:
            The metrics, or None; and in a line what somebody has changed, if that is why there are none.
        """
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
            if "digest" not in result or "test" not in result:  # of 0.2 and before, when nothing told
                return None, None
            if result["digest"] != sealed.digest({name: value for name, value in result.items() if name != "digest"}):
                return None, f"{self.shown(self.result)}: changed since it was written; the test set is evaluated again"
            if result["checkpoint"] != (checkpoint and checkpoint.name):
                return None, None
            now = self._digests(checkpoint)
            if now["model"] != result["model"]:
                return None, f"{self.shown(self.model)}: changed since it was written; it is written again"
            return (dict(result["test"]), None) if now["sums"] == result["sums"] else (None, None)
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError, KeyError, TypeError) as error:
            return None, f"{self.shown(self.result)}: cannot be read ({one_line(error)}); the test set is evaluated again"

    def _digests(self, checkpoint: Path | None) -> dict[str, str | None]:
        model = _digest(self.model) or _digest(self.weights)
        return {"sums": _digest(checkpoint / "SHA256SUMS") if checkpoint else None, "model": model}

    def _paths(self) -> list[Path]:
        return [*(self.path / name for name in _FILES), *self._folders]

    @property
    def _folders(self) -> tuple[Path, Path]:
        return self._checkpoints, self._board

    def _tidy(self) -> None:
        """Removes what was being written when somebody killed it; call it with the lock held."""
        for path in self.path.iterdir():
            if _ASIDE.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _refuse_what_is_no_run(self) -> None:
        """Refuses files of our names that no run has written: they would be overwritten."""
        if not self.path.is_dir():
            return
        holder = _holder(self._lock) if _kind(self._lock) == "a file" else None
        is_run = bool(holder) or (self._checkpoints.is_dir() and self.has_checkpoints)
        for path in self._paths():
            what = _kind(path)
            right = "a directory" if path in self._folders else "a file"
            if what is None or what == right:
                continue
            if not (path in self._folders and path.is_dir() and is_run):  # a run's checkpoints on a larger disk
                raise FileExistsError(f"{self.shown(path)}: is {what}, where a run writes {right}; {self._instead()}")
        for path in self._paths():
            if _kind(path) is not None and not self._is_of_a_run(path, is_run):
                raise FileExistsError(f"{self.shown(path)}: was not written by a run; {self._instead()}")

    def _is_of_a_run(self, path: Path, is_run: bool) -> bool:
        """Whether a run has written a file, as far as that can be told: what proves most is the lock, and config.gin.

        A run that is killed while it takes the lock leaves an empty one. Its config.gin is the first file that a run from the
        command line writes, and has a form of its own; what training from Python leaves has none.
        """
        is_locked_empty = _holder(self._lock) == {}
        has_config = (is_run or is_locked_empty) and bool(_OF_CONFIGS.search(_text(self.config)))
        if path == self._lock:  # one that is damaged, beside checkpoints, was a run's
            return is_locked_empty or is_run
        if path == self._timeline:
            return has_config or is_timeline(path)
        if path == self._checkpoints:
            names = [entry.name for entry in path.iterdir()]
            return all(name.startswith(".") for name in names) or any(map(_OF_CHECKPOINTS.fullmatch, names))
        if path == self.config or has_config or not is_run:
            return has_config
        if path == self._board:
            return True
        lines = _text(self.metrics).splitlines()
        is_of_a_model = '"checkpoint"' in _text(self.result) and '"test"' in _text(self.result)
        if path == self.metrics:
            return not lines or any(None not in (json_key(line.encode()) or [None]) for line in lines)
        return is_of_a_model

    def _refuse_another_run(self, resume: str, overwrite: bool) -> None:
        files = [file.name for file in self._results if file.exists()]
        if self.has_checkpoints and resume != "never":
            return
        if resume == "never" and overwrite:
            return
        # A run that was killed before its first checkpoint has none of these; begin it again.
        is_complete = self.model.exists() or self.weights.exists() or self.result.exists()
        if is_complete or (resume == "never" and (files or self.has_checkpoints)):
            found = files[0] if files else "checkpoints"
            raise FileExistsError(
                f"{self.given}: holds a run already ({found}); write elsewhere with --run_dir {self._free()}, go on with it by "
                "--resume=auto, or begin it anew with --resume=never --overwrite"
                if self.has_checkpoints
                else f"{self.given}: holds a run without checkpoints ({found}); write elsewhere with --run_dir {self._free()}, "
                "or begin it anew with --resume=never --overwrite"
            )

    def _instead(self) -> str:
        return f"give another directory with --run_dir {self._free()}, or move it away"

    def _free(self) -> Path:
        number = 2
        while os.path.lexists(self.path.with_name(name := f"{self.path.name}-{number}")):
            number += 1
        return (self.given if self.given.name else self.path).with_name(name)

    def shown(self, path: Path) -> Path:
        """A path below the directory, as messages show it."""
        return self.given / path.relative_to(self.path)


def _kind(path: Path) -> str | None:
    """What there is under a name, in words; None for nothing."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        return "a link"
    return "a directory" if path.is_dir() else "a file" if path.is_file() else "neither a file nor a directory"


def _holder(lock: Path) -> dict[str, Any] | None:
    """The last holder of a lock; an empty one for a lock whose holder wrote nothing, None for what is no lock."""
    if _kind(lock) != "a file":
        return None
    text = _text(lock).strip("\0 \r\n")
    try:
        holder = json.loads(text) if text else {}
    except ValueError:
        return None
    is_ours = isinstance(holder, dict) and (not text or set(holder) == {"host", "pid", "start"})
    return holder if is_ours else None


def _inode(path: Path) -> int | None:
    return os.lstat(path).st_ino if os.path.lexists(path) else None


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
