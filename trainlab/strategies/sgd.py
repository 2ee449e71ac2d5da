"""The plain step: the gradient where we are."""

from __future__ import annotations

import keras

from trainlab.strategies.base import Objective, State, Step, StepStrategy


@keras.saving.register_keras_serializable(package="trainlab")
class SGD(StepStrategy):
    """One evaluation, at the current parameters; what Keras' `fit` does.

    The name is that of the step, not of the optimizer: with `keras.optimizers.Adam` this is Adam.

    Example:
        >>> SGD()
        SGD()
    """

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        here = objective(state.parameters)
        return Step(here.gradient, at=here)
