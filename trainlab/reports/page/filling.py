"""Templates filled in: every page has the frame, the style and the choice of an axis in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent


def filled(template: str, title: str, summary: str, axes: Mapping[str, str], **values: Any) -> str:
    """The text of a page.

    Args:
        template: the name of the file beside this one, which extends `frame.html`.
        title, summary: above all.
        axes: between which curves can be chosen, and what is written for each.
        values: what else the template names.

    Raises:
        ModuleNotFoundError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a report in HTML needs jinja2: pip install 'trainlab[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    style = jinja2.utils.markupsafe.Markup((_HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(title=title, summary=summary, axes=axes, style=style, **values)
