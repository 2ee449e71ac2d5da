"""Everything that knows gin: which names a config may use, how files are read, and a clear line for every mistake.

A config is a list of bindings `NAME.PARAMETER = VALUE`. Names are those of Python: `trainlab.Heun`,
`keras.optimizers.SGD`, `trainlab.models.mlp`; the end of a name is enough where only one thing has it (`Heun`, `mlp`).
`import my_module` makes everything in a module of your own available as `my_module.Name`, with no decorators.

A config is code, since it imports: run one only where you would run a Python file from the same source.

The statements are read with gin's own parser, but one by one, so that every binding keeps the place it was written at.
"""

import dataclasses
import difflib
import importlib
import inspect
import keyword
import os
import re
import sys
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gin
import keras
from gin import config as gin_config
from gin import config_parser

from trainlab import datasets, models, strategies
from trainlab.settings import Settings, require_count

_MACRO = "gin.macro"


class ConfigError(ValueError):
    """A mistake in a config, as one line: where it is, what the rule is, and what to write instead."""


def _register_names() -> None:
    """Makes the package's and Keras' own names known to gin, under the names they have in Python."""
    gin.external_configurable(Settings, name="run", module="trainlab")
    for name, item in vars(strategies).items():
        if inspect.isclass(item) and issubclass(item, strategies.StepStrategy) and item is not strategies.StepStrategy:
            gin.external_configurable(item, name=name, module="trainlab")
    for module in (datasets, models):
        for name, item in vars(module).items():
            if inspect.isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_"):
                gin.external_configurable(item, name=name, module=module.__name__)
    for path, module, base in (
        ("keras.optimizers", keras.optimizers, keras.Optimizer),
        ("keras.optimizers.schedules", keras.optimizers.schedules, keras.optimizers.schedules.LearningRateSchedule),
        ("keras.losses", keras.losses, keras.Loss),
    ):
        for name, item in vars(module).items():
            if inspect.isclass(item) and issubclass(item, base) and item is not base:
                gin.external_configurable(item, name=name, module=path)


_register_names()


@dataclasses.dataclass(frozen=True)
class Binding:
    """One binding and where it was written.

    Attributes:
        scope: gin scope, usually empty; the name, for a macro.
        selector: Full name of what it belongs to; `gin.macro` for a macro.
        argument: The parameter that it sets.
        value: The value; it may hold references (`@name`) and macros (`%name`).
        where: File and line, or the `--set` it came from.
        from_set: Whether it came from `--set`.
    """

    scope: str
    selector: str
    argument: str
    value: Any
    where: str
    from_set: bool

    @property
    def name(self) -> str:
        """As it is written on the left-hand side."""
        if self.selector == _MACRO:
            return self.scope
        return f"{self.scope}/{_short(self.selector)}.{self.argument}".lstrip("/")

    def blame(self, message: str) -> str:
        """The message, preceded by where the binding stands; a `--set` shows name and value already."""
        if self.from_set and self.selector != _MACRO:
            message = re.sub(rf"^[\w./]*{re.escape(self.argument)} = [^:]*: ", "", message)
        return f"{self.where}: {message}"


