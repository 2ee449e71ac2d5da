"""The stages of an explicit Runge–Kutta step, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainlab.objective import Evaluation
from trainlab.parameters import Vector
from trainlab.strategies.base import Objective
from trainlab.strategies.runge_kutta.tableau import Tableau


def gradients_of(objective: Objective, here: Evaluation, parameters: Vector, step_size: Any, tableau: Tableau) -> list[Vector]:
    """The gradients of all stages.

    Args:
        objective: of the update.
        here: what it is at `parameters`, the first stage.
        parameters: where the step begins.
        step_size: its length, a scalar or a Vector of scalars.
        tableau: where the other stages are.

    Returns:
        A gradient a stage.
    """
    gradients = [here.gradient]
    for row in tableau.a:
        along = combined(row, gradients)
        gradients.append(objective(parameters if along is None else parameters - step_size * along).gradient)
    return gradients


def combined(weights: Sequence[float], vectors: Sequence[Vector]) -> Vector | None:
    """The weighted sum, in which nothing is multiplied by 0 or by 1; None if all weights are 0."""
    total: Vector | None = None
    for weight, vector in zip(weights, vectors, strict=True):
        if weight:
            term = vector if weight == 1 else weight * vector
            total = term if total is None else total + term
    return total


def relative_error(difference: Vector | None, direction: Vector, step_size: Any) -> tf.Tensor:
    """How long the difference of two methods' steps is, against the step: scalar; 0 where there is no step."""
    if difference is None:  # both are one method
        return tf.zeros([])
    if isinstance(step_size, Vector):  # a common factor cancels, one of each variable's own does not
        difference, direction = step_size * difference, step_size * direction
    return tf.math.divide_no_nan(difference.norm(), direction.norm())
