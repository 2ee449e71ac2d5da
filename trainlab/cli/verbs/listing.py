"""What there is: names of a kind with what they are, and what a name stands for, without TensorFlow where sources tell."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainlab.cli.configs import outline
from trainlab.cli.configs.checks import check_known
from trainlab.cli.configs.descriptions import Description, looked_at, read_off
from trainlab.cli.configs.errors import ConfigError, one_line
from trainlab.cli.configs.names import RUN, SETTINGS, NotKnown, outlined, short_name
from trainlab.cli.configs.settings import Settings

WIDTH = 100
_PACKAGES = {  # by kind, what full names begin with, and how a config uses one
    "strategies": ("trainlab", "run.strategy = @{}()"),
    "models": ("trainlab.models", "run.model = @{}"),
    "data": ("trainlab.datasets", "run.data = @{}()"),
    "optimizers": ("keras.optimizers", "run.optimizer = @{}()"),
    "schedules": ("keras.optimizers.schedules", "Adam.learning_rate = @{}()"),
    "losses": ("keras.losses", "run.loss = @{}()"),
    "metrics": ("keras.metrics", "run.metrics = ['accuracy', @{}()]"),
    "callbacks": ("keras.callbacks", "run.callbacks = [@{}()]"),
}


def listed(kind: str) -> str:
    """All names of a kind, each with the first sentence of its docstring.

    Args:
        kind: "strategies", "models", "data", "optimizers", "schedules", "losses", "metrics" or "callbacks".

    Example:
        >>> print(listed("models").splitlines()[0][:60])
        cnn                  A small convolutional network: 3x3 conv
    """
    found = {_written(full): full for full in _places() if full.rpartition(".")[0] == _PACKAGES[kind][0]}
    width = max(map(len, found)) + 2
    lines = []
    for name, full in sorted(found.items()):
        description = read_off(full)
        lines.append(_shortened(f"{name:{width}}{description.first_line if description else ''}", WIDTH))
    return "\n".join(lines)


def explained(name: str, imports: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a name stands for: how it is called, what its docstring begins with, and each parameter with its default.

    Args:
        name: As a config has it: `Heun`, `keras.optimizers.SGD`, `own_module.Sam`; or a parameter, `mlp.hidden_sizes`.
        imports: Modules that a config imports, in which it may be, by the names that it gives them.

    Raises:
        NotKnown: It stands for nothing, or for several things.
        ConfigError: It is no parameter of something that is known, or a module cannot be imported.

    Example:
        >>> print(explained("Heun").splitlines()[0])
        trainlab.Heun()
    """
    name = name.removeprefix("@").removeprefix("%").removesuffix("()")
    found = _found(name, imports)
    if found is None:
        owner, _, parameter = name.rpartition(".")
        found = _found(owner, imports) if owner else None
        if found is not None:
            check_known(
                f"trainlab.{found[0]}" if f"trainlab.{found[0]}" in SETTINGS else found[0],
                parameter,
                list(found[1].parameters),
                f"--help {name}",
            )
            return _of_parameter(found, parameter)
    if found is None:
        outlined(name)  # which says what may have been meant
        raise NotKnown(name, f"'{name}' is ambiguous: write {' or '.join(_matches(name))}")
    return _whole(*found)


def _found(name: str, imports: Mapping[str, str]) -> tuple[str, Description] | None:
    """The full name and the description of what a name stands for; None where that is nothing, or several things."""
    if name in ("run", RUN):
        of_run = looked_at(Settings)
        return "run", of_run._replace(parameters=of_run.parameters | {"strategy": "@trainlab.SGD()"})
    for selector, kind in SETTINGS.items():
        if selector != RUN and name in (selector, selector.rpartition(".")[2]):
            return selector.rpartition(".")[2], looked_at(kind)
    with suppress(NotKnown):
        full = outlined(name)
        if (description := read_off(full)) is not None:
            return full, description
    for full, item in _of_modules(name, imports):
        if callable(item):
            return full, looked_at(item)
    return None


