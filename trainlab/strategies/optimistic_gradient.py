"""The optimistic gradient: the next one, guessed from the last two."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy


@keras.saving.register_keras_serializable(package="trainlab")
class OptimisticGradient(StepStrategy):
    """Steps along `2 g(w_t) - g(w_(t-1))`: what `Extragradient` does, from the memory in place of a second evaluation.

    The first step, before there is a last gradient, is the plain one. The memory is one gradient, dense for embeddings too.

    Source: L. D. Popov, Mathematical Notes 28 (1980), 845; C. Daskalakis, A. Ilyas, V. Syrgkanis, H. Zeng, ICLR 2018
    (https://arxiv.org/abs/1711.00141), equation (4).

    Example:
        >>> OptimisticGradient().evaluations
        1
    """

    def init(self, parameters: Vector) -> dict[str, Any]:
        """The gradient of the step before, and whether there was one."""
        return {"gradient": parameters * 0.0, "has_begun": tf.zeros([], tf.bool)}

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        weight = tf.cast(state.memory["has_begun"], tf.float32)  # 0 at first: then this is 1 g - 0
        guess = here.gradient * (1 + weight) - state.memory["gradient"] * weight
        return Step(guess, at=here, memory={"gradient": here.gradient, "has_begun": tf.ones([], tf.bool)})
