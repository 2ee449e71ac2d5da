"""A run in its directory: found again, kept safe at every boundary, stopped in good order."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import ArraySource
from trainlab.loop import Findings, NonFiniteError, Plan, Progress
from trainlab.runs import callback_state, manifest, signals
from trainlab.runs.checkpoint import Checkpoints, Loaded
from trainlab.runs.encoding import decode, encode
from trainlab.runs.epochs import Fit, Interrupted, Keeper
from trainlab.runs.lock import Lock
from trainlab.runs.resuming import Asked, Found, is_enough, newest, requested, restore_variables, restore_weights, variables
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
        self.directory = run.path
        self.fits = 0
        self._run = run
        self._checkpoints = Checkpoints(self.directory / "checkpoints", run.keep)
        self._signals = signals.Signals()
        self._fit: Fit | None = None
        self._loaded: Loaded | None = None
        self._manifest: manifest.Manifest = {}
        self._manifests: list[manifest.Manifest] = []
        self._request: list[int | None] = [None, None]
        self._rates: tuple[Any, Any] | None = None  # as the last fit left the learning rate, and as it was given
        self._histories: list[Any] = []
        self._saved_at = (0, 0.0)  # updates, and the clock
        self._saves_iterators = True
        self._must_save = False
        self._best: float | None = None
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
            self.directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(Lock(self.directory / "lock"))
        except (FileExistsError, NotADirectoryError):
            raise NotADirectoryError(f"run={str(self.directory)!r} is a file: give a directory") from None
        except PermissionError as error:
            raise PermissionError(f"run={str(self.directory)!r} cannot be written ({error.strerror})") from None
        with held, self._signals:
            self._checkpoints.tidy()
            try:
                yield
            except BaseException as error:
                self._leave()
                try:
                    self._checkpoints.wait()
                except OSError as problem:  # what ended the run comes first
                    warnings.warn(str(problem), stacklevel=2)
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
        fit, self._fit, self._loaded = self._fit, None, None
        if fit is not None:
            self._rates = manifest.learning_rate(fit.model.optimizer), self._manifest["learning_rate"]

    def find(self, asked: Asked, plan: Plan, current: Callable[[], manifest.Manifest]) -> Found:
        """See `Keeper`.

        Raises:
            FileNotFoundError, FileExistsError: `resume` does not allow what is there.
            OtherRun: it is another run's.
            ValueError: no checkpoint can be read.
        """
        self._manifest, self._request, self._loaded = current(), requested(plan), None
        if self._rates is not None and self._manifest["learning_rate"] == self._rates[0]:
            self._manifest["learning_rate"] = self._rates[1]  # as a callback has left it: nobody else has changed it
        loaded = self._checkpoint(asked, plan)
        if loaded is None or asked.resume == "weights":
            return Found(loaded)
        is_over = loaded.state["fit"] > self.fits or (loaded.state["finished"] and is_enough(loaded.state, plan))
        is_longer = not is_over and self._request != loaded.state["request"]
        return Found(loaded, True, is_over, is_longer, asked.override)

    def _checkpoint(self, asked: Asked, plan: Plan) -> Loaded | None:
        """The one to go on from; what is in it is remembered, and nothing is restored yet."""
        resume, paths = asked.resume, self._checkpoints.paths()
        if self.fits and self._saved_here():
            resume = "auto"  # this fit goes on with what the last one left, in the same run
        if resume == "never" and paths:
            if not asked.overwrite:
                raise FileExistsError(
                    f"{self.directory}: holds a run already ({paths[0].name}); go on with it by resume='auto', begin it anew by "
                    "overwrite=True, or give another directory"
                )
            self._checkpoints.clear()
            self._best = None
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
            self._best, self._histories, self._manifests = None, [], []
        else:
            self._best = loaded.state["best"]
            self._histories = decode(loaded.state["histories"], loaded.arrays)
            self._manifests = manifests
        return loaded

    def _saved_here(self) -> bool:
        return self._saved_at != (0, 0.0)

    def begin(self, fit: Fit, found: Found, must_save: bool) -> None:
        """See `Keeper`."""
        self._fit, self._loaded, self._must_save = fit, found.loaded, must_save
        fit.source.is_to_be_saved = self._saves_iterators = True
        self._saved_at = fit.progress.updates, time.monotonic()
        if names := callback_state.forgotten(fit.listener.callbacks):
            warnings.warn(
                f"{', '.join(names)}: not in checkpoints, and so as new after a resume; give it get_state() and set_state(state) "
                "if that matters",
                stacklevel=3,
            )
        if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in fit.listener.callbacks):
            raise ValueError("BackupAndRestore and a run both resume: leave the callback out")
        if fit.verbose:
            print(f"run       {self.directory}: {self._describe(found, fit.progress)}", flush=True)
        if found.loaded is not None and not found.is_resuming:
            restore_weights(fit.model, fit.loop, found.loaded)
            # At once, lest what they came from be taken for this run's.
            self._loaded, self._must_save = None, True

    def _describe(self, found: Found, progress: Progress) -> str:
        if found.loaded is None:
            return f"goes on with fit {self.fits + 1}" if self.fits else "begun"
        name = found.loaded.path.name
        if not found.is_resuming:
            return f"begun with the weights of {name}"
        if found.is_over:
            return f"finished at update {progress.updates:,} ({name})"
        return f"resumed at update {progress.updates:,}, epoch {progress.epoch + 1} ({name})"

    def skip(self) -> keras.callbacks.History:
        """See `Keeper`; if later fits were begun, only the weights are put there: theirs is the rest."""
        fit, loaded = self._fit, self._loaded
        assert fit is not None and loaded is not None
        if loaded.state["fit"] > self.fits:
            fit.loop.assign({name: value for name, value in variables(loaded).items() if name.startswith("model.")})
        else:
            fit.loop.prepare(fit.source)
            if isinstance(fit.source, ArraySource) or loaded.state["iterators"]:
                fit.source.restore(loaded.state["source"], loaded.iterators())
            self._put_back(fit, loaded)
        record = self._histories[self.fits]
        self.fits += 1
        history = keras.callbacks.History()
        history.epoch, history.history = list(record["epoch"]), dict(record["history"])
        return history

    def resume(self) -> None:
        """See `Keeper`."""
        if self._loaded is not None and self._fit is not None:
            self._restore(self._fit, self._loaded)
            self._loaded = None
        if self._must_save:
            self.save()

    def _restore(self, fit: Fit, loaded: Loaded) -> None:
        state = loaded.state
        fit.loop.prepare(fit.source)  # what only tracing discovers is to be restored too
        fit.source.restore(state["source"], loaded.iterators())
        self._put_back(fit, loaded)
        fit.model.stop_training = state["stop_training"]
        self._saved_at = fit.progress.updates, time.monotonic()

    def _put_back(self, fit: Fit, loaded: Loaded) -> None:
        restore_variables(fit.model, fit.loop, loaded, keeps_rate="learning_rate" in self._overridden)
        callback_state.set_states(fit.listener.callbacks, decode(loaded.state["callbacks"], loaded.arrays))

    def updates_to_go(self) -> int:
        """See `Keeper`."""
        assert self._fit is not None
        if self._run.save_steps is None:
            return super().updates_to_go()
        return max(self._run.save_steps - (self._fit.progress.updates - self._saved_at[0]), 1)

    def boundary(self) -> None:
        """See `Keeper`."""
        self._checkpoints.check()
        fit = self._fit
        assert fit is not None
        signum = self._signals.received
        is_settled = fit.source.is_settled
        is_best = is_settled and self._is_best(fit.progress)
        since, seconds = fit.progress.updates - self._saved_at[0], time.monotonic() - self._saved_at[1]
        is_due = self._must_save or (self._run.save_steps is not None and since >= self._run.save_steps)
        # By time one is written only when the last is done: where writing takes long, training does not wait for it.
        is_time = self._run.save_seconds is not None and seconds >= self._run.save_seconds and not self._checkpoints.is_busy
        if not (signum is not None or is_best or is_due or is_time):
            return
        if not is_settled:  # some batches were read and not used; soon they will be
            fit.source.settle()
            return
        self._save(self.capture(), is_finished=False)
        if signum is not None:
            self._checkpoints.wait()
            print(f"stopped by a signal at update {fit.progress.updates}: saved in {self._checkpoints.last}", flush=True)
            signals.stop(signum)

    def save(self) -> None:
        """See `Keeper`."""
        assert self._fit is not None
        if self._fit.source.is_settled:
            self._save(self.capture(), is_finished=False)
            self._checkpoints.wait()

    def watch(self) -> list[keras.callbacks.Callback]:
        """See `Keeper`."""
        return [_Watch(self._signals)]

    def finish(self, before: Mapping[str, Any]) -> None:
        """Saves the end of a fit; and what was `before` the end, if that changed a variable, for a longer run to go on from."""
        assert self._fit is not None
        after = self.capture()
        values = {name: value for name, value in after["tensors"].items() if name.startswith("variables/")}
        changed = any(not np.array_equal(before["tensors"].get(name), value) for name, value in values.items())
        if changed:
            self._save(before, is_finished=False)
        kept = [c for c in self._fit.listener.callbacks if isinstance(c, keras.callbacks.History)] or [keras.callbacks.History()]
        history = {"epoch": list(getattr(kept[0], "epoch", [])), "history": dict(kept[0].history)}
        self._histories = [*self._histories[: self.fits], history]
        self._save(after, is_finished=True, extends=not changed)
        self._manifests = [*self._manifests[: self.fits], self._manifest]
        self._checkpoints.wait()
        self.fits += 1

    def capture(self) -> Mapping[str, Any]:
        """Everything as it is now."""
        fit = self._fit
        assert fit is not None
        states = callback_state.get_states(fit.listener.callbacks)
        callback_state.check_states(states)
        arrays: dict[str, np.ndarray] = {}
        progress = dataclasses.asdict(fit.progress)
        state = {
            "manifests": [*self._manifests[: self.fits], self._manifest],
            "request": self._request,
            "fit": self.fits,
            "progress": {**progress, "logs": encode(progress["logs"], arrays, "logs")},
            "source": fit.source.state(),
            "stop_training": bool(fit.model.stop_training),
            "callbacks": encode(states, arrays, "callbacks"),
            "best": self._best,
            "metric": self._metric(fit.progress),
            **fit.findings.record(),
        }
        tensors = {f"variables/{name}": value for name, value in fit.loop.snapshot().items()}
        return {"state": state, "tensors": {**tensors, **arrays}, "iterators": self._serialized()}

    def _save(self, captured: Mapping[str, Any], is_finished: bool, extends: bool = False) -> None:
        fit = self._fit
        assert fit is not None
        arrays: dict[str, np.ndarray] = {}
        histories = encode(self._histories, arrays, "histories")
        state = {**captured["state"], "histories": histories, "finished": is_finished, "extends": extends}
        tensors = {**captured["tensors"], **arrays}
        self._saved_at = fit.progress.updates, time.monotonic()
        self._must_save = False
        self._checkpoints.save(fit.progress.updates, tensors, state, captured["iterators"])

    def _serialized(self) -> Mapping[str, tf.Tensor]:
        assert self._fit is not None
        is_elsewhere = not self._fit.source.is_settled  # training was told to stop while more was read than used
        if is_elsewhere or not self._saves_iterators:
            return {}
        try:
            return self._fit.source.serialized()
        except ValueError as error:
            self._saves_iterators = False
            warnings.warn(f"x cannot be saved where it stands ({error}); a resume will read it again up to there", stacklevel=2)
            return {}

    def _metric(self, progress: Progress) -> float | None:
        """The metric of the epoch just ended, less being better."""
        if self._run.keep_best is None or progress.phase != "between" or not progress.logs:
            return None
        is_validated = any(name.startswith("val_") for name in progress.logs)
        if self._run.keep_best not in progress.logs and self._run.keep_best.startswith("val_") and not is_validated:
            return None  # not after every epoch
        if self._run.keep_best not in progress.logs:
            raise ValueError(f"keep_best={self._run.keep_best!r} is not among the logs: {', '.join(progress.logs)}")
        value = float(progress.logs[self._run.keep_best])
        if math.isnan(value):
            return None
        is_higher_better = any(word in self._run.keep_best for word in ("acc", "auc", "precision", "recall", "f1", "iou"))
        return -value if is_higher_better else value

    def _is_best(self, progress: Progress) -> bool:
        metric = self._metric(progress)
        if metric is None or not (self._best is None or metric < self._best):
            return False
        self._best = metric
        return True


class _Watch(keras.callbacks.Callback):
    def __init__(self, heard: signals.Signals):
        super().__init__()
        self._heard = heard

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        if self._heard.received is not None:
            raise Interrupted
