"""The extragradient method: the gradient one step ahead."""

from __future__ import annotations

import keras

from trainlab.strategies.base import Objective, State, Step, StepStrategy


@keras.saving.register_keras_serializable(package="trainlab")
class Extragradient(StepStrategy):
    """Takes a step along the gradient that is found one plain step ahead: `w - h g(w - h g(w))`.

    It converges where two players turn round each other (`min max xy`), where plain descent runs away. On one loss it is a step
    of first order that damps what is steep. With plain `keras.optimizers.SGD` it is exactly that; another optimizer takes the
    gradient ahead as it would any, while the probe is the plain one.

    Source: G. M. Korpelevich, Matecon 12 (1976), 747; G. Gidel et al., ICLR 2019 (https://arxiv.org/abs/1802.10551), algorithm 2.

    Example:
        >>> Extragradient().evaluations
        2
    """

    evaluations = 2

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        return Step(objective(state.parameters - state.learning_rate * here.gradient).gradient, at=here)
