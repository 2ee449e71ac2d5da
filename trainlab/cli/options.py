"""The verbs of the command and their flags: one table, from which flags are read and shells complete them.

A verb that is added is an entry here, a text in `help.py` and what it does in `verbs/`.
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from trainlab.cli.configs.errors import one_line

RESUME = ("auto", "must", "never", "weights")
OVERRIDABLE = ("learning_rate", "data", "micro_batch_size", "on_nonfinite")
USE = ("last", "best")
LISTED = ("strategies", "models", "data", "optimizers", "schedules", "losses", "metrics", "callbacks")


class UsageError(ValueError):
    """A mistake in the command itself, as one line."""


class Option(NamedTuple):
    """A flag.

    Attributes:
        name: As it is written; with `-` and with `_` it is the same.
        help: What it does, in a few words.
        kind: "text", "texts" (may be repeated) or "switch".
        default: Its value where it is not given; None for none.
        choices: What it may be; empty where anything may.
        short: A letter that is the same.
        takes: What a shell completes: "*" for files, "*.gin" for such ones, "/" for directories.
    """

    name: str
    help: str
    kind: str = "text"
    default: str | None = None
    choices: tuple[str, ...] = ()
    short: str | None = None
    takes: str = ""


class Verb(NamedTuple):
    """What the command can do.

    Attributes:
        name: As it is written.
        help: What it does, in a few words.
        options: Its flags.
        operand: What else it takes, such as "RUN"; empty for nothing. It is a directory.
        is_repeated: Whether it takes several of them.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    operand: str = ""
    is_repeated: bool = False


_CONFIG = (
    Option("config", "a gin file that says what to train", "texts", takes="*.gin"),
    Option("set", "changes one thing of it", "texts"),
)
_COMMON = (
    Option("debug", "on an error, show the whole traceback", "switch"),
    Option("help", "explain the verb, or a name that a config may use", "switch", short="h"),
)
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "train",
            "train a model as a config describes it, or go on with it",
            (
                *_CONFIG,
                Option("run_dir", "where the results go", takes="/"),
                Option("resume", "what to do about a run that is there", default="auto", choices=RESUME),
                Option("overwrite", "remove the run that is there", "switch"),
                Option("use", "which checkpoint is tested", default="last", choices=USE),
                Option("override", "a setting that was changed on purpose", "texts", choices=OVERRIDABLE),
                Option("print-config", "say what would run, and where each value comes from", "switch"),
                Option("dry-run", "try it for two updates, and leave nothing", "switch"),
                Option("list", "say what there is of a kind", choices=LISTED),
                *_COMMON,
            ),
        ),
        Verb(
            "report",
            "write one page on one or several runs",
            (
                Option("output", "the file: .html, .md, .png, .pdf or .svg", default="report.html", short="o", takes="*"),
                Option("title", "the heading of the page"),
                *_COMMON,
            ),
            operand="RUN",
            is_repeated=True,
        ),
        Verb(
            "find-lr",
            "find the learning rate to begin with",
            (
                *_CONFIG,
                Option("smallest", "the learning rate to begin at", default="1e-7"),
                Option("largest", "the learning rate to end at", default="10"),
                Option("num_updates", "how many are tried", default="100"),
                Option("output", "a file for the curve: .png or .json", short="o", takes="*"),
                *_COMMON,
            ),
        ),
        Verb(
            "compare",
            "compare strategies with each other and with the plain step",
            (
                *_CONFIG,
                Option("run_dir", "where the runs go", takes="/"),
                Option("jobs", "processes that make them", default="1"),
                *_COMMON,
            ),
        ),
        Verb(
            "sweep",
            "look for good settings, run by run",
            (*_CONFIG, Option("run_dir", "where the runs go", takes="/"), *_COMMON),
        ),
        Verb("show", "say what happens in a run, and in which order", _COMMON, operand="RUN"),
    )
}


class Given(NamedTuple):
    """What a verb was given.

    Attributes:
        values: The flags, by name with `_`.
        rest: What was no flag.
    """

    values: dict[str, Any]
    rest: list[str]


def parse(verb: Verb, arguments: Sequence[str]) -> Given:
    """Reads the flags of a verb.

    Args:
        verb: The verb.
        arguments: What follows it.

    Raises:
        UsageError: One is not known, has no value, or a value that is none of its choices.

    Example:
        >>> given = parse(VERBS["report"], ["runs/a", "-o", "a.md"])
        >>> given.values["output"], given.rest
        ('a.md', ['runs/a'])
    """
    # Our own set of flags: absl's global one holds some forty of other people's, and what an earlier call parsed.
    values = flags.FlagValues()
    for option in verb.options:
        _define(option, values)
    values.set_gnu_getopt(True)  # flags count after a stray argument too
    try:
        rest = values(["trainlab", *(_spelled(argument, verb) for argument in arguments)])[1:]
    except flags.Error as error:
        raise UsageError(_explained(error)) from None
    found = {option.name.replace("-", "_"): values[option.name].value for option in verb.options}
    given = [value for option in verb.options for value in _texts(found[option.name.replace("-", "_")])]
    if swallowed := [value for value in given if value.startswith("--")]:
        raise UsageError(f"a flag has no value: {swallowed[0]!r} follows it")
    for option in verb.options:
        for value in _texts(found[option.name.replace("-", "_")]):
            if option.choices and value not in option.choices:
                close = difflib.get_close_matches(value, option.choices, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise UsageError(f"--{option.name}={value}: must be one of {', '.join(option.choices)}{hint}")
    return Given(found, rest)


def number(name: str, text: str, at_least: float, is_whole: bool = False) -> float:
    """The number that a flag was given.

    Args:
        name: Of the flag.
        text: What it was given.
        at_least: The smallest that it may be; where it need not be whole it must be more.
        is_whole: Whether it must be a whole number.

    Raises:
        UsageError: It is none.

    Example:
        >>> number("num_updates", "50", at_least=2, is_whole=True)
        50
    """
    try:
        value: float = int(text) if is_whole else float(text)
    except ValueError:
        value = float("nan")
    if is_whole and not value >= at_least:
        raise UsageError(f"--{name}={text}: must be a whole number of at least {at_least:g}")
    if not is_whole and not at_least < value < float("inf"):
        raise UsageError(f"--{name}={text}: must be a number of more than {at_least:g}")
    return value


def _define(option: Option, values: flags.FlagValues) -> None:
    if option.kind == "switch":
        flags.DEFINE_boolean(option.name, False, option.help, short_name=option.short, flag_values=values)
    elif option.kind == "texts":
        flags.DEFINE_multi_string(option.name, [], option.help, short_name=option.short, flag_values=values)
    else:
        flags.DEFINE_string(option.name, option.default, option.help, short_name=option.short, flag_values=values)


def _texts(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _spelled(argument: str, verb: Verb) -> str:
    """An argument with the flag in it spelled as in the table, `-` or `_`."""
    flag, equals, value = argument.partition("=")
    for option in verb.options:
        if flag.startswith("--") and flag[2:].replace("-", "_") == option.name.replace("-", "_"):
            return f"--{option.name}{equals}{value}"
    return argument


def _explained(error: flags.Error) -> str:
    if isinstance(error, flags.UnrecognizedFlagError):
        hint = str(error).partition("Did you mean: ")[2].rstrip(" ?")
        return f"unknown flag --{error.flagname}" + (f"; did you mean --{hint}?" if hint else "")
    message = one_line(error)
    message = re.sub(r": \('(.*)', '.*'\)$", r": \1", message)  # absl shows what is wrong as a Python tuple
    return message[0].lower() + message[1:]
