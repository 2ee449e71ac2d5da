"""Runs of one strategy, one after the other on one model that was built, and traced, once."""

from __future__ import annotations

import dataclasses
import difflib
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainlab.comparing.plan import Plan, Trial, batches_of
from trainlab.comparing.problem import Problem, copied, from_the_beginning
from trainlab.comparing.schedules import give_rate, optimizer_like, schedule_of
from trainlab.loop import NonFiniteError
from trainlab.objective import keras_internals
from trainlab.reports import numbers_of
from trainlab.runs import Run
from trainlab.strategies import StepStrategy
from trainlab.trainer import Trainer

_USED = "gradient_evaluations"  # what a strategy logs whose updates do not all cost the same
_ROUNDS, _SECONDS_A_TURN = 5, 0.25


class Racer:
    """Trains a strategy from any seed and at any rate: weights, optimizer and memory are set back, and nothing is traced again.

    Args:
        problem: the same for all.
        plan: of the comparison.
        strategy: of the runs.
    """

    def __init__(self, problem: Problem, plan: Plan, strategy: StepStrategy):
        self._problem, self._plan, self._strategy = problem, plan, strategy
        for seed in plan.seeds:  # what sets the seeds of all, before anything is traced that may draw from them
            problem.initial(seed)
        self._schedule = schedule_of(problem.optimizer)
        self._given: tuple[float, int] | None = None  # a schedule is part of the trace
        self._trainer: Trainer | None = None
        self._variables: list[Any] = []
        self._fresh: list[np.ndarray] = []

    def run(self, trial: Trial, directory: Path) -> dict[str, Any]:
        """Makes a run, or goes on with it: all that is bit for bit the same on every try.

        Returns:
            `points`, each with `updates`, `evaluations` of one batch's gradient, `value` on validation and training `loss`;
            and `end`: "finished", "used up" or why the run has none.
        """
        points = _Points(self._problem, self._plan, trial)
        try:
            self._fit(trial, directory, [points])
            end = "used up" if points.is_used_up else "finished"
        except NonFiniteError as error:
            end = f"not finite: {str(error).partition('; the ')[0]}"
        return {"points": points.points, "end": end}

    def test(self, trial: Trial, directory: Path) -> dict[str, float | None]:
        """What the test data say of a run that is finished; they are read for nothing else."""
        assert self._problem.test is not None
        trainer = self._fit(trial, directory, [_Points(self._problem, self._plan, trial)])
        x, y, weight = from_the_beginning(self._problem.test)
        found = trainer.evaluate(x, y, sample_weight=weight, batch_size=self._problem.batch_size, verbose=0, return_dict=True)
        return {name: number(value) for name, value in numbers_of(found).items()}

    def check(self, trial: Trial) -> None:
        """Trains and validates once, so that what cannot be is said before any run is made.

        Raises:
            TypeError, ValueError: the Trainer refuses it, or there is no such metric.
        """
        trainer, wanted = self._begin(trial, None), self._problem.metric
        x, y, weight = from_the_beginning(self._problem.validation)
        found = trainer.evaluate(x, y, sample_weight=weight, batch_size=self._problem.batch_size, verbose=0, return_dict=True)
        names = numbers_of(found)
        if wanted in found and wanted not in names:
            parts = numbers_of({wanted: found[wanted]})
            raise ValueError(
                f"metric = {wanted!r}: is several numbers, and runs are judged by one: name one of {', '.join(parts)}"
            )
        if not self._problem.is_said and keras_internals.metric_directions(trainer.model).get(wanted) == "up":
            raise ValueError(f'metric = {wanted!r}: more of it is better: say so by ("max", {wanted!r})')
        if wanted not in names:
            close = difflib.get_close_matches(wanted, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "name it in metrics too"
            raise ValueError(f"metric = {wanted!r}: is none of those that validation gives, which are {', '.join(names)}; {hint}")

    def seconds(self, trial: Trial, num_updates: int) -> float:
        """How long so many updates take, all but what a `fit` takes by itself left out as far as it can be."""
        trainer = self._begin(trial, None)
        data = self._data()
        started = time.perf_counter()
        trainer.fit(**data, steps=num_updates, verbose=0)
        return time.perf_counter() - started

    def _fit(self, trial: Trial, directory: Path, callbacks: Sequence[Any]) -> Trainer:
        trainer = self._begin(trial, Run(directory, keep=1))
        validation = _as_validation(from_the_beginning(self._problem.validation))
        trainer.fit(
            **self._data(),
            steps=trial.updates,
            validate_every=trial.every,
            validation_data=validation,
            validation_batch_size=self._problem.batch_size,
            callbacks=list(callbacks),
            verbose=0,
        )
        return trainer

    def _begin(self, trial: Trial, run: Run | None) -> Trainer:
        trainer = self._made(trial)
        optimizer = trainer.model.optimizer
        for variable, value in zip(self._variables, self._problem.initial(trial.seed), strict=True):
            variable.assign(value)
        for variable, value in zip(optimizer.variables, self._fresh, strict=False):
            variable.assign(value)
        if self._schedule is None:
            give_rate(optimizer, trial.rate, None, 1.0)
        random.seed(trial.seed)
        np.random.seed(trial.seed % 2**32)
        trainer.start_over(trial.seed, run)
        return trainer

    def _made(self, trial: Trial) -> Trainer:
        """The trainer, made where there is none yet, or one of another schedule."""
        given = (trial.rate, trial.updates) if self._schedule is not None else None
        if self._trainer is not None and given == self._given:
            return self._trainer
        problem = self._problem
        model, optimizer = problem.build(), optimizer_like(problem.optimizer)
        self._variables = list(model.variables)
        give_rate(optimizer, trial.rate, self._schedule, trial.updates / self._plan.budget)
        self._trainer = trainer = Trainer(
            model,
            self._strategy,
            optimizer=optimizer,
            loss=problem.loss,
            metrics=copied(problem.metrics),
            **problem.settings,
        )
        trainer.start_over(trial.seed)
        model.optimizer.build(model.trainable_variables)
        self._fresh = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]
        self._given = given
        try:  # so that whatever an update changes is known before the first that counts
            trainer.fit(**self._data(), steps=1, verbose=0)
        except NonFiniteError:
            pass
        return trainer

    def _data(self) -> dict[str, Any]:
        x, y, weight = from_the_beginning(self._problem.train)
        return {"x": x, "y": y, "sample_weight": weight, "batch_size": self._problem.batch_size}


