"""One run of the command: from a config to a trained model in a directory."""

import math
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras

from trainlab.callbacks import JsonLines, json_value
from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import ConfigError, in_flags, one_line
from trainlab.cli.configs.settings import Settings
from trainlab.cli.verbs.parts import unpacked
from trainlab.cli.verbs.run_directory import RunDirectory
from trainlab.cli.verbs.setup import Setup, seed, set_up
from trainlab.cli.verbs.summary import summary
from trainlab.data import check_held_out, device
from trainlab.loop import NonFiniteError
from trainlab.runs import OtherRun, Signals, compiled, write_atomically
from trainlab.trainer import Trainer


class Job:
    """One run, kept together so that a failure at any point can be explained and tidied up after.

    Args:
        files, bindings: The config, as `reading.load` takes it.
        directory: Where the results go.
        how: `resume`, `overwrite` and `override`, as `Trainer.fit` takes them.
        use: "last" or "best", the checkpoint that is tested.
        debug: Whether what goes wrong is raised.
    """

    def __init__(
        self, files: Sequence[str], bindings: Sequence[str], directory: str | Path, how: dict[str, Any], use: str, debug: bool
    ):
        self._files, self._bindings, self._how, self._use, self._debug = files, bindings, how, use, debug
        self._directory = RunDirectory(directory)
        self._config: Config | None = None
        self._trainer: Trainer | None = None
        self._done = False
        self._compiled: compiled.Compiled | None = None  # where TensorFlow is asked for it

    def run(self) -> tuple[str, int] | None:
        """Does it.

        Returns:
            None; of a failure the line that explains it, and the exit status.

        Raises:
            BaseException: Whatever went wrong, if that is wanted.
        """
        try:
            with warnings.catch_warnings(), Signals(at_once=True):
                warnings.showwarning = show_warning  # type: ignore[assignment]  # it takes what that takes, and less
                self._work()
        except (KeyboardInterrupt, SystemExit) as error:
            if self._debug:
                raise
            what, status = ("terminated", _status(error.code)) if isinstance(error, SystemExit) else ("interrupted", 130)
            return f"{what}; {self._what_is_left()}", status
        except Exception as error:
            if self._debug:
                raise
            return in_flags(self._explain(error)), 1
        finally:
            if self._compiled is not None and self._trainer is not None and self._trainer.last_checkpoint is not None:
                self._compiled.keep()
            if not self._done:
                self._directory.release()
        return None

    def _work(self) -> None:
        is_asked = compiled.ask()
        device.grow_memory()
        self._config = config = reading.load(self._files, self._bindings)
        self._directory.check(self._how["resume"], self._how["overwrite"])
        seed(config)
        if is_asked:
            self._compiled = compiled.Compiled(self._directory.path / "compiled")
        settings = config.build()
        if self._use == "best" and settings.keep_best is None:
            raise ValueError("--use=best: nothing says what is best: write --set 'run.keep_best = \"val_accuracy\"'")
        setup = set_up(config, self._directory.path, settings)
        settings, self._trainer = setup.settings, setup.trainer
        trainer = setup.trainer
        _check_all_used(config)
        _check_logits(settings.loss, trainer.model)
        print(summary(setup), flush=True)
        start = time.monotonic()
        records = JsonLines(self._directory.metrics, restart=True)
        history = self._train(setup, records)
        with self._directory.finishing():
            test = self._finish(settings, trainer, records, len(history.epoch))
        numbers = {name: math.nan if value is None else float(value) for name, value in test.items()}
        shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
        print(f"test      {shown or 'nothing: the data have no test part'}")
        seconds = time.monotonic() - start
        print(f"results   {self._directory.path}: model.keras, metrics.jsonl, config.gin ({seconds:.0f} s)")
        self._done = True

    def _train(self, setup: Setup, records: JsonLines) -> keras.callbacks.History:
        settings, trainer, data = setup.settings, setup.trainer, setup.settings.data
        length: dict[str, Any] = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
        x, y, sample_weight = unpacked(data.train)
        begin = _Begin(self._directory, setup, self._compiled)
        return trainer.fit(
            x,
            y,
            sample_weight=sample_weight,
            batch_size=settings.batch_size if data.is_arrays else None,
            validation_data=data.validation,
            callbacks=[begin, *setup.callbacks(self._directory.path), records],
            verbose=1 if sys.stdout.isatty() else 2,  # a bar that redraws itself, or a line an epoch
            **length,
            **self._how,
        )

    def _finish(self, settings: Settings, trainer: Trainer, records: JsonLines, epochs: int) -> dict[str, Any]:
        """The test metrics; those of a run that was complete before are there."""
        checkpoint = trainer.load_best() if self._use == "best" else trainer.last_checkpoint
        directory = self._directory
        test, said = directory.result_of(checkpoint)
        if test is not None:
            return test
        if said is not None:
            show_warning(said)
        test = _tested(settings, trainer)
        # What is tested may be of an earlier update than the run has come to.
        step = trainer.iterations if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        records.write({"epoch": epochs, "step": step, **{f"test_{name}": value for name, value in test.items()}})
        write_atomically(directory.model, trainer.model.save)
        text = directory.result_text(checkpoint, step, json_value(test))
        write_atomically(directory.result, lambda path: path.write_text(text, encoding="utf-8"))
        return test

    def _explain(self, error: Exception) -> str:
        if isinstance(error, OtherRun):
            return str(error)
        line = self._config.explain(error) if self._config else one_line(error)
        expected = isinstance(error, (ValueError, TypeError, OSError, MemoryError, NonFiniteError))
        return line if expected else f"{type(error).__name__}: {line} (--debug shows where)"

    def _what_is_left(self) -> str:
        checkpoint = self._trainer.last_checkpoint if self._trainer else None
        if checkpoint is None:
            return "nothing is saved"
        shown = self._directory.path / checkpoint.parent.name / checkpoint.name  # as --run_dir was given
        return f"the last checkpoint is {shown}; the same command goes on from there"


