"""Lookahead: some steps forward, a part of the way back."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_count, check_inner, check_number
from trainlab.strategies.wrapping.memory import beside, of_inner


@keras.saving.register_keras_serializable(package="trainlab")
class Lookahead(StepStrategy):
    """Lets the optimizer take `k` steps, and then goes back to `slow + alpha * (fast - slow)`, from where the next `k` begin.

    The model holds the fast weights between two returns and the slow ones after each `k`-th update: validate and save there, if
    you mean these. The step forward is the inner strategy's and the optimizer's: gradients are clipped, weights decayed and
    constraints applied in each of the `k` as ever, and to what a return comes to; an optimizer's own momentum
    is left as it is, as in the paper; its average of weights (`use_ema`) is of the fast weights. `Accumulate(n, Lookahead(k,
    ...))` counts updates, not batches, and so does a resumed run. The slow weights are memory, as a momentum is: of weights that
    you set between two calls of `fit` (`load_weights`, `restore_best_weights`) the next return keeps the part `alpha`. A new
    Trainer begins at the weights that are there.

    Source: M. R. Zhang, J. Lucas, G. Hinton, J. Ba, NeurIPS 2019 (https://arxiv.org/abs/1907.08610), algorithm 1.

    Example:
        >>> Lookahead(5, 0.5)
        Lookahead(k=5, alpha=0.5, inner=SGD())

    Args:
        k: steps between two returns, at least 1.
        alpha: the part of the way that is kept, in (0, 1].
        inner: the strategy that takes the steps; `SGD()` by default.

    Raises:
        TypeError, ValueError: the arguments are not that.
    """

    def __init__(self, k: int = 5, alpha: float = 0.5, inner: StepStrategy | None = None):
        self.k = check_count("Lookahead", "k", k)
        self.alpha = check_number("Lookahead", "alpha", alpha, most=1.0, is_positive=True)
        self.inner = check_inner("Lookahead", inner)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """The inner strategy's."""
        return self.inner.evaluations

    @property
    def batches(self) -> int:  # type: ignore[override]
        """The inner strategy's."""
        return self.inner.batches

    def init(self, parameters: Vector) -> dict[str, Any]:
        """The inner strategy's memory, the slow weights, and the steps since they were set."""
        return beside(self.inner.init(parameters), slow=parameters * 1.0, steps=tf.zeros([], tf.int64))

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        inner = of_inner(state.memory)
        step = self.inner.step(objective, state._replace(memory=inner))
        if step.then is not None:
            raise ValueError(f"Lookahead: {self.inner!r} moves the weights after the optimizer too; only one of the two can")
        slow, steps = state.memory["slow"], state.memory["steps"] + 1
        is_return = steps >= self.k
        memory = beside(
            inner if step.memory is None else step.memory, slow=slow, steps=tf.where(is_return, tf.zeros_like(steps), steps)
        )

        def back(fast: Vector) -> tuple[Vector, dict[str, Any]]:
            there = slow + self.alpha * (fast - slow)
            return there, {"slow": there}

        return step._replace(memory=memory, then=back, when=is_return)
