"""The command: `trainlab train --config configs/heun.gin`, and its other verbs.

What is wrong with the command, and with its config as far as that can be seen in the text, is said before TensorFlow is imported.
"""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trainlab
from trainlab.cli.completion import completion
from trainlab.cli.configs import reading
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.names import NotKnown
from trainlab.cli.help import help_text
from trainlab.cli.options import LISTED, VERBS, Given, UsageError, Verb, number, parse
from trainlab.cli.quiet import quiet
from trainlab.cli.verbs.listing import explained, imports_of, listed

Failure = tuple[str, int]


def console(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `trainlab`.

    Args:
        arguments: What follows `trainlab`: a verb, and what that takes; None takes it from `sys.argv`.

    Returns:
        The exit status, as of `main`.

    Raises:
        BaseException: Whatever went wrong, under `--debug`.

    Example:
        >>> console(["--version"])
        trainlab 0.3.0
        0
    """
    _print_anything()
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in VERBS:
        return _attempted(VERBS[given[0]], given[1:])
    try:
        print(_without_verb(given))
    except (UsageError, NotKnown, ConfigError) as error:
        return _fail(f"{error} (trainlab --help shows all verbs)", status=2)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `trainlab train`, which is `python -m trainlab.train` too.

    Args:
        arguments: What follows it; None takes it from `sys.argv`.

    Returns:
        The exit status: 0; 1 where something is wrong with the config, the data or the run; 2 where the command is; 130
        where it was interrupted, 143 where it was terminated, 129 where its terminal was closed. A failure is one line on stderr.

    Raises:
        BaseException: Whatever went wrong, under `--debug`.

    Example:
        >>> main(["--config", "configs/heun.gin", "--set", "run.epochs = 5"])  # doctest: +SKIP
        0
    """
    _print_anything()
    return _attempted(VERBS["train"], list(sys.argv[1:] if arguments is None else arguments))


def _print_anything() -> None:
    """A name that the encoding of the output does not have ends no training: it is escaped, as it is on stderr."""
    out = sys.stdout
    if getattr(out, "errors", None) == "strict" and hasattr(out, "reconfigure"):
        out.reconfigure(errors="replace" if out.isatty() else "backslashreplace")  # Keras' bar on a terminal is many such signs


def _without_verb(given: Sequence[str]) -> str:
    """What the command itself answers."""
    flag, _, value = (given[0] if given else "").partition("=")
    rest = [value] if value else list(given[1:])
    if not given:
        raise UsageError("nothing to do: give a verb, for example trainlab train --config configs/heun.gin")
    if flag in ("--help", "-h"):
        return _help(rest[0]) if rest else help_text().rstrip()
    if flag == "--version" and not rest:
        return f"trainlab {trainlab.__version__}"
    if flag == "--list":
        return _listed(rest[0] if rest else "")
    if flag in ("--print-completion", "--print_completion"):
        return completion(rest[0] if rest else "")
    if flag.startswith("-"):
        raise UsageError(f"{given[0]}: a verb comes first: write trainlab train {' '.join(map(_quoted, given))}")
    close = difflib.get_close_matches(flag, VERBS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the verbs are {', '.join(VERBS)}"
    raise UsageError(f"unknown verb {flag!r}; {hint}")


def _quoted(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def _help(name: str, imports: Mapping[str, str] = MappingProxyType({})) -> str:
    if name in VERBS:
        return help_text(name).rstrip()
    try:
        return explained(name, imports)
    except NotKnown as error:
        raise UsageError(f"--help {name}: {error}") from None


def _listed(kind: str) -> str:
    if kind not in LISTED:
        close = difflib.get_close_matches(kind, LISTED, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UsageError(f"--list={kind}: must be one of {', '.join(LISTED)}{hint}")
    return listed(kind)


def _attempted(verb: Verb, arguments: Sequence[str]) -> int:
    """A verb, whatever is wrong with its flags or its config as one line."""
    try:
        is_asked, name, rest = _asked_for_help(arguments)
        if is_asked:
            print(_help(name, imports_of(_configs_in(rest))) if name else help_text(verb.name).rstrip())
            return 0
        given = parse(verb, rest)
    except (UsageError, ConfigError) as error:
        return _fail(f"{error} (--help shows all flags)", status=2)
    except OSError as error:  # a config that cannot be read
        return _fail(_of_files(error), status=2)
    try:
        failure = _VERBS[verb.name](given)
    except UsageError as error:
        return _fail(str(error), status=2)
    except ConfigError as error:
        if given.values["debug"]:
            raise
        return _fail(one_line(error))
    except OSError as error:  # a path that may not be looked at, or is none
        if given.values["debug"]:
            raise
        return _fail(_of_files(error))
    except KeyboardInterrupt:
        if given.values["debug"]:
            raise
        return _fail("interrupted; nothing is saved", status=130)
    return 0 if failure is None else _fail(*failure)


def _of_files(error: OSError) -> str:
    return one_line(error) if error.filename is None else f"{error.filename}: {error.strerror}; give a path that can be read"


def _asked_for_help(arguments: Sequence[str]) -> tuple[bool, str, list[str]]:
    """Whether there is a `--help` among the arguments, the name that it is to explain, and the other arguments."""
    rest = list(arguments)
    for i, argument in enumerate(rest):
        flag, _, name = argument.partition("=")
        if flag in ("--help", "-h"):
            del rest[i]
            if not name and i < len(rest) and not rest[i].startswith("-"):
                name = rest.pop(i)
            return True, name, rest
    return False, "", rest


def _configs_in(arguments: Sequence[str]) -> list[str]:
    """The files that come after --config."""
    pairs = zip(arguments, [*arguments, ""][1:], strict=True)
    return [a.partition("=")[2] or b for a, b in pairs if a.partition("=")[0] == "--config"]


def _train(given: Given) -> Failure | None:
    values = given.values
    if values["list"] is not None:
        print(_listed(values["list"]))
        return None
    _check_config_flags(given, "nothing to train")
    if values["overwrite"] and values["resume"] != "never":
        raise UsageError("--overwrite removes the run that is there: it goes with --resume=never")
    if values["print_config"] and values["dry_run"]:
        raise UsageError("--print-config and --dry-run: give one of them")
    how = {"resume": values["resume"], "overwrite": values["overwrite"], "override": values["override"]}
    files, bindings = values["config"], values["set"]
    directory = _directory(values)
    reading.look_over(files, bindings)
    with quiet():
        from trainlab.cli.verbs.dry_run import DryRun
        from trainlab.cli.verbs.job import Job  # and with it TensorFlow
        from trainlab.cli.verbs.printing import print_config
    if values["print_config"]:
        return print_config(files, bindings, directory, values["debug"])
    kind = DryRun if values["dry_run"] else Job
    return kind(files, bindings, directory, how, values["use"], values["debug"]).run()


def _check_config_flags(given: Given, nothing: str) -> None:
    rest = given.rest
    if rest:
        example = f"--config {rest[0]}" if rest[0].endswith(".gin") else f"--set '{' '.join(rest)}'"
        raise UsageError(f"unexpected argument {rest[0]!r}: write {example} (--help shows all flags)")
    if not given.values["config"]:
        raise UsageError(f"{nothing}: give --config FILE, for example --config configs/heun.gin")


def _find_lr(given: Given) -> Failure | None:
    values = given.values
    _check_config_flags(given, "nothing to try")
    smallest = number("smallest", values["smallest"], at_least=0)
    largest = number("largest", values["largest"], at_least=smallest)
    how = {
        "smallest": smallest,
        "largest": largest,
        "num_updates": number("num_updates", values["num_updates"], at_least=2, is_whole=True),
    }
    output = None if values["output"] is None else _output(values["output"], (".png", ".json"))
    reading.look_over(values["config"], values["set"])
    with quiet():
        from trainlab.cli.verbs.find_lr import find_lr
    return find_lr(values["config"], values["set"], how, output, values["debug"])


def _compare(given: Given) -> Failure | None:
    values = given.values
    _check_config_flags(given, "nothing to compare")
    jobs = int(number("jobs", values["jobs"], at_least=1, is_whole=True))
    reading.look_over(values["config"], values["set"])
    with quiet():
        from trainlab.cli.verbs.compare import compare
    return compare(values["config"], values["set"], _directory(values), jobs, values["debug"])


def _sweep(given: Given) -> Failure | None:
    values = given.values
    _check_config_flags(given, "nothing to look for")
    reading.look_over(values["config"], values["set"])
    with quiet():
        from trainlab.cli.verbs.sweep import sweep
    return sweep(values["config"], values["set"], _directory(values), values["debug"])


def _directory(values: dict[str, Any]) -> Path:
    return Path(values["run_dir"] or Path("runs") / Path(values["config"][-1]).stem)


def _show(given: Given) -> Failure | None:
    if len(given.rest) != 1:
        what = "give the directory of a run" if not given.rest else f"one run at a time, not {len(given.rest)}"
        raise UsageError(f"show: {what}, for example trainlab show runs/heun")
    [directory] = map(Path, given.rest)
    config = directory / "config.gin"
    if not config.is_file():
        raise ConfigError(f"{directory}: {_no_run(directory, 'config.gin')}")
    reading.look_over([str(config)])
    with quiet():
        from trainlab.cli.verbs.show import show
    return show(directory, given.values["debug"])


def _report(given: Given) -> Failure | None:
    if not given.rest:
        raise UsageError("report: give the directories of runs, for example trainlab report runs/heun runs/sgd")
    output = _output(given.values["output"], (".html", ".md", ".png", ".pdf", ".svg"))
    for run in given.rest:
        if not _holds_a_run(Path(run)):
            inside = [path for path in sorted(Path(run).glob("*")) if _holds_a_run(path)]
            instead = f"; there are {len(inside)} in it: give {run}/*/, or {inside[0]}" if inside else ""
            raise ConfigError(f"{run}: {_no_run(Path(run), 'timeline.jsonl')}{instead}")
    with quiet():
        from trainlab.cli.verbs.report import report
    return report(given.rest, output, given.values["title"], given.values["debug"])


def _holds_a_run(directory: Path) -> bool:
    return any((directory / name).exists() for name in ("timeline.jsonl", "metrics.jsonl", "checkpoints"))


def _no_run(directory: Path, file: str) -> str:
    if not directory.exists():
        beside = [path.name for path in directory.parent.glob("*")] if directory.parent.is_dir() else []
        close = difflib.get_close_matches(directory.name, beside, n=1)
        return "no such directory" + (f"; did you mean {directory.parent / close[0]}?" if close else "")
    return f"is no directory of a run: it holds no {file}" if directory.is_dir() else "is a file; give the directory of a run"


def _output(text: str, endings: Sequence[str]) -> Path:
    path = Path(text)
    if path.suffix.lower() not in endings:
        raise UsageError(f"--output={text}: must end in {', '.join(endings[:-1])} or {endings[-1]}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output={text}: there is no directory {path.parent}; make it first")
    return path


_VERBS: dict[str, Callable[[Given], Failure | None]] = {
    "train": _train,
    "find-lr": _find_lr,
    "show": _show,
    "report": _report,
    "compare": _compare,
    "sweep": _sweep,
}


def _fail(message: str, status: int = 1) -> int:
    with suppress(OSError):
        print(f"trainlab: error: {message}", file=sys.stderr)
    return status
