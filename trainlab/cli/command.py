"""The command line: `python -m trainlab.train --config configs/heun.gin`."""

import math
import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from trainlab.callbacks import JsonLines, json_value
from trainlab.cli import reading
from trainlab.cli.config import Config
from trainlab.cli.errors import ConfigError, one_line
from trainlab.cli.run_directory import RunDirectory
from trainlab.cli.settings import Settings
from trainlab.data import device
from trainlab.loop import NonFiniteError
from trainlab.runs import OVERRIDABLE, RESUME, OtherRun, Signals, write_atomically
from trainlab.trainer import Trainer

HELP = """\
usage: python -m trainlab.train --config FILE [--set 'NAME.PARAMETER = VALUE'] [--run_dir DIR] [--resume=HOW]

Trains a Keras model as gin files describe it and leaves config.gin, metrics.jsonl, model.keras, result.json and checkpoints in
a directory. The same command again goes on where it was stopped; of a finished run it shows the result.

  --config FILE     what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING'   changes one thing without a file; may be repeated, overrides every file
  --run_dir DIR     where the results go (runs/NAME-OF-CONFIG)
  --resume HOW      auto: go on with the run that is there, or begin (default); must: go on or fail; never: begin, and refuse a
                    directory that holds a run; weights: begin with the weights of the run that is there
  --overwrite       with --resume=never: remove the run that is there
  --use WHICH       last (default) or best, by run.keep_best: the checkpoint whose weights are tested and kept as model.keras
  --override NAME   go on although this was changed on purpose: learning_rate, data, micro_batch_size or on_nonfinite
  --debug           on an error, show the whole traceback
  --help            this text

examples:
  python -m trainlab.train --config configs/heun.gin
  python -m trainlab.train --config configs/heun.gin --set 'run.epochs = 5' --set 'mlp.hidden_sizes = (128,)'
  python -m trainlab.train --config configs/heun.gin --set 'run.optimizer = @Adam()' --run_dir runs/heun-adam

What a config may set: every argument of what it names (mlp, cnn, Heun, Accumulate, keras.optimizers.SGD, ...), and of
the run itself: {settings}.
"""