class _Points(keras.callbacks.Callback):
    """Notes the curve of a run, and ends it where its evaluations are used up."""

    def __init__(self, problem: Problem, plan: Plan, trial: Trial):
        super().__init__()
        self._problem, self._plan, self._trial = problem, plan, trial
        self.points: list[dict[str, Any]] = []

    @property
    def is_used_up(self) -> bool:
        return bool(self.points) and bool(self.points[-1].get("varies")) and self.points[-1]["evaluations"] >= self._plan.budget

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs, trial = numbers_of(logs or {}), self._trial
        before = self.points[-1] if self.points else {"updates": 0, "evaluations": 0}
        updates = min((epoch + 1) * trial.every, trial.updates)
        strategy, per_pass = trial.entry.strategy, self._plan.batches_per_pass
        done, were = (batches_of(n, strategy.batches, per_pass) for n in (updates, before["updates"]))
        evaluations = strategy.evaluations * (done - were)
        if _USED in logs and updates > before["updates"]:  # a mean over these updates, of whole numbers
            made = updates - before["updates"]
            evaluations = round(logs[_USED] * made) * (done - were) // made
        point = {"updates": updates, "evaluations": before["evaluations"] + evaluations}
        point |= {"value": number(logs.get(f"val_{self._problem.metric}")), "loss": number(logs.get("loss"))}
        self.points.append(point | ({"varies": True} if _USED in logs else {}))
        if self.is_used_up and self.model is not None:
            self.model.stop_training = True

    def get_state(self) -> list[dict[str, Any]]:
        return list(self.points)

    def set_state(self, state: list[dict[str, Any]]) -> None:
        self.points = [dict(point) for point in state]


def measured_in_turns(racers: Mapping[str, Racer], trials: Mapping[str, Trial]) -> dict[str, float]:
    """Seconds an update of each takes: all take their turns, round by round, so that whatever else the machine does hits all.

    Args:
        racers: by name.
        trials: of each one run, whose rate and seed are taken.

    Returns:
        By name, the median over the rounds; of what diverges at the rate 0; infinite where not even the first loss is finite.
    """
    timed: dict[str, tuple[Trial, int]] = {}
    for name, racer in racers.items():
        trial = trials[name]
        for is_resting in (False, True):
            try:
                tried = dataclasses.replace(trial, rate=0.0) if is_resting else trial
                timed[name] = tried, _long_enough(racer, tried)
                break
            except NonFiniteError:  # perhaps long after its last update: it is timed where weights stay as they are
                continue
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(_ROUNDS):
        for name, (trial, n) in timed.items():
            few, many = (racers[name].seconds(trial, k) for k in (1, n + 1))
            found[name].append(max(many - few, 1e-9) / n)
    return {name: statistics.median(found[name]) if name in found else math.inf for name in racers}


def _long_enough(racer: Racer, trial: Trial) -> int:
    """A number of updates that takes long enough for a clock, and was made, with the first one that is not counted."""
    racer.seconds(trial, 1)
    n = 1
    while racer.seconds(trial, n + 1) < _SECONDS_A_TURN and n < 2**14:
        n *= 4
    return n


def number(value: Any) -> float | None:
    """A number as JSON holds it; None for one that is not finite, and for nothing."""
    if value is None or not math.isfinite(float(value)):
        return None
    return float(value)


def _as_validation(part: tuple[Any, Any, Any]) -> Any:
    x, y, weight = part
    if hasattr(x, "element_spec"):
        return x
    return (x, y) if weight is None else (x, y, weight)
