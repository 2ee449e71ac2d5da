"""Sharpness-aware minimization: the gradient at the worst point nearby."""

from __future__ import annotations

import keras

from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_number

_TINY = 1e-12  # keeps a step from nowhere, where the gradient is 0, finite


@keras.saving.register_keras_serializable(package="trainlab")
class Sam(StepStrategy):
    """Sharpness-aware minimization: the gradient at the point a distance `rho` uphill, applied here.

    Under `Accumulate` the uphill point is that of all batches together, as in the paper's full-batch form; with small batches the
    noise of a batch is a part of the method.

    Source: P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, ICLR 2021 (https://arxiv.org/abs/2010.01412), algorithm 1, p = 2.

    Example:
        >>> Sam(0.1), Sam(0.1).evaluations
        (Sam(rho=0.1), 2)

    Args:
        rho: the distance, in the Euclidean norm of all parameters together, at least 0.

    Raises:
        TypeError, ValueError: it is not.
    """

    evaluations = 2

    def __init__(self, rho: float = 0.05):
        self.rho = check_number("Sam", "rho", rho)

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        uphill = here.gradient * (self.rho / (here.gradient.norm() + _TINY))
        return Step(objective(state.parameters + uphill).gradient, at=here)
