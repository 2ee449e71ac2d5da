"""How a Trainer, a strategy and a History look in a notebook, and their curves as a figure."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from trainlab.reports.drawing.figure import figure_of, save
from trainlab.reports.drawing.panels import panels_of
from trainlab.reports.drawing.sparks import spark_svg
from trainlab.reports.metrics import best, direction, final, metrics_of, values_of
from trainlab.reports.reading.older import aligned
from trainlab.reports.reading.run import RunRecord, columns_of
from trainlab.reports.text import many, number

_SUFFIXES = (".png", ".pdf", ".svg")
_MOST_SHOWN = 12  # metrics of a history
_STYLE = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;font-variant-numeric:tabular-nums"


def shown(history: Any, is_validated: Callable[[int], bool] | None = None) -> Any:
    """The same `History`, which a notebook shows as a table from now on: Keras' own object, of Keras' own class.

    Args:
        history: of a `fit`.
        is_validated: whether there was a validation after the epoch of a number, from 1; a `History` does not say. None for none.
    """
    history._repr_html_ = functools.partial(history_html, history)
    if is_validated is not None:
        history.validated = [i for i, epoch in enumerate(history.epoch) if is_validated(epoch + 1)]
    return history


def history_html(history: Any) -> str:
    """The metrics of a `History`: last and best value, and the curve."""
    run = _record(history)
    names = [name for metric in metrics_of([run]) for name in metric if name in run.series]
    rows = []
    for name in names[:_MOST_SHOWN]:
        top = best(run, name, direction(name))
        said = "" if top is None else f"best {number(top.value)} in epoch {top.epoch:,}"
        rows.append([escape(name), number(final(run, name)), said, spark_svg(values_of(run, name), name)])
    more = len(names) - _MOST_SHOWN
    rows += [[f"and {more} more", "", "", ""]] if more > 0 else []
    return f"<div>{escape(many(len(run.epochs), 'epoch'))}</div>{_table(rows)}"


def strategy_html(strategy: Any, has_memory: bool) -> str:
    """A step strategy: itself, what it costs, and what its docstring says first.

    Args:
        strategy: the step.
        has_memory: whether it takes values from update to update.
    """
    cost = f"{many(strategy.evaluations, 'evaluation')} of the gradient an update"
    cost += f", each over {strategy.batches:,} batches" if strategy.batches > 1 else ""
    said = (inspect.getdoc(type(strategy)) or "").partition("\n\n")[0]
    memory = "values of its own, from update to update" if has_memory else "none"
    rows = [["step", f"<code>{escape(repr(strategy))}</code>"], ["costs", cost], ["memory", memory]]
    return _table([*rows, ["", escape(" ".join(said.split()))]])


def trainer_html(trainer: Any) -> str:
    """A Trainer: what it is made of, and the metrics of its last `fit`, if there was one."""
    model, checkpoint = trainer.model, trainer.last_checkpoint
    size = f"{model.count_params():,} parameters" if model.built else "not built yet"
    values = {
        "model": f"{model.name}, {size}",
        "strategy": repr(trainer.strategy),
        "optimizer": type(model.optimizer).__name__ + _rate(model.optimizer),
        "device": trainer.device,
        "updates": f"{trainer.iterations:,}",
    }
    values |= {} if checkpoint is None else {"last checkpoint": str(checkpoint)}
    history = getattr(model, "history", None)
    has_history = bool(getattr(history, "epoch", None))
    return _table([[name, escape(text)] for name, text in values.items()]) + (history_html(history) if has_history else "")


def plot_history(history: Any, path: str | os.PathLike[str] | None, title: str) -> Any:
    """The curves of a `History`, as a figure of matplotlib.

    Args:
        history: Keras'; None if there was no training.
        path: where it is written, as `.png`, `.pdf` or `.svg`; None for nowhere.
        title: above all.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        ValueError, FileNotFoundError: there is nothing to draw, the suffix is none of these, or there is no such directory.
        ModuleNotFoundError: matplotlib is missing.
    """
    if path is not None and Path(path).suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"path={str(path)!r}: a plot is written as one of {', '.join(_SUFFIXES)}: give its name one of these suffixes"
        )
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(f"path={str(path)!r}: there is no directory {Path(path).parent}; make it first")
    if not getattr(history, "epoch", None):
        raise ValueError("there is nothing to plot yet: call fit first")
    run = _record(history)
    figure = figure_of(panels_of([run]), [run], title, axis="epochs")
    if path is not None:
        save(figure, Path(path))
    return figure


def _rate(optimizer: Any) -> str:
    try:
        return f", learning rate {number(float(optimizer.learning_rate))}"
    except Exception:  # of several optimizers, or of one that has none
        return ""


def _record(history: Any) -> RunRecord:
    """A `History` as a run whose only axis is the epochs."""
    epochs = [int(epoch) + 1 for epoch in history.epoch]
    validated = getattr(history, "validated", ())
    lists = {str(name): values for name, values in history.history.items() if isinstance(values, (list, tuple))}
    columns = {name: aligned(list(values), len(epochs), validated) for name, values in lists.items()}  # anything may be put in
    rows = [{name: _plain(values[i]) for name, values in columns.items() if values[i] is not ...} for i in range(len(epochs))]
    series, measured = columns_of(rows)
    return RunRecord("", Path(), {"epochs": [float(epoch) for epoch in epochs]}, epochs, series, measured)


def _plain(value: Any) -> Any:
    """A number, or a list of them; text for somebody's object."""
    try:
        return float(value)
    except OverflowError:
        return None
    except Exception:  # several numbers, or no number at all
        return value.tolist() if hasattr(value, "tolist") else value if isinstance(value, (list, dict)) else str(value)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td style={_STYLE!r}>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{lines}</table>"
