"""From the text of config files to bindings, each with the place it was written at."""

import difflib
import importlib
import keyword
import os
import re
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import gin

from trainlab.cli import gin_internals
from trainlab.cli.checks import check_literal, check_macros, check_parameter
from trainlab.cli.config import Binding, Config
from trainlab.cli.errors import ConfigError, one_line
from trainlab.cli.names import NotKnown, full_name


def load(files: Iterable[str | os.PathLike], bindings: Iterable[str] = ()) -> Config:
    """Reads config files, then single bindings; a later one replaces an earlier one.

    The directories of the files and the current directory become importable, as a script's directory is.

    Args:
        files: Paths of gin files. `include 'other.gin'` in a file is relative to that file.
        bindings: Bindings as they would stand in a file, for example "run.epochs = 5".

    Returns:
        The config; gin's own, earlier state is cleared.

    Raises:
        ConfigError: A file cannot be read, or something in it cannot be understood or is not known.

    Example:
        >>> config = load(["configs/heun.gin"], ["run.epochs = 5"])
        >>> config.build().epochs
        5
    """
    gin.clear_config()
    reader = _Reader()
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    for file in files:
        reader.read_file(Path(file))
    for text in bindings:
        if not text.strip():
            raise ConfigError(f"--set '{text}': expected NAME.PARAMETER = VALUE")
        reader.read_text(text, f"--set '{text}'", from_set=True)
    in_force = list(reader.bindings.values())
    for binding in in_force:
        check_macros(binding, in_force)
        check_literal(binding, in_force)
    try:
        gin.finalize()
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    return Config(reader.bindings, reader.imports)


class _Reader:
    """Reads statements one by one into gin and keeps what gin forgets: where each was written."""

    def __init__(self) -> None:
        self.bindings: dict[tuple[str, str, str], Binding] = {}
        self.imports: dict[str, ModuleType] = {}
        self._open_files: list[Path] = []  # from the outermost to the one being read

    def read_file(self, path: Path, where: str = "") -> None:
        prefix = f"{where}: " if where else ""
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{prefix}{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        except FileNotFoundError:
            raise ConfigError(f"{prefix}{path}: no such file{_did_you_mean_file(path)}") from None
        except IsADirectoryError:
            raise ConfigError(f"{prefix}{path}: is a directory; give a .gin file in it") from None
        except (OSError, ValueError) as error:  # a null byte in a path is a ValueError
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{prefix}{path}: cannot be read ({reason})") from None
        real = path.resolve()
        if real in self._open_files:
            raise ConfigError(f"{prefix}{path} includes itself")
        if str(real.parent) not in sys.path:
            sys.path.insert(0, str(real.parent))
        self._open_files.append(real)
        self.read_text(text, str(path))
        self._open_files.pop()

    def read_text(self, text: str, source: str, from_set: bool = False) -> None:
        def at(line: int | None) -> str:
            return source if from_set or line is None else f"{source}:{line}"

        try:
            parser = gin_internals.Parser(text.removeprefix("\ufeff"), lambda name: full_name(name, self.imports))
            while (statement := parser.next()) is not None:
                self._take(statement, at(statement.line), source, from_set)
        except (SyntaxError, tokenize.TokenError) as error:
            line, message = _syntax_error(error)
            raise ConfigError(f"{at(line)}: {message}") from None
        except NotKnown as error:  # from a reference inside a value: gin has appended the line to the text
            message, _, rest = str(error).partition("\n")
            place = re.search(r" line (\d+)", rest)
            raise ConfigError(f"{at(int(place[1]) if place else None)}: {message}") from None

    def _take(self, statement: gin_internals.Statement, where: str, source: str, from_set: bool) -> None:
        if isinstance(statement, gin_internals.Include):
            folder = Path() if from_set else Path(source).parent
            self.read_file(folder / Path(statement.file).expanduser(), where)
        elif isinstance(statement, gin_internals.Import):
            self._import(statement, where)
        elif isinstance(statement, gin_internals.Block):
            self._find(statement.selector, where)
        else:
            self._bind(statement, where, from_set)

    def _import(self, statement: gin_internals.Import, where: str) -> None:
        if statement.module == "__gin__.dynamic_registration":
            return  # gin's own switch for imports without decorators: here that is always on
        try:
            module = importlib.import_module(statement.module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{where}: cannot import {statement.module}: {error} (searched beside the config, in the current "
                "directory and among what is installed)"
            ) from error
        except Exception as error:  # the module is foreign code: anything can come out of it
            raise ConfigError(
                f"{where}: importing {statement.module} failed: {type(error).__name__}: {one_line(error)}"
            ) from error
        self.imports[statement.name] = module

    def _bind(self, statement: gin_internals.Assignment, where: str, from_set: bool) -> None:
        if statement.argument:
            scope, argument = statement.scope, statement.argument
            selector = self._find(statement.selector, where)
            check_parameter(selector, argument, where)
        else:
            scope = f"{statement.scope}/{statement.selector}".lstrip("/")
            selector, argument = gin_internals.MACRO, "value"
        try:
            gin.bind_parameter((scope, selector, argument), statement.value)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{where}: {one_line(error)}") from None
        key = scope, selector, argument
        self.bindings.pop(key, None)  # so that the order is that of the last mention
        self.bindings[key] = Binding(scope, selector, argument, statement.value, where, from_set)

    def _find(self, name: str, where: str) -> str:
        try:
            return full_name(name, self.imports)
        except NotKnown as error:
            raise ConfigError(f"{where}: {error}") from None


def _syntax_error(error: SyntaxError | tokenize.TokenError) -> tuple[int | None, str]:
    """The line and the message of an error that gin's parser or Python's tokenizer raised."""
    message, location = (*error.args, None, None)[:2]
    line = location[1 if len(location) > 2 else 0] if isinstance(location, tuple) else None
    unreadable = re.search(r"Failed to parse token '(.*)'", str(message))
    if unreadable and (keyword.iskeyword(unreadable[1]) or unreadable[1].isidentifier()):
        token = unreadable[1]
        return line, f"{token} is no value: text needs quotes ('{token}'), something to build @ (@{token}()), a macro %"
    if unreadable:
        return line, f"{unreadable[1]} cannot be read as a value"
    if isinstance(error, tokenize.TokenError):
        return line, "a bracket or a quote is opened and never closed"
    text = str(message).rstrip(".")
    content = repr(getattr(location, "line_content", "").strip())[1:-1]  # no control characters on a terminal
    if text.startswith(("Couldn't parse statement", "Unexpected token", "Malformatted")):
        text = "expected NAME.PARAMETER = VALUE"
    elif text.startswith("Unable to parse value"):
        text = "expected a value: a number, 'text', a list, @name, @name() or %macro"
    elif text.startswith("Expected newline"):
        text = "more follows after the value; values are literals, not expressions"
    return line, text + (f", found: {content}" if content else "")


def _did_you_mean_file(path: Path) -> str:
    try:
        beside = [file.stem for file in path.parent.iterdir() if file.suffix == ".gin"]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.stem, beside, n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}.gin?" if close else ""
