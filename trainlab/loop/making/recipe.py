"""What an update and its loop are traced with: as long as that is the same, so are they."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.distribution import ONE, Replicas
from trainlab.loop.loop import Loop
from trainlab.loop.making.findings import Findings
from trainlab.loop.settings import Settings
from trainlab.loop.update import Update
from trainlab.objective import keras_internals
from trainlab.strategies import StepStrategy


class Recipe(NamedTuple):
    """What an update and its loop are traced with.

    Attributes:
        strategy: the step.
        settings: of the strategy, the model with all that it was compiled with, and Keras; eagerly of the strategy alone.
        variables: those that are trained.
        optimizer: of the model.
        tracker: of the loss; each `compile` makes a new one.
        jit_compile, run_eagerly, updates_per_call, seed: of the loop.
        sum_duplicate_rows, replicas: of the update.
    """

    strategy: StepStrategy
    settings: Settings
    variables: Sequence[Any]
    optimizer: keras.Optimizer
    tracker: Any
    jit_compile: bool | None
    run_eagerly: bool
    updates_per_call: int | None
    seed: int | tf.Variable
    sum_duplicate_rows: bool | None = None
    replicas: Replicas = ONE

    def matches(self, other: Recipe) -> bool:
        """Whether what was made by one would be made by the other."""
        is_same = self.tracker is other.tracker and self.optimizer is other.optimizer
        return self.has_same_memory(other) and is_same and self._values == other._values

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
        # A variable is compared by identity: whatever it holds, the trace reads it.
        seed = self.seed if isinstance(self.seed, int) else ("variable", id(self.seed))
        numbers = self.jit_compile, self.run_eagerly, self.updates_per_call, seed, self.sum_duplicate_rows, self.replicas
        return *numbers, self.settings


def recipe_of(
    model: keras.Model,
    strategy: StepStrategy,
    jit_compile: bool | None,
    run_eagerly: bool,
    updates_per_call: int | None,
    seed: int | tf.Variable,
    sum_duplicate_rows: bool | None = None,
    replicas: Replicas = ONE,
) -> Recipe:
    """Of a model that is compiled and built, as it is now."""
    variables = list(model.trainable_variables)
    settings = Settings(lambda: [strategy] if run_eagerly else [strategy, *_traced(model)])
    tracker = keras_internals.loss_tracker(model)
    given = jit_compile, run_eagerly, updates_per_call, seed, sum_duplicate_rows, replicas
    return Recipe(strategy, settings, variables, model.optimizer, tracker, *given)


def traced_settings(model: keras.Model) -> Settings:
    """The settings of all that is asked for one while an evaluation of the model is traced."""
    return Settings(lambda: _traced(model))


def _traced(model: keras.Model) -> Iterator[Any]:
    """Whatever is asked for a setting while a step of the model is traced."""
    yield model
    yield model.optimizer
    compiled = keras_internals.compile_arguments(model)
    yield {name: compiled.get(name) for name in ("loss", "loss_weights", "metrics", "weighted_metrics")}
    yield list(model.metrics)
    config = keras.config
    yield config.floatx(), config.epsilon(), config.image_data_format(), keras.dtype_policies.serialize(config.dtype_policy())
    yield config.is_flash_attention_enabled()


class Made(NamedTuple):
    """A loop, and what it was made by.

    Attributes:
        recipe: as it was when the loop was traced.
        loop: the loop.
    """

    recipe: Recipe
    loop: Loop

    def keep(self, findings: Findings) -> Made:
        """The same, to go on with after a `fit`, though running set some attributes, or XLA was decided on."""
        if self.recipe.run_eagerly:
            self.recipe.settings.keep()
        return self._replace(recipe=self.recipe._replace(jit_compile=findings.jit_compile))


def made_by(recipe: Recipe, made: Made | None, model: keras.Model, findings: Findings, anew: bool = False) -> Made:
    """The loop that is there, if the recipe would make the same; otherwise, or `anew`, one with its memory where it is of use."""
    if made is not None and made.recipe.matches(recipe) and not anew:
        return made
    memory = made.loop.update.memory if made is not None and made.recipe.has_same_memory(recipe) else None
    update = Update(model, recipe.strategy, recipe.seed, memory, recipe.sum_duplicate_rows, recipe.replicas)
    jit_compile = False if recipe.run_eagerly else recipe.jit_compile
    given = jit_compile, recipe.run_eagerly, recipe.updates_per_call, findings.micro_batches, recipe.settings.tracing
    return Made(recipe, Loop(update, *given, recipe.replicas.link))
