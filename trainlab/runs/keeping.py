"""A run in its directory: found again, kept safe at every boundary, stopped in good order."""

from __future__ import annotations

import functools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import stoppable
from trainlab.loop import Findings, NonFiniteError, Plan
from trainlab.runs import callback_state, manifest, signals
from trainlab.runs.best import Best, forget_best, note_best
from trainlab.runs.capturing import Capture
from trainlab.runs.disk.checkpoint import Checkpoints, Loaded
from trainlab.runs.disk.encoding import AsText, decode, encode
from trainlab.runs.disk.lock import Lock
from trainlab.runs.epochs import Fit, Keeper
from trainlab.runs.listeners.changing import InForce
from trainlab.runs.listeners.remembered import is_history
from trainlab.runs.listeners.timeline import Timeline
from trainlab.runs.resuming import (
    Asked,
    Found,
    is_enough,
    load_best,
    newest,
    requested,
    restore_adapted,
    restore_ahead,
    restore_data,
    restore_variables,
    restore_weights,
)
from trainlab.runs.run import Run


class RunKeeper(Keeper):
    """Keeps a run: its checkpoints, and when the next one is due.

    Args:
        run: where and how often.

    Attributes:
        directory: of the run.
        fits: how many fits of this run are finished, as far as this process has come.
    """

    def __init__(self, run: Run):
        self.directory = run.path  # absolute: a callback may change the working directory
        self.fits = 0
        self.run = self._run = run  # there always is one, which `Keeper` cannot say
        self._checkpoints = Checkpoints(self.directory / "checkpoints", run.keep)
        self._lock = Lock(self.directory / "lock")
        self._in_force = InForce()
        self._timeline = Timeline(self.directory, may_write=lambda: self._lock.is_held)
        self._best = Best(run.keep_best)
        self._checkpoints.on_written = functools.partial(note_best, self._checkpoints)
        self._captured: Capture | None = None
        self._before_last: Mapping[str, Any] | None = None  # the hooks of the last epoch's end, where these lose something
        self._signals = signals.Signals(rescue=self._rescue)
        self._as_text = AsText()
        self._asked = Asked()
        self._fit: Fit | None = None
        self._loaded: Loaded | None = None
        self._manifest: manifest.Manifest = {}
        self._manifests: list[manifest.Manifest] = []
        self._request: list[int | None] = [None, None]
        self._rates: tuple[Any, Any] | None = None  # as the last fit left the learning rate, and as it was given
        self._histories: list[Any] = []
        self._saved_at = (0, 0.0)  # updates, and the clock
        self._must_save = self._is_longer = False
        self._replaces = False  # whether the run that is there is to go, once it is known that this one can begin
        self._overridden: set[str] = set()

    @property
    def last_checkpoint(self) -> Path | None:  # type: ignore[override]
        """The last one that is whole."""
        return self._checkpoints.last

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Holds the directory, and hears signals; at the end everything is written.

        Raises:
            OSError: it cannot be used; the line says why.
        """
        held, before = ExitStack(), self.fits
        try:
            self._checkpoints.check()
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock.is_known = bool(self._checkpoints.paths())
            held.enter_context(self._lock)
        except OSError as error:
            raise self._run.refusal(error) from None
        with held, self._signals, self._timeline.session(self._signals), stoppable(self.should_stop):
            self._checkpoints.tidy()
            try:
                yield
            except BaseException as error:
                self._leave()
                if self._signals.is_insisted_on and self._checkpoints.is_busy:  # on a disk that hangs, perhaps
                    self._signals.end_at_once()
                try:
                    self._checkpoints.wait()
                except OSError as problem:  # what ended the run comes first
                    warnings.warn(str(problem), stacklevel=2)
                if isinstance(error, signals.OF_A_SIGNAL) and self._signals.received is not None:
                    signals.stop(self._signals.received)
                if isinstance(error, NonFiniteError) and self.last_checkpoint is not None:
                    line = f"{error}; the last checkpoint is {self.last_checkpoint}"
                    raise NonFiniteError(line, error.iteration) from error.__cause__
                raise
            self._leave()
            self._checkpoints.wait()
            if self._signals.received is not None:  # it came too late for a boundary
                self.fits = before  # when it is called again, this fit is found finished
                signals.stop(self._signals.received)

    def _leave(self) -> None:
        fit, self._fit, self._loaded, self._captured, self._before_last = self._fit, None, None, None, None
        if fit is not None:
            self._rates = manifest.learning_rate(fit.model.optimizer), self._manifest["learning_rate"]

    def find(self, asked: Asked, plan: Plan, current: Callable[[], manifest.Manifest]) -> Found:
        """See `Keeper`.

        Raises:
            FileNotFoundError, FileExistsError: `resume` does not allow what is there.
            OtherRun: it is another run's.
            ValueError: no checkpoint can be read.
        """
        self._asked, self._manifest, self._request, self._loaded = asked, current(), requested(plan), None
        if self._rates is not None and self._manifest["learning_rate"] == self._rates[0]:
            self._manifest["learning_rate"] = self._rates[1]  # as a callback has left it: nobody else has changed it
        loaded = self._checkpoint(asked, plan)
        if loaded is None or asked.resume == "weights":
            if not (self.fits and self._saved_at != (0, 0.0)):
                self._checkpoints.run = os.urandom(8).hex()
            return Found(loaded)
        self._checkpoints.run = loaded.state.get("run")
        is_over = loaded.state["fit"] > self.fits or (loaded.state["finished"] and is_enough(loaded.state, plan))
        is_longer = not is_over and self._request != loaded.state["request"]
        return Found(loaded, True, is_over, is_longer, asked.override)

    def _checkpoint(self, asked: Asked, plan: Plan) -> Loaded | None:
        """The one to go on from; what is in it is remembered, and nothing is restored yet."""
        resume, paths, self._replaces = asked.resume, self._checkpoints.paths(), False
        if self.fits and self._saved_at != (0, 0.0):
            resume = "auto"  # this fit goes on with what the last one left, in the same run
        if resume == "never" and paths:
            if not asked.overwrite:
                raise FileExistsError(
                    f"{self.directory}: holds a run already ({paths[0].name}); go on with it by resume='auto', begin it anew by "
                    "overwrite=True, or give another directory"
                )
            self._best.metric, self._replaces = None, True
            return None
        if not paths:
            if resume in ("must", "weights"):
                raise FileNotFoundError(f"{self.directory}: resume={resume!r} but there is no checkpoint to go on from")
            return None
        loaded = newest(self._checkpoints, self.fits, plan, any_will_do=resume == "weights")
        if resume != "weights" and loaded.state["fit"] < self.fits:
            return None
        manifests = loaded.state["manifests"]  # of every fit so far
        saved = manifests[min(self.fits, len(manifests) - 1)] | {row: loaded.state[row] for row in Findings.ROWS}
        if resume == "weights":
            saved = {row: saved[row] for row in ("model", "variables")}
        self._overridden = manifest.check(loaded.path, saved, self._manifest, asked.override)
        if resume == "weights":
            self._best.metric, self._histories, self._manifests = None, [], []
        else:
            self._histories = decode(loaded.state["histories"], loaded.arrays)
            self._manifests = manifests
        return loaded

    def begin(self, fit: Fit, found: Found, must_save: bool) -> None:
        """See `Keeper`."""
        self._fit, self._loaded, self._must_save, self._is_longer = fit, found.loaded, must_save, found.is_longer
        self._captured = Capture(fit, self._as_text)
        restore_adapted(fit.model, found.loaded)
        fit.source.is_to_be_saved = True
        if fit.validator is not None:
            fit.validator.keeps_place = True
        self._saved_at = fit.progress.updates, time.monotonic()
        callback_state.check(fit.listener.callbacks)
        callback_state.check_states({name: state for name, state in self._captured.states().items() if not is_history(state)})
        self._best.prepare(fit.loop, fit.source, fit.validator is not None, fit.listener.callbacks)
        self._best.last = self._before_last = None
        if found.is_resuming and found.loaded is not None:
            self._best.go_on(found.loaded.state)
        if fit.verbose:
            print(f"run       {self._run.directory}: {found.describe(self.fits, fit.progress)}", flush=True)
        if found.loaded is not None and not found.is_resuming:
            restore_weights(fit.model, fit.loop, found.loaded)
            # At once, lest what they came from be taken for this run's.
            self._loaded, self._must_save = None, True

    def skip(self) -> keras.callbacks.History:
        """See `Keeper`; if later fits were begun, only the weights are put there: theirs is the rest."""
        fit, loaded = self._fit, self._loaded
        assert fit is not None and loaded is not None
        if loaded.state["fit"] > self.fits:
            restore_ahead(fit.loop, loaded)
        else:
            self.note_settings()
            fit.loop.prepare(fit.source)
            self._put_back(fit, loaded, None)  # its files are left alone
            restore_data(fit.source, fit.validator, loaded, may_read=False)
        record = self._histories[self.fits]
        self.fits += 1
        history = keras.callbacks.History()
        history.epoch, history.history = list(record["epoch"]), dict(record["history"])
        return history

    def resume(self) -> None:
        """See `Keeper`."""
        (loaded, self._loaded), fit = (self._loaded, None), self._under_way
        if loaded is not None:
            self._restore(fit, loaded)
        if self._replaces:
            self.note_settings()
            fit.loop.prepare(fit.source)
            self._checkpoints.clear()
            forget_best(self._checkpoints)
            self._replaces, self._timeline.is_anew = False, True
        self._timeline.begin(fit, self.fits, loaded is not None, self._manifest)
        if self._must_save:
            self._save(self.capture(), is_finished=False)
            self._checkpoints.wait()

    def _restore(self, fit: Fit, loaded: Loaded) -> None:
        state = loaded.state
        self.note_settings()
        self._in_force.compare(state["manifests"][-1], state.get("in_force", ()), self._manifest)
        fit.loop.prepare(fit.source)  # what only tracing discovers is to be restored too
        self._put_back(fit, loaded, self.directory)
        restore_data(fit.source, fit.validator, loaded)  # the model is in place: hooks of the data may look at it
        # One that a callback had stopped, and that is made longer, goes on.
        fit.model.stop_training = state["stop_training"] and not self._is_longer
        self._saved_at = fit.progress.updates, time.monotonic()

    def _put_back(self, fit: Fit, loaded: Loaded, directory: Path | None) -> None:
        restore_variables(fit.model, fit.loop, loaded, keeps_rate="learning_rate" in self._overridden)
        callback_state.set_states(fit.listener.callbacks, decode(loaded.state["callbacks"], loaded.arrays), directory)

    def note_settings(self) -> None:
        """See `Keeper`."""
        self._in_force.note(self._under_way.loop, self._under_way.listener.callbacks, self._manifest)

    @property
    def _under_way(self) -> Fit:
        assert self._fit is not None
        return self._fit

    def updates_to_go(self) -> int:
        """See `Keeper`."""
        every = self._run.save_steps
        return (
            super().updates_to_go() if every is None else max(every - (self._under_way.progress.updates - self._saved_at[0]), 1)
        )

    def boundary(self) -> None:
        """See `Keeper`."""
        self._lock.check(self._run.directory)
        self._checkpoints.raise_problem()
        fit, signum = self._fit, self._signals.received
        assert fit is not None
        is_settled = fit.source.is_settled
        is_best = self._best.is_better(self._epoch_logs(), counts=is_settled)
        since, seconds = fit.progress.updates - self._saved_at[0], time.monotonic() - self._saved_at[1]
        is_due = self._must_save or (self._run.save_steps is not None and since >= self._run.save_steps)
        # By time one is written only when the last is done: where writing takes long, training does not wait for it.
        is_time = self._run.save_seconds is not None and seconds >= self._run.save_seconds and not self._checkpoints.is_busy
        if not (signum is not None or is_best or is_due or is_time):
            return
        if not is_settled:  # some batches were read and not used; soon they will be
            fit.source.settle()
            return
        if signum is not None:
            self._save_and_say(self.capture(), "a signal")
            signals.stop(signum)
        self._save(self.capture(), is_finished=False)

    def leave(self, reason: BaseException, before: Mapping[str, Any] | None = None) -> None:
        """See `Keeper`."""
        fit = self._under_way
        if before is None and fit.progress.updates == self._saved_at[0] and not self._must_save:
            return
        self._save_and_say(self.capture() if before is None else before, type(reason).__name__)

    def _rescue(self) -> None:
        """Saves what is committed, while the main thread is in a call that may never end, one of a callback's among them."""
        fit = self._fit
        if fit is None or self._captured is None or not fit.progress.updates:
            return
        # In a hook of where a fit begins or ends, and there alone, nobody has noted what it was before.
        is_known = self._captured.is_remembering or fit.progress.phase in ("updates", "evaluation", "hooks")
        if fit.loop.committed is not None or (is_known and fit.progress.updates != self._saved_at[0]):
            self._save_and_say(self.capture(fit.loop.committed), "a signal")
            self._timeline.end("a signal")

    def _save_and_say(self, captured: Mapping[str, Any], reason: str) -> None:
        self._save(captured, is_finished=False)
        self._checkpoints.wait()
        if self._signals.received is not None or self._under_way.verbose:
            who = reason if self._signals.received is None else "a signal"
            where = f"update {self._under_way.progress.updates}: saved in {self._checkpoints.last}"
            signals.say(f"stopped by {who} at {where}; {self._asked.goes_on} from there")

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """See `Keeper`."""
        assert self._captured is not None
        self._captured.remember()
        if self._is_swapped_at_the_end():
            self._before_last = self.capture()
        with self._timeline.epoch() if self._under_way.progress.phase == "hooks" else nullcontext():
            yield
        self._captured.forget()

    def load_best(self, model: keras.Model) -> Path:
        """See `load_best`."""
        self._checkpoints.wait()
        return load_best(model, self._checkpoints)

    def hear(self, signum: int) -> None:
        """See `Keeper`."""
        self._signals.received, self._must_save = self._signals.received or signum, True  # so that it is said where

    def should_stop(self) -> bool:
        """See `Keeper`."""
        return self._signals.received is not None

    def _is_swapped_at_the_end(self) -> bool:
        """Whether a hook of the last epoch's end is to drop the weights behind an average, with which a longer run goes on."""
        fit = self._under_way
        swapping = [c for c in fit.listener.callbacks if isinstance(c, keras.callbacks.SwapEMAWeights) and c.swap_on_epoch]
        return fit.progress.phase == "hooks" and any((c.params or {}).get("epochs") == fit.progress.epoch + 1 for c in swapping)

    def end(self) -> Mapping[str, Any]:
        """See `Keeper`."""
        return self._before_last or self.capture()

    def finish(self, before: Mapping[str, Any]) -> None:
        """Saves the end of a fit; and what was `before` the end, if that changed a variable, for a longer run to go on from."""
        after = self.capture()
        values = {name: value for name, value in after["tensors"].items() if name.startswith("variables/")}
        changed = any(not np.array_equal(before["tensors"].get(name), value) for name, value in values.items())
        if changed:  # these weights nobody has measured: the best are those from before
            after = {**after, "state": {**after["state"], "metric": None}}
            self._save(before, is_finished=False)
        callbacks = [*self._under_way.listener.callbacks, keras.callbacks.History()]
        kept = [c for c in callbacks if isinstance(c, keras.callbacks.History)]
        history = {"epoch": list(getattr(kept[0], "epoch", [])), "history": dict(kept[0].history)}
        self._histories = [*self._histories[: self.fits], history]
        self._save(after, is_finished=True, extends=not changed)
        self._manifests = [*self._manifests[: self.fits], self._manifest]
        self._checkpoints.wait()
        self._timeline.finish()
        self.fits += 1

    def capture(self, values: Mapping[str, tf.Tensor] | None = None) -> Mapping[str, Any]:
        """Everything as it is now; variables as they are in `values`, if they are given."""
        fit = self._under_way
        of_run = {
            "manifests": [*self._manifests[: self.fits], self._manifest],
            "request": self._request,
            "fit": self.fits,
            "best": self._best.metric,
            "metric": self._best.last if fit.progress.phase == "between" else None,
            "metric_name": self._best.name,
            "mode": self._best.mode,
            "in_force": self._in_force.record(fit.listener.callbacks, self._manifest),
        }
        assert self._captured is not None
        return self._captured(of_run, values)

    def _epoch_logs(self) -> Mapping[str, Any]:
        """Of the epoch that has just ended; none in the middle of one."""
        return self._under_way.progress.logs if self._under_way.progress.phase == "between" else {}

    def _save(self, captured: Mapping[str, Any], is_finished: bool, extends: bool = False) -> None:
        fit = self._under_way
        arrays: dict[str, np.ndarray] = {}
        histories = encode(self._histories, arrays, "histories", self._as_text)
        state = {**captured["state"], "histories": histories, "finished": is_finished, "extends": extends}
        tensors = {**captured["tensors"], **arrays}
        self._saved_at, self._must_save = (fit.progress.updates, time.monotonic()), False
        self._lock.check(self._run.directory)
        self._checkpoints.save(fit.progress.updates, tensors, state, captured["iterators"])