def _of_modules(name: str, imports: Mapping[str, str]) -> list[tuple[str, Any]]:
    """What a name stands for in modules of the user's: those that a config imports, or the one that the name begins with."""
    module, _, inner = name.partition(".")
    found = [(of, name.removeprefix(f"{bound}.")) for bound, of in imports.items()] + ([(module, inner)] if inner else [])
    items = []
    for bound, rest in found:
        with _importable():
            if importlib.util.find_spec(bound.split(".")[0]) is None:
                continue
            item: Any = _imported(bound)
            path = bound
            for part in rest.split("."):
                path = f"{path}.{part}"
                is_module = hasattr(item, "__path__") and not hasattr(item, part) and importlib.util.find_spec(path) is not None
                item = _imported(path) if is_module else getattr(item, part, None)
        items.append((path, item))
    return items


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # foreign code: anything can come out of it
        raise ConfigError(f"importing {module} failed: {type(error).__name__}: {one_line(error)}") from error


@contextmanager
def _importable():
    """The current directory is where modules are looked for too, as it is for a config."""
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    yield


def _whole(full: str, description: Description) -> str:
    given = ", ".join(name if default is None else f"{name}={default}" for name, default in description.parameters.items())
    if full == "run":
        lines = ["run: the settings of a run, each as run.NAME = VALUE"]
    else:
        lines = textwrap.wrap(f"{full}({given})", WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        lines += textwrap.wrap(description.first_lines, WIDTH)
    if description.parameters:
        lines.append("")
        width = max(map(len, description.parameters)) + 2
        for name, default in description.parameters.items():
            said = re.split(r"(?<=[a-z)'`][.;]) ", description.of_parameter(name))[0]
            start = f"  {name:{width}}" + ("" if default is None else f"= {default}  ")
            lines.append(_shortened(f"{start}{said.rstrip(';')}", WIDTH).rstrip())
    if how := _used(full):
        lines += ["", f"in a config: {how}"]
    others = [other for other in _matches(full.rpartition(".")[2]) if other != full] if "." in full else []
    if others:
        lines.append(f"of the same name: {', '.join(others)}")
    return "\n".join(lines)


def _of_parameter(found: tuple[str, Description], name: str) -> str:
    full, description = found
    default, owner = description.parameters[name], full if full == "run" else _written(full)
    first = f"{owner}.{name}" + ("" if default is None else f" = {default}")
    return "\n".join([first, *textwrap.wrap(description.of_parameter(name), WIDTH)])


def _used(full: str) -> str:
    package = full.rpartition(".")[0]
    return next((how.format(_written(full)) for begins, how in _PACKAGES.values() if begins == package), "")


def _written(full: str) -> str:
    """A full name as a config may write it, as short as can be."""
    if full.startswith("trainlab."):
        return short_name(full)
    last = full.rpartition(".")[2]
    return last if _preferred_is(full, last) else full


def _preferred_is(full: str, last: str) -> bool:
    try:
        return outlined(last) == full
    except NotKnown:
        return False


def _matches(name: str) -> list[str]:
    return sorted(full for full in _places() if f".{full}".endswith(f".{name}"))


def _places() -> Sequence[str]:
    return list(outline.places())


def _shortened(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 3].rstrip() + "..."


def imports_of(files: Sequence[str]) -> dict[str, str]:
    """The modules that config files import, by the names that they give them, as far as their own lines say.

    The directories of the files become importable.
    """
    found: dict[str, str] = {}
    for file in files:
        path = Path(file)
        if path.is_file():
            sys.path.insert(0, str(path.resolve().parent))
            text = path.read_text(encoding="utf-8", errors="replace")
            for module, name in re.findall(r"^import (\w+(?:\.\w+)*)(?:[ \t]+as[ \t]+(\w+))?", text, re.MULTILINE):
                found[name or module] = module
    return found
