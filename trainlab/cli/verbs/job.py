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
import tensorflow as tf

from trainlab.callbacks import JsonLines, json_value
from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import ConfigError, in_flags, one_line
from trainlab.cli.configs.settings import Settings
from trainlab.cli.verbs.run_directory import RunDirectory
from trainlab.data import device
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
                warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes what that takes, and less
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
        # Before anything is built: initial weights come from the seed.
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        if is_asked:
            self._compiled = compiled.Compiled(self._directory.path / "compiled")
        settings = config.build()
        if self._use == "best" and settings.keep_best is None:
            raise ValueError("--use=best: nothing says what is best: write --set 'run.keep_best = \"val_accuracy\"'")
        model = settings.model(settings.data.input_shape, settings.data.num_outputs)
        if not isinstance(model, keras.Model):
            raise TypeError(f"run.model must return a keras.Model, not a {type(model).__name__}")
        self._trainer = trainer = Trainer(
            model,
            settings.strategy,
            optimizer=settings.optimizer,
            loss=settings.loss,
            metrics=list(settings.metrics),
            seed=settings.seed,
            jit_compile=settings.jit_compile,
            deterministic=settings.deterministic or None,
            run=settings.run_in(self._directory.path),
            on_nonfinite=settings.on_nonfinite,
            micro_batch_size=settings.micro_batch_size,
            sum_duplicate_rows=settings.sum_duplicate_rows,
            distribute=settings.distribute,
        )
        _check_all_used(config)
        _check_logits(settings.loss, model)
        print(_summary(settings, trainer), flush=True)
        start = time.monotonic()
        records = JsonLines(self._directory.metrics, restart=True)
        history = self._train(settings, trainer, [records, _Begin(self._directory, config, self._compiled)])
        with self._directory.finishing():
            test = self._finish(settings, trainer, records, len(history.epoch))
        numbers = {name: math.nan if value is None else float(value) for name, value in test.items()}
        print(f"test      {', '.join(f'{name} {value:.4f}' for name, value in numbers.items())}")
        seconds = time.monotonic() - start
        print(f"results   {self._directory.path}: model.keras, metrics.jsonl, config.gin ({seconds:.0f} s)")
        self._done = True

    def _train(self, settings: Settings, trainer: Trainer, callbacks: list[Any]) -> keras.callbacks.History:
        length: dict[str, Any] = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
        data = settings.data
        x, y = _xy(data.train)
        return trainer.fit(
            x,
            y,
            batch_size=settings.batch_size if data.is_arrays else None,
            validation_data=data.test,
            callbacks=callbacks,
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
            _show_warning(said)
        size = settings.batch_size if settings.data.is_arrays else None
        test = trainer.evaluate(*_xy(settings.data.test), batch_size=size, verbose=0, return_dict=True)
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


def _xy(part: Any) -> tuple[Any, Any]:
    """`Data.train` or `Data.test` as `fit` and `evaluate` take it: `x` and `y`, or a data set as `x`."""
    x, y = (part, None) if hasattr(part, "element_spec") else part
    return x, y


def _status(code: Any) -> int:
    return code if isinstance(code, int) else 1


class _Begin(keras.callbacks.Callback):
    """Writes the config once it is clear that the run begins, or goes on; brings and keeps what XLA compiles."""

    def __init__(self, directory: RunDirectory, config: Config, kept: compiled.Compiled | None):
        super().__init__()
        self._directory, self._config, self._kept = directory, config, kept

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._directory.begin(self._config.text())
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
        _show_warning(line)


def _check_logits(loss: Any, model: keras.Model) -> None:
    """Warns of the one mistake that trains without an error and learns nothing: logits taken for probabilities."""
    if isinstance(loss, keras.Loss):
        name, from_logits = type(loss).__name__, loss.get_config().get("from_logits", True)
    else:
        name, from_logits = str(loss), not str(loss).endswith("crossentropy")
    if not from_logits and getattr(model.layers[-1], "activation", None) is keras.activations.linear:
        _show_warning(
            f"run.loss = {name} expects probabilities, but the model returns logits: write for example "
            "run.loss = @SparseCategoricalCrossentropy() and SparseCategoricalCrossentropy.from_logits = True"
        )


def _summary(settings: Settings, trainer: Trainer) -> str:
    data, model, strategy = settings.data, trainer.model, settings.strategy
    length = _many(settings.epochs, "epoch") if settings.steps is None else _many(settings.steps, "update")
    lines = {
        "model": f"{model.name}, {_many(model.count_params(), 'parameter')}",
        "device": trainer.device,
        "data": f"{data.name}: {data.described_sizes} of shape {data.input_shape}, {_many(data.num_outputs, 'class', 'es')}",
        "strategy": f"{strategy!r}, {_many(strategy.evaluations, 'evaluation')} an update",
        "update": _update(settings, trainer),
        "length": length,
    }
    return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def _update(settings: Settings, trainer: Trainer) -> str:
    batches = settings.strategy.batches
    if not settings.data.is_arrays:
        return _many(batches, "batch", "es") + " of the data set"
    described, num_examples = trainer.describe(settings.batch_size), settings.data.num_examples
    if num_examples < settings.batch_size * batches:
        return f"all {_many(num_examples, 'example')}, fewer than {described}"
    return described


def _many(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _show_warning(message: Warning | str, *_: Any) -> None:
    with suppress(OSError):  # the terminal may be gone, which is no reason to stop
        print(f"trainlab: warning: {in_flags(' '.join(str(message).split()))}", file=sys.stderr)
