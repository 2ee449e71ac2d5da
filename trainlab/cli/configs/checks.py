"""What is checked of a config before anything is built: parameters, macros, and the kinds of literals."""

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

import gin

from trainlab.cli.configs import gin_internals
from trainlab.cli.configs.config import Binding, literal
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.names import short_name

# Of Keras' callbacks: "epoch" or a number of batches, a number or "10,20".
_WORD_OR_NUMBER = ("save_freq", "update_freq", "profile_batch")


def check_parameter(selector: str, argument: str, where: str) -> None:
    """Checks that something has a parameter of that name.

    Args:
        selector: The full name of the function or class.
        argument: The name of the parameter.
        where: File and line, for the message.

    Raises:
        ConfigError: It has not.
    """
    item = gin_internals.original(selector)
    try:
        parameters = inspect.signature(item).parameters
    except (TypeError, ValueError):  # some built-in functions have no signature
        return
    known = [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes_any or _refuses_others(item):
        check_known(selector, argument, known, where)


def check_known(selector: str, argument: str, known: Sequence[str], where: str) -> None:
    """Checks that a parameter is among those that something has.

    Args:
        selector, argument, where: As in `check_parameter`.
        known: The names of its parameters.

    Raises:
        ConfigError: It is not; the line says which are.
    """
    if argument in known:
        return
    close = difflib.get_close_matches(argument, known, n=1)
    name = short_name(selector)
    if close:
        hint = f"; did you mean {close[0]}?"
    else:
        hint = f"; it has {', '.join(known)}" if known else "; it has none"
    raise ConfigError(f"{where}: {name} has no parameter '{argument}'{hint}")


def _refuses_others(item: Any) -> bool:
    """Whether its **kwargs is there to refuse, as that of Keras' optimizers is."""
    import keras  # here, not above: what is known without it is said without it

    return inspect.isclass(item) and issubclass(item, keras.Optimizer)


def check_macros(binding: Binding, bindings: Sequence[Binding]) -> None:
    """Checks that every macro in the value of a binding is defined.

    Args:
        binding: The one to check.
        bindings: All that are in force.

    Raises:
        ConfigError: One is not.
    """
    defined = [other.scope for other in bindings if other.selector == gin_internals.MACRO]
    for name in gin_internals.macros(binding.value):
        if name not in defined:
            close = difflib.get_close_matches(name, defined, n=1)
            hint = f"did you mean %{close[0]}?" if close else f"add {name} = VALUE"
            raise ConfigError(f"{binding.where}: nothing defines the macro %{name}; {hint}")


def check_literal(binding: Binding, bindings: Sequence[Binding]) -> None:
    """Text where the default is a number, a number where it is text: said here, since some functions take both silently.

    A whole number where the default is a float becomes a float.

    Args:
        binding: The one to check.
        bindings: All that are in force.

    Raises:
        ConfigError: The value is of another kind than the parameter's default.
    """
    value = literal(binding, bindings)
    if binding.selector == gin_internals.MACRO or binding.selector == "trainlab.run":  # `Settings` checks its own
        return
    if binding.argument in _WORD_OR_NUMBER:
        return
    try:
        default = inspect.signature(gin_internals.original(binding.selector)).parameters[binding.argument].default
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
