"""The outer loop, on the host: epochs, callbacks, validation."""

from __future__ import annotations

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras

from trainlab.data import ArraySource, Inputs, Source
from trainlab.loop import Evaluations, Findings, Loop, Plan, Progress, announce, jit
from trainlab.objective import inner_of, keras_internals
from trainlab.runs import signals
from trainlab.runs.evaluating import Validator
from trainlab.runs.listeners.hearing import ANY_NUMBER, count_unheard_updates, hears_every_update, updates_unheard
from trainlab.runs.listeners.pairs import Pairs
from trainlab.runs.manifest import Manifest
from trainlab.runs.reset import Reset
from trainlab.runs.resuming import Asked, Found
from trainlab.runs.run import Run


@dataclasses.dataclass
class Fit:
    """What a `fit` under way works with.

    Attributes:
        model: built.
        loop: runs updates.
        source: the batches.
        validator: evaluates after epochs; None for none.
        listener: the callbacks.
        progress: where to begin; kept up to date.
        findings: what was found out so far.
        verbose: 0 if nothing is printed.
    """

    model: keras.Model
    loop: Loop
    source: Source
    validator: Validator | None
    listener: keras.callbacks.CallbackList
    progress: Progress
    findings: Findings
    verbose: int


class Keeper:
    """What keeps a run safe, at the moments when it can; this one, of no run, does nothing.

    Args:
        is_follower: whether another process, the chief, may have one.
    """

    last_checkpoint: Path | None = None
    run: Run | None = None
    _is_under_way = False

    def __init__(self, is_follower: bool = False):
        self._is_follower = is_follower

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Round a `fit`; ValueError for another one of a callback's, which would go on with its place in the data."""
        if self._is_under_way:
            raise ValueError("this Trainer is in a fit already, and a callback or thread cannot begin another: make a second one")
        self._is_under_way = True
        try:
            yield
        finally:
            self._is_under_way = False

    def opened(self) -> AbstractContextManager[None]:
        """Round a whole `fit`."""
        return signals.seen_to_the_end()

    def find(self, asked: Asked, plan: Plan, current: Callable[[], Manifest]) -> Found:
        """What to go on from; `current` returns what the fit is made of."""
        del asked, plan, current
        return Found()

    def begin(self, fit: Fit, found: Found, must_save: bool) -> None:
        """Says what to save and, when `resume` is called, to restore; and whether that is to be saved at once."""

    def skip(self) -> keras.callbacks.History:
        """Puts everything where a finished `fit`, which was found, has left it; returns its history."""
        raise NotImplementedError

    def load_best(self, model: keras.Model) -> Path:
        """Gives a model the weights of the best checkpoint, and returns that."""
        if self._is_follower:
            raise FileNotFoundError("of several workers the chief alone has the run: call load_best() where it is, or afterwards")
        raise FileNotFoundError("there is no run whose best checkpoint could be loaded: Trainer(..., run='runs/a')")

    def note_settings(self) -> None:
        """Called before a step may be traced, and after the hooks before it."""

    def resume(self) -> None:
        """Called once, after the hooks of the beginning: puts the state of a checkpoint in place of theirs."""

    def updates_to_go(self) -> int:
        """The most updates until something must be done."""
        return sys.maxsize

    def boundary(self) -> None:
        """Called between two calls and after each epoch: everything is committed. May save, and may raise to stop."""

    def end(self) -> Any:
        """Called when the last epoch has ended: what a longer run is to go on from."""

    def finish(self, before: Any) -> None:
        """Called at the end of all, with what `end` returned."""

    def hooks(self) -> AbstractContextManager[None]:
        """Round hooks that a resume calls again: if one of them raises, what is saved is from before them."""
        return nullcontext()

    def leave(self, reason: BaseException, before: Any = None) -> None:
        """Called where training stops at a committed update because of `reason`; saves it, or what `end` returned."""

    def hear(self, signum: int) -> None:
        """Called, where there are other workers, with the signal that one of them was sent."""

    def should_stop(self) -> bool:
        """Whether an evaluation under way is to end, because training is to stop."""
        return False


@contextmanager
def suppressed_but_said() -> Iterator[None]:
    """Turns an error into a warning: something else is about to be raised that matters more."""
    try:
        yield
    except Exception as error:
        warnings.warn(str(error), stacklevel=3)