class Config:
    """A config that has been read: gin's state, which is global to the process, and what gin does not keep.

    Made by `load`.

    Attributes:
        bindings: The bindings in force (later ones have replaced earlier ones).
        imports: The modules the config imported, by the name they go under.
    """

    def __init__(self, bindings: Mapping[tuple[str, str, str], Binding], imports: Mapping[str, ModuleType]):
        self.bindings = list(bindings.values())
        self.imports = dict(imports)

    @property
    def seed(self) -> int:
        """The value of `run.seed`, known before anything is built.

        Raises:
            ValueError: It is not a whole number that Keras takes as a seed.
        """
        seed = self._early("seed", Settings.seed)
        require_count("seed", seed, at_least=0, at_most=2**32 - 1)
        return seed

    @property
    def deterministic(self) -> bool:
        """The value of `run.deterministic`, known before anything is built; `Settings` checks it."""
        return bool(self._early("deterministic", Settings.deterministic))

    def _early(self, name: str, value: Any) -> Any:
        for binding in self.bindings:
            if (binding.scope, binding.selector, binding.argument) == ("", "trainlab.run", name):
                value = _literal(binding, self.bindings)
        return value

    def build(self) -> Settings:
        """Builds what the config describes: data, optimizer, strategy; the model is left to be called.

        Returns:
            The `Settings`.

        Raises:
            Exception: Whatever the functions and classes that the config names raise; `explain` makes it one line.

        Example:
            >>> load(["configs/heun.gin"]).build().strategy
            Heun()
        """
        return gin.get_configurable("trainlab.run")()

    def unused(self) -> list[Binding]:
        """The bindings that nothing used so far: call it when everything is built."""
        with gin_config._OPERATIVE_CONFIG_LOCK:  # gin has no public view of it but text
            used = [(scope, selector, set(values)) for (scope, selector), values in gin_config._OPERATIVE_CONFIG.items()]

        def is_used(binding: Binding) -> bool:
            # A binding reaches every scope inside its own.
            return any(
                selector == binding.selector
                and binding.argument in arguments
                and f"{scope}/".startswith(f"{binding.scope}/" if binding.scope else "")
                for scope, selector, arguments in used
            )

        return [binding for binding in self.bindings if not is_used(binding)]

    def explain_unused(self, binding: Binding) -> str:
        """One line on a binding that nothing used: what it is and what may have been meant."""
        if binding.selector != _MACRO:
            owner = _short(binding.selector)
            if not binding.scope and any(selector == binding.selector for _, selector in gin_config._OPERATIVE_CONFIG):
                return f"{binding.where}: {binding.argument} is given to {owner} by the run itself; remove this"
            return f"{binding.where}: nothing in this run uses {binding.name}; remove it, or have the run use @{owner}"
        fields = [f"run.{field.name}" for field in dataclasses.fields(Settings)]
        used = sorted({f"%{name}" for other in self.bindings for name in _macros(other.value)})
        if f"run.{binding.scope}" in fields:
            hint = f"did you mean run.{binding.scope}?"
        else:
            close = difflib.get_close_matches(f"%{binding.scope}", used, n=1)
            hint = f"did you mean {close[0][1:]} (used as {close[0]})?" if close else "remove it"
        return f"{binding.where}: nothing in this run uses the macro %{binding.scope}; {hint}"

    def text(self) -> str:
        """What was used so far, defaults included, as a config that can be loaded again."""
        lines = []
        for name, module in sorted(self.imports.items()):
            lines.append(f"import {module.__name__}" + (f" as {name}" if name != module.__name__ else ""))
        return "\n".join([*lines, "", gin.operative_config_str(max_line_length=80)]).lstrip("\n")

    def explain(self, error: BaseException) -> str:
        """One line for an error raised while something that the config names was built or run.

        Args:
            error: The exception; gin has added to its text which calls it passed through.

        Returns:
            The message, preceded by file and line where a binding is to blame.
        """
        if isinstance(error, ConfigError):
            return one_line(error)
        text, *calls = str(error).split("\n  In call to configurable '")
        names = [call.partition("'")[0] for call in calls]
        missing = re.search(r"No values supplied by Gin or caller for arguments: \[(.*)\]", text)
        if missing and names:
            for binding in self.bindings:
                reference = binding.value
                if binding.name == "run.model" and isinstance(reference, gin_config.ConfigurableReference):
                    if reference.evaluate and reference.selector.endswith(names[0]):
                        return binding.blame(f"write run.model = @{names[0]}, without (): the run calls it with the shapes")
            arguments = [argument.strip("'") for argument in missing[1].split(", ")]
            bind = ", ".join(f"{names[0]}.{argument} = ..." for argument in arguments)
            return f"{names[0]} needs {', '.join(arguments)}: add {bind}"
        message = one_line(error)
        # The binding to blame is named in the message, or its parameter is and it belongs to the innermost call.
        for binding in self.bindings:
            owner = binding.selector.rpartition(".")[2]
            if f"{owner}.{binding.argument} = " in message:
                return binding.blame(message)
        for binding in self.bindings:
            owner = binding.selector.rpartition(".")[2]
            if owner in names[:1] and re.search(rf"\b{re.escape(binding.argument)}\b", message):
                return binding.blame(message if owner in message else f"{owner}: {message}")
        return f"{names[0]}: {message}" if names and names[0] not in message else message


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
        _check_macros(binding, in_force)
        _check_literal(binding, in_force)
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
            parser = config_parser.ConfigParser(text.removeprefix("\ufeff"), _References(self))
            while (statement := parser.parse_statement()) is not None:
                self._take(statement, at(statement.location.line_num), source, from_set)
        except (SyntaxError, tokenize.TokenError) as error:
            line, message = _syntax_error(error)
            raise ConfigError(f"{at(line)}: {message}") from None
        except _NotKnown as error:  # from a reference inside a value: gin has appended the line to the text
            message, _, rest = str(error).partition("\n")
            place = re.search(r" line (\d+)", rest)
            raise ConfigError(f"{at(int(place[1]) if place else None)}: {message}") from None

    def _take(self, statement: Any, where: str, source: str, from_set: bool) -> None:
        if isinstance(statement, config_parser.IncludeStatement):
            folder = Path() if from_set else Path(source).parent
            self.read_file(folder / Path(statement.filename).expanduser(), where)
        elif isinstance(statement, config_parser.ImportStatement):
            self._import(statement, where)
        elif isinstance(statement, config_parser.BlockDeclaration):
            self._find(statement.selector, where)
        else:
            self._bind(statement, where, from_set)

    def _import(self, statement: config_parser.ImportStatement, where: str) -> None:
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
        name = statement.bound_name()
        plain = not (statement.is_from or statement.alias)
        self.imports[statement.module if plain else name] = module

    def _bind(self, statement: config_parser.BindingStatement, where: str, from_set: bool) -> None:
        if statement.arg_name:
            scope, argument = statement.scope, statement.arg_name
            selector = self._find(statement.selector, where)
            _check_parameter(selector, argument, where)
        else:
            scope = f"{statement.scope}/{statement.selector}".lstrip("/")
            selector, argument = _MACRO, "value"
        try:
            gin.bind_parameter((scope, selector, argument), statement.value)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{where}: {one_line(error)}") from None
        key = scope, selector, argument
        self.bindings.pop(key, None)  # so that the order is that of the last mention
        self.bindings[key] = Binding(scope, selector, argument, statement.value, where, from_set)

    def _find(self, name: str, where: str) -> str:
        try:
            return self.find(name)
        except _NotKnown as error:
            raise ConfigError(f"{where}: {error}") from None

    def find(self, name: str) -> str:
        """The full name of what `name` stands for, registered with gin on first use if it comes from an import."""
        matches = [full for full in gin_config._REGISTRY.matching_selectors(name) if not full.startswith("gin.")]
        if len(matches) > 1:
            raise _NotKnown(f"'{name}' is ambiguous: write {' or '.join(sorted(matches))}")
        if matches:
            return matches[0]
        for path, item in self._imported(name):
            module, _, last = path.rpartition(".")
            try:
                gin.external_configurable(item, name=last, module=module)
            except Exception as error:  # an Enum, say, cannot be subclassed, which is what gin does to classes
                raise _NotKnown(f"'{name}' cannot be used in a config: {one_line(error)}") from error
            return path
        raise _NotKnown(f"unknown name '{name}'{self._hint(name)}")

    def _imported(self, name: str) -> Iterable[tuple[str, Any]]:
        for bound, module in self.imports.items():
            # `own.Sam`, or just `Sam`: the short form that gin itself writes into the config of a run.
            inner = name.removeprefix(f"{bound}.")
            item: Any = module
            for part in inner.split("."):
                item = getattr(item, part, None)
            if callable(item):
                yield f"{bound}.{inner}", item

    def _hint(self, name: str) -> str:
        known = [selector for selector, _ in gin_config._REGISTRY.items() if not selector.startswith("gin.")]
        known += [f"{bound}.{item}" for bound, module in self.imports.items() for item in vars(module)]
        ends = [".".join(full.split(".")[start:]) for full in known for start in range(full.count(".") + 1)]
        spelled = {end.lower(): end for end in ends}  # sgd is a likely way to write SGD
        close = difflib.get_close_matches(name.lower(), spelled, n=1, cutoff=0.7)
        if close:
            return f"; did you mean {spelled[close[0]]}?"
        return "; a name of your own module needs `import my_module` above it, and then my_module.Name"


