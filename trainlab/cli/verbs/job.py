"""One run of the command: from a config to a trained model in a directory."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from trainlab.callbacks import JsonLines, json_value
from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import one_line
from trainlab.cli.configs.settings import Settings
from trainlab.cli.running.failing import attempted, show_warning
from trainlab.cli.running.parts import unpacked
from trainlab.cli.running.run_directory import RunDirectory
from trainlab.cli.running.setup import Setup, check_config, check_saving, seed, set_up
from trainlab.cli.running.summary import summary
from trainlab.cli.running.workers import joined, place_of
from trainlab.data import device
from trainlab.distribution import Cluster
from trainlab.reports import numbers_of
from trainlab.runs import compiled, is_terminal, write_atomically
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
        self._follows: Cluster | None = None  # whose first worker does what is to be seen
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
            return attempted(self._work, lambda: self._config, self._what_is_left, self._debug, self._warn)
        finally:
            if self._compiled is not None and self._trainer is not None and self._trainer.last_checkpoint is not None:
                self._compiled.keep()
            if not self._done:
                self._directory.release()

    def _work(self) -> None:
        is_asked = compiled.ask()
        device.grow_memory()
        self._config = config = reading.load(self._files, self._bindings)
        place = place_of(config)
        self._follows = None if place is None or place.is_chief else place
        workers = joined(config)
        if self._follows is None:
            self._directory.check(self._how["resume"], self._how["overwrite"])
        seed(config)
        if is_asked and self._follows is None:
            self._compiled = compiled.Compiled(self._directory.path / "compiled")
        settings = config.build()
        if self._use == "best" and settings.keep_best is None:
            raise ValueError("--use=best: nothing says what is best: write --set 'run.keep_best = \"val_accuracy\"'")
        setup = set_up(config, self._directory.here, settings, workers)
        settings, self._trainer = setup.settings, setup.trainer
        trainer = setup.trainer
        check_config(setup, self._warn)
        check_saving(trainer.model, self._warn)
        if self._follows is not None:
            self._train(setup, [], verbose=0)
            self._done = True
            return
        print(summary(setup), flush=True)
        start = time.monotonic()
        callbacks = callbacks_of(setup, self._directory, self._compiled, keeps=self._how["resume"] == "weights")
        history = self._train(setup, callbacks)
        with self._directory.finishing():
            test = self._finish(settings, trainer, callbacks[-1], len(history.epoch))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in numbers_of(test).items())
        print(f"test      {shown or 'nothing: the data have no test part'}")
        seconds = time.monotonic() - start
        kept = self._directory.weights if self._directory.weights.exists() else self._directory.model
        print(f"results   {self._directory.given}: {kept.name}, metrics.jsonl, config.gin ({seconds:.0f} s)")
        self._done = True

    def _train(self, setup: Setup, callbacks: list[Any], verbose: int | None = None) -> keras.callbacks.History:
        return setup.trainer.fit(
            callbacks=callbacks,
            # A bar that redraws itself, or a line an epoch.
            verbose=(1 if is_terminal(sys.stdout) else 2) if verbose is None else verbose,
            **fit_arguments(setup),
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
            self._warn(said)
        test = _tested(settings, trainer)
        # What is tested may be of an earlier update than the run has come to.
        step = trainer.iterations if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        records.write({"epoch": epochs, "step": step, **{f"test_{name}": value for name, value in test.items()}})
        self._save(trainer.model)
        text = directory.result_text(checkpoint, step, json_value(test))
        write_atomically(directory.result, lambda path: path.write_text(text, encoding="utf-8"))
        return test

    def _save(self, model: keras.Model) -> None:
        """Whole, or its weights alone where Keras cannot: all work is done, and what is kept of it is worth more than a form."""
        kept, other = self._directory.model, self._directory.weights
        try:
            write_atomically(kept, model.save)
        except OSError:
            raise
        except Exception as error:
            self._warn(f"the model cannot be saved whole, and its weights alone are: {one_line(error)}")
            kept, other = other, kept
            write_atomically(kept, model.save_weights)
        other.unlink(missing_ok=True)  # of an earlier run

    def _warn(self, message: Warning | str, *_: Any) -> None:
        if self._follows is None:  # otherwise the chief says it
            show_warning(message)

    def _what_is_left(self) -> str:
        if self._follows is not None:
            return f"{self._follows.name(0)}, the chief, says what is saved"
        checkpoint = self._trainer.last_checkpoint if self._trainer else None
        if checkpoint is None:
            return "nothing is saved"
        shown = self._directory.given / checkpoint.parent.name / checkpoint.name
        resume = self._how["resume"]
        without = "" if resume in ("auto", "must") else f" without --resume={resume}" + " --overwrite" * self._how["overwrite"]
        return f"the last checkpoint is {shown}; the same command{without} goes on from there"


def callbacks_of(setup: Setup, directory: RunDirectory, kept: compiled.Compiled | None = None, keeps: bool = False) -> list[Any]:
    """All callbacks of a run, in the order in which they are called; the last one keeps the records of the epochs.

    Args:
        setup: What the config describes.
        directory: Where the run goes.
        kept: What XLA compiles; None where nobody keeps it.
        keeps: Whether files of the run that is there are put aside.
    """
    records = JsonLines(directory.here / directory.metrics.name, restart=True)
    return [_Begin(directory, setup, kept, keeps), *setup.callbacks(directory.here), records]


def fit_arguments(setup: Setup) -> dict[str, Any]:
    """The data and the length of a run, as `Trainer.fit` takes them."""
    settings, data = setup.settings, setup.settings.data
    x, y, sample_weight = unpacked(data.train)
    length = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
    size = settings.batch_size if data.is_arrays else None
    given = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": size, "validation_data": data.validation}
    return given | length


def _tested(settings: Settings, trainer: Trainer) -> dict[str, Any]:
    """What the test data say, which are looked at only here; nothing, where there are none."""
    part = settings.data.test
    if part is None:
        return {}
    x, y, sample_weight = unpacked(part)
    size = None if hasattr(part, "element_spec") else settings.batch_size
    return trainer.evaluate(x, y, sample_weight=sample_weight, batch_size=size, verbose=0, return_dict=True)


class _Begin(keras.callbacks.Callback):
    """Writes the config once it is clear that the run begins, or goes on; brings and keeps what XLA compiles.

    Not before its first epoch: a model or a step that fails when it is traced leaves the run that was there as it is.
    """

    def __init__(self, directory: RunDirectory, setup: Setup, kept: compiled.Compiled | None, keeps: bool):
        super().__init__()
        self._directory, self._setup, self._kept = directory, setup, kept
        self._aside = directory.free_folder() if keeps else None
        self._is_begun, self._had_begun = False, True  # in this process, and in the one that it goes on for

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._setup.check_test_data()
        self._directory.look()
        if self._kept is not None:
            self._kept.bring()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        if self._is_begun:
            return
        self._is_begun, is_new = True, self._is_new
        if (aside := self._directory.begin(self._setup.config.text(), is_new, self._aside)) is not None:
            print(
                f"earlier   {self._directory.shown(aside)}: what the run before had written, beside its checkpoints", flush=True
            )

    @property
    def _is_new(self) -> bool:
        return self._setup.trainer.resumed_at is None or not self._had_begun

    def on_train_end(self, logs: Any = None) -> None:
        self.on_epoch_begin(0, logs)  # nothing was left to train

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        del epoch, logs
        if self._kept is not None:
            self._kept.keep()

    def get_state(self) -> dict[str, Any]:
        """Whether the run has begun, and where it puts aside what was there: who stops it before leaves that to the next."""
        return {"is_begun": self._is_begun or not self._is_new, "aside": self._aside}

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from there; until 0.3 there was none."""
        if state is not None:
            self._had_begun, self._aside = state["is_begun"], state["aside"]
