"""What a config comes to: every value of all that it uses, and where each comes from; nothing of it is built."""

import ast
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.config import Binding, Config, literal
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.names import RUN, short_name

_GIVEN = "given by the run"


class Value(NamedTuple):
    """A value of a config.

    Attributes:
        name: As it is written on the left-hand side.
        text: The value as it is written.
        where: File and line, `--set`, `default`, or what else it comes from.
        is_binding: Whether a config could say it so.
    """

    name: str
    text: str
    where: str
    is_binding: bool = True


def effective(config: Config) -> Iterator[Value]:
    """Every value that a run uses: of the run, then of what it refers to; macros first, and what nothing uses last.

    Args:
        config: The config.

    Raises:
        ConfigError: Something that is called needs an argument that nothing gives.

    Example:
        >>> from trainlab.cli.configs.reading import load
        >>> values = {value.name: value for value in effective(load(["configs/heun.gin"], ["run.epochs = 5"]))}
        >>> values["run.epochs"].text, values["run.epochs"].where, values["run.seed"].where, values["mlp.dropout"].where
        ('5', '--set', 'configs/base.gin:11', 'default')
    """
    bindings = config.bindings
    for macro in bindings:
        if macro.selector == gin_internals.MACRO:
            yield Value(macro.scope, repr(macro.value), _place(macro))
    waiting, seen = [("", RUN, True)], {("", RUN)}
    used: set[int] = set()
    while waiting:
        scope, selector, is_called = waiting.pop(0)
        for argument, default in _parameters(selector):
            name = f"{scope}/{short_name(selector)}.{argument}".lstrip("/")
            binding = _in_force(bindings, scope, selector, argument)
            if binding is None and default is inspect.Parameter.empty:
                if is_called:
                    raise ConfigError(f"{short_name(selector)} needs {argument}: add {name} = ...")
                yield Value(name, "", _GIVEN, is_binding=False)
                continue
            if binding is None:
                yield Value(name, _text(default), "default", is_binding=_is_literal(default))
                continue
            used.add(id(binding))
            yield Value(name, repr(binding.value), _place(binding))
            for reference in gin_internals.references(literal(binding, bindings)):
                if reference[:2] not in seen:
                    seen.add(reference[:2])
                    waiting.append(reference)
    for other in bindings:
        if id(other) not in used and other.selector != gin_internals.MACRO:
            yield Value(other.name, repr(other.value), f"{_place(other)}; nothing uses it", is_binding=False)


def _parameters(selector: str) -> list[tuple[str, Any]]:
    try:
        parameters = inspect.signature(gin_internals.original(selector)).parameters.values()
    except (TypeError, ValueError):  # some built-in functions have no signature
        return []
    return [(p.name, p.default) for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _in_force(bindings: Sequence[Binding], scope: str, selector: str, argument: str) -> Binding | None:
    """The binding that reaches a parameter in a scope: that of the innermost one."""
    found = [
        binding
        for binding in bindings
        if (binding.selector, binding.argument) == (selector, argument)
        and f"{scope}/".startswith(f"{binding.scope}/" if binding.scope else "")
    ]
    return max(found, key=lambda binding: len(binding.scope), default=None)


def _place(binding: Binding) -> str:
    return "--set" if binding.from_set else binding.where


def _text(value: Any) -> str:
    if repr(value) == "<factory>":  # of the one setting whose default has to be built
        return "@trainlab.SGD()"
    return repr(value) if _is_literal(value) else getattr(value, "__name__", None) or repr(value)


def _is_literal(value: Any) -> bool:
    try:
        return ast.literal_eval(repr(value)) == value
    except (ValueError, SyntaxError):
        return repr(value) == "<factory>"
