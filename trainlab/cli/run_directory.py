"""The directory of a run from the command line: its files, and whether this run may write there."""

import tempfile
from pathlib import Path

from trainlab.runs import Lock, write_atomically


class RunDirectory:
    r"""Where a run writes: `config.gin`, `metrics.jsonl`, `model.keras`, `result.json`, beside its `checkpoints`.

    `check` finds out before any work whether the run may go there; `begin` writes the config when training starts; `release`
    removes what a run has put there that made not one update, so that the corrected command can be given again.

    Args:
        path: The directory; it may exist, and hold other files.

    Attributes:
        path: The same.
        config: Path of what the run used, defaults included.
        metrics: Path of one JSON object a line.
        model: Path of the trained model.
        result: Path of the test metrics; written last, so that a run that has it is complete.

    Example:
        >>> directory = RunDirectory(tempfile.mkdtemp() + "/heun")
        >>> directory.check("auto", overwrite=False)
        >>> directory.begin("run.epochs = 20\n")
        >>> directory.release()
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.gin"
        self.metrics = self.path / "metrics.jsonl"
        self.model = self.path / "model.keras"
        self.result = self.path / "result.json"
        self._created: list[Path] = []  # innermost first
        self._is_new = False

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        folder = self.path / "checkpoints"
        return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())

    def check(self, resume: str, overwrite: bool) -> None:
        """Makes the directory and writes a file in it for a moment.

        Args:
            resume, overwrite: As in `Trainer.fit`.

        Raises:
            FileExistsError: It holds a run, and this one is not to go on with it.
            OSError: It cannot be written.
        """
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self._refuse_another_run(resume, overwrite)
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
        self._is_new = not self.config.exists()

    def begin(self, config: str) -> None:
        """Writes `config.gin`; a result that is there is no longer that of the run.

        Args:
            config: The text of the file.
        """
        self.result.unlink(missing_ok=True)
        write_atomically(self.config, lambda path: path.write_text(config, encoding="utf-8"))

    def release(self) -> None:
        """Removes what this run has put here, and the directory if this run made it and nothing else is in it."""
        if self._is_new and not self.has_checkpoints:
            try:
                with Lock(self.path / "lock"):
                    for file in (self.config, self.metrics, self.path / "lock"):
                        file.unlink(missing_ok=True)
            except OSError:  # not there any more, or another run's by now
                return
            for folder in [self.path / "checkpoints", *self._created]:
                try:
                    folder.rmdir()
                except OSError:  # not there, or somebody else has put something in
                    continue

    def _refuse_another_run(self, resume: str, overwrite: bool) -> None:
        files = [file.name for file in (self.model, self.config, self.metrics) if file.exists()]
        if self.has_checkpoints and resume != "never":
            return
        if resume == "never" and overwrite:
            return
        # A run that was killed before its first checkpoint has no model; begin it again.
        if self.model.exists() or (resume == "never" and (files or self.has_checkpoints)):
            found = files[0] if files else "checkpoints"
            raise FileExistsError(
                f"{self.path}: holds a run already ({found}); write elsewhere with --run_dir {self._free()}, go on with it by "
                "--resume=auto, or begin it anew with --resume=never --overwrite"
                if self.has_checkpoints
                else f"{self.path}: holds a run without checkpoints ({found}); write elsewhere with --run_dir {self._free()}, or "
                "begin it anew with --resume=never --overwrite"
            )

    def _free(self) -> Path:
        number = 2
        while (free := self.path.with_name(f"{self.path.name}-{number}")).exists():
            number += 1
        return free
