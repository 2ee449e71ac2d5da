"""The outer loop, on the host: epochs, callbacks, validation."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import keras
import numpy as np

from trainlab.data import ArraySource, StreamSource
from trainlab.loop import Loop
from trainlab.model_function import flat_logs
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


class Epochs:
    """Runs a loop over a source, epoch by epoch; what happens between its calls happens here.

    Args:
        model: built.
        update: what a step does; asked for its logs.
        loop: runs updates.
        source: the batches.
        listener: the callbacks.
        validation: None for none.
    """

    def __init__(
        self,
        model: keras.Model,
        update: Update,
        loop: Loop,
        source: ArraySource | StreamSource,
        listener: keras.callbacks.CallbackList,
        validation: Validation | None,
    ):
        self._model = model
        self._update = update
        self._loop = loop
        self._source = source
        self._listener = listener
        self._validation = validation
        self._hears_every_update = any(hears_every_update(callback) for callback in listener.callbacks)
        self._wants_logs = self._hears_every_update or any(
            isinstance(callback, keras.callbacks.ProgbarLogger) and callback.verbose == 1 for callback in listener.callbacks
        )

    def __call__(
        self, epoch: int, epochs: int | None, steps: int | None, steps_per_epoch: int | None, updates_per_call: int | None
    ) -> None:
        """Trains.

        Args:
            epoch: the first epoch's number, counted from 0.
            epochs: the number to stop before, or None.
            steps: updates in all, or None.
            steps_per_epoch: updates an epoch, or None for a pass.
            updates_per_call: the least distance of two batch hooks; None is 1.
        """
        model, listener = self._model, self._listener
        model.stop_training = False
        listener.on_train_begin()
        restored = getattr(model, "_initial_epoch", None)  # BackupAndRestore sets it there
        if restored:
            epoch = restored
            if isinstance(self._source, ArraySource):
                self._source.epoch, self._source.position = max(self._source.epoch, epoch), 0
        logs: dict[str, Any] = {}
        left, first = sys.maxsize if steps is None else steps, epoch
        while left > 0 and (epochs is None or epoch < epochs) and not model.stop_training:
            model.reset_metrics()
            self._update.reset_logs()
            listener.on_epoch_begin(epoch)
            done = self._run_epoch(min(left, steps_per_epoch or left), updates_per_call or 1, steps_per_epoch is not None)
            left -= done
            if done == 0 and not model.stop_training:
                if epoch == first:
                    raise ValueError("x gave no batch: there is nothing to train on")
                warnings.warn(f"x gave no batch in epoch {epoch + 1}: training ends before it", stacklevel=3)
                break
            logs = self._read_logs()
            if self._validation is not None and self._validation.is_due(epoch + 1):
                logs.update(self._validation(model, listener))
            listener.on_epoch_end(epoch, logs)
            epoch += 1
        if epoch > first:
            # Where the optimizer keeps an average of the weights, this is when it takes their place.
            model.optimizer.finalize_variable_values(model.trainable_variables)
        listener.on_train_end(logs)

    def _run_epoch(self, budget: int, updates_per_call: int, has_size: bool) -> int:
        """Runs up to `budget` updates and returns how many; to the end of the pass unless the epoch has a size of its own."""
        source, listener = self._source, self._listener
        done = 0
        while done < budget and not self._model.stop_training:
            listener.on_train_batch_begin(done)
            limit = budget - done
            ran = self._loop.run(source, min(limit, updates_per_call) if self._hears_every_update else limit)
            done += ran
            if ran:
                listener.on_train_batch_end(done - 1, self._read_logs() if self._wants_logs else {})
            if ran and not source.at_end:
                continue
            source.next_pass()
            if not has_size:
                break
            if isinstance(source, StreamSource) and done < budget:  # as Keras; arrays simply go on
                warnings.warn(
                    f"x ran out of data after {done} of the {budget} updates of this epoch: repeat it, or lower steps_per_epoch",
                    stacklevel=4,
                )
                break
        return done

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
