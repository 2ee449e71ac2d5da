"""What runs came to, where they differ and what became of them, as tables of text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from trainlab.reports.drawing.panels import MOST_COLOURED
from trainlab.reports.drawing.sparks import spark_text
from trainlab.reports.metrics import best, direction, final, metrics_of, ranking, shown_name, values_of
from trainlab.reports.reading.configs import differing
from trainlab.reports.reading.run import RunRecord
from trainlab.reports.reading.timeline import whole
from trainlab.reports.text import count, duration, number

# Settings that differ are rows, and runs columns, of so many runs at most.
_MOST_COLUMNS = 6
# Metrics among the results, those of which more or less is better first; the others have a table of their own.
_MOST_METRICS = 4


@dataclasses.dataclass(frozen=True)
class Cell:
    """A text in a table.

    Attributes:
        text: itself.
        is_number: whether it stands to the right.
        is_best: whether it is the best of its column.
        run: the number of the run that it names; None for another text.
    """

    text: str
    is_number: bool = False
    is_best: bool = False
    run: int | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: their names.
        rows: of cells.
        note: what there is to know; may be empty.
    """

    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


def results(runs: Sequence[RunRecord]) -> Table:
    """What each run came to; of many, the best first."""
    order = _order(runs)
    columns: list[tuple[str, list[Cell]]] = [("run", _names(runs)), ("status", [Cell(run.status) for run in runs])]
    for name in _shown_metrics(runs)[:_MOST_METRICS]:
        way = direction(name, runs)
        columns.append((f"{name}, last", [_number(final(run, name)) for run in runs]))
        if way is not None:
            columns.append((f"{name}, {'most' if way == 'up' else 'least'} (epoch)", _bests(runs, name, way)))
    for name in dict.fromkeys(name for run in runs for name in run.test):
        values = [run.test.get(name, math.nan) for run in runs]
        columns.append((f"test {name}", _marked(values, [number(value) for value in values], direction(name, runs))))
    columns += [
        ("updates", [_text(count(run.total("updates"))) for run in runs]),
        ("gradient evaluations", [_text(count(run.total("evaluations"))) for run in runs]),
        ("time", [_text(duration(run.total("seconds"))) for run in runs]),
        ("examples a second", [_number(_three_digits(run.examples_a_second)) for run in runs]),
        ("sessions", [_text(str(len(run.sessions)) if run.sessions else "–") for run in runs]),
    ]
    shown = [(name, cells) for name, cells in columns if any(cell.text not in ("–", "") for cell in cells)]
    note = "The best run first." if order != list(range(len(runs))) else ""
    return Table([name for name, _ in shown], [[cells[i] for _, cells in shown] for i in order], note)


def others(runs: Sequence[RunRecord]) -> Table | None:
    """The last values of the metrics that are not among the results, and those of training; None where there are none."""
    shown = set(_shown_metrics(runs)[:_MOST_METRICS])
    names = [n for m in metrics_of(runs) for n in m if n not in shown and any(n in run.series for run in runs)]
    if not names:
        return None
    cells = [_names(runs), *([_number(final(run, name)) for run in runs] for name in names)]
    return Table(["run", *names], [[column[i] for column in cells] for i in _order(runs)])


def differences(runs: Sequence[RunRecord]) -> Table | None:
    """The settings that are not the same in all runs; None for one run, or where all agree."""
    configs = [run.settings for run in runs]
    if len(runs) < 2:
        return None
    rows = differing(configs)
    if not rows:
        return None
    is_mixed = len({run.has_config for run in runs}) > 1
    note = (
        "Some of these runs have a config.gin, and others what their script said: the same setting may have two names." * is_mixed
    )
    if len(runs) <= _MOST_COLUMNS:
        lines = [[Cell(name), *(Cell("–" if v is None else v) for v in values)] for name, values in rows.items()]
        return Table(["setting", *(run.name for run in runs)], lines, note)
    names = _names(runs)
    lines = [[names[i], *(Cell("–" if v[i] is None else str(v[i])) for v in rows.values())] for i in range(len(runs))]
    return Table(["run", *rows], lines, note)


def sessions(runs: Sequence[RunRecord]) -> Table | None:
    """When each run began, was stopped and gone on with; None where nobody wrote it down."""
    rows, names = [], _names(runs)
    for i, run in enumerate(runs):
        for k, session in enumerate(run.sessions):
            begin, is_last = session.begin, k == len(run.sessions) - 1
            how = f"update {whole(begin.get('update')):,}" if begin.get("resumed") else "the beginning"
            fit = f"fit {earlier + 1}, " if (earlier := whole(begin.get("fit"))) else ""
            if session.end is not None:
                why = ": ".join(str(session.end[name]) for name in ("why", "message") if session.end.get(name))
            else:
                why = "goes on" if is_last and run.status == "running" else "killed"
            cells = [Cell(_when(begin.get("time"))), Cell(f"{fit}{how}"), _text(count(session.update))]
            rows.append([names[i], *cells, _text(duration(session.seconds)), Cell(why)])
    return Table(["run", "began (UTC)", "at", "to update", "for", "ended"], rows) if rows else None


