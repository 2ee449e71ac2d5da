"""The directory of a run: claimed when training starts, never overwritten, left as it was found if nothing came of it."""

import os
import tempfile
from pathlib import Path


class RunDirectory:
    r"""Where a run writes: `config.gin`, `metrics.jsonl`, `model.keras`.

    `check` finds out before any work whether the run may go there; `claim` takes the directory when training starts;
    `release` undoes both if not one update was made, so that the corrected command can be given again.

    Args:
        path: The directory; it may exist, and hold other files, but no run.

    Attributes:
        path: The same.
        config: Path of what the run used, defaults included.
        metrics: Path of one JSON object a line.
        model: Path of the trained model.

    Example:
        >>> directory = RunDirectory(tempfile.mkdtemp() + "/heun")
        >>> directory.check()
        >>> directory.claim("run.epochs = 20\n")
        >>> directory.release()
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.gin"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model.keras"
        self._created: list[Path] = []  # innermost first
        self._claimed = False

    def check(self) -> None:
        """Makes the directory and writes a file in it for a moment.

        Raises:
            FileExistsError: It holds a run.
            OSError: It cannot be written.
        """
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self._refuse_a_second_run()
            self.path.mkdir(parents=True, exist_ok=True)
            self._created = missing
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except FileExistsError as error:
            if error.errno is None:
                raise
            raise NotADirectoryError(f"{self.path}: is a file; give a directory with --run_dir") from None
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror}); give another directory with --run_dir") from None

    def claim(self, config: str) -> None:
        """Writes `config.gin`, and with it takes the directory.

        Args:
            config: The text of the file.

        Raises:
            FileExistsError: Another run has come first.
        """
        self._refuse_a_second_run()
        try:
            with open(self.config, "x", encoding="utf-8") as file:  # "x": of two runs at once, one gets it
                self._claimed = True
                file.write(config)
        except FileExistsError:
            raise self._taken(self.config) from None

    def release(self) -> None:
        """Removes what this run has put here, and the directory if this run made it and nothing else is in it."""
        if self._claimed:
            for file in (self.config, self.metrics, self.model):
                file.unlink(missing_ok=True)
        self._claimed = False
        for folder in self._created:
            try:
                folder.rmdir()
            except OSError:
                return  # somebody else has put something there

    def _refuse_a_second_run(self) -> None:
        for file in (self.config, self.metrics, self.model):
            if file.exists():
                raise self._taken(file)

    def _taken(self, file: Path) -> FileExistsError:
        number = 2
        while (free := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return FileExistsError(
            f"{self.path}: holds a run already ({file.name}); write elsewhere with --run_dir {free}, or remove {self.path}"
        )
