"""The stages of an explicit Runge–Kutta step, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainlab.objective import Evaluation
from trainlab.parameters import Rows, Vector
from trainlab.strategies.base import Objective
from trainlab.strategies.runge_kutta.tableau import Tableau

_COLUMNS = 64  # sums side by side
_LARGE = 2**16  # elements of a leaf that is not worth copying


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


def euler_error(here: Vector, ahead: Vector, step_size: Any) -> tf.Tensor:
    """How far Heun's step is from the Euler step that it contains, against the step: `|ahead - here| / |ahead + here|`.

    It is `relative_error` of the two, to rounding, and takes less time, which a small model's update would notice: small leaves
    are added up as one, in columns, which a compiler can do side by side where a plain sum is one long chain.

    Args:
        here: the gradient where the step begins.
        ahead: that after an Euler step.
        step_size: its length, a scalar or a Vector of scalars.

    Returns:
        A scalar; 0 where there is no step.
    """
    difference, total = ahead - here, ahead + here
    if isinstance(step_size, Vector):  # a common factor cancels, one of each variable's own does not
        difference, total = step_size * difference, step_size * total
    return tf.sqrt(tf.math.divide_no_nan(_sum_of_squares(difference), _sum_of_squares(total)))


def _sum_of_squares(vector: Vector) -> tf.Tensor:
    leaves = [leaf.sums() if isinstance(leaf, Rows) else leaf for leaf in vector.leaves]
    dtype = tf.float64 if any(leaf.dtype == tf.float64 for leaf in leaves) else tf.float32
    flat = [tf.reshape(tf.cast(leaf, dtype), [-1]) for leaf in leaves]
    sizes = [leaf.shape.num_elements() for leaf in leaves]
    small = [leaf for leaf, size in zip(flat, sizes, strict=True) if size is not None and size < _LARGE]
    large = [leaf for leaf, size in zip(flat, sizes, strict=True) if size is None or size >= _LARGE]
    columns = [_columns(leaf * leaf) for leaf in [*([tf.concat(small, 0)] if small else []), *large]]
    return tf.reduce_sum(tf.concat(columns, 0)) if columns else tf.zeros([], dtype)


def _columns(flat: tf.Tensor) -> tf.Tensor:
    """Sums of every 64th element, and what is left over."""
    whole = tf.size(flat) // _COLUMNS * _COLUMNS if flat.shape[0] is None else flat.shape[0] // _COLUMNS * _COLUMNS
    return tf.concat([tf.reduce_sum(tf.reshape(flat[:whole], [-1, _COLUMNS]), 0), flat[whole:]], 0)