def skipped(runs: Sequence[RunRecord]) -> Table | None:
    """How many updates were left out; None where none was."""
    names, rows = _names(runs), []
    for i, run in enumerate(runs):
        # Those whose gradients overflowed under a loss scale are in the logs of each epoch, the others are told of each session.
        overflown = sum(value for value in run.series.get("skipped", ()) if not math.isnan(value))
        bad = sum(session.skipped for session in run.sessions)
        if overflown or bad:
            rows.append([names[i], _text(count(float(bad))), _text(count(overflown))])
    return Table(["run", "updates left out, not finite", "left out, overflown under the loss scale"], rows) if rows else None


def machines(runs: Sequence[RunRecord]) -> Table | None:
    """Where each run was trained last, and with which versions, those that agree in a row; None where nobody wrote it down."""
    known = [(i, _machine(run.last)) for i, run in enumerate(runs) if run.last]
    if not known:
        return None
    columns = list(dict.fromkeys(name for _, machine in known for name in machine))
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, machine in known:
        groups.setdefault(tuple(machine.get(name, "–") for name in columns), []).append(i)
    names = _names(runs)
    rows = []
    for values, members in groups.items():
        who = names[members[0]] if len(members) == 1 else Cell("all" if len(members) == len(runs) else _several(runs, members))
        rows.append([who, *map(Cell, values)])
    return Table(["run", *columns], rows)


def sparks(runs: Sequence[RunRecord]) -> Table:
    """The curve of each metric of each run, as a word."""
    order = _order(runs)
    names, metrics = _names(runs), [shown_name(metric, runs) for metric in metrics_of(runs)]
    rows = [[names[i], *(Cell(spark_text(values_of(runs[i], name))) for name in metrics)] for i in order]
    return Table(["run", *metrics], rows)


def settings(run: RunRecord) -> Table | None:
    """All settings of a run; None where nobody wrote them down."""
    rows = [[Cell(name), Cell(value)] for name, value in run.settings.items()]
    return Table(["setting", "value"], rows) if rows else None


def _order(runs: Sequence[RunRecord]) -> list[int]:
    """As given; of many, the best first."""
    return list(range(len(runs))) if len(runs) <= MOST_COLOURED else ranking(runs)


def _shown_metrics(runs: Sequence[RunRecord]) -> list[str]:
    names = [shown_name(metric, runs) for metric in metrics_of(runs)]
    return sorted(names, key=lambda name: direction(name, runs) is None)


def _machine(begin: dict[str, Any]) -> dict[str, str]:
    versions = begin.get("versions")
    found = {name: begin.get(name) for name in ("host", "device", "cores", "jit_compile")}
    found |= versions if isinstance(versions, dict) else {}
    renamed = {"jit_compile": "XLA"}
    said = {True: "yes", False: "no"}
    return {renamed.get(n, str(n)): said[v] if isinstance(v, bool) else str(v) for n, v in found.items() if v is not None}


def _several(runs: Sequence[RunRecord], members: Sequence[int]) -> str:
    shown = ", ".join(runs[i].name for i in members[:3])
    return shown if len(members) <= 3 else f"{shown} and {len(members) - 3} more"


def _names(runs: Sequence[RunRecord]) -> list[Cell]:
    return [Cell(run.name, run=i) for i, run in enumerate(runs)]


def _bests(runs: Sequence[RunRecord], name: str, way: str) -> list[Cell]:
    found = [best(run, name, way) for run in runs]
    values = [math.nan if b is None else b.value for b in found]
    return _marked(values, ["–" if b is None else f"{number(b.value)} ({b.epoch:,})" for b in found], way)


def _marked(values: Sequence[float], texts: Sequence[str], way: str | None) -> list[Cell]:
    """Cells of which the best is marked, where there are several to choose from."""
    finite = [value for value in values if not math.isnan(value)]
    top = None if way is None or len(finite) < 2 else max(finite) if way == "up" else min(finite)
    # What looks the same is: in the last digits runs that are alike differ.
    is_best = [top is not None and not math.isnan(value) and number(value) == number(top) for value in values]
    return [Cell(text, True, is_top) for text, is_top in zip(texts, is_best, strict=True)]


def _number(value: float) -> Cell:
    return Cell(number(value), True)


def _text(text: str) -> Cell:
    return Cell(text, True)


def _three_digits(value: float) -> float:
    return value if math.isnan(value) else float(f"{value:.3g}")


def _when(time: Any) -> str:
    return str(time)[:19].replace("T", " ") if isinstance(time, str) else "–"
