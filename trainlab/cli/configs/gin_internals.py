"""Everything of gin's that is not public: what is needed of it, why, and what of a public gin would replace it.

gin's public names set bindings, build what they describe and print the result as text. They do not say what is registered,
what was used or what a value refers to, and they read a whole text at once, which loses the place of each binding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from gin import config as gin_config
from gin import config_parser

MACRO = "gin.macro"  # what gin calls the function behind every macro: `%name` is `@name/gin.macro()`


def registered() -> list[str]:
    """The full names of all that a config may use, without gin's own.

    For hints at a name that was meant. gin has no public list of what is registered; one would replace this.
    """
    return [selector for selector, _ in gin_config._REGISTRY.items() if not selector.startswith("gin.")]


def matching(name: str) -> list[str]:
    """The full names of all that ends in `name`, without gin's own.

    To tell a name that is unknown from one that is ambiguous. gin has no public look-up of a name that does not raise; one
    would replace this.

    Args:
        name: The full name, or its end from any dot on.
    """
    return [selector for selector in gin_config._REGISTRY.matching_selectors(name) if not selector.startswith("gin.")]


def original(selector: str) -> Any:
    """The function or class as it was before gin wrapped it.

    For its signature: gin makes a subclass of a class, whose signature may be another. gin has no public way back from a name
    to what was registered (`gin.get_configurable` returns the wrapper); one would replace this.

    Args:
        selector: The full name of something registered.

    Raises:
        KeyError: Nothing is registered under it.
    """
    return gin_config._REGISTRY[selector].wrapped


def used() -> list[tuple[str, str, set[str]]]:
    """What was called so far: scope, full name, and the parameters that a config sets or could have set.

    To find the bindings that nothing used. gin has no public view of it but the text of `gin.operative_config_str`; the same as
    data would replace this.
    """
    with gin_config._OPERATIVE_CONFIG_LOCK:
        return [(scope, selector, set(values)) for (scope, selector), values in gin_config._OPERATIVE_CONFIG.items()]


def macros(value: Any) -> list[str]:
    """The names of the macros in a value, however deep in lists and dictionaries.

    To find those that nothing defines, or that nothing refers to. gin has no public walk over the references in a value; one
    would replace this.

    Args:
        value: The right-hand side of a binding.
    """
    macro = gin_config.get_configurable(gin_config.macro)
    return [ref.scoped_selector.removesuffix(f"/{MACRO}") for ref in gin_config.iterate_references(value, to=macro)]


def macro(value: Any) -> str | None:
    """The name of the macro that a value is; None for any other value, also one that only holds macros.

    To look up what it stands for before anything is built. gin has no public class of references to test a value against; one
    would replace this.

    Args:
        value: The right-hand side of a binding.
    """
    return next(iter(macros(value)), None) if isinstance(value, gin_config.ConfigurableReference) else None


def is_plain(value: Any) -> bool:
    """Whether a value is itself, with nothing in it that stands for something else.

    To check what can be checked before anything is built. gin has no public class of references to look for; one would
    replace this.

    Args:
        value: The right-hand side of a binding.
    """
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return not isinstance(value, (gin_config.ConfigurableReference, Unbuilt))


def called(value: Any) -> str | None:
    """The full name of what a value calls, for `@name()`; None for any other value, also `@name`.

    To recognise parentheses that should not be there. gin has no public class of references to test a value against; one would
    replace this.

    Args:
        value: The right-hand side of a binding.
    """
    return value.selector if isinstance(value, gin_config.ConfigurableReference) and value.evaluate else None


def references(value: Any) -> list[tuple[str, str, bool]]:
    """What a value refers to, without macros, however deep in lists and dictionaries: scope, full name, and whether it is called.

    To find what a config uses before anything is built. gin has no public walk over the references in a value; one would replace
    this.

    Args:
        value: The right-hand side of a binding.
    """
    found = [(ref.scoped_selector.rpartition("/")[0], ref.selector, ref.evaluate) for ref in gin_config.iterate_references(value)]
    return [(scope, selector, is_called) for scope, selector, is_called in found if selector != MACRO]


@dataclasses.dataclass(frozen=True)
class Include:
    """`include 'file.gin'`, and its line; gin has no public class of statements, which would replace this."""

    file: str
    line: int


@dataclasses.dataclass(frozen=True)
class Import:
    """An import: the module, the name it goes under, its line; gin has no public class of statements, which would replace it."""

    module: str
    name: str
    line: int


@dataclasses.dataclass(frozen=True)
class Block:
    """`name:`, above indented assignments, and its line; gin has no public class of statements, which would replace this."""

    selector: str
    line: int


@dataclasses.dataclass(frozen=True)
class Assignment:
    """`scope/selector.argument = value`, and its line; gin has no public class of statements, which would replace this.

    `argument` is empty for a macro, `name = value`.
    """

    scope: str
    selector: str
    argument: str
    value: Any
    line: int


Statement = Include | Import | Block | Assignment


@dataclasses.dataclass(frozen=True)
class Unbuilt:
    """`@name` or `@name()` in a value that is only looked at: gin's own references take registered names alone.

    gin has no public class of references, which would replace this.
    """

    name: str
    is_called: bool


class Parser:
    """gin's parser, one statement at a time, with references that are found by a function of the caller's.

    One by one, so that every binding keeps its line, and so that an import has been done before a name of it is looked up. gin
    has no public parser (`gin.parse_config` reads a whole text and keeps no lines); one would replace this.

    Args:
        text: What to read.
        find: From a name in a reference to the full name of something; it must be registered if it is to be built.
        is_to_be_built: Whether references become gin's own; otherwise they are `Unbuilt`.

    Raises:
        SyntaxError: The text cannot be read; from `next` too.
        tokenize.TokenError: The text ends too early; from `next` too.
    """

    def __init__(self, text: str, find: Callable[[str], str], is_to_be_built: bool = True):
        self._parser = config_parser.ConfigParser(text, _References(find, is_to_be_built))

    def next(self) -> Statement | None:
        """The next statement; None at the end."""
        statement = self._parser.parse_statement()
        if statement is None:
            return None
        line = statement.location.line_num
        if isinstance(statement, config_parser.IncludeStatement):
            return Include(statement.filename, line)
        if isinstance(statement, config_parser.ImportStatement):
            is_plain = not (statement.is_from or statement.alias)
            return Import(statement.module, statement.module if is_plain else statement.bound_name(), line)
        if isinstance(statement, config_parser.BlockDeclaration):
            return Block(statement.selector, line)
        return Assignment(statement.scope, statement.selector, statement.arg_name, statement.value, line)


class _References(gin_config.ParserDelegate):
    """gin's references, with names found our way; gin has no public parser to tell that to."""

    def __init__(self, find: Callable[[str], str], is_to_be_built: bool):
        super().__init__()
        self._find, self._is_to_be_built = find, is_to_be_built

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        scope, slash, name = scoped_selector.rpartition("/")
        if not self._is_to_be_built:
            return Unbuilt(self._find(name), evaluate)
        return super().configurable_reference(f"{scope}{slash}{self._find(name)}", evaluate)
