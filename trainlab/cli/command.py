"""The command line: `python -m trainlab.train --config configs/heun.gin`.

What is wrong with the command, and with its config as far as that can be seen in the text, is said before TensorFlow is imported.
"""

import dataclasses
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from absl import flags

from trainlab.cli.configs import reading
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.settings import Settings

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

TensorFlow's own messages are kept back; TF_CPP_MIN_LOG_LEVEL=0 in the environment shows all of them.
What a config may set: every argument of what it names (mlp, cnn, Heun, Accumulate, keras.optimizers.SGD, ...), and of
the run itself: {settings}.
"""


_RESUME = ("auto", "must", "never", "weights")
_OVERRIDABLE = ("learning_rate", "data", "micro_batch_size", "on_nonfinite")
_USE = ("last", "best")
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LOGGED = re.compile(rb"WARNING: All log messages before|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |[IWE]\d{4} \d\d:\d\d:\d\d")


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
        print(HELP.format(settings=", ".join(field.name for field in dataclasses.fields(Settings))), end="")
        return 0
    if swallowed := [value for value in options.config + options["set"].value if value.startswith("--")]:
        return _fail(f"a flag has no value: {swallowed[0]!r} follows it (--help shows all flags)", status=2)
    if rest:
        example = f"--config {rest[0]}" if rest[0].endswith(".gin") else f"--set '{' '.join(rest)}'"
        return _fail(f"unexpected argument {rest[0]!r}: write {example} (--help shows all flags)", status=2)
    if not options.config:
        return _fail("nothing to train: give --config FILE, for example --config configs/heun.gin", status=2)
    if options.resume not in _RESUME:
        return _fail(f"--resume={options.resume}: must be one of {', '.join(_RESUME)}", status=2)
    if options.overwrite and options.resume != "never":
        return _fail("--overwrite removes the run that is there: it goes with --resume=never", status=2)
    if unknown := set(options.override) - set(_OVERRIDABLE):
        return _fail(f"--override={unknown.pop()}: must be one of {', '.join(_OVERRIDABLE)}", status=2)
    if options.use not in _USE:
        return _fail(f"--use={options.use}: must be one of {', '.join(_USE)}", status=2)
    how = {"resume": options.resume, "overwrite": options.overwrite, "override": options.override}
    try:
        reading.look_over(options.config, options["set"].value)
        with _quiet():
            from trainlab.cli.verbs.job import Job  # and with it TensorFlow
    except ConfigError as error:
        if options.debug:
            raise
        return _fail(one_line(error))
    except KeyboardInterrupt:
        if options.debug:
            raise
        return _fail("interrupted; nothing is saved", status=130)
    directory = options.run_dir or Path("runs") / Path(options.config[-1]).stem
    failure = Job(options.config, options["set"].value, directory, how, options.use, options.debug).run()
    return 0 if failure is None else _fail(*failure)


@contextmanager
def _quiet() -> Iterator[None]:
    """While TensorFlow is imported, unless the user has set its log level: keeps what it logs from the terminal.

    The level holds from then on, but not for what is written while its libraries are loaded: that is held back, and all but lines
    of its log is shown afterwards.
    """
    if _LOG_LEVEL in os.environ or "tensorflow" in sys.modules:
        yield
        return
    os.environ[_LOG_LEVEL] = "3"
    try:
        terminal = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        keeps = True
        try:
            yield
            keeps = False
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            lines = [line for line in held if keeps or not _LOGGED.match(line)]
            with suppress(OSError):
                os.write(2, b"".join(lines))


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


def _fail(message: str, status: int = 1) -> int:
    with suppress(OSError):
        print(f"trainlab: error: {message}", file=sys.stderr)
    return status
