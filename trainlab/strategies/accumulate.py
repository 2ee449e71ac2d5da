"""Accumulation: one update from several batches, as if they were one."""

from __future__ import annotations

import operator
from typing import Any

import keras

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.sgd import SGD


@keras.saving.register_keras_serializable(package="trainlab")
class Accumulate(StepStrategy):
    """Makes each update's effective batch of the next `num_batches` batches, one in memory at a time.

    The step is the inner strategy's. Its objective is the mean over all examples (or valid tokens, or weights: whatever
    the loss divides by) of the batches together, so that `Accumulate(n, S)` equals `S` on their concatenation, also where
    they differ in size. An epoch's last update takes what is left. Dropout draws anew and BatchNorm takes its statistics
    batch by batch.

    Example:
        >>> from trainlab.strategies.heun import Heun
        >>> strategy = Accumulate(4, Heun())
        >>> strategy, strategy.batches, strategy.evaluations
        (Accumulate(num_batches=4, inner=Heun()), 4, 2)

    Args:
        num_batches: batches an update takes, at least 1.
        inner: the strategy that takes the step; `SGD()` by default.

    Raises:
        TypeError, ValueError: the arguments are not that.
    """

    def __init__(self, num_batches: int, inner: StepStrategy | None = None):
        if isinstance(num_batches, bool) or not hasattr(num_batches, "__index__"):
            raise TypeError(f"Accumulate: num_batches must be an int, not {num_batches!r}")
        num_batches = operator.index(num_batches)
        if num_batches < 1:
            raise ValueError(f"Accumulate: num_batches must be at least 1, not {num_batches}")
        inner = SGD() if inner is None else inner
        if not isinstance(inner, StepStrategy):
            hint = f"; write {inner.__name__}()" if isinstance(inner, type) else ""
            raise TypeError(f"Accumulate: inner must be a StepStrategy, not {inner!r}{hint}")
        self.num_batches = num_batches
        self.inner = inner

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """The inner strategy's."""
        return self.inner.evaluations

    @property
    def batches(self) -> int:  # type: ignore[override]
        """`num_batches` for each batch that the inner strategy asks for."""
        return self.num_batches * self.inner.batches

    def init(self, parameters: Vector) -> dict[str, Any]:
        """The inner strategy's memory."""
        return self.inner.init(parameters)

    def step(self, objective: Objective, state: State) -> Step:
        """The inner strategy's step: what an effective batch is made of is the objective's business."""
        return self.inner.step(objective, state)
