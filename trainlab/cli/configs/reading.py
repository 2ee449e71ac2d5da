"""From the text of config files to bindings, each with the place it was written at."""

import difflib
import importlib
import importlib.util
import keyword
import os
import re
import sys
import tokenize
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import gin

from trainlab.cli.configs import gin_internals, outline
from trainlab.cli.configs.checks import check_known, check_literal, check_macros, check_parameter
from trainlab.cli.configs.config import Binding, Config, literal
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.monitors import bind_monitor
from trainlab.cli.configs.names import RUN, SETTINGS, NotKnown, full_name, outlined
from trainlab.cli.configs.settings import check_setting


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
    reader.read(files, bindings)
    in_force = list(reader.bindings.values())
    for binding in in_force:
        check_macros(binding, in_force)
        check_literal(binding, in_force)
    reader.bindings.update(bind_monitor(in_force))
    try:
        gin.finalize()
    except ValueError as error:
        raise ConfigError(one_line(error)) from error
    return Config(reader.bindings, reader.imports)


def look_over(files: Iterable[str | os.PathLike], bindings: Iterable[str] = ()) -> None:
    """Finds what is wrong with a config as far as it can be seen without importing anything, TensorFlow above all.

    Args:
        files, bindings: As in `load`, which checks the same and the rest.

    Raises:
        ConfigError: A file cannot be read or understood, a name is not known, a setting is not what it must be.

    Example:
        >>> look_over(["configs/heun.gin"], ["run.epoch = 5"])
        Traceback (most recent call last):
        ...
        trainlab.cli.configs.errors.ConfigError: --set 'run.epoch = 5': run has no parameter 'epoch'; did you mean epochs?
    """
    sketch = _Sketch()
    sketch.read(files, bindings)
    sketch.check()


class _Reader:
    """Reads statements one by one into gin and keeps what gin forgets: where each was written."""

    def __init__(self) -> None:
        self.bindings: dict[tuple[str, str, str], Binding] = {}
        self.imports: dict[str, ModuleType] = {}
        self._open_files: list[Path] = []  # from the outermost to the one being read
        self._unknown: NotKnown | None = None

    def read(self, files: Iterable[str | os.PathLike], bindings: Iterable[str]) -> None:
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)
        for file in files:
            self.read_file(Path(file))
        for text in bindings:
            if not text.strip():
                raise ConfigError(f"--set '{text}': expected NAME.PARAMETER = VALUE")
            self.read_text(text, f"--set '{text}'", from_set=True)

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
        sys.path += [folder for folder in _folders_of(text) if folder not in sys.path]
        self._open_files.append(real)
        self.read_text(text, str(path))
        self._open_files.pop()

    def read_text(self, text: str, source: str, from_set: bool = False) -> None:
        def at(line: int | None) -> str:
            return source if from_set or line is None else f"{source}:{line}"

        try:
            parser = self._parser(text.removeprefix("\ufeff"))
            while (statement := parser.next()) is not None:
                self._take(statement, at(statement.line), source, from_set)
        except (SyntaxError, tokenize.TokenError) as error:
            line, message = _syntax_error(error)
            raise ConfigError(f"{at(line)}: {message}") from None
        except NotKnown as error:  # from a reference inside a value: gin has appended the line to the text
            place = re.search(r" line (\d+)", str(error).partition("\n")[2])
            line = int(place[1]) if place else None
            left = "" if line is None else text.splitlines()[line - 1].partition("=")[0]
            unknown = self._unknown or error
            raise ConfigError(f"{at(line)}: {unknown.explain(left.strip().rpartition('.')[2])}") from None

    def _parser(self, text: str) -> gin_internals.Parser:
        return gin_internals.Parser(text, self._full_name)

    def _full_name(self, name: str) -> str:
        try:
            return self._known(name)
        except NotKnown as error:
            self._unknown = error  # gin raises another in its place, of which only the text is sure
            raise

    def _known(self, name: str) -> str:
        return full_name(name, self.imports)

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
            raise _not_found(where, statement.module, str(error)) from error
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
            return self._full_name(name)
        except NotKnown as error:
            raise ConfigError(f"{where}: {error.explain()}") from None


