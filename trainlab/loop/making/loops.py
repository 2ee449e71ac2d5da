"""The loop of a Trainer, made anew where what it is traced with has changed."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainlab.distribution import Replicas
from trainlab.loop.loop import Loop
from trainlab.loop.making.findings import Findings
from trainlab.loop.making.recipe import Made, made_by, recipe_of
from trainlab.strategies import StepStrategy


class Loops:
    """Makes a loop from exactly what there is, and keeps it as long as the same would be made.

    Args:
        findings: what was found out about how to run.
        replicas: on which it runs.
        run_eagerly, steps_per_execution, sum_duplicate_rows: as a Trainer was given them.

    Attributes:
        made: the loop, and what it was made by; None before the first.
    """

    def __init__(
        self,
        findings: Findings,
        replicas: Replicas,
        run_eagerly: bool | None,
        steps_per_execution: int | None,
        sum_duplicate_rows: bool | None,
    ):
        self.made: Made | None = None
        self._findings, self._replicas = findings, replicas
        self._run_eagerly, self._steps_per_execution = run_eagerly, steps_per_execution
        self._sum_duplicate_rows = sum_duplicate_rows
        self._shared_seed: tf.Variable | None = None  # what traces read in a seed's place, where runs share them

    @property
    def num_traces(self) -> int:
        """How often an update was traced since what it is traced with last changed."""
        return 0 if self.made is None else self.made.loop.num_traces

    def is_eager(self, model: keras.Model) -> bool:
        """Whether Python runs step by step."""
        return bool(model.run_eagerly if self._run_eagerly is None else self._run_eagerly)

    def updates_per_call(self, model: keras.Model) -> int | None:
        """Updates in one call; None for as many as take some time."""
        if self._steps_per_execution is not None:
            return self._steps_per_execution
        return model.steps_per_execution if model.steps_per_execution != 1 else None

    def of(self, model: keras.Model, strategy: StepStrategy, seed: int, on_nonfinite: str, anew: bool = False) -> Loop:
        """The loop, unless it is there already and need not be made `anew`, made from exactly what there is now."""
        given = self._findings.jit_compile, self.is_eager(model), self.updates_per_call(model)
        told = seed if self._shared_seed is None else self._shared_seed
        recipe = recipe_of(model, strategy, *given, told, self._sum_duplicate_rows, self._replicas)
        self.made = made_by(recipe, self.made, model, self._findings, anew)
        self.made.loop.guard.on_nonfinite = on_nonfinite
        return self.made.loop

    def keep(self) -> None:
        """Keeps the loop for the next `fit`, though running set some attributes, or XLA was decided on."""
        if self.made is not None:
            self.made = self.made.keep(self._findings)

    def start_over(self, seed: int) -> None:
        """The strategy's memory is a new Trainer's, by another seed; what was traced is kept, if it was told once before."""
        if self._shared_seed is None:
            self._shared_seed = tf.Variable(0, dtype=tf.int32, trainable=False)
        self._shared_seed.assign(seed)
        if self.made is not None:
            self.made.loop.update.begin_anew()
