"""Runs as Markdown: tables, and curves as small as a word."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainlab.reports import tables
from trainlab.reports.reading.run import RunRecord

# Whatever has a meaning in Markdown, or in the HTML that it lets through.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~&$]|:(?=//)|(?<![^\W_])_|_(?![^\W_]))")


def render(runs: Sequence[RunRecord], title: str) -> str:
    """The text of the file.

    Args:
        runs: at least one.
        title: of the file.
    """
    parts = [f"# {escaped(title)}", "## Results", _table(tables.results(runs))]
    if any(run.epochs for run in runs):
        parts += [
            "## Curves",
            "From the first epoch to the last, each from its least to its greatest value.",
            _table(tables.sparks(runs)),
        ]
    differing = tables.differences(runs)
    if differing is not None:
        parts += ["## How they differ", _table(differing)]
    elif len(runs) > 1:
        parts += ["## How they differ", "All settings that are known are the same."]
    for name, table in (
        ("Stopped and resumed", tables.sessions(runs)),
        ("Left out", tables.skipped(runs)),
        ("Machine and versions", tables.machines(runs)),
    ):
        if table is not None:
            parts += [f"## {name}", _table(table)]
    if len(runs) == 1 and (settings := tables.settings(runs[0])) is not None:
        parts += ["## Settings", _table(settings)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is, on one line.

    Example:
        >>> print(escaped("<b>a|b</b>"))
        \<b\>a\|b\</b\>
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _table(table: tables.Table) -> str:
    is_number = [all(row[k].is_number for row in table.rows) for k in range(len(table.columns))]
    lines = [
        _line([escaped(name) for name in table.columns]),
        _line(["--:" if is_right else "---" for is_right in is_number]),
        *(_line([f"**{escaped(cell.text)}**" if cell.is_best else escaped(cell.text) for cell in row]) for row in table.rows),
    ]
    return "\n".join([*([table.note, ""] if table.note else []), *lines])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
