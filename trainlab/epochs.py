"""The outer loop, on the host: epochs, callbacks, validation."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np

from trainlab import callback_state
from trainlab.data import ArraySource, StreamSource
from trainlab.loop import Loop
from trainlab.model_function import flat_logs
from trainlab.nonfinite import NonFiniteError
from trainlab.update import Update

_BATCH_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


class Validation(NamedTuple):
    """What to evaluate on, and when.

    Attributes:
        x, y, sample_weight: arrays, or a data set as `x`.
        batch_size, steps: as in `keras.Model.evaluate`.
        frequency: every so many epochs, or the numbers of the epochs after which.
    """

    x: Any
    y: Any
    sample_weight: Any
    batch_size: int | None
    steps: int | None
    frequency: int | Collection[int]

    def is_due(self, epoch: int) -> bool:
        """Whether to evaluate after the epoch of this number, counted from 1."""
        return epoch % self.frequency == 0 if isinstance(self.frequency, int) else epoch in self.frequency

    def __call__(self, model: keras.Model, listener: keras.callbacks.CallbackList) -> dict[str, float]:
        """Keras' own evaluation; the results' names begin with `val_`."""
        results = model.evaluate(
            self.x,
            self.y,
            sample_weight=self.sample_weight,
            batch_size=self.batch_size,
            steps=self.steps,
            callbacks=listener,
            return_dict=True,
            verbose=0,
        )
        return {f"val_{name}": value for name, value in results.items()}


@dataclasses.dataclass
class Progress:
    """How far a `fit` has come.

    Attributes:
        epoch: the number of the epoch under way, or of the next one; counted from 0.
        phase: "between" two epochs, at its "updates", or at the "evaluation" after them.
        done: updates of this epoch.
        updates: updates of this fit.
        logs: what the last epoch reported.
    """

    epoch: int = 0
    phase: str = "between"
    done: int = 0
    updates: int = 0
    logs: dict[str, Any] = dataclasses.field(default_factory=dict)


class Keeper:
    """What keeps a run safe, at the moments when it can; this one does nothing."""

    def resume(self) -> None:
        """Called once, after the hooks of the beginning: puts the state of a checkpoint in place of theirs."""

    def updates_to_go(self) -> int:
        """The most updates until something must be done."""
        return sys.maxsize

    def boundary(self) -> None:
        """Called between two calls and after each epoch: everything is committed. May save, and may raise to stop."""

    def capture(self) -> Any:
        """Everything as it is now."""

    def finish(self, before: Any) -> None:
        """Called at the end, with what `capture` returned before the last hooks."""

    def save(self) -> None:
        """Called where training stops at a committed update, because of an error."""

    def watch(self) -> list[keras.callbacks.Callback]:
        """Callbacks for an evaluation, which end it by raising `Interrupted` if training is to stop."""
        return []


@contextmanager
def suppressed_but_said() -> Iterator[None]:
    """Turns an error into a warning: something else is about to be raised that matters more."""
    try:
        yield
    except Exception as error:
        warnings.warn(str(error), stacklevel=3)


class Interrupted(Exception):
    """Ends an evaluation that is not worth finishing: the next boundary stops training."""


class Epochs:
    """Runs a loop over a source, epoch by epoch; what happens between its calls happens here.

    Args:
        model: built.
        update: what a step does; asked for its logs.
        loop: runs updates.
        source: the batches.
        listener: the callbacks.
        validation: None for none.
        progress: where to begin; kept up to date.
        keeper: told of every boundary.
    """

    def __init__(
        self,
        model: keras.Model,
        update: Update,
        loop: Loop,
        source: ArraySource | StreamSource,
        listener: keras.callbacks.CallbackList,
        validation: Validation | None,
        progress: Progress,
        keeper: Keeper,
    ):
        self._model = model
        self._update = update
        self._loop = loop
        self._source = source
        self._listener = listener
        self._validation = validation
        self._progress = progress
        self._keeper = keeper
        self._hears_every_update = any(hears_every_update(callback) for callback in listener.callbacks)
        self._wants_logs = self._hears_every_update or any(
            isinstance(callback, keras.callbacks.ProgbarLogger) and callback.verbose == 1 for callback in listener.callbacks
        )

    def __call__(self, epochs: int | None, steps: int | None, steps_per_epoch: int | None, updates_per_call: int | None) -> None:
        """Trains.

        Args:
            epochs: the number to stop before, or None.
            steps: updates in all, or None.
            steps_per_epoch: updates an epoch, or None for a pass.
            updates_per_call: the least distance of two batch hooks; None is 1.
        """
        model, listener, progress = self._model, self._listener, self._progress
        model.stop_training = False
        listener.on_train_begin()
        self._heed_backup()
        if progress.phase != "between":
            listener.on_epoch_begin(progress.epoch)
        self._keeper.resume()
        self._loop.guard.start(progress.epoch + 1, progress.done)
        steps = sys.maxsize if steps is None else steps
        while progress.phase != "between" or (  # an epoch that was begun is ended, whatever was reached in it
            progress.updates < steps and (epochs is None or progress.epoch < epochs) and not model.stop_training
        ):
            if progress.phase == "between":
                model.reset_metrics()
                self._update.reset_logs()
                listener.on_epoch_begin(progress.epoch)
                progress.phase, progress.done = "updates", 0
                self._loop.guard.start_epoch(progress.epoch + 1)
            if progress.phase == "updates":
                end = min(progress.done + steps - progress.updates, steps_per_epoch or sys.maxsize)
                self._run_epoch(end, updates_per_call or 1, steps_per_epoch is not None)
                if progress.done == 0 and not model.stop_training:
                    if progress.updates == 0:
                        raise ValueError("x gave no batch: there is nothing to train on")
                    warnings.warn(f"x gave no batch in epoch {progress.epoch + 1}: training ends before it", stacklevel=3)
                    break
                progress.phase = "evaluation"
            self._end_epoch()
        before = self._keeper.capture()
        if progress.updates:
            # Where the optimizer keeps an average of the weights, this is when it takes their place.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        listener.on_train_end(progress.logs)
        self._keeper.finish(before)

    def _heed_backup(self) -> None:
        epoch = getattr(self._model, "_initial_epoch", None)  # BackupAndRestore sets it there
        if epoch:
            self._progress.epoch = epoch
            if isinstance(self._source, ArraySource):
                self._source.epoch, self._source.position = max(self._source.epoch, epoch), 0

    def _run_epoch(self, end: int, updates_per_call: int, has_size: bool) -> None:
        """Runs up to update `end` of this epoch; to the end of the pass unless the epoch has a size of its own."""
        source, listener, progress = self._source, self._listener, self._progress
        while progress.done < end and not self._model.stop_training:
            if not source.at_end:
                listener.on_train_batch_begin(progress.done)
                limit = min(end - progress.done, self._keeper.updates_to_go())
                try:
                    ran = self._loop.run(source, min(limit, updates_per_call) if self._hears_every_update else limit)
                except NonFiniteError:
                    ran = self._loop.guard.done - progress.done  # those before it are committed
                    progress.done, progress.updates = progress.done + ran, progress.updates + ran
                    with suppressed_but_said():
                        self._keeper.save()
                    raise
                if ran:
                    progress.done, progress.updates = progress.done + ran, progress.updates + ran
                    listener.on_train_batch_end(progress.done - 1, self._read_logs() if self._wants_logs else {})
                    self._keeper.boundary()
                    continue
            source.next_pass()
            if not has_size:
                return
            if isinstance(source, StreamSource):  # as Keras; arrays simply go on
                warnings.warn(
                    f"x ran out of data after {progress.done} of the {end} updates of this epoch: "
                    "repeat it, or lower steps_per_epoch",
                    stacklevel=4,
                )
                return
        if source.at_end:
            source.next_pass()

    def _end_epoch(self) -> None:
        progress = self._progress
        logs = self._read_logs()
        if self._validation is not None and self._validation.is_due(progress.epoch + 1):
            logs.update(self._evaluate(self._validation))
        self._listener.on_epoch_end(progress.epoch, logs)
        progress.epoch, progress.phase, progress.done, progress.logs = progress.epoch + 1, "between", 0, logs
        self._keeper.boundary()

    def _evaluate(self, validation: Validation) -> dict[str, float]:
        watchers = self._keeper.watch()
        remembered = callback_state.get_states(self._listener.callbacks) if watchers else {}
        for watcher in watchers:
            self._listener.callbacks.append(watcher)
        try:
            with self._loop.transaction():  # an evaluation cut short leaves its own sums in the metrics
                return validation(self._model, self._listener)
        except Interrupted:
            callback_state.set_states(self._listener.callbacks, remembered)
            self._keeper.boundary()
            raise KeyboardInterrupt from None  # the boundary could not save yet
        finally:
            for watcher in watchers:
                self._listener.callbacks.remove(watcher)

    def _read_logs(self) -> dict[str, Any]:
        # An overridden compute_metrics may return more than the metrics' results.
        reports = self._update.function.reports
        results = {name: v.read_value() for name, v in reports.items()} if reports else self._loop.metric_results()
        arrays = {name: np.asarray(value) for name, value in flat_logs(results).items()}
        logs = {name: float(array) if array.ndim == 0 else array for name, array in arrays.items()}
        return {**logs, **self._update.read_logs()}


def hears_every_update(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback overrides a batch hook, so that it must get control at every update."""
    if type(callback) is keras.callbacks.ProgbarLogger:
        return False  # it draws when it can
    ours = (getattr(callback, hook) for hook in _BATCH_HOOKS)
    theirs = (getattr(keras.callbacks.Callback, hook) for hook in _BATCH_HOOKS)
    return any(getattr(own, "__func__", own) is not default for own, default in zip(ours, theirs, strict=True))