_USE = ("last", "best")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: What follows `python -m trainlab.train`; None takes it from `sys.argv`.

    Returns:
        The exit status: 0; 1 where something is wrong with the config, the data or the run; 2 where the command is; 130
        where it was interrupted, 143 where it was terminated, 129 where its terminal was closed. A failure is one line on stderr.

    Raises:
        BaseException: Whatever went wrong, under `--debug`.

    Example:
        >>> main(["--config", "configs/heun.gin", "--set", "run.epochs = 5"])  # doctest: +SKIP
        0
    """
    options = _flags()
    try:
        rest = options(["trainlab", *(sys.argv[1:] if arguments is None else arguments)])[1:]
    except flags.Error as error:
        return _fail(f"{_flag_error(error)} (--help shows all flags)", status=2)
    if options.help:
        print(HELP.format(settings=", ".join(Settings.__dataclass_fields__)), end="")
        return 0
    if swallowed := [value for value in options.config + options["set"].value if value.startswith("--")]:
        return _fail(f"a flag has no value: {swallowed[0]!r} follows it (--help shows all flags)", status=2)
    if rest:
        example = f"--config {rest[0]}" if rest[0].endswith(".gin") else f"--set '{' '.join(rest)}'"
        return _fail(f"unexpected argument {rest[0]!r}: write {example} (--help shows all flags)", status=2)
    if not options.config:
        return _fail("nothing to train: give --config FILE, for example --config configs/heun.gin", status=2)
    if options.resume not in RESUME:
        return _fail(f"--resume={options.resume}: must be one of {', '.join(RESUME)}", status=2)
    if options.overwrite and options.resume != "never":
        return _fail("--overwrite removes the run that is there: it goes with --resume=never", status=2)
    if unknown := set(options.override) - set(OVERRIDABLE):
        return _fail(f"--override={unknown.pop()}: must be one of {', '.join(OVERRIDABLE)}", status=2)
    if options.use not in _USE:
        return _fail(f"--use={options.use}: must be one of {', '.join(_USE)}", status=2)
    directory = RunDirectory(options.run_dir or Path("runs") / Path(options.config[-1]).stem)
    how = {"resume": options.resume, "overwrite": options.overwrite, "override": options.override}
    job = _Job(options.config, options["set"].value, directory, how, options.use)
    try:
        with warnings.catch_warnings(), Signals(at_once=True):
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes what that takes, and less
            job.run()
    except (KeyboardInterrupt, SystemExit) as error:
        if options.debug:
            raise
        what, status = ("terminated", _status(error.code)) if isinstance(error, SystemExit) else ("interrupted", 130)
        return _fail(f"{what}; {job.what_is_left()}", status=status)
    except Exception as error:
        if options.debug:
            raise
        return _fail(job.explain(error))
    finally:
        job.tidy_up()
    return 0


class _Job:
    """One run, kept together so that a failure at any point can be explained and tidied up after."""

    def __init__(self, files: Sequence[str], bindings: Sequence[str], directory: RunDirectory, how: dict[str, Any], use: str):
        self._files, self._bindings, self._directory, self._how, self._use = files, bindings, directory, how, use
        self._config: Config | None = None
        self._trainer: Trainer | None = None
        self._done = False

    def run(self) -> None:
        device.grow_memory()
        self._config = config = reading.load(self._files, self._bindings)
        self._directory.check(self._how["resume"], self._how["overwrite"])
        # Before anything is built: initial weights come from the seed.
        keras.utils.set_random_seed(config.seed)
        if config.deterministic:
            tf.config.experimental.enable_op_determinism()
        settings = config.build()
        if self._use == "best" and settings.keep_best is None:
            raise ValueError("--use=best: nothing says what is best: write --set 'run.keep_best = \"val_accuracy\"'")
        model = settings.model(settings.data.input_shape, settings.data.num_classes)
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
        )
        _check_all_used(config)
        _check_logits(settings.loss, model)
        print(_summary(settings, trainer), flush=True)
        start = time.monotonic()
        records = JsonLines(self._directory.metrics, restart=True)
        history = self._train(settings, trainer, [records, _Begin(self._directory, config)])
        with self._directory.finishing():
            test = self._finish(settings, trainer, records, len(history.epoch))
        numbers = {name: math.nan if value is None else float(value) for name, value in test.items()}
        print(f"test      {', '.join(f'{name} {value:.4f}' for name, value in numbers.items())}")
        seconds = time.monotonic() - start
        print(f"results   {self._directory.path}: model.keras, metrics.jsonl, config.gin ({seconds:.0f} s)")
        self._done = True

    def _train(self, settings: Settings, trainer: Trainer, callbacks: list[Any]) -> keras.callbacks.History:
        length: dict[str, Any] = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
        x, y = settings.data.train
        return trainer.fit(
            x,
            y,
            batch_size=settings.batch_size,
            validation_data=settings.data.test,
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
        test = trainer.evaluate(*settings.data.test, batch_size=settings.batch_size, verbose=0, return_dict=True)
        # What is tested may be of an earlier update than the run has come to.
        step = trainer.iterations if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
        records.write({"epoch": epochs, "step": step, **{f"test_{name}": value for name, value in test.items()}})
        write_atomically(directory.model, trainer.model.save)
        text = directory.result_text(checkpoint, step, json_value(test))
        write_atomically(directory.result, lambda path: path.write_text(text, encoding="utf-8"))
        return test

    def explain(self, error: Exception) -> str:
        if isinstance(error, OtherRun):
            return str(error)
        line = self._config.explain(error) if self._config else one_line(error)
        expected = isinstance(error, (ValueError, TypeError, OSError, MemoryError, NonFiniteError))
        return line if expected else f"{type(error).__name__}: {line} (--debug shows where)"

    def what_is_left(self) -> str:
        checkpoint = self._trainer.last_checkpoint if self._trainer else None
        if checkpoint is None:
            return "nothing is saved"
        shown = self._directory.path / checkpoint.parent.name / checkpoint.name  # as --run_dir was given
        return f"the last checkpoint is {shown}; the same command goes on from there"

    def tidy_up(self) -> None:
        if not self._done:
            self._directory.release()


def _status(code: Any) -> int:
    return code if isinstance(code, int) else 1


class _Begin(keras.callbacks.Callback):
    """Writes the config once it is clear that the run begins, or goes on."""

    def __init__(self, directory: RunDirectory, config: Config):
        super().__init__()
        self._directory, self._config = directory, config

    def on_train_begin(self, logs: Any = None) -> None:
        del logs
        self._directory.begin(self._config.text())

    def get_state(self) -> None:
        """Nothing."""

    def set_state(self, state: None) -> None:
        """Nothing."""


def _flags() -> flags.FlagValues:
    # Our own set of flags: absl's global one holds some forty of other people's, and what an earlier call parsed.
    values = flags.FlagValues()
    flags.DEFINE_multi_string("config", [], "gin file", flag_values=values)
    flags.DEFINE_multi_string("set", [], "gin binding", flag_values=values)
    flags.DEFINE_string("run_dir", None, "directory of the results", flag_values=values)
    flags.DEFINE_boolean("debug", False, "show tracebacks", flag_values=values)
    flags.DEFINE_boolean("help", False, "show the help", short_name="h", flag_values=values)
    flags.DEFINE_string("resume", "auto", "how to resume", flag_values=values)
    flags.DEFINE_boolean("overwrite", False, "remove the run that is there", flag_values=values)
    flags.DEFINE_string("use", "last", "which checkpoint is tested", flag_values=values)
    flags.DEFINE_multi_string("override", [], "a setting changed on purpose", flag_values=values)
    values.set_gnu_getopt(True)  # flags count after a stray argument too
    return values


def _flag_error(error: flags.Error) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = str(error).partition("Did you mean: ")[2].rstrip(" ?")
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{hint}?" if hint else "")
    message = one_line(error)
    message = re.sub(r": \('(.*)', '.*'\)$", r": \1", message)  # absl shows what is wrong as a Python tuple
    return message[0].lower() + message[1:]


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
    plural = "s" if strategy.evaluations != 1 else ""
    length = f"{settings.epochs:,} epochs" if settings.steps is None else f"{settings.steps:,} updates"
    lines = {
        "model": f"{model.name}, {model.count_params():,} parameters",
        "device": trainer.device,
        "data": f"{data.name}: {len(data.train[1]):,} training and {len(data.test[1]):,} test examples of shape "
        f"{data.input_shape}, {data.num_classes} classes",
        "strategy": f"{strategy!r}, {strategy.evaluations} evaluation{plural} an update",
        "update": trainer.describe(settings.batch_size),
        "length": length,
    }
    return "\n".join(f"{name:9} {text}" for name, text in lines.items())


def _show_warning(message: Warning | str, *_: Any) -> None:
    with suppress(OSError):  # the terminal may be gone, which is no reason to stop
        print(f"trainlab: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, status: int = 1) -> int:
    with suppress(OSError):
        print(f"trainlab: error: {message}", file=sys.stderr)
    return status
