"""A sweep: updates at ever larger learning rates, all of which are taken back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import keras
import numpy as np

from trainlab.data import Given, Source, check_count, checked, prepared, set_apart
from trainlab.loop import Loop, NonFiniteError, Progress
from trainlab.objective import native
from trainlab.runs.rates.curve import Reading, Watch, read
from trainlab.runs.rates.learning_rates import LearningRates, suggested
from trainlab.runs.rates.swept_rate import SweptRate
from trainlab.runs.reset import Reset
from trainlab.strategies import StepStrategy

# Updates at one rate that tell whether it is too large: at a tenth more than what is stable, what diverges grows 40 times.
_PROBE = 20
# Updates at the smallest rate, whose losses tell how far batches differ by themselves.
_STILL = 20


class Sweep(NamedTuple):
    """Which rates are tried, one an update, each by the same factor larger than the one before it.

    Attributes:
        smallest, largest: the first and the last, scalars.
        num_updates: how many.
    """

    smallest: float
    largest: float
    num_updates: int

    def check(self) -> Sweep:
        """Returns itself.

        Raises:
            TypeError, ValueError: it is none; one line.
        """
        for name, value in (("smallest", self.smallest), ("largest", self.largest)):
            try:
                number = float("text" if isinstance(value, (str, bytes)) else value)
            except (TypeError, ValueError):
                raise TypeError(f"{name} must be a learning rate, a number above 0, not {value!r}") from None
            if not 0 < number < math.inf:
                raise ValueError(f"{name} must be a finite learning rate above 0, not {value!r}")
        if not self.smallest < self.largest:
            raise ValueError(f"smallest must be less than largest, not {self.smallest:g} and {self.largest:g}")
        check_count("num_updates", self.num_updates, 2)
        return self

    @property
    def rates(self) -> list[float]:
        """All of them."""
        return [float(rate) for rate in np.geomspace(float(self.smallest), float(self.largest), self.num_updates)]


class _Over(Exception):
    """Ends a transaction that was meant to leave nothing."""


class _Runner:
    """Makes one update at a time at a given rate, and tells its loss.

    Args:
        loop: makes the updates.
        source: their data; goes round where they end.
        model: that is trained.
        rate: of its optimizer, open.
    """

    def __init__(self, loop: Loop, source: Source, model: keras.Model, rate: SweptRate):
        self._loop, self._source, self._model, self._rate = loop, source, model, rate
        self._reset = Reset(model, loop)

    def __call__(self, rate: float) -> float:
        """The loss before an update at this rate, which is made.

        Raises:
            NonFiniteError: the update is not finite.
            ValueError: there are no data, or the model tells no loss.
        """
        self._reset()  # so that the loss is of this update alone
        self._rate.set(rate)
        if self._source.at_end or not self._loop.run(self._source, 1):
            self._source.next_pass()
            if not self._loop.run(self._source, 1):
                raise ValueError("x holds no batch")
        return float(self._loss())

    def _loss(self) -> Any:
        logs = self._loop.logs()
        names = [name for name in logs if name == "loss"] or [name for name in logs if name.endswith("loss")]
        if len(names) != 1:
            kind = type(self._model).__name__
            raise ValueError(
                f"{kind}.train_step returns {', '.join(map(repr, logs)) or 'nothing'}: return a 'loss' too, to look at"
            )
        return logs[names[0]]

    def agrees(self, is_so: Callable[[Sequence[float]], bool], smallest: float) -> bool:
        """Whether something is so, by the losses of more batches at these weights; it is if they are not finite."""
        with suppress(NonFiniteError), _taken_back(self._loop):
            now = [self(smallest) for _ in range(_STILL)]
            return not np.all(np.isfinite(now)) or is_so(now)
        return True

    def moved(self, rate: float) -> float:
        """How far an update at this rate moves the weights: the norm of the difference."""
        before = [native(v).numpy() for v in self._model.trainable_variables]
        self(rate)
        after = [native(v).numpy() for v in self._model.trainable_variables]
        return math.sqrt(sum(float(np.sum(np.square(a.astype(np.float64) - b))) for a, b in zip(after, before, strict=True)))


@contextmanager
def _taken_back(loop: Loop) -> Iterator[None]:
    with suppress(_Over), loop.transaction():
        loop.guard.start(Progress())
        yield
        raise _Over


def find(
    sweep: Sweep,
    given: Given,
    model: keras.Model,
    strategy: StepStrategy,
    seed: int,
    build: Callable[[Source], None],
    make_loop: Callable[[], Loop],
) -> LearningRates:
    """Sweeps, puts everything back, and reads the curve.

    Args:
        sweep: the rates.
        given: the data, as `fit` is given them.
        model: compiled.
        strategy: of the updates.
        seed: of the data's order.
        build: builds the model for a source.
        make_loop: called with the optimizer as it is during the sweep.

    Raises:
        NonFiniteError: a batch, or the loss before any rate could matter, is not finite.
        TypeError, ValueError: there is no rate to look for, or bad input; one line.
    """
    with set_apart(given.x) as x:
        given = given._replace(x=x)
        source = prepared(model, given, seed)
        build(source)
        if not model.trainable_variables:
            raise ValueError("the model has no trainable weights: there is no learning rate to look for")
        inputs = checked(model, given, source)
        source.warn(strategy.batches)
        try:
            return _swept(sweep, make_loop, source, model)
        finally:
            inputs.close()


def _swept(sweep: Sweep, make_loop: Callable[[], Loop], source: Source, model: keras.Model) -> LearningRates:
    losses: list[float] = []
    end, is_moot = "", False
    with SweptRate(model.optimizer) as rate:
        loop = make_loop()
        if loop.link is not None:
            raise ValueError("find_learning_rate runs in one process: call it where the Trainer has no distribute=join_workers()")
        loop.prepare(source)  # so that all that an update may change is known before the first
        runner = _Runner(loop, source, model, rate)
        on_nonfinite, loop.guard.on_nonfinite = loop.guard.on_nonfinite, "stop"
        try:
            with _taken_back(loop):
                still = _stand_still(runner, sweep)
            with _taken_back(loop):
                end = _run(runner, sweep, still, losses)
            rates = sweep.rates[: len(losses)]
            reading = read(rates, losses, bool(end), still)
            if end:
                reading = reading._replace(diverged_at=_earliest(runner, loop, rates, reading))
            else:
                with _taken_back(loop):
                    is_moot = _is_moot(runner, sweep)
        finally:
            loop.guard.on_nonfinite = on_nonfinite
            loop.rest()
    return suggested(rates, losses, still, reading, sweep, end, rate, is_moot)


def _earliest(runner: _Runner, loop: Loop, rates: Sequence[float], reading: Reading) -> int:
    """The index of the smallest rate at which updates from the beginning, at this one rate, raise the loss.

    During the sweep what will diverge first has been made small by the rates just below, and shows late, behind all else that
    still falls. Looked for downwards, in strides that double, and then by halves.
    """

    def is_too_large(index: int) -> bool:
        with suppress(NonFiniteError), _taken_back(loop):
            losses = [runner(rates[index]) for _ in range(_PROBE)]
            return not np.all(np.isfinite(losses)) or reading.is_rising(losses)
        return True

    assert reading.diverged_at is not None
    high, low, stride = reading.diverged_at, -1, 1
    while high > 0 and low < 0:
        index = max(high - stride, 0)
        if is_too_large(index):
            high, stride = index, 2 * stride
        else:
            low = index
    while high - low > 1 and low >= 0:
        middle = (high + low) // 2
        high, low = (middle, low) if is_too_large(middle) else (high, middle)
    return high


def _stand_still(runner: _Runner, sweep: Sweep) -> list[float]:
    """The losses of updates at the smallest rate."""
    try:
        losses = [runner(sweep.smallest) for _ in range(_STILL)]
    except NonFiniteError as error:
        advice = "" if error.is_of_data else f". If it is not the data, take less than smallest={sweep.smallest:g}"
        raise _refused(sweep.smallest, error, advice) from None
    if not np.all(np.isfinite(losses)):
        bad = next(loss for loss in losses if not math.isfinite(loss))
        raise NonFiniteError(f"the loss is {bad} at the smallest learning rate already; everything is as it was")
    return losses


def _run(runner: _Runner, sweep: Sweep, still: Sequence[float], losses: list[float]) -> str:
    """Makes the updates and adds their losses; returns why it ended before the last rate, in words."""
    watch = Watch(still)
    for rate in sweep.rates:
        try:
            loss = runner(rate)
        except NonFiniteError as error:
            if error.is_of_data or not losses:
                raise _refused(rate, error) from None
            return f"an update was not finite at {rate:.2g}: {_reason(error)}"
        if not math.isfinite(loss):
            if not losses:
                raise NonFiniteError(f"the loss is {loss} at the smallest learning rate already; everything is as it was")
            return f"the loss was {loss} at {rate:.2g}"
        losses.append(loss)
        if watch.add(loss) and runner.agrees(watch.stays, sweep.smallest):
            return f"the loss had risen to {loss:.3g} at {rate:.2g}"
    if len(losses) > 2 and runner.agrees(watch.is_lost, sweep.smallest):
        return f"the loss had risen to {losses[-1]:.3g} at {sweep.largest:.2g}"
    return ""


def _reason(error: NonFiniteError) -> str:
    return str(error).partition("; the model is at")[0].partition("): ")[2]


def _refused(rate: float, error: NonFiniteError, advice: str = "") -> NonFiniteError:
    line = f"the update at a learning rate of {rate:.3g} is not finite: {_reason(error)}; everything is as it was{advice}"
    return NonFiniteError(line, error.iteration, error.is_of_data)


def _is_moot(runner: _Runner, sweep: Sweep) -> bool:
    """Whether the rate does not matter: the weights are moved about as far by the largest as by the smallest.

    Batches differ, and so do gradients, but by less than the square root of what lies between the two rates.
    """
    with suppress(NonFiniteError):
        runner(sweep.smallest)  # constraints are met from here on
        little = runner.moved(sweep.smallest)
        much = runner.moved(sweep.largest)
        return 0 < little and much / little < math.sqrt(sweep.largest / sweep.smallest)
    return False
