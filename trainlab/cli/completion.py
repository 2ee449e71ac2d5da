"""What a shell needs to complete verbs, flags and what they take."""

import importlib.util
from typing import Any

from absl.flags import argparse_flags

from trainlab.cli.options import LISTED, VERBS, Option, UsageError, Verb

SHELLS = ("bash", "zsh", "tcsh")


def completion(shell: str) -> str:
    """The script that a shell is to read.

    Args:
        shell: "bash", "zsh" or "tcsh".

    Raises:
        UsageError: There is no script for that shell, or shtab, which writes them, is not installed.
    """
    if shell not in SHELLS:
        raise UsageError(f"--print-completion={shell}: must be one of {', '.join(SHELLS)}")
    if importlib.util.find_spec("shtab") is None:
        raise UsageError("--print-completion: needs shtab, which is not installed: pip install 'trainlab[completion]'")
    import shtab

    return shtab.complete(parser_of_all(), shell)


def parser_of_all() -> argparse_flags.ArgumentParser:
    """The whole command as absl's kind of `argparse` parser, with its verbs as sub-commands."""
    top = argparse_flags.ArgumentParser(prog="trainlab", inherited_absl_flags=None, add_help=False)
    top.add_argument("-h", "--help", nargs="?", metavar="NAME", help="explain the command, a verb or a name")
    top.add_argument("--list", choices=LISTED, help="say what there is of a kind")
    top.add_argument("--version", action="store_true", help="the version")
    top.add_argument("--print-completion", choices=SHELLS, help="what a shell needs")
    verbs = top.add_subparsers(metavar="VERB")
    for verb in VERBS.values():
        parser = verbs.add_parser(verb.name, help=verb.help, inherited_absl_flags=None, add_help=False)
        for option in verb.options:
            _add(parser, option)
        _add_operand(parser, verb)
    return top


def _add(parser: argparse_flags.ArgumentParser, option: Option) -> None:
    names = [f"--{option.name}"] + ([f"-{option.short}"] if option.short else [])
    if option.kind == "switch":
        parser.add_argument(*names, action="store_true", help=option.help)
        return
    action = parser.add_argument(*names, choices=option.choices or None, help=option.help)
    _complete(action, option.takes)


def _add_operand(parser: argparse_flags.ArgumentParser, verb: Verb) -> None:
    if verb.operand:
        action = parser.add_argument(verb.operand, nargs="*" if verb.is_repeated else None)
        _complete(action, "/")


def _complete(action: Any, takes: str) -> None:
    try:
        import shtab
    except ImportError:  # then nobody completes
        return
    if takes:
        action.complete = {"*": shtab.FILE, "/": shtab.DIRECTORY}.get(takes) or shtab.glob(takes)
