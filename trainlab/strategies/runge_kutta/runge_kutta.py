"""Explicit Runge–Kutta methods of a fixed step."""

from __future__ import annotations

from typing import Any

import keras

from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.runge_kutta.stages import combined, gradients_of, relative_error
from trainlab.strategies.runge_kutta.tableau import Tableau, named


@keras.saving.register_keras_serializable(package="trainlab")
class RungeKutta(StepStrategy):
    """An explicit Runge–Kutta method on the gradient flow `w' = -g(w)`, the learning rate being the step.

    With plain `keras.optimizers.SGD` an update is exactly the method's step. With momentum, Adam, clipping, decay or constraints
    the stages are still those of the plain method, and the optimizer takes their combination as it would any gradient: no order
    is claimed then. All stages see the same data, dropout masks and starting statistics; loss, metrics and statistics are those
    of the first.

    A tableau with an embedded method logs `step_error`: the length of the difference of the two methods' steps against the step's
    own, at no further evaluation. Where it is not small (0.1, say) the learning rate is too large to follow the flow.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.1 and II.4; those of the
    tableaus in `trainlab.strategies.runge_kutta.tableau`.

    Example:
        >>> RungeKutta("kutta_4"), RungeKutta("kutta_4").evaluations
        (RungeKutta(tableau='kutta_4'), 4)

    Args:
        tableau: a name: "euler", "midpoint", "heun", "ralston", "kutta_3", "bogacki_shampine", "kutta_4" (the classic method of
          fourth order), "three_eighths", "dormand_prince"; or a `Tableau` of your own.

    Raises:
        TypeError, ValueError: there is no such tableau.
    """

    def __init__(self, tableau: str | Tableau = "kutta_4"):
        self._tableau = named(tableau, "RungeKutta")
        self.tableau = self._tableau if isinstance(tableau, dict) else tableau

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """The stages of the tableau."""
        return self._tableau.stages

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        tableau = self._tableau
        here = objective(state.parameters)
        gradients = gradients_of(objective, here, state.parameters, state.learning_rate, tableau)
        direction = combined(tableau.b, gradients)
        assert direction is not None  # the weights sum to 1
        if tableau.error_weights is None:
            return Step(direction, at=here)
        error = relative_error(combined(tableau.error_weights, gradients), direction, state.learning_rate)
        return Step(direction, at=here, logs={"step_error": error})

    def get_config(self) -> dict[str, Any]:
        """See `StepStrategy.get_config`."""
        return {"tableau": self.tableau if isinstance(self.tableau, str) else self._tableau.get_config()}
