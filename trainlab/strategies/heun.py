"""Heun's method: the mean of the gradient here and one Euler step ahead."""

from __future__ import annotations

import keras

from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.runge_kutta.stages import euler_error


@keras.saving.register_keras_serializable(package="trainlab")
class Heun(StepStrategy):
    """Heun's method on the gradient flow: two evaluations, second order in the learning rate.

    With plain `keras.optimizers.SGD` the update is exactly that of the explicit trapezoidal rule,
    `w - h/2 (g(w) + g(w - h g(w)))`. With momentum, Adam, clipping, decay or constraints the probe is still the raw
    Euler point, and the optimizer takes the mean as it would any gradient: no order is claimed then.

    It logs `step_error`, at no further evaluation: how far its step is from the Euler step that it contains, against the step's
    own length. Where that is not small (0.1, say) the learning rate is too large to follow the flow.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.1, table 1.1.

    Example:
        >>> Heun().evaluations
        2
    """

    evaluations = 2

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        ahead = objective(state.parameters - state.learning_rate * here.gradient)
        error = euler_error(here.gradient, ahead.gradient, state.learning_rate)
        return Step((here.gradient + ahead.gradient) / 2, at=here, logs={"step_error": error})
