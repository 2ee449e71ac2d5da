"""The callbacks of a `fit`, as Keras lists them."""

from __future__ import annotations

import sys
from typing import Any

import keras

from trainlab.loop import Plan


def callback_list(callbacks: Any, model: keras.Model | None, plan: Plan, verbose: int) -> keras.callbacks.CallbackList:
    """What Keras' `fit` makes of its argument `callbacks`, `History` and the progress bar among them."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    return keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=plan.last_epoch,
        steps=plan.updates_per_epoch,
    )


def is_terminal(stream: Any) -> bool:
    """Whether somebody looks at a stream, who sees a bar move; no stream at all, or one that cannot say, is none."""
    return bool(getattr(stream, "isatty", bool)())


def verbosity(verbose: str | int) -> int:
    """`verbose` of `fit` as a number.

    Raises:
        ValueError: it is none of those that Keras knows.
    """
    if verbose == "auto":
        if sys.stdout is None:  # of a process without a console
            return 0
        return 1 if is_terminal(sys.stdout) or "ipykernel" in sys.modules else 2
    if verbose not in (0, 1, 2):
        raise ValueError(f'verbose must be 0, 1, 2 or "auto", not {verbose!r}')
    return int(verbose)
