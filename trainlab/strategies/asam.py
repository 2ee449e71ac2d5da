"""Adaptive sharpness-aware minimization: uphill by parameters' own scales."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_number

_TINY = 1e-12


@keras.saving.register_keras_serializable(package="trainlab")
class Asam(StepStrategy):
    """Sharpness-aware minimization that scales the neighbourhood by the size of each parameter.

    The uphill point is `w + rho * T^2 g / |T g|` with `T = |w| + eta`, element by element, so that the step does not depend on
    how the weights of layers are scaled against each other. All trainable parameters are scaled so, biases too.

    Source: J. Kwon, J. Kim, H. Park, I. K. Choi, ICML 2021 (https://arxiv.org/abs/2102.11600), algorithm 1, p = 2, and section 4
    for eta.

    Example:
        >>> Asam().evaluations
        2

    Args:
        rho: the distance in the scaled norm, at least 0.
        eta: what is added to the size of a parameter, at least 0.

    Raises:
        TypeError, ValueError: one is not.
    """

    evaluations = 2

    def __init__(self, rho: float = 0.5, eta: float = 0.01):
        self.rho, self.eta = check_number("Asam", "rho", rho), check_number("Asam", "eta", eta)

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        scale = state.parameters.map(tf.abs) + self.eta
        scaled = scale * here.gradient
        uphill = scale * scaled * (self.rho / (scaled.norm() + _TINY))
        return Step(objective(state.parameters + uphill).gradient, at=here)
