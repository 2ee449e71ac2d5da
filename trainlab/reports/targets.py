"""Where a report goes: checked before any work is done."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


def target_of(output: str | os.PathLike[str], suffixes: Collection[str]) -> Path:
    """The path of a file that can be written, with one of these suffixes.

    Raises:
        TypeError, ValueError, FileNotFoundError, IsADirectoryError: it is no such path, in one line.

    Example:
        >>> target_of("report.docx", [".html", ".md"])
        Traceback (most recent call last):
        ...
        ValueError: output='report.docx': a report is written as one of .html, .md: give its name one of these suffixes
    """
    if not isinstance(output, (str, os.PathLike)):
        raise TypeError(f"output must be a path, such as 'report.html', not {output!r}")
    target = Path(output)
    if target.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise ValueError(f"output={str(output)!r}: a report is written as one of {known}: give its name one of these suffixes")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"output={str(output)!r}: there is no directory {target.parent}; make it first")
    if target.is_dir():
        raise IsADirectoryError(f"output={str(output)!r}: is a directory; give the name of a file")
    return target