class _References(gin_config.ParserDelegate):
    """gin's references, with names found our way."""

    def __init__(self, reader: _Reader):
        super().__init__()
        self._reader = reader

    def configurable_reference(self, scoped_selector: str, evaluate: bool):
        scope, slash, name = scoped_selector.rpartition("/")
        return super().configurable_reference(f"{scope}{slash}{self._reader.find(name)}", evaluate)


class _NotKnown(Exception):
    """A name that stands for nothing, or for several things; where it stands is not known here."""


def one_line(error: BaseException) -> str:
    r"""An exception's message as one line: its first paragraph, without what gin and Keras append.

    Args:
        error: Any exception.

    Returns:
        The line; the exception's type where it has no message.

    Example:
        >>> one_line(ValueError("bad value:\n  3\n\nArguments received by Dense.call(): ..."))
        'bad value: 3'
    """
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = text.split("\n  In call to configurable '")[0].strip().split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


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


def _check_parameter(selector: str, argument: str, where: str) -> None:
    item = gin_config._REGISTRY[selector].wrapped
    try:
        parameters = inspect.signature(item).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if inspect.isclass(item) and issubclass(item, keras.Optimizer):
        takes_any = False  # their **kwargs is there to refuse
    if argument in known or takes_any:
        return
    close = difflib.get_close_matches(argument, known, n=1)
    name = _short(selector)
    if close:
        hint = f"; did you mean {close[0]}?"
    else:
        hint = f"; it has {', '.join(known)}" if known else "; it has none"
    raise ConfigError(f"{where}: {name} has no parameter '{argument}'{hint}")


