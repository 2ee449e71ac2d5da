"""How runs were configured: a run's settings as text by name, and where those of several runs differ."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_ENTRY = re.compile(r"(?!import\b|from\b)([\w./@%-]+)\s*=\s*(.*)")
# What the first line of a session says of what is trained, and how.
_OF_BEGINNING = ("model", "parameters", "strategy", "optimizer", "jit_compile")


def settings_of_text(text: str) -> dict[str, str]:
    r"""The settings in the text of a `config.gin`: what is written of each, on one line; nothing is run, or looked up.

    Example:
        >>> settings_of_text("# Parameters for run:\nrun.epochs = 30\nmlp.hidden_sizes = \\\n    (64,\n     32)\n")
        {'run.epochs': '30', 'mlp.hidden_sizes': '(64, 32)'}
    """
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        match = None if line[:1].isspace() else _ENTRY.fullmatch(bare)
        if match is not None:
            name, rest = match[1], match[2]
            found[name] = rest.removesuffix("\\").strip()
        elif name and (line[:1].isspace() or bare[0] in ")]}"):
            found[name] = f"{found[name]} {bare.removesuffix(chr(92)).strip()}".strip()
        else:  # an import, an include
            name, found[bare] = "", "yes"
    return found


def settings_of_beginning(begin: Mapping[str, Any]) -> dict[str, str]:
    """The settings that the line of a session's beginning says."""
    settings = begin.get("settings")
    known = {name: begin[name] for name in _OF_BEGINNING if begin.get(name) is not None}
    known |= settings if isinstance(settings, dict) else {}
    return {str(name): _text(value) for name, value in known.items()}


def differing(configs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """By name the values of each, of those settings that are not the same in all; None where one has none.

    Example:
        >>> differing([{"seed": "0", "epochs": "3"}, {"seed": "1", "epochs": "3"}])
        {'seed': ['0', '1']}
    """
    names = dict.fromkeys(name for config in configs for name in config)
    rows = {name: [config.get(name) for config in configs] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
