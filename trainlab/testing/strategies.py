"""All that must hold of a step strategy, looked at one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from trainlab.strategies import Accumulate, StepStrategy
from trainlab.testing import stepping
from trainlab.testing.comparing import Failed, NotChecked, in_float64, require_same, small_data, small_model, trained
from trainlab.testing.report import Report, Result
from trainlab.testing.resuming import assert_resumes
from trainlab.trainer import Trainer

_FLOAT64 = 1e-11  # of the way that the weights went


def check_strategy(strategy: StepStrategy, checks: Collection[str] | None = None) -> Report:
    """Checks what trainlab proves of its own strategies, of anybody's.

    A step by itself, on a fake objective: it is pure ("pure"), evaluates as often as it says ("evaluations"), reports an
    evaluation of its own ("at"), returns the memory that `init` shapes ("memory"), takes every dtype, a rate for each variable
    and row-sparse gradients ("kinds"), and is made again from its configuration ("serialises"). In a Trainer, on a small network
    in float64: over n batches it is the step on their concatenation ("accumulation"), compiled it is what it is eagerly, by XLA
    too ("compiled", "xla"), a run that is stopped after any update ends with the same bits ("resumes"), and two devices give what
    one gives ("replicas", where TensorFlow has two: call `tf.config.set_logical_device_configuration` first, or leave it
    unchecked).

    Args:
        strategy: an instance; it is copied for every check.
        checks: names of those to make; None for all.

    Returns:
        A `Report`, true if nothing fails: `assert check_strategy(MyStep())` is a test of yours.

    Raises:
        TypeError: `strategy` is no instance of a `StepStrategy`.
        ValueError: there is no such check.

    Example:
        >>> import trainlab as tl
        >>> print(check_strategy(tl.Heun(), checks=["pure", "evaluations"]))
        Heun():
        holds       pure
        holds       evaluations
        >>> class Lying(tl.StepStrategy):
        ...     evaluations = 3
        ...
        ...     def step(self, objective, state):
        ...         here = objective(state.parameters)
        ...         return tl.Step(here.gradient, at=here)
        >>> print(check_strategy(Lying(), checks=["evaluations"]))
        Lying():
        FAILS       evaluations: evaluations = 3, but a step makes 1
    """
    if not isinstance(strategy, StepStrategy):
        hint = f"; write {strategy.__name__}()" if isinstance(strategy, type) else ""
        raise TypeError(f"check_strategy takes a StepStrategy, not {strategy!r}{hint}")
    if unknown := set(checks or ()) - set(CHECKS):
        raise ValueError(f"check_strategy has no check {sorted(unknown)[0]!r}; it has {', '.join(CHECKS)}")
    return Report(repr(strategy), [_result(name, strategy) for name in CHECKS if checks is None or name in checks])


def _result(name: str, strategy: StepStrategy) -> Result:
    try:
        with in_float64():
            CHECKS[name](copy.deepcopy(strategy))
    except Failed as error:
        return Result(name, False, str(error))
    except NotChecked as error:
        return Result(name, None, str(error))
    except Exception as error:  # a strategy is foreign code: anything can come out of it
        return Result(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Result(name, True)


def _accumulation(strategy: StepStrategy) -> None:
    def over_batches() -> Any:
        return trained(Accumulate(3, strategy), batch_size=4, updates=3)

    reference = trained(strategy, batch_size=12, updates=3)
    require_same(over_batches, reference, _FLOAT64, "Accumulate(3, it) on 3 batches of 4 is not it on a batch of 12: {}")


def _compiled(strategy: StepStrategy) -> None:
    def compiled() -> Any:
        return trained(strategy, batch_size=6, updates=4)

    reference = trained(strategy, batch_size=6, updates=4, run_eagerly=True)
    require_same(compiled, reference, _FLOAT64, "compiled it is not what it is eagerly: {}")


def _xla(strategy: StepStrategy) -> None:
    if stepping.draws_noise(strategy):
        raise NotChecked("it draws noise, and XLA draws other numbers from the same seed")

    def by_xla() -> Any:
        return trained(strategy, batch_size=6, updates=4, jit_compile=True)

    reference = trained(strategy, batch_size=6, updates=4)
    require_same(by_xla, reference, _FLOAT64, "compiled by XLA it is not what it is without: {}")


def _resumes(strategy: StepStrategy) -> None:
    def make_trainer(directory: Path) -> Trainer:
        model = small_model()
        return Trainer(
            model, copy.deepcopy(strategy), optimizer=keras.optimizers.Adam(0.05), loss="mse", run=directory, jit_compile=False
        )

    try:
        assert_resumes(make_trainer, *small_data(4 * 5 * strategy.batches), steps=4, batch_size=5)
    except AssertionError as error:
        raise Failed(str(error)) from error


def _replicas(strategy: StepStrategy) -> None:
    kinds = ([device.name for device in tf.config.list_logical_devices(kind)] for kind in ("CPU", "GPU"))
    devices = next((names[:2] for names in kinds if len(names) > 1), None)
    if devices is None:
        raise NotChecked("TensorFlow has one device only; two logical ones will do (tf.config.set_logical_device_configuration)")

    def divided() -> Any:
        return trained(strategy, batch_size=6, updates=3, distribute=tf.distribute.MirroredStrategy(devices))

    reference = trained(strategy, batch_size=6, updates=3)
    require_same(divided, reference, _FLOAT64, "on two devices it is not what it is on one: {}")


CHECKS: Mapping[str, Callable[[StepStrategy], None]] = {
    "pure": stepping.check_pure,
    "evaluations": stepping.check_evaluations,
    "at": stepping.check_at,
    "memory": stepping.check_memory,
    "kinds": stepping.check_kinds,
    "serialises": stepping.check_serialises,
    "accumulation": _accumulation,
    "compiled": _compiled,
    "xla": _xla,
    "resumes": _resumes,
    "replicas": _replicas,
}
