"""What an optimizer that scales the loss must be."""

from __future__ import annotations

import math
import re
from typing import Any

import keras

from trainlab.objective.scaling.loss_scale import SMALLEST_SCALE, inner_of

_SCALING = keras.optimizers.LossScaleOptimizer
# What of a LossScaleOptimizer's is done here in its place, once an update; its apply comes to the optimizer inside. Of Keras'
# own also what its apply is made of, whatever the parts are called; the stateless ones are another backend's.
_PARTS = [name for name, value in vars(_SCALING).items() if re.match("_[^_]", name) and callable(value)]
_DONE_HERE = ("apply", "apply_gradients", "check_finite", "scale_loss", *(name for name in _PARTS if "stateless" not in name))


def check_scaling(optimizer: Any) -> None:
    """Checks what an optimizer says of the loss scale.

    Raises:
        ValueError: it is nothing that a loss can be scaled by; one line.
    """
    inner, name = inner_of(optimizer), type(optimizer).__name__
    for one in (inner, *(getattr(inner, "optimizers", None) or ())):  # of a MultiOptimizer
        if isinstance(one, _SCALING):
            raise ValueError(not_inside("another LossScaleOptimizer" if one is inner else "a MultiOptimizer"))
    if inner is not optimizer:
        _check_dynamic(optimizer, inner)
        return
    factor = getattr(optimizer, "loss_scale_factor", None)
    if factor is not None and not 0 < _number(factor) < math.inf:
        raise ValueError(f"{name} loss_scale_factor={factor!r} must be a finite number above 0; None does not scale the loss")
    if factor is None and _is_own(optimizer, "scale_loss", keras.Optimizer) and _number(optimizer.scale_loss(1.0)) != 1:
        raise ValueError(
            f"{name} scales the loss by a scale_loss of its own, which says not how gradients are divided again: "
            "use keras.optimizers.LossScaleOptimizer around an optimizer, or its loss_scale_factor"
        )


def not_inside(where: str) -> str:
    """The line on a LossScaleOptimizer inside another optimizer."""
    return f"a LossScaleOptimizer cannot be inside {where}: the loss is scaled once, by the outermost optimizer"


def _check_dynamic(optimizer: Any, inner: Any) -> None:
    name, scale = type(optimizer).__name__, optimizer.initial_scale
    for method in _DONE_HERE:
        if _is_own(optimizer, method, _SCALING):
            raise ValueError(
                f"{name} defines its own {method}, which nothing would call, one decision an update being made outside it: "
                "use keras.optimizers.LossScaleOptimizer with its initial_scale and dynamic_growth_steps"
            )
    if not optimizer.built and not SMALLEST_SCALE <= _number(scale) < math.inf:
        raise ValueError(
            f"{name} initial_scale={scale!r} must be a finite number of at least 2**-24, below which training would stop"
        )
    if (factor := getattr(inner, "loss_scale_factor", None)) is not None:
        raise ValueError(f"{name} around an optimizer with loss_scale_factor={factor!r}: the loss is scaled once, leave it None")


def _is_own(optimizer: Any, method: str, base: Any) -> bool:
    """Whether a method is another than Keras has written for the base class."""
    return method in vars(optimizer) or getattr(type(optimizer), method, None) is not getattr(base, method)


def _number(value: Any) -> float:
    """A number as a float; NaN, which is in no range, for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
