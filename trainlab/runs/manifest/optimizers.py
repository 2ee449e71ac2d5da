"""What an optimizer is made of, as plain data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras

from trainlab.objective import inner_of, keras_internals
from trainlab.runs.manifest.plain import Reader


def of_optimizer(optimizer: keras.Optimizer, reader: Reader) -> dict[str, Any]:
    """The row of an optimizer: its settings and its code, but for the learning rate, and the name, which Keras counts up.

    Of a `keras.optimizers.MultiOptimizer` it is that of each inner one, and which variable is whose; of a `LossScaleOptimizer`
    its own settings and the row of the one inside.
    """
    if (scaled := inner_of(optimizer)) is not optimizer:
        own = {"initial_scale": optimizer.initial_scale, "dynamic_growth_steps": optimizer.dynamic_growth_steps}
        return {"class": reader.label(type(optimizer)), **reader.read(own), "inner": of_optimizer(scaled, reader)}
    inner = keras_internals.inner_optimizers(optimizer)
    config = config_of(optimizer) if inner is None else {}
    parts = reader.read(config) | reader.held(optimizer)
    parts = {name: part for name, part in parts.items() if name.strip("_") not in ("learning_rate", "name")}
    parts |= {"class": reader.label(type(optimizer))}
    if inner is None:
        return parts
    distinct = _distinct(inner)
    variables = keras_internals.trained_by(optimizer) or ()
    return parts | {
        "optimizers": [of_optimizer(one, reader) for one in distinct],
        "of": [next(i for i, one in enumerate(distinct) if one is inner[id(v)]) for v in variables],
    }


def learning_rate(optimizer: keras.Optimizer) -> Any:
    """The row of the learning rate: a number of seven digits (float32 makes 0.10000000149 of 0.1), or a schedule.

    Of a `keras.optimizers.MultiOptimizer` it is the list of those of the inner ones.
    """
    optimizer = inner_of(optimizer)
    if (inner := keras_internals.inner_optimizers(optimizer)) is not None:
        return [learning_rate(one) for one in _distinct(inner)]
    reader = Reader(optimizer.variables)
    held = next((item for name, item in vars(optimizer).items() if name.strip("_") == "learning_rate"), None)
    is_schedule = isinstance(held, keras.optimizers.schedules.LearningRateSchedule)
    if reader.is_own(held) and not is_schedule:
        return reader.read(held)  # a function
    try:
        rate = optimizer.get_config().get("learning_rate")
    except Exception:  # of the user's optimizer, or of a schedule that is no more than a `__call__`: it need not have one
        rate = None if is_schedule else float(optimizer.learning_rate)
    if isinstance(rate, (int, float)):
        return float(f"{rate:.7g}")
    if rate is None:
        return reader.read(held)
    own = {"code": reader.read(held)} if reader.is_own(held) and isinstance(rate, dict) else {}
    return reader.read(rate) | own if own else reader.read(rate)


def with_rates_apart(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The same rows; an older trainlab wrote the rates of a `keras.optimizers.MultiOptimizer` into that of the optimizer."""
    outer: Any = rows.get("optimizer")
    scaled = isinstance(outer, dict) and "inner" in outer
    row = outer["inner"] if scaled else outer
    several = row.get("optimizers") if isinstance(row, dict) else None
    if not several or not all(isinstance(one, dict) and "learning_rate" in one for one in several):
        return dict(rows)
    rates = [one["learning_rate"] for one in several]
    row = row | {"optimizers": [{name: part for name, part in one.items() if name != "learning_rate"} for one in several]}
    return {**rows, "optimizer": {**outer, "inner": row} if scaled else row, "learning_rate": rates}


def are_but_for_the_rate(saved: Any, current: Any) -> bool:
    """Whether of two rows of an optimizer's variables one has one more, a scalar: a rate is one, where a schedule is none."""
    short, long = sorted([saved, current], key=len)
    scalars = [i for i, (shape, _) in enumerate(long) if not shape]
    return len(long) == len(short) + 1 and any([*long[:i], *long[i + 1 :]] == short for i in scalars)


def _distinct(inner: Mapping[int, keras.Optimizer]) -> list[keras.Optimizer]:
    return list({id(one): one for one in inner.values()}.values())


def config_of(value: Any) -> dict[str, Any]:
    """The configuration of a layer or an optimizer; where Keras cannot write it (a lambda without source), its numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a lambda is no good in a file
        try:
            return dict(value.get_config())
        except Exception:  # users' code may raise anything
            kinds = (bool, int, float, str, tuple)
            return {k: v for k, v in vars(value).items() if not k.startswith("_") and isinstance(v, kinds)}
