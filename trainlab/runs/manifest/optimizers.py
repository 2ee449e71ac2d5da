"""What an optimizer is made of, as plain data."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from trainlab.objective import inner_of, keras_internals
from trainlab.runs.manifest.plain import Reader


def of_optimizer(optimizer: keras.Optimizer, reader: Reader) -> dict[str, Any]:
    """The row of an optimizer: its settings and its code, but for the learning rate, and the name, which Keras counts up.

    Of a `keras.optimizers.MultiOptimizer` it is that of each inner one, the learning rate too, and which variable is whose; of
    a `LossScaleOptimizer` its own settings and the row of the one inside.
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
    distinct = list({id(one): one for one in inner.values()}.values())
    variables = keras_internals.trained_by(optimizer) or ()
    return parts | {
        "optimizers": [of_optimizer(one, reader) | {"learning_rate": learning_rate(one)} for one in distinct],
        "of": [next(i for i, one in enumerate(distinct) if one is inner[id(v)]) for v in variables],
    }


def learning_rate(optimizer: keras.Optimizer) -> Any:
    """The row of the learning rate: a number of seven digits (float32 makes 0.10000000149 of 0.1), or a schedule."""
    optimizer = inner_of(optimizer)
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


def config_of(value: Any) -> dict[str, Any]:
    """The configuration of a layer or an optimizer; where Keras cannot write it (a lambda without source), its numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a lambda is no good in a file
        try:
            return dict(value.get_config())
        except Exception:  # users' code may raise anything
            kinds = (bool, int, float, str, tuple)
            return {k: v for k, v in vars(value).items() if not k.startswith("_") and isinstance(v, kinds)}
