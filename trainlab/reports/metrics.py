"""What is drawn together, and which way is better."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from trainlab.reports.reading.run import RunRecord

_VALIDATION = "val_"
_DOWN = re.compile(
    r"loss|error|mse|mae|rmse|mape|msle|entropy|divergence|hinge|logcosh|perplexity|poisson|false_|(^|_)(nll|kl|fid|wer|cer)($|_)"
)
_UP = re.compile(
    r"acc|auc|precision|recall|(^|_)f\d|fbeta|io_?u|correlation|dice|jaccard|r2|bleu|rouge|psnr|ssim|true_|similarity|specificity|sensitivity"
)
# What is shown, and is no result: what a step, or a loss scale, tells of itself.
_OTHER = ("learning_rate", "lr", "skipped", "loss_scale", "step_error", "step_scale", "rejected", "gradient_evaluations")


class Metric(NamedTuple):
    """Names in the logs that are drawn together.

    Attributes:
        name: of training.
        validation: of the same in validation.
    """

    name: str
    validation: str


class Best(NamedTuple):
    """The best value of a run.

    Attributes:
        value: itself.
        epoch: its number, from 1.
    """

    value: float
    epoch: int


def metrics_of(runs: Sequence[RunRecord]) -> list[Metric]:
    """Every metric of some run: the loss first, then in the order of the logs; what is no result comes last."""
    has_rates = any(not math.isnan(value) for run in runs for values in run.learning_rate.values() for value in values)
    rates = {"learning_rate", "lr"} if has_rates else set()  # which are drawn by themselves
    names = dict.fromkeys(name.removeprefix(_VALIDATION) for run in runs for name in run.series)
    ranked = sorted(names, key=lambda name: (name != "loss", name in _OTHER))
    return [Metric(name, _VALIDATION + name) for name in ranked if name not in rates]


def direction(name: str, runs: Sequence[RunRecord] = ()) -> str | None:
    """Whether more ("up") or less ("down") of it is better, as the runs or else its name say; None where nothing tells.

    Example:
        >>> direction("val_accuracy"), direction("root_mean_squared_error"), direction("temperature")
        ('up', 'down', None)
    """
    bare = name.removeprefix(_VALIDATION)
    for run in runs:
        if bare in run.directions:
            return run.directions[bare]
    lower = bare.lower()
    if bare in _OTHER:
        return None
    return "down" if _DOWN.search(lower) else "up" if _UP.search(lower) else None


def best(run: RunRecord, name: str, way: str | None) -> Best | None:
    """The best epoch by a name; the first of several, and None where nothing tells which is better, or there is none."""
    pairs = [(value, epoch) for value, epoch in zip(run.series.get(name, ()), run.epochs, strict=False) if not math.isnan(value)]
    if way is None or not pairs:
        return None
    value, epoch = (max if way == "up" else min)(pairs, key=lambda pair: pair[0])
    return Best(value, epoch)


def final(run: RunRecord, name: str) -> float:
    """The last value; NaN if there is none, or training ended with one that is none."""
    values = values_of(run, name)
    return values[-1] if values else math.nan


def values_of(run: RunRecord, name: str) -> list[float]:
    """The values of a name, of the epochs that have it."""
    return [run.series[name][i] for i in run.measured.get(name, ())]


def shown_name(metric: Metric, runs: Sequence[RunRecord]) -> str:
    """The name by which runs are judged: that of validation where there is one."""
    return metric.validation if any(metric.validation in run.series for run in runs) else metric.name


def leading(runs: Sequence[RunRecord]) -> tuple[str, str] | None:
    """The name that tells which run is the best, and which way: the first metric that is no loss, or else the loss."""
    found = [(name, way) for m in metrics_of(runs) if (way := direction(name := shown_name(m, runs), runs)) is not None]
    ranked = sorted(found, key=lambda pair: (not pair[0].startswith(_VALIDATION), pair[0].removeprefix(_VALIDATION) == "loss"))
    return ranked[0] if ranked else None


def ranking(runs: Sequence[RunRecord]) -> list[int]:
    """The numbers of the runs, the best first; those without a value last, and as they are where nothing tells."""
    if (lead := leading(runs)) is None:
        return list(range(len(runs)))
    sign = -1 if lead[1] == "up" else 1
    found = [best(run, *lead) for run in runs]
    return sorted(range(len(runs)), key=lambda i: math.inf if (b := found[i]) is None else sign * b.value)
