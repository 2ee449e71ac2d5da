"""A page of tables and pictures that others have put together: what a report of something else than runs is made of."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainlab.reports.drawing.panels import MOST_COLOURED, Panel
from trainlab.reports.drawing.svg import panel_svg
from trainlab.reports.page.filling import filled
from trainlab.reports.tables import Table
from trainlab.reports.targets import target_of


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: above it.
        notes: what there is to know, a paragraph each.
        tables: below its pictures.
        panels: its pictures.
        axes: by name in `Line.axes` what is written below: "updates", "evaluations" and "seconds" are chosen between, where there
          are several.
    """

    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    panels: Sequence[Panel] = ()
    axes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def write_parts(
    path: str | os.PathLike[str], title: str, summary: str, names: Sequence[str], sections: Sequence[Section]
) -> Path:
    """Writes a page in one file, which asks for nothing else.

    Args:
        path: the file, replaced if it is there; its suffix is `.html`.
        title, summary: above all.
        names: whose curves there are, in the order of their colours.
        sections: the page.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: jinja2 is not installed.
    """
    path = target_of(path, [".html"])
    text = filled(
        "parts.html",
        title,
        summary,
        next((dict(section.axes) for section in sections if len(section.axes) > 1), {}),
        names=list(names),
        most_coloured=MOST_COLOURED,
        sections=_drawn(sections, list(range(min(len(names), MOST_COLOURED)))),
    )
    aside = path.with_name(f".writing-{os.urandom(8).hex()}{path.suffix}")
    try:
        aside.write_text(text, encoding="utf-8", errors="replace")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _drawn(sections: Sequence[Section], colours: Sequence[int]) -> list[dict[str, Any]]:
    from markupsafe import Markup

    numbers = itertools.count()
    found = []
    for section in sections:
        panels = []
        for panel in section.panels:
            figures = {axis: panel_svg(panel, axis, name, colours, f"p{next(numbers)}") for axis, name in section.axes.items()}
            drawn = {axis: None if svg is None else Markup(svg) for axis, svg in figures.items()}
            panels.append({"title": panel.title, "note": panel.note, "figures": drawn})
        parts = {"title": section.title, "notes": section.notes, "tables": section.tables, "axes": section.axes}
        found.append(parts | {"panels": panels})
    return found
