"""What is said of a name that a config may use: its parameters, their defaults, and the words of its docstring.

Of trainlab's and Keras' names it is read off the sources, without importing TensorFlow.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any, NamedTuple

from trainlab.cli.configs.outline import Place, places


class Description(NamedTuple):
    """What is said of a name.

    Attributes:
        parameters: Its parameters, each with its default as it is written; None where it has none.
        text: Its docstring.
    """

    parameters: dict[str, str | None]
    text: str

    @property
    def first_line(self) -> str:
        """The first sentence of the docstring, on one line."""
        paragraph = " ".join(self.text.strip().split("\n\n")[0].split())
        return re.split(r"(?<=\.)\s", paragraph)[0]

    @property
    def first_lines(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join(self.text.strip().split("\n\n")[0].split())

    def of_parameter(self, name: str) -> str:
        r"""What the docstring says of a parameter, on one line; empty where it says nothing.

        Example:
            >>> Description({}, "Does.\n\nArgs:\n    a, b: How\n        far.\n    c: Why.\n").of_parameter("b")
            'How far.'
        """
        entry: list[str] = []
        for line in _section(self.text):
            if (begun := re.match(r"[`*]*([\w`*, ]+?)(?: ?\(.*?\))?: *(.*)", line)) and not line.startswith(" "):
                if entry:
                    break
                names = re.split(r"[`*, ]+", begun[1])
                entry = [begun[2]] if name in names else []
            elif entry:
                entry.append(line)
        return " ".join(" ".join(entry).split())


def read_off(selector: str) -> Description | None:
    """The description of something of trainlab's or Keras', from its source.

    Args:
        selector: The full name.

    Returns:
        The description; None where the source cannot be read, or where it does not tell.

    Example:
        >>> found = read_off("trainlab.Accumulate")
        >>> found.parameters
        {'num_batches': None, 'inner': 'None'}
    """
    place = places().get(selector)
    try:
        node = None if place is None else _definition(place)
        if place is None or node is None:
            return None
        return Description(_parameters(place, node), ast.get_docstring(node) or "")
    except (OSError, SyntaxError, ValueError):
        return None


def looked_at(item: Any) -> Description:
    """The description of a live function or class."""
    try:
        found = inspect.signature(item).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        found = {}.values()
    plain = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return Description({p.name: None if p.default is p.empty else _brief(p.default) for p in plain}, inspect.getdoc(item) or "")


def _brief(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)


def _section(text: str) -> list[str]:
    """The lines of a docstring that describe parameters, the outermost ones without indentation."""
    lines = inspect.cleandoc(text).splitlines()
    begins = next((i for i, line in enumerate(lines) if line.strip() in ("Args:", "Arguments:", "Attributes:")), None)
    if begins is None:
        return []
    rest = lines[begins + 1 :]
    ends = next((i for i, line in enumerate(rest) if line.strip() and not line.startswith(" ")), len(rest))
    return inspect.cleandoc("\n" + "\n".join(rest[:ends])).splitlines()


@functools.cache
def _body(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def _definition(place: Place) -> ast.ClassDef | ast.FunctionDef | None:
    found = (node for node in _body(place.file) if isinstance(node, (ast.ClassDef, ast.FunctionDef)))
    return next((node for node in found if node.name == place.name), None)


def _parameters(place: Place, node: ast.ClassDef | ast.FunctionDef) -> dict[str, str | None]:
    function = node if isinstance(node, ast.FunctionDef) else _constructor(place, node)
    if function is None:
        return {}
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    pairs = [*zip(positional, defaults, strict=True), *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    found = {argument.arg: None if default is None else ast.unparse(default) for argument, default in pairs}
    return {name: default for name, default in found.items() if name != "self"}


def _constructor(place: Place, node: ast.ClassDef) -> ast.FunctionDef | None:
    """The `__init__` of a class, or of the first of its bases whose source is known."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return statement
    for base in node.bases:
        if isinstance(base, ast.Name) and (found := _named_in(place.file, base.id)) is not None:
            definition = _definition(found)
            if isinstance(definition, ast.ClassDef):
                return _constructor(found, definition)
    return None


def _named_in(file: Path, name: str) -> Place | None:
    """Where something is defined that a file calls by a name: in the file, or in one that it is imported from."""
    for node in _body(file):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Place(file, name)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    top, *rest = node.module.split(".")
                    spec = importlib.util.find_spec(top)
                    folder = Path((spec and spec.submodule_search_locations or [""])[0]).joinpath(*rest)
                    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
                    return Place(source, alias.name)
    return None
