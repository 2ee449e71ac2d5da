"""The command line: `python -m trainlab.train --config configs/heun.gin`."""

import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from absl import flags

from trainlab import config as configs
from trainlab.callbacks import JsonLines
from trainlab.run_directory import RunDirectory
from trainlab.settings import Settings
from trainlab.trainer import Trainer

HELP = """\
usage: python -m trainlab.train --config FILE [--set 'NAME.PARAMETER = VALUE'] [--run_dir DIR]

Trains a Keras model as gin files describe it and leaves config.gin, metrics.jsonl and model.keras in a directory.

  --config FILE     what to train; may be repeated, a later file overrides an earlier one
  --set 'BINDING'   changes one thing without a file; may be repeated, overrides every file
  --run_dir DIR     where the results go (runs/NAME-OF-CONFIG); a directory that holds a run is never overwritten
  --debug           on an error, show the whole traceback
  --help            this text

examples:
  python -m trainlab.train --config configs/heun.gin
  python -m trainlab.train --config configs/heun.gin --set 'run.epochs = 5' --set 'mlp.hidden_sizes = (128,)'
  python -m trainlab.train --config configs/heun.gin --set 'run.optimizer = @Adam()' --run_dir runs/heun-adam

What a config may set: every argument of what it names (mlp, cnn, Heun, Accumulate, keras.optimizers.SGD, ...), and of
the run itself: {settings}.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        arguments: What follows `python -m trainlab.train`; None takes it from `sys.argv`.

    Returns:
        The exit status: 0; 1 where something is wrong with the config, the data or the run; 2 where the command is; 130
        where it was interrupted. A failure is one line on stderr.

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
    directory = RunDirectory(options.run_dir or Path("runs") / Path(options.config[-1]).stem)
    job = _Job(options.config, options["set"].value, directory)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes what that takes, and less
            job.run()
    except KeyboardInterrupt:
        if options.debug:
            raise
        return _fail(f"interrupted; {job.what_is_left()}", status=130)
    except Exception as error:
        if options.debug:
            raise
        return _fail(job.explain(error))
    finally:
        job.tidy_up()
    return 0


class _Job:
    """One run, kept together so that a failure at any point can be explained and tidied up after."""

    def __init__(self, files: Sequence[str], bindings: Sequence[str], directory: RunDirectory):
        self._files, self._bindings, self._directory = files, bindings, directory
        self._config: configs.Config | None = None
        self._trainer: Trainer | None = None
        self._done = False

    def run(self) -> None:
        _grow_gpu_memory()
        self._config = config = configs.load(self._files, self._bindings)
        self._directory.check()
        keras.utils.set_random_seed(config.seed)  # before anything is built: initial weights come from it
        settings = config.build()
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
        )
        _check_all_used(config)
        _check_logits(settings.loss, model)
        print(_summary(settings, trainer), flush=True)
        self._directory.claim(config.text())
        start = time.monotonic()
        self._train(settings, trainer)
        model.save(self._directory.model)
        seconds = time.monotonic() - start
        print(f"results   {self._directory.path}: model.keras, metrics.jsonl, config.gin ({seconds:.0f} s)")
        self._done = True

    def _train(self, settings: Settings, trainer: Trainer) -> None:
        records = JsonLines(self._directory.metrics)
        (x, y), (x_test, y_test) = settings.data.train, settings.data.test
        length: dict[str, Any] = {"epochs": settings.epochs} if settings.steps is None else {"steps": settings.steps}
        history = trainer.fit(
            x,
            y,
            batch_size=settings.batch_size,
            validation_data=(x_test, y_test),
            callbacks=[records],
            verbose=1 if sys.stdout.isatty() else 2,  # a bar that redraws itself, or a line an epoch
            **length,
        )
        test = trainer.evaluate(x_test, y_test, batch_size=settings.batch_size, verbose=0, return_dict=True)
        result = {f"test_{name}": value for name, value in test.items()}
        records.write({"epoch": len(history.epoch), "step": trainer.iterations, **result})
        print(f"test      {', '.join(f'{name} {float(value):.4f}' for name, value in test.items())}")

    def explain(self, error: Exception) -> str:
        line = self._config.explain(error) if self._config else configs.one_line(error)
        expected = isinstance(error, (ValueError, TypeError, OSError))
        return line if expected else f"{type(error).__name__}: {line} (--debug shows where)"

    def what_is_left(self) -> str:
        updates = self._trainer.iterations if self._trainer else 0
        if not updates:
            return "nothing was trained, nothing is left"
        return f"{updates:,} updates were made; their metrics are in {self._directory.metrics}"

    def tidy_up(self) -> None:
        if not self._done and not (self._trainer and self._trainer.iterations):
            self._directory.release()


def _flags() -> flags.FlagValues:
    # Our own set of flags: absl's global one holds some forty of other people's, and what an earlier call parsed.
    values = flags.FlagValues()
    flags.DEFINE_multi_string("config", [], "gin file", flag_values=values)
    flags.DEFINE_multi_string("set", [], "gin binding", flag_values=values)
    flags.DEFINE_string("run_dir", None, "directory of the results", flag_values=values)
    flags.DEFINE_boolean("debug", False, "show tracebacks", flag_values=values)
    flags.DEFINE_boolean("help", False, "show the help", short_name="h", flag_values=values)
    values.set_gnu_getopt(True)  # flags count after a stray argument too
    return values


def _flag_error(error: flags.Error) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = str(error).partition("Did you mean: ")[2].rstrip(" ?")
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{hint}?" if hint else "")
    message = configs.one_line(error)
    message = re.sub(r": \('(.*)', '.*'\)$", r": \1", message)  # absl shows what is wrong as a Python tuple
    return message[0].lower() + message[1:]


def _grow_gpu_memory() -> None:
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the GPU is in use already, in a process that has done something before
            pass


def _check_all_used(config: configs.Config) -> None:
    for binding in config.unused():
        line = config.explain_unused(binding)
        if binding.from_set:  # typed just now for this run: it was meant to matter
            raise configs.ConfigError(line)
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
    print(f"trainlab: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _fail(message: str, status: int = 1) -> int:
    print(f"trainlab: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
