"""Reports written: which runs, and as what."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from trainlab.reports import markdown
from trainlab.reports.drawing import figure
from trainlab.reports.drawing.panels import panels_of
from trainlab.reports.page import render as page
from trainlab.reports.reading.run import RunRecord, read_runs
from trainlab.reports.targets import target_of
from trainlab.reports.text import many

Path_ = str | os.PathLike[str]


def write(runs: Path_ | Sequence[Path_], output: Path_, title: str | None = None) -> Path:
    """Writes a report of runs: their curves, what they came to, how they differ, what became of them.

    Args:
        runs: directories of runs, finished or not; or one.
        output: the file to write, replaced if it is there; its suffix says as what: `.html` (one file that asks for nothing
          else), `.md`, `.png`, `.pdf` or `.svg`.
        title: above all; the names of the runs by default.

    Returns:
        The path of the file.

    Raises:
        OSError, TypeError, ValueError: a directory is none of a run, or the file cannot be written, in one line.
        ModuleNotFoundError: jinja2 (for HTML) or matplotlib (for pictures) is missing: `pip install 'trainlab[report]'`.

    Example:
        >>> import json, pathlib, tempfile
        >>> run = pathlib.Path(tempfile.mkdtemp()) / "heun"
        >>> run.mkdir()
        >>> _ = (run / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "step": 23, "loss": 0.5}))
        >>> print(write(run, run / "report.md").read_text()[:18])
        # heun
        <BLANKLINE>
        ## Results
    """
    target, paths = _checked(runs, output)
    records = read_runs(paths)
    said = _title(records) if title is None else title
    aside = target.with_name(f".writing-{os.urandom(8).hex()}{target.suffix}")
    try:  # whoever looks meanwhile sees the old one
        _WRITERS[target.suffix.lower()](records, said, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return target


def _checked(runs: Path_ | Sequence[Path_], output: Path_) -> tuple[Path, list[Path_]]:
    """What was given, in the form of most."""
    target = target_of(output, _WRITERS)
    paths: list[Path_] = [runs] if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not paths:
        raise ValueError("runs is empty: give at least one directory of a run, such as runs/heun")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"runs: {path!r} is no path; give directories of runs, such as runs/heun")
    return target, paths


def _html(records: Sequence[RunRecord], title: str, path: Path) -> None:
    path.write_text(page.render(records, title), encoding="utf-8", errors="replace")


def _markdown(records: Sequence[RunRecord], title: str, path: Path) -> None:
    path.write_text(markdown.render(records, title), encoding="utf-8", errors="replace")


def _picture(records: Sequence[RunRecord], title: str, path: Path) -> None:
    figure.save(figure.figure_of(panels_of(records), records, title), path)


_WRITERS: dict[str, Callable[[Sequence[RunRecord], str, Path], None]] = {
    ".html": _html,
    ".md": _markdown,
    ".png": _picture,
    ".pdf": _picture,
    ".svg": _picture,
}


def _title(records: Sequence[RunRecord]) -> str:
    names = [record.name for record in records]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {many(len(names) - 2, 'other run')}"