class _Sketch(_Reader):
    """Reads as a `_Reader` does, and imports and binds nothing: what it cannot know it takes to be right."""

    def __init__(self) -> None:
        super().__init__()
        self._has_imports = False

    def check(self) -> None:
        in_force = list(self.bindings.values())
        for binding in in_force:
            check_macros(binding, in_force)
            if (binding.scope, binding.selector) == ("", RUN):
                self._check_setting(binding, literal(binding, in_force))

    def _check_setting(self, binding: Binding, value: object) -> None:
        if gin_internals.is_plain(value):
            try:
                check_setting(binding.argument, value)
            except (TypeError, ValueError) as error:
                raise ConfigError(binding.blame(str(error))) from None
        package = {"metrics": "metrics", "loss": "losses"}.get(binding.argument)
        for name in value if isinstance(value, (list, tuple)) else [value]:
            if package and isinstance(name, str) and not outline.is_given(package, name):
                unknown = unknown_of("loss" if package == "losses" else "metric", name, outline.names_given(package))
                raise ConfigError(binding.blame(f"run.{binding.argument} = {value!r}: {unknown}"))

    def _parser(self, text: str) -> gin_internals.Parser:
        return gin_internals.Parser(text, self._full_name, is_to_be_built=False)

    def _known(self, name: str) -> str:
        try:
            return outlined(name)
        except NotKnown:
            if self._has_imports:  # it may be of one of these
                return name
            raise

    def _import(self, statement: gin_internals.Import, where: str) -> None:
        self._has_imports = True
        top = statement.module.partition(".")[0]
        try:
            is_there = top == "__gin__" or importlib.util.find_spec(top) is not None
        except ValueError:  # of a module that was made, and not found
            is_there = True
        if not is_there:
            raise _not_found(where, statement.module, f"No module named {top!r}")

    def _bind(self, statement: gin_internals.Assignment, where: str, from_set: bool) -> None:
        if not statement.argument:
            scope, selector, argument = f"{statement.scope}/{statement.selector}".lstrip("/"), gin_internals.MACRO, "value"
        else:
            scope, argument, selector = statement.scope, statement.argument, self._find(statement.selector, where)
            if selector in SETTINGS:
                check_parameter(selector, argument, where)
            elif (known := outline.parameters(selector)) is not None:
                check_known(selector, argument, known, where)
        key = scope, selector, argument
        self.bindings.pop(key, None)
        self.bindings[key] = Binding(scope, selector, argument, statement.value, where, from_set)


def unknown_of(noun: str, name: str, known: Iterable[str]) -> str:
    """One line on a name that Keras does not know: what may have been meant, or what there is.

    Args:
        noun: "metric" or "loss".
        name: As it was given.
        known: The names that there are.

    Example:
        >>> unknown_of("metric", "acuracy", ["accuracy", "mae"])
        "Keras has no metric 'acuracy'; did you mean accuracy?"
    """
    # Of a class and its other spelling the one that begins as what was written.
    spelled = {each.lower(): each for each in sorted(known, key=lambda each: each[:1].isupper() == name[:1].isupper())}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    shown = (name for name in sorted(known) if name.islower() and not name.endswith("wrapper") and name != noun)
    hint = f"did you mean {spelled[close[0]]}?" if close else f"it has {', '.join(shown)}"
    return f"Keras has no {noun} {name!r}; {hint}"


def _folders_of(text: str) -> list[str]:
    """Where the modules lie that the config of a run imports: it says so, since it lies elsewhere than they do."""
    found = []
    for module, file in re.findall(r"^import ([\w.]+)(?: as \w+)?  # of (.+\.py)$", text, re.MULTILINE):
        path = Path(file)
        depth = module.count(".") + (path.name == "__init__.py")
        if path.is_file() and depth < len(path.parents):
            found.append(str(path.parents[depth]))
    return found


def _not_found(where: str, module: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{where}: cannot import {module}: {reason} (searched beside the config, in the current directory and among what is "
        "installed)"
    )


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
    if isinstance(error, tokenize.TokenError):  # from Python 3.12 on it is told much else
        is_open = re.search("EOF|unterminated", str(message))
        return line, "a bracket or a quote is opened and never closed" if is_open else f"cannot be read: {message}"
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