def _tested(settings: Settings, trainer: Trainer) -> dict[str, Any]:
    """What the test data say, which are looked at only here; nothing, where there are none."""
    part = settings.data.test
    if part is None:
        return {}
    x, y, sample_weight = unpacked(part)
    size = None if hasattr(part, "element_spec") else settings.batch_size
    return trainer.evaluate(x, y, sample_weight=sample_weight, batch_size=size, verbose=0, return_dict=True)


def _status(code: Any) -> int:
    return code if isinstance(code, int) else 1


class _Begin(keras.callbacks.Callback):
    """Writes the config once it is clear that the run begins, or goes on; brings and keeps what XLA compiles."""

    def __init__(self, directory: RunDirectory, setup: Setup, kept: compiled.Compiled | None):
        super().__init__()
        self._directory, self._setup, self._kept = directory, setup, kept

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        test = self._setup.settings.data.test
        if test is not None:  # what is wrong with them is better known now than when all is done
            check_held_out(self.model, *unpacked(test), name="test data")
        self._directory.begin(self._setup.config.text(), is_new=self._setup.trainer.resumed_at is None)
        if self._kept is not None:
            self._kept.bring()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        if self._kept is not None:
            self._kept.keep()

    def get_state(self) -> None:
        """Nothing."""

    def set_state(self, state: None) -> None:
        """Nothing."""


def _check_all_used(config: Config) -> None:
    for binding in config.unused():
        line = config.explain_unused(binding)
        if binding.from_set:  # typed just now for this run: it was meant to matter
            raise ConfigError(line)
        show_warning(line)


def _check_logits(loss: Any, model: keras.Model) -> None:
    """Warns of the one mistake that trains without an error and learns nothing: logits taken for probabilities."""
    if isinstance(loss, keras.Loss):
        name, from_logits = type(loss).__name__, loss.get_config().get("from_logits", True)
    else:
        name, from_logits = str(loss), not str(loss).endswith("crossentropy")
    if not from_logits and getattr(model.layers[-1], "activation", None) is keras.activations.linear:
        show_warning(
            f"run.loss = {name} expects probabilities, but the model returns logits: write for example "
            "run.loss = @SparseCategoricalCrossentropy() and SparseCategoricalCrossentropy.from_logits = True"
        )


def show_warning(message: Warning | str, *_: Any) -> None:
    """Shows a warning as a line, in the words of the command line; what it is of, and where, is left out."""
    with suppress(OSError):  # the terminal may be gone, which is no reason to stop
        print(f"trainlab: warning: {in_flags(' '.join(str(message).split()))}", file=sys.stderr)
