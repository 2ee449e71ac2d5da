"""A run on disk, as users describe it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainlab.data import check_count
from trainlab.runs.best import check_keep_best

_BEFORE = ("run_dir", "save_steps", "save_seconds", "keep", "keep_best")  # arguments of a Trainer's in version 0.1


@dataclasses.dataclass(frozen=True)
class Run:
    """A run is its directory: `fit` saves checkpoints there, and goes on from them.

    Args:
        directory: of the run; made if it is not there.
        save_seconds: seconds between two checkpoints; None for none by time.
        save_steps: updates between two; None for none by steps.
        keep: how many of the last checkpoints are kept, at least 1.
        keep_best: a name in the logs, such as "val_loss", by which the best checkpoint is kept besides; checkpoints are then
          also written after an epoch that was the best so far. Whether more or less is better Keras' metrics say themselves, and
          of losses less; for any other name give `("max", name)` or `("min", name)`.

    Raises:
        TypeError, ValueError: a value is none of these.

    Example:
        >>> Run("runs/a", keep_best="val_loss")
        Run(directory='runs/a', save_seconds=60.0, save_steps=None, keep=3, keep_best='val_loss')
    """

    directory: str | os.PathLike[str]
    save_seconds: float | None = 60.0
    save_steps: int | None = None
    keep: int = 3
    keep_best: str | tuple[str, str] | None = None
    path: Path = dataclasses.field(init=False, repr=False, compare=False)  # the directory, wherever the process goes

    def __post_init__(self) -> None:
        if not isinstance(self.directory, (str, os.PathLike)):
            raise TypeError(f"run's directory must be a path, not {self.directory!r}")
        if match := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+", str(self.directory)):  # one letter is a drive; a Path has one slash
            raise ValueError(
                f"run's directory must be one of a file system, not {str(self.directory)!r}: runs lock it and rename in it, "
                f"which {match[0]} does not have; mount it, or train into a local directory and copy that"
            )
        seconds = self.save_seconds
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and seconds >= 0):
            raise ValueError(f"save_seconds must be a number of seconds of at least 0, or None, not {seconds!r}")
        if self.save_steps is not None:
            check_count("save_steps", self.save_steps, 1)
        check_count("keep", self.keep, 1)
        check_keep_best(self.keep_best)
        object.__setattr__(self, "path", Path(self.directory).absolute())

    def refusal(self, error: OSError) -> OSError:
        """An error while the directory is opened, in one line; one that is a line of ours stays as it is."""
        if error.errno is None:
            return error
        where = f"run={str(self.directory)!r}"
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return NotADirectoryError(f"{where} is a file: give a directory")
        return type(error)(f"{where} cannot be written ({error.strerror})")

    @classmethod
    def of(cls, run: Any) -> Run | None:
        """The run that a directory alone stands for; a `Run` and None stay as they are.

        Raises:
            TypeError: it is none of these.
        """
        if run is None or isinstance(run, cls):
            return run
        if not isinstance(run, (str, os.PathLike)):
            raise TypeError(f'run must be a directory, such as "runs/a", or a tl.Run, not {run!r}')
        return cls(run)


def refuse_unknown(unknown: Mapping[str, Any], trainer: type) -> None:
    """Refuses arguments that a Trainer does not have, those of a run in version 0.1 among them.

    Args:
        unknown: by name; none is right.
        trainer: whose constructor they were given to, as its `**unknown`.

    Raises:
        TypeError: there is one, in one line.
    """
    if unknown:
        raise TypeError(_explain(unknown, [name for name in inspect.signature(trainer).parameters if name != "unknown"]))


def _explain(unknown: Mapping[str, Any], known: Sequence[str]) -> str:
    if ours := [name for name in _BEFORE if name in unknown]:
        directory = unknown.get("run_dir")
        settings = "".join(f", {name}={unknown[name]!r}" for name in ours if name != "run_dir")
        instead = f"write run=tl.Run({str(directory)!r}{settings})" if directory is not None else "without a run leave them out"
        return f"{', '.join(ours)}: a run is described as a whole since 0.2: {instead}"
    name = next(iter(unknown))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(known)}"
    return f"Trainer has no argument {name!r}; {hint}"
