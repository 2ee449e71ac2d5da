"""Rows that an update looks up more than once: summed before an optimizer sees them, or handed on as Keras does."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras

from trainlab.objective import keras_internals

# What these make of two slices of a row is what they make of the sum.
_LINEAR = (keras.optimizers.SGD, keras.optimizers.Lion, keras.optimizers.Adamax)
_told: weakref.WeakSet[keras.Optimizer] = weakref.WeakSet()


def is_clipping(optimizer: keras.Optimizer) -> bool:
    """Whether an optimizer clips gradients, and so, in Keras, slices of a row one by one."""
    return any(getattr(optimizer, name, None) is not None for name in ("clipnorm", "clipvalue", "global_clipnorm"))


def tell(optimizer: keras.Optimizer, variables: Sequence[Any]) -> None:
    """Says, once an optimizer, that rows are summed where Keras' `fit` does not, and with which setting it is as there.

    Args:
        optimizer: that takes the gradients; a `MultiOptimizer` hands each to another, which is asked.
        variables: those whose gradients are row-sparse.
    """
    if optimizer in _told:
        return
    inner = keras_internals.inner_optimizers(optimizer) or {}
    paths: dict[tuple[str, str], list[str]] = {}
    for variable in variables:
        its = inner.get(id(variable), optimizer)
        if not isinstance(its, _LINEAR) or is_clipping(its):
            what = "clips" if isinstance(its, _LINEAR) else "squares"
            paths.setdefault((type(its).__name__, what), []).append(variable.path)
    if paths:
        _told.add(optimizer)
    for (name, what), found in paths.items():
        warnings.warn(
            f"the gradients of a row of {', '.join(map(repr, found))} that an update looks up more than once are summed before "
            f"{name} {what} them, as its formula has it; Keras' fit {what} each by itself, so that the same "
            "learning rate trains otherwise there, often faster; the setting sum_duplicate_rows=False does as Keras does, and "
            "True does without this line",
            stacklevel=2,
        )


def are_summed_by(optimizer: keras.Optimizer) -> bool:
    """Whether the optimizer itself adds up what several slices say of one row; many square or clip them one by one."""
    return type(optimizer) is keras.optimizers.SGD and not is_clipping(optimizer)