def _short(selector: str) -> str:
    """A full name as people write it: ours by its end, where that is enough, others as in Python."""
    return gin_config._REGISTRY.minimal_selector(selector) if selector.startswith("trainlab.") else selector


def _macros(value: Any) -> Iterable[str]:
    """The names of the macros that a value refers to."""
    macro = gin.get_configurable(gin_config.macro)
    return [ref.scoped_selector.removesuffix(f"/{_MACRO}") for ref in gin_config.iterate_references(value, to=macro)]


def _check_macros(binding: Binding, bindings: Sequence[Binding]) -> None:
    defined = [other.scope for other in bindings if other.selector == _MACRO]
    for name in _macros(binding.value):
        if name not in defined:
            close = difflib.get_close_matches(name, defined, n=1)
            hint = f"did you mean %{close[0]}?" if close else f"add {name} = VALUE"
            raise ConfigError(f"{binding.where}: nothing defines the macro %{name}; {hint}")


def _literal(binding: Binding, bindings: Sequence[Binding]) -> Any:
    """The value of a binding, looked up where it is a macro."""
    value, seen = binding.value, set()
    while isinstance(value, gin_config.ConfigurableReference):
        macro = next(iter(_macros(value)), None)
        if macro is None:
            return value
        if macro in seen:
            raise ConfigError(f"{binding.where}: the macro %{macro} is defined by itself")
        seen.add(macro)
        value = next((other.value for other in bindings if (other.scope, other.selector) == (macro, _MACRO)), None)
    return value


def _check_literal(binding: Binding, bindings: Sequence[Binding]) -> None:
    """Text where the default is a number, a number where it is text: said here, since some functions take both silently."""
    value = _literal(binding, bindings)
    if binding.selector == _MACRO or binding.selector == "trainlab.run":  # `Settings` checks its own
        return
    try:
        default = inspect.signature(gin_config._REGISTRY[binding.selector].wrapped).parameters[binding.argument].default
    except (KeyError, TypeError, ValueError):
        return
    kinds: tuple[tuple[Any, str], ...] = ((bool, "True or False"), ((int, float), "a number"), (str, "text in quotes"))
    kind, name = next((pair for pair in kinds if isinstance(default, pair[0])), (object, ""))
    is_literal = isinstance(value, (bool, int, float, str))
    if name and is_literal and (not isinstance(value, kind) or (isinstance(value, bool) and not isinstance(default, bool))):
        message = f"must be {name}, like its default {default!r}"
        if value is not binding.value:  # it comes from a macro
            raise ConfigError(f"{binding.where}: the macro stands for {value!r}, but {binding.name} {message}")
        raise ConfigError(binding.blame(f"{binding.name} = {value!r}: {message}"))
    if isinstance(default, float) and type(binding.value) is int:
        # Keras wants a float where anybody would write 1.
        gin.bind_parameter((binding.scope, binding.selector, binding.argument), float(binding.value))


def _did_you_mean_file(path: Path) -> str:
    try:
        beside = [file.stem for file in path.parent.iterdir() if file.suffix == ".gin"]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.stem, beside, n=1, cutoff=0.5)
    return f"; did you mean {path.parent / close[0]}.gin?" if close else ""
