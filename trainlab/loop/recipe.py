"""What an update and its loop are traced with: as long as that is the same, so are they."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from trainlab.objective import keras_internals
from trainlab.strategies import StepStrategy


class Recipe(NamedTuple):
    """What an update and its loop are traced with.

    Attributes:
        strategy: the step.
        settings: what its attributes hold.
        variables: those that are trained.
        tracker: of the loss; each `compile` makes a new one.
        jit_compile, run_eagerly, updates_per_call, seed: of the loop.
    """

    strategy: StepStrategy
    settings: Any
    variables: Sequence[Any]
    tracker: Any
    jit_compile: bool | None
    run_eagerly: bool
    updates_per_call: int | None
    seed: int

    def matches(self, other: Recipe) -> bool:
        """Whether what was made by one would be made by the other."""
        return self.has_same_memory(other) and self.tracker is other.tracker and self._values == other._values

    def has_same_memory(self, other: Recipe) -> bool:
        """Whether a strategy's memory can be gone on with: the same one on the same variables, perhaps with another setting."""
        # Held, and compared by identity: an id could be given out again, and variables compare number by number.
        return (
            self.strategy is other.strategy
            and len(self.variables) == len(other.variables)
            and all(a is b for a, b in zip(self.variables, other.variables, strict=True))
        )

    @property
    def _values(self) -> tuple[Any, ...]:
        return self.settings, self.jit_compile, self.run_eagerly, self.updates_per_call, self.seed


def recipe_of(
    model: keras.Model,
    strategy: StepStrategy,
    jit_compile: bool | None,
    run_eagerly: bool,
    updates_per_call: int | None,
    seed: int,
) -> Recipe:
    """Of a model that is compiled and built, as it is now."""
    variables = list(model.trainable_variables)
    settings = settings_of(strategy)
    return Recipe(
        strategy, settings, variables, keras_internals.loss_tracker(model), jit_compile, run_eagerly, updates_per_call, seed
    )


def settings_of(value: Any) -> Any:
    """What a strategy's attributes hold, to be compared: a compiled step keeps the values that it was traced with."""
    if isinstance(value, StepStrategy):
        return type(value), tuple((name, settings_of(item)) for name, item in sorted(vars(value).items()))
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (list, tuple)):
        return type(value), tuple(settings_of(item) for item in value)
    if isinstance(value, dict):
        return tuple((repr(name), settings_of(item)) for name, item in value.items())
    return value if isinstance(value, (int, float, str, bool, bytes, type(None))) else id(value)
