"""What a config is: a list of bindings `NAME.PARAMETER = VALUE`, what it builds, and a clear line for every mistake.

A config is code, since it imports: run one only where you would run a Python file from the same source.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import gin

from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.names import short_name
from trainlab.cli.configs.settings import Settings, require_count

# How messages begin that are about a setting of the run, which they do not name as a config does.
_ABOUT = {
    "run.loss": ("loss ", "Keras has no loss "),
    "run.metrics": ("metrics ", "Keras has no metric "),
}


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
        if self.selector == gin_internals.MACRO:
            return self.scope
        return f"{self.scope}/{short_name(self.selector)}.{self.argument}".lstrip("/")

    def blame(self, message: str) -> str:
        """The message, preceded by where the binding stands; a `--set` shows name and value already."""
        if self.from_set and self.selector != gin_internals.MACRO:
            message = re.sub(rf"^[\w./]*{re.escape(self.argument)} = [^:]*: ", "", message)
        return f"{self.where}: {message}"


def literal(binding: Binding, bindings: Sequence[Binding]) -> Any:
    """The value of a binding, looked up where it is a macro.

    Args:
        binding: The binding.
        bindings: All that are in force.

    Raises:
        ConfigError: The macro is defined by itself.
    """
    value, seen = binding.value, set()
    while (macro := gin_internals.macro(value)) is not None:
        if macro in seen:
            raise ConfigError(f"{binding.where}: the macro %{macro} is defined by itself")
        seen.add(macro)
        definitions = (other for other in bindings if (other.scope, other.selector) == (macro, gin_internals.MACRO))
        value = next((definition.value for definition in definitions), None)
    return value


class Config:
    """A config that has been read: gin's state, which is global to the process, and what gin does not keep.

    Made by `trainlab.cli.configs.reading.load`.

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

    @property
    def distribute(self) -> Any:
        """The value of `run.distribute`, known before anything is built; `Settings` checks it."""
        return self._early("distribute", Settings.distribute)

    @property
    def micro_batch_size(self) -> Any:
        """The value of `run.micro_batch_size`, known before anything is built; `Settings` checks it."""
        return self._early("micro_batch_size", Settings.micro_batch_size)

    def _early(self, name: str, value: Any) -> Any:
        for binding in self.bindings:
            if (binding.scope, binding.selector, binding.argument) == ("", "trainlab.run", name):
                value = literal(binding, self.bindings)
        return value

    def build(self) -> Settings:
        """Builds what the config describes: data, optimizer, strategy; the model is left to be called.

        Returns:
            The `Settings`.

        Raises:
            Exception: Whatever the functions and classes that the config names raise; `explain` makes it one line.

        Example:
            >>> from trainlab.cli.configs.reading import load
            >>> load(["configs/heun.gin"]).build().strategy
            Heun()
        """
        return gin.get_configurable("trainlab.run")()

    def made(self, name: str) -> Any:
        """What something else that the config sets comes to, `trainlab.compare` for example.

        Raises:
            Exception: As for `build`.
        """
        return gin.get_configurable(name)()

    def unused(self) -> list[Binding]:
        """The bindings that nothing used so far: call it when everything is built."""
        used = gin_internals.used()

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
        if binding.selector != gin_internals.MACRO:
            owner = short_name(binding.selector)
            if not binding.scope and any(selector == binding.selector for _, selector, _ in gin_internals.used()):
                return f"{binding.where}: {binding.argument} is given to {owner} by the run itself; remove this"
            return f"{binding.where}: nothing in this run uses {binding.name}; remove it, or have the run use @{owner}"
        fields = [f"run.{field.name}" for field in dataclasses.fields(Settings)]
        used = sorted({f"%{name}" for other in self.bindings for name in gin_internals.macros(other.value)})
        if f"run.{binding.scope}" in fields:
            hint = f"did you mean run.{binding.scope}?"
        else:
            close = difflib.get_close_matches(f"%{binding.scope}", used, n=1)
            hint = f"did you mean {close[0][1:]} (used as {close[0]})?" if close else "remove it"
        return f"{binding.where}: nothing in this run uses the macro %{binding.scope}; {hint}"

    @property
    def import_lines(self) -> list[str]:
        """The imports, each by the name that the config gives the module."""
        named = sorted((name, module.__name__) for name, module in self.imports.items())
        return [f"import {module}" + (f" as {name}" if name != module else "") for name, module in named]

    def text(self) -> str:
        """What was used so far, defaults included, as a config that can be loaded again."""
        lines = []
        for line, (_, module) in zip(self.import_lines, sorted(self.imports.items()), strict=True):
            file = getattr(module, "__file__", None)
            lines.append(line + (f"  # of {file}" if file and "site-packages" not in file else ""))  # found from elsewhere too
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
                called = gin_internals.called(binding.value) if binding.name == "run.model" else None
                if called and called.endswith(names[0]):
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
            if any(message.startswith(words) for words in _ABOUT.get(binding.name, ())):
                return binding.blame(message)
        for binding in self.bindings:
            owner = binding.selector.rpartition(".")[2]
            if owner in names[:1] and re.search(rf"\b{re.escape(binding.argument)}\b", message):
                return binding.blame(message if owner in message else f"{owner}: {message}")
        return f"{names[0]}: {message}" if names and names[0] not in message else message
