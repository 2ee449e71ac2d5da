"""What is drawn: a panel for each metric, and which of its lines stand out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence

from trainlab.reports.metrics import direction, metrics_of, ranking
from trainlab.reports.reading.run import RunRecord

MOST_COLOURED = 8  # runs that are all told apart; of more, the best few
_NUM_BEST = 5


@dataclasses.dataclass(frozen=True)
class Line:
    """A curve.

    Attributes:
        run: whose, by number.
        values: one for each epoch that has it.
        axes: where each is, by axis.
        is_dashed: whether it is of validation.
        label: what it is, in words.
        is_shown_grey: whether it is drawn where its run is one of many: of training and validation one is enough.
        band: what lies about it, from below and from above, of as many numbers as `values`; None for nothing.
    """

    run: int
    values: Sequence[float]
    axes: Mapping[str, Sequence[float]]
    is_dashed: bool
    label: str
    is_shown_grey: bool = True
    band: tuple[Sequence[float], Sequence[float]] | None = None


@dataclasses.dataclass(frozen=True)
class Panel:
    """The curves of one metric.

    Attributes:
        title: its name.
        lines: its curves.
        may_be_log: whether logarithms may be drawn.
        note: what there is to know.
        from_zero: whether the scale begins at 0.
    """

    title: str
    lines: list[Line]
    may_be_log: bool
    note: str = ""
    from_zero: bool = False


def panels_of(runs: Sequence[RunRecord]) -> list[Panel]:
    """The metrics, the learning rate, and how fast it went; those that have a value."""
    found = []
    for metric in metrics_of(runs):
        lines = []
        for name, is_dashed in ((metric.name, False), (metric.validation, True)):
            lines += _lines(runs, functools.partial(_logged, name), name, is_dashed)
        if any(line.is_dashed for line in lines):
            lines = [dataclasses.replace(line, is_shown_grey=line.is_dashed) for line in lines]
        found.append(Panel(metric.name, lines, may_be_log=direction(metric.name, runs) == "down"))
    rates = dict.fromkeys(name for run in runs for name in run.learning_rate)
    lines = [line for name in rates for line in _lines(runs, functools.partial(_rate, name), name, False)]
    found.append(Panel("learning rate", lines, may_be_log=True))
    has_examples = all(run.examples for run in runs if any(not math.isnan(value) for value in run.speed))
    unit = "examples a second" if has_examples else "updates a second"
    speed = _lines(runs, functools.partial(_speed, has_examples), unit, False)
    note = "without the first epoch of a session, which waits for the compiler"
    found.append(Panel(unit, speed, may_be_log=False, note=note, from_zero=True))
    return [panel for panel in found if panel.lines]


def coloured(runs: Sequence[RunRecord]) -> list[int]:
    """The runs that have a colour, by number, in the order of the colours; all of few, the best of many."""
    return list(range(len(runs))) if len(runs) <= MOST_COLOURED else ranking(runs)[:_NUM_BEST]


def _logged(name: str, run: RunRecord) -> tuple[Sequence[float], Sequence[int]]:
    return run.series.get(name, ()), run.measured.get(name, ())


def _speed(has_examples: bool, run: RunRecord) -> tuple[Sequence[float], Sequence[int]]:
    factor = run.examples or 1 if has_examples else 1
    return [value * factor for value in run.speed], range(len(run.speed))


def _rate(name: str, run: RunRecord) -> tuple[Sequence[float], Sequence[int]]:
    return run.learning_rate.get(name, ()), range(len(run.epochs))


def _lines(
    runs: Sequence[RunRecord],
    values_of: Callable[[RunRecord], tuple[Sequence[float], Sequence[int]]],
    label: str,
    is_dashed: bool,
) -> list[Line]:
    found = []
    for i, run in enumerate(runs):
        column, numbers = values_of(run)
        values = [column[k] for k in numbers] if column else []
        if any(not math.isnan(value) for value in values):
            axes = {name: [places[k] for k in numbers] for name, places in run.axes.items()}
            found.append(Line(i, values, axes, is_dashed, f"{run.name}: {label}" if len(runs) > 1 else label))
    return found
