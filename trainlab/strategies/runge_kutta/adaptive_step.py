"""Runge–Kutta steps that find their own length."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_number
from trainlab.strategies.runge_kutta.stages import combined, gradients_of, relative_error
from trainlab.strategies.runge_kutta.tableau import Tableau, named

_SAFETY, _SMALLEST, _LARGEST = 0.9, 0.2, 5.0  # Hairer, Nørsett, Wanner II.4: how far a step's length may change at once
_TRIES = 10  # of one update; then the last is taken, lest a loop never end


@keras.saving.register_keras_serializable(package="trainlab")
class AdaptiveStep(StepStrategy):
    """A Runge–Kutta method whose step grows and shrinks so that its relative error stays at a tolerance.

    The step is `scale` times the learning rate. After each step a PI controller moves `scale` by the error of this step and of
    the one before; a step whose error is above the tolerance is rejected: it is made again, shorter, on the same data, within the
    update, which then costs more evaluations (the first stage is kept); the tenth try is taken as it is. Where the gradient or
    the learning rate is 0 the length stays. `step_scale`, `step_error`, `rejected` and `gradient_evaluations` are logged,
    averaged over updates.

    The error is that of `RungeKutta`'s `step_error`: it compares two methods on *this update's* data, and says nothing of the
    noise between batches: a large tolerance, small batches and a full-batch flow are different things.

    Source: E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, 2nd ed., II.4; K. Gustafsson, ACM
    Transactions on Mathematical Software 17 (1991), 533: the PI controller, with its exponents 0.7/k and 0.4/k.

    Example:
        >>> AdaptiveStep("bogacki_shampine", tolerance=0.01)
        AdaptiveStep(tableau='bogacki_shampine', tolerance=0.01, max_scale=None)

    Args:
        tableau: the name of one with an embedded method, or a `Tableau` of your own.
        tolerance: the relative error that is aimed at, above 0.
        max_scale: the longest step, in learning rates; None for no bound.

    Raises:
        TypeError, ValueError: there is no such tableau, it has no embedded method, or a number is out of range.
    """

    def __init__(self, tableau: str | Tableau = "bogacki_shampine", tolerance: float = 0.01, max_scale: float | None = None):
        self._tableau = named(tableau, "AdaptiveStep")
        if self._tableau.error_weights is None:
            raise ValueError(
                f"AdaptiveStep: the tableau {tableau!r} has no embedded method to compare with; take 'heun', "
                "'bogacki_shampine' or 'dormand_prince'"
            )
        self.tableau = self._tableau if isinstance(tableau, dict) else tableau
        self.tolerance = check_number("AdaptiveStep", "tolerance", tolerance, is_positive=True)
        self.max_scale = max_scale
        if max_scale is not None:
            self.max_scale = check_number("AdaptiveStep", "max_scale", max_scale, is_positive=True)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """The stages of the tableau: those of a step that is accepted at once."""
        return self._tableau.stages

    def init(self, parameters: Vector) -> dict[str, Any]:
        """The length of the next step in learning rates, and the error of the one before."""
        del parameters
        dtype = keras.config.floatx()  # that of a learning rate
        return {"scale": tf.ones([], dtype), "error": tf.constant(self.tolerance, dtype)}

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        tableau = self._tableau
        here = objective(state.parameters)

        def tried(scale: tf.Tensor) -> tuple[Vector, tf.Tensor]:
            rate = state.learning_rate
            length = rate * scale if isinstance(rate, Vector) else rate * tf.cast(scale, rate.dtype)  # a schedule's is float32
            gradients = gradients_of(objective, here, state.parameters, length, tableau)
            direction = combined(tableau.b, gradients)
            assert direction is not None
            error = relative_error(combined(tableau.error_weights or (), gradients), direction, length)
            return direction.map(tf.identity), tf.cast(
                error, scale.dtype
            )  # dense: how many rows there are differs from try to try

        def is_rejected(tries: tf.Tensor, scale: tf.Tensor, direction: Vector, error: tf.Tensor) -> tf.Tensor:
            del scale, direction
            # A step that leads where nothing is finite is too long as well. (Not `not (error <= ...)`: TensorFlow's optimizer
            # makes that `error > ...`, which is another thing for NaN.)
            is_too_long = tf.logical_or(error > self.tolerance, tf.logical_not(tf.math.is_finite(error)))
            return tf.logical_and(is_too_long, tries < _TRIES)

        def again(tries: tf.Tensor, scale: tf.Tensor, direction: Vector, error: tf.Tensor) -> tuple[Any, ...]:
            del direction
            factor = tf.where(tf.math.is_finite(error), self._factor(error, 1.0), _SMALLEST)
            scale *= tf.clip_by_value(factor, _SMALLEST, 1.0)
            return tries + 1, scale, *tried(scale)

        longest = math.inf if self.max_scale is None else self.max_scale
        scale = tf.minimum(state.memory["scale"], longest)  # the first one too
        direction, error = tried(scale)
        first = tf.ones([], tf.int32), scale, direction, error
        tries, scale, direction, error = tf.while_loop(is_rejected, again, first)
        following = self._factor(error, 0.7) * self._factor(state.memory["error"], -0.4, safety=1)
        # At once after a rejection it does not grow.
        following = tf.clip_by_value(following, _SMALLEST, tf.where(tries > 1, tf.ones_like(scale), _LARGEST))
        error_kept = tf.maximum(error, 1e-4 * self.tolerance)
        # Where there is no step its error says nothing: by it the next one would grow for ever.
        is_step = (state.learning_rate * direction).norm() > 0
        following = tf.where(is_step, following, tf.ones_like(following))
        error_kept = tf.where(is_step, error_kept, state.memory["error"])
        evaluations = 1 + tries * (tableau.stages - 1)
        return Step(
            direction * scale,
            at=here,
            memory={
                "scale": tf.minimum(scale * following, longest),
                "error": error_kept,
            },
            logs={"step_scale": scale, "step_error": error, "rejected": tries - 1, "gradient_evaluations": evaluations},
        )

    def _factor(self, error: tf.Tensor, exponent: float, safety: float = _SAFETY) -> tf.Tensor:
        """How much longer a step may be, by an error: `(tolerance / error)` to the exponent over the order of the error."""
        order = (
            self._tableau.order
        )  # of the error of a step of the lower method, relative to the step: that of the higher one less 1
        floor = 1e-4 * self.tolerance  # no error is no reason for an endless step
        return safety * (self.tolerance / tf.maximum(error, floor)) ** (exponent / max(order - 1, 1))

    def get_config(self) -> dict[str, Any]:
        """See `StepStrategy.get_config`."""
        tableau = self.tableau if isinstance(self.tableau, str) else self._tableau.get_config()
        return {"tableau": tableau, "tolerance": self.tolerance, "max_scale": self.max_scale}