class Epochs:
    """Runs a loop over a source, epoch by epoch; what happens between its calls happens here.

    Args:
        fit: what it works with.
        keeper: told of every boundary.
    """

    def __init__(self, fit: Fit, keeper: Keeper):
        self._model, self._loop, self._source = fit.model, fit.loop, fit.source
        self._listener, self._progress, self._validator = fit.listener, fit.progress, fit.validator
        self._keeper = keeper
        if fit.validator is not None:
            fit.validator.should_stop, fit.validator.stop = self._should_stop, self._stop
        self._reset = Reset(fit.model, fit.loop)
        listener = fit.listener
        self._hears_every_update = hears_every_update(listener)
        self._pairs = Pairs(listener, fit.progress)
        self._draws = any(
            isinstance(callback, keras.callbacks.ProgbarLogger) and callback.verbose == 1 for callback in listener.callbacks
        )

    def __call__(self, plan: Plan, updates_per_call: int | None) -> None:
        """Trains.

        Args:
            plan: how long.
            updates_per_call: the least distance of two batch hooks; None is 1.
        """
        model, listener, progress = self._model, self._listener, self._progress
        model.stop_training = False
        listener.on_train_begin()
        self._heed_backup()
        if progress.phase != "between":
            listener.on_epoch_begin(progress.epoch)
        if self._loop.jit_compile:  # at the same place, whether a checkpoint is restored or not: XLA's programs are known by the
            self._keeper.note_settings()  # names in them, which count up with all that is made before
            self._loop.prepare(self._source)
        with nullcontext() if self._loop.link is None else self._loop.link.reading(may_last=True):
            self._keeper.resume()
        announce(self._loop, self._source)
        before = None
        try:
            self._train(plan, updates_per_call)
            before = self._keeper.end()
            if progress.updates:
                # Where the optimizer keeps an average of the weights, this is when it takes their place.
                trained = keras_internals.trained_by(inner_of(model.optimizer))  # it pairs them with its averages by place
                model.optimizer.finalize_variable_values(model.trainable_variables if trained is None else trained)
            listener.on_train_end(progress.logs)
        except BaseException as error:
            with suppressed_but_said():
                self._keeper.leave(error, before)
            raise
        finally:
            self._loop.rest()
        self._keeper.finish(before)

    def _train(self, plan: Plan, updates_per_call: int | None) -> None:
        model, listener, progress = self._model, self._listener, self._progress
        steps = sys.maxsize if plan.steps is None else plan.steps
        self._loop.guard.start(progress)
        while progress.phase != "between" or (  # an epoch that was begun is ended, whatever was reached in it
            progress.updates < steps
            and (plan.epochs is None or progress.epoch < plan.epochs)
            and not (model.stop_training and progress.updates)  # who stops before the first update has it, as in Keras
        ):
            if progress.phase == "between":
                if self._source.is_used_up:
                    warnings.warn(f"x has no batch left for epoch {progress.epoch + 1}: training ends before it", stacklevel=3)
                    break
                self._reset()
                with self._keeper.hooks():
                    listener.on_epoch_begin(progress.epoch)
                self._loop.heed_others()
                progress.phase, progress.done = "updates", 0
            if progress.phase == "updates":
                end = min(progress.done + steps - progress.updates, plan.steps_per_epoch or sys.maxsize)
                self._run_epoch(end, updates_per_call or 1, plan)
                if progress.done == 0:
                    self._end_empty_epoch()
                    break
                progress.phase = "evaluation"
            self._end_epoch(plan)

    def _should_stop(self) -> bool:
        """Whether an evaluation under way is to end: training is to stop, or a worker is lost and the others have ended."""
        link = self._loop.link
        return self._keeper.should_stop() or (link is not None and link.lost is not None)

    def _stop(self) -> None:
        self._keeper.boundary()
        if self._loop.link is not None:
            self._loop.link.check()

    def _heed_backup(self) -> None:
        """Begins with the epoch whose weights `BackupAndRestore` has put back, from its first update on, as Keras does."""
        epoch = keras_internals.take_initial_epoch(self._model)
        if epoch is None:
            return
        self._progress.epoch = epoch or self._progress.epoch
        if isinstance(self._source, ArraySource):
            self._source.go_back(self._progress.epoch)

    def _run_epoch(self, end: int, updates_per_call: int, plan: Plan) -> None:
        """Runs up to update `end` of this epoch; to the end of the pass unless the epoch has a size of its own."""
        source, progress = self._source, self._progress
        has_size = plan.steps_per_epoch is not None
        goes_on = isinstance(source, ArraySource) or plan.validate_every is not None  # over the end of a pass
        begun_at = -1  # how many updates this epoch had when the last pass began
        if progress.done == 0 and source.at_end:  # an error came between the end of the last epoch and that of its pass
            source.next_pass()
        if progress.pair:
            self._run_between_hooks(end, updates_per_call)
        while progress.done < end and not self._is_stopped:
            if self._run_between_hooks(end, updates_per_call):
                continue
            is_over = not has_size or not goes_on or begun_at == progress.done  # a pass without a batch: no other will have one
            begun_at = progress.done
            self._next_pass(is_over)
            if is_over and has_size and not plan.is_capped:
                warnings.warn(
                    f"x ran out of data after {progress.done} of the {end} updates of this epoch: "
                    "repeat it, or lower steps_per_epoch",
                    stacklevel=4,
                )
            if is_over:
                return
        if source.at_end:
            self._next_pass(is_over=True)

    @property
    def _is_stopped(self) -> bool:
        """Whether this epoch has had its last update: who asks for that before the first one has it, as in Keras."""
        return bool(self._model.stop_training and self._progress.done)

    def _run_between_hooks(self, end: int, updates_per_call: int) -> int:
        """Runs what lies between a batch's two hooks, up to update `end`; returns how many updates, none at the end of a pass.

        The hooks come in pairs. Where they are heard, the number of the second is that of Keras: the last call of an epoch may
        be shorter and counts as whole.
        """
        source, listener, progress, pairs = self._source, self._listener, self._progress, self._pairs
        unheard = 0 if self._hears_every_update or self._model.stop_training else updates_unheard(listener)
        is_heard = unheard == 0 or (updates_per_call > 1 and unheard < ANY_NUMBER)
        first = pairs.first
        most = min(end - first, updates_per_call if is_heard else unheard)
        tells = ("always" if self._hears_every_update else "now") if is_heard else ""

        def begin() -> None:
            pairs.begin()
            self._keeper.note_settings()
            if is_heard:
                self._loop.heed_others()

        while not pairs.is_ending and (done := progress.done - first) < most and not source.at_end:
            if done:
                self._keeper.boundary()
            limit = min(most - done, self._keeper.updates_to_go())
            if not self._loop.run(source, limit, before=None if done else begin, tells=tells) or not is_heard:
                break  # where nobody listens each call is by itself
        if done := progress.done - first:
            last = first + updates_per_call if is_heard else progress.done
            if not is_heard and not pairs.is_ending:  # the hooks that Keras would have called, but for this pair
                num_hooks = -(-progress.done // updates_per_call) + first // -updates_per_call - 1
                count_unheard_updates(listener, num_hooks, last - 2)
            pairs.end(last - 1, self._loop.logs() if is_heard or self._draws else {})
            if is_heard:
                self._loop.heed_others()
            self._keeper.boundary()
        return done

    def _next_pass(self, is_over: bool) -> None:
        """Goes on to the next pass over the data; what they do then may fail, and the updates of this epoch may be over."""
        if is_over and self._progress.done:
            self._progress.phase = "evaluation"
        self._source.next_pass()

    def _end_empty_epoch(self) -> None:
        """Ends training at an epoch that was begun, and for which no batch came: its hooks come in pairs, its logs say NaN.

        Raises:
            ValueError: there never was one.
        """
        progress = self._progress
        if progress.updates == 0:
            raise ValueError("x gave no batch: there is nothing to train on")
        warnings.warn(f"x gave no batch in epoch {progress.epoch + 1}: training ends before it", stacklevel=4)
        progress.phase = "between"
        with self._keeper.hooks():
            self._listener.on_epoch_end(progress.epoch, dict.fromkeys(progress.logs, math.nan))

    def _end_epoch(self, plan: Plan) -> None:
        progress = self._progress
        self._loop.rest()
        if progress.phase == "evaluation":
            logs = self._loop.logs()
            if self._validator is not None and self._validator.is_due(progress.epoch + 1):
                with self._keeper.hooks():
                    logs.update(self._validator())
            progress.phase, progress.logs = "hooks", logs
        self._count_epochs(plan)
        with self._keeper.hooks():
            self._listener.on_epoch_end(progress.epoch, progress.logs)
        progress.epoch, progress.phase, progress.done = progress.epoch + 1, "between", 0
        self._keeper.boundary()

    def _count_epochs(self, plan: Plan) -> None:
        """Says to callbacks how many epochs there are, where updates end training: some do more at the end of the last one."""
        params, number = self._listener.params, self._progress.epoch + 1
        if plan.steps is not None and params and "epochs" in params:
            is_last = self._progress.updates >= plan.steps or number == plan.epochs
            params["epochs"] = number if is_last else max(params["epochs"], number + 1)


def fit_of(
    model: keras.Model,
    loop: Loop,
    inputs: Inputs,
    listener: keras.callbacks.CallbackList,
    progress: Progress,
    findings: Findings,
    evaluations: Evaluations,
    verbose: int,
) -> Fit:
    """The `Fit` of these inputs; `evaluations` keeps the programs of the validation."""
    validator = None
    if inputs.validation is not None:
        validator = Validator(model, loop, inputs.validation, listener, evaluations, is_silent=verbose == 0)
    return Fit(model, loop, inputs.source, validator, listener, progress, findings, verbose)


def history_of(fit: Fit, keeper: Keeper, found: Found, plan: Plan, updates_per_call: int | None) -> keras.callbacks.History:
    """Trains, or puts everything where a finished run has left it; returns the history."""
    if found.is_over:
        fit.model.history = keeper.skip()
    else:
        Epochs(fit, keeper)(plan, updates_per_call)
    history: keras.callbacks.History = fit.model.history
    return history


def find_out(fit: Fit, found: Found, updates_ahead: int) -> bool:
    """Lets the loop find out whether XLA pays, where that is worth it; returns whether it is known only now."""
    # What was not worth finding out may be, for a run that is made longer; but a stream would have to be read again.
    if found.is_resuming and not (found.is_longer and fit.source.arrays is not None):
        return False
    # What is timed in one process says nothing of what several do together.
    is_open = fit.loop.jit_compile is None and fit.loop.link is None
    if not is_open or not jit.is_worth_asking(fit.model, updates_ahead):
        return False
    if not (choice := fit.loop.choose(fit.source, updates_ahead)).is_final:
        return False
    fit.findings.jit_compile = choice.jit_compile
    if fit.verbose:
        print(choice.reason, flush=True)
    return True
