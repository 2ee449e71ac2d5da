"""Accumulation: one update from several batches, as if they were one."""

from __future__ import annotations

from typing import Any

import keras

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_count, check_inner


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
        self.num_batches = check_count("Accumulate", "num_batches", num_batches)
        self.inner = check_inner("Accumulate", inner)

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
