"""Noise on the step: stochastic gradient Langevin dynamics round any strategy."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from trainlab.parameters import Vector
from trainlab.strategies.base import Objective, State, Step, StepStrategy
from trainlab.strategies.checks import check_inner, check_number


@keras.saving.register_keras_serializable(package="trainlab")
class Noise(StepStrategy):
    """Adds Gaussian noise to the inner strategy's step: with plain `keras.optimizers.SGD`, `w - h s + sqrt(2 h temperature) xi`.

    So the weights wander over `exp(-loss / temperature)` (the loss of all data together; with batches their own noise comes on
    top, and a learning rate above 0 is an error of its own). The noise is drawn from `state.seed`: new at each update, the same
    on a rerun and after a resume, and the same under every number of devices. Another optimizer takes gradient and noise as one
    gradient. Under XLA other numbers are drawn.

    Source: M. Welling, Y. W. Teh, ICML 2011, equation (4).

    Example:
        >>> Noise(temperature=1e-4)
        Noise(temperature=0.0001, inner=SGD())

    Args:
        temperature: of the distribution, at least 0; 0 is the inner strategy itself.
        inner: the strategy that takes the step; `SGD()` by default.

    Raises:
        TypeError, ValueError: the arguments are not that.
    """

    def __init__(self, temperature: float = 1e-5, inner: StepStrategy | None = None):
        self.temperature = check_number("Noise", "temperature", temperature)
        self.inner = check_inner("Noise", inner)

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """The inner strategy's."""
        return self.inner.evaluations

    @property
    def batches(self) -> int:  # type: ignore[override]
        """The inner strategy's."""
        return self.inner.batches

    def init(self, parameters: Vector) -> dict[str, Any]:
        """The inner strategy's memory."""
        return self.inner.init(parameters)

    def step(self, objective: Objective, state: State) -> Step:
        """See `StepStrategy.step`."""
        if not self.temperature:
            return self.inner.step(objective, state)
        # What the inner strategy draws, another Noise above all, is another number.
        inner_seed = tf.random.experimental.stateless_fold_in(state.seed, -1)
        step = self.inner.step(objective, state._replace(seed=inner_seed))
        rates = state.learning_rate
        shares = rates.leaves if isinstance(rates, Vector) else [rates] * len(state.parameters.parts)
        noise = []
        for number, (parameter, rate) in enumerate(zip(state.parameters.parts, shares, strict=True)):
            # The optimizer multiplies by the learning rate what is to be as large as its root; at a rate of 0 there is no step.
            size = tf.sqrt(
                tf.math.divide_no_nan(tf.constant(2 * self.temperature, parameter.dtype), tf.cast(rate, parameter.dtype))
            )
            seed = tf.random.experimental.stateless_fold_in(state.seed, number)
            noise.append(size * tf.random.stateless_normal(parameter.shape, seed, dtype=parameter.dtype))
        return step._replace(gradient=step.gradient + Vector(noise))
