"""`trainlab report`: one page on one or several runs."""

import importlib
from collections.abc import Sequence
from pathlib import Path

from trainlab.cli.running.failing import Failure, attempted


def report(runs: Sequence[str], output: Path, title: str | None, debug: bool) -> Failure | None:
    """Writes the page, and says where it is.

    Args:
        runs: The directories.
        output: The file; its ending says which form the page has.
        title: The heading; None for the names of the runs.
        debug: Whether what goes wrong is raised.
    """

    def work() -> None:
        written = importlib.import_module("trainlab.reports").write([Path(run) for run in runs], output, title=title)
        print(f"report    {written}")

    return attempted(work, lambda: None, lambda: "nothing is written", debug)
