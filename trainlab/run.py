"""A run in its directory: found again, kept safe at every boundary, stopped in good order."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab import callback_state, manifest, signals
from trainlab.checkpoint import Checkpoints, Loaded
from trainlab.data import ArraySource, StreamSource
from trainlab.encoding import decode, encode
from trainlab.epochs import Interrupted, Keeper, Progress
from trainlab.lock import Lock
from trainlab.loop import Loop

# What the Trainer found out and a checkpoint records: compared with what it is now told, if it is told.
RECORDED = ("jit_compile", "micro_batch_size")
_MAX_LINES = 3  # of differences in one row that are shown
RESUME = ("auto", "must", "never", "weights")


class Request(NamedTuple):
    """How long a `fit` is to be: `epochs` to stop at, or `steps` in all."""

    epochs: int | None
    steps: int | None


@dataclasses.dataclass
class Parts:
    """What a `fit` works with, for a run to save and restore.

    Attributes:
        model, loop, source, listener, progress: those of the fit.
        record: returns what the Trainer has found out so far and keeps, for JSON.
    """

    model: keras.Model
    loop: Loop
    source: ArraySource | StreamSource
    listener: keras.callbacks.CallbackList
    progress: Progress
    record: Callable[[], Mapping[str, Any]]


class Run(Keeper):
    """A run: its directory, its checkpoints, and when the next one is due.

    Args:
        directory: of the run; made if it is not there.
        save_steps: updates between two checkpoints, or None.
        save_seconds: seconds between two, or None.
        keep: how many of the last are kept.
        keep_best: the metric by which the best one is kept too, such as "val_loss"; None for none.

    Attributes:
        directory: the same.
        fits: how many fits of this run are finished, as far as this process has come.
    """

    def __init__(self, directory: Path, save_steps: int | None, save_seconds: float | None, keep: int, keep_best: str | None):
        self.directory = directory
        self.fits = 0
        self._save_steps, self._save_seconds, self._keep_best = save_steps, save_seconds, keep_best
        self._checkpoints = Checkpoints(directory / "checkpoints", keep)
        self._signals = signals.Signals()
        self._parts: Parts | None = None
        self._loaded: Loaded | None = None
        self._manifest: manifest.Manifest = {}
        self._manifests: list[manifest.Manifest] = []
        self._request = Request(None, None)
        self._histories: list[Any] = []
        self._saved_at = (0, 0.0)  # updates, and the clock
        self._saves_iterators = True
        self._must_save = False
        self._best: float | None = None
        self._overridden: set[str] = set()

    @property
    def given(self) -> manifest.Manifest:
        """What the fit under way is made of."""
        return self._manifest

    @property
    def last_checkpoint(self) -> Path | None:
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
            raise NotADirectoryError(f"run_dir={str(self.directory)!r} is a file: give a directory") from None
        except PermissionError as error:
            raise PermissionError(f"run_dir={str(self.directory)!r} cannot be written ({error.strerror})") from None
        with held, self._signals:
            self._checkpoints.tidy()
            try:
                yield
            except BaseException:
                self._parts = None
                try:
                    self._checkpoints.wait()
                except OSError as error:  # what ended the run comes first
                    warnings.warn(str(error), stacklevel=2)
                raise
            self._parts = None
            self._checkpoints.wait()
            if self._signals.received is not None:  # it came too late for a boundary
                self.fits = before  # when it is called again, this fit is found finished
                signals.stop(self._signals.received)

    def find(
        self, resume: str, overwrite: bool, override: Collection[str], current: manifest.Manifest, request: Request
    ) -> Loaded | None:
        """The checkpoint to go on from; None to begin, or to go on with what is in memory.

        Raises:
            FileNotFoundError, FileExistsError: `resume` does not allow what is there.
            OtherRun: it is another run's.
            ValueError: no checkpoint can be read.
        """
        self._manifest, self._request, self._loaded = current, request, None
        paths = self._checkpoints.paths()
        if self.fits and self._saved_here():
            resume = "auto"  # this fit goes on with what the last one left, in the same run
        if resume == "never" and paths:
            if not overwrite:
                raise FileExistsError(
                    f"{self.directory}: holds a run already ({paths[0].name}); go on with it by resume='auto', begin it anew by "
                    "overwrite=True, or give another run_dir"
                )
            self._checkpoints.clear()
            self._best = None
            return None
        if not paths:
            if resume in ("must", "weights"):
                raise FileNotFoundError(f"{self.directory}: resume={resume!r} but there is no checkpoint to go on from")
            return None
        loaded = self._newest(request, resume == "weights")
        if resume != "weights" and loaded.state["fit"] < self.fits:
            return None
        if resume == "weights":
            self._check(loaded, current, ("model", "variables"), override)
            self._best, self._histories, self._manifests = None, [], []
            return loaded
        self._check(loaded, current, tuple(manifest.RULES), override)
        self._best = loaded.state["best"]
        self._histories = decode(loaded.state["histories"], loaded.arrays)
        self._manifests = loaded.state["manifests"]
        return loaded

    def _saved_here(self) -> bool:
        return self._saved_at != (0, 0.0)

    def is_over(self, loaded: Loaded) -> bool:
        """Whether this fit has nothing left to do."""
        state = loaded.state
        return state["fit"] > self.fits or (state["finished"] and self._is_enough(state, self._request))

    def is_longer(self, loaded: Loaded) -> bool:
        """Whether what is asked for is not what it was, and not done yet."""
        return not self.is_over(loaded) and list(self._request) != loaded.state["request"]

    def begin(self, parts: Parts, loaded: Loaded | None, must_save: bool) -> None:
        """Says what to save and, when `resume` is called, to restore; and whether that is to be saved at once."""
        self._parts, self._loaded, self._must_save = parts, loaded, must_save
        parts.source.is_to_be_saved = self._saves_iterators = True
        self._saved_at = parts.progress.updates, time.monotonic()
        if names := callback_state.forgotten(parts.listener.callbacks):
            warnings.warn(
                f"{', '.join(names)}: not in checkpoints, and so as new after a resume; give it get_state() and set_state(state) "
                "if that matters",
                stacklevel=3,
            )
        if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in parts.listener.callbacks):
            raise ValueError("BackupAndRestore and run_dir both resume: leave the callback out")

    def restore_finished(self, loaded: Loaded) -> None:
        """Puts everything where a finished fit left it; if later ones were begun, only the weights: theirs is the rest."""
        parts = self._parts
        assert parts is not None
        if loaded.state["fit"] > self.fits:
            values = {name: value for name, value in _variables(loaded).items() if name.startswith("model.")}
            parts.loop.assign(values)
            return
        parts.loop.prepare(parts.source)
        if isinstance(parts.source, ArraySource) or loaded.state["iterators"]:
            parts.source.restore(loaded.state["source"], loaded.iterators())
        self.restore_all(loaded)
        self.restore_callbacks(loaded)

    def restore_all(self, loaded: Loaded) -> None:
        """Puts every variable where it was."""
        assert self._parts is not None
        self._check_names(loaded)
        values = {name: value for name, value in _variables(loaded).items() if name in self._parts.loop.snapshot()}
        if "learning_rate" in self._overridden:
            rate = self._parts.model.optimizer._learning_rate
            for i, variable in enumerate(self._parts.model.optimizer.variables):
                if variable is rate:
                    values.pop(f"optimizer.{i}")
        self._parts.loop.assign(values)

    def restore_callbacks(self, loaded: Loaded) -> None:
        """Gives callbacks what they remembered."""
        assert self._parts is not None
        callback_state.set_states(self._parts.listener.callbacks, decode(loaded.state["callbacks"], loaded.arrays))

    def restore_weights(self, loaded: Loaded) -> None:
        """Takes nothing but the model's weights; saves at once, lest what they came from be taken for this run's."""
        assert self._parts is not None
        weights = {id(v) for v in self._parts.model.weights}
        names = [f"model.{i}" for i, v in enumerate(self._parts.model.variables) if id(v) in weights]
        self._parts.loop.assign({name: loaded.arrays[f"variables/{name}"] for name in names})
        self._must_save = True

    def resume(self) -> None:
        """See `Keeper`."""
        if self._loaded is not None and self._parts is not None:
            self._restore(self._parts, self._loaded)
            self._loaded = None
        if self._must_save:
            self.save()

    def _restore(self, parts: Parts, loaded: Loaded) -> None:
        state = loaded.state
        parts.loop.prepare(parts.source)  # what only tracing discovers is to be restored too
        parts.source.restore(state["source"], loaded.iterators())
        self.restore_all(loaded)
        self.restore_callbacks(loaded)
        parts.model.stop_training = state["stop_training"]
        self._saved_at = parts.progress.updates, time.monotonic()

    def updates_to_go(self) -> int:
        """See `Keeper`."""
        assert self._parts is not None
        if self._save_steps is None:
            return super().updates_to_go()
        return max(self._save_steps - (self._parts.progress.updates - self._saved_at[0]), 1)

    def boundary(self) -> None:
        """See `Keeper`."""
        self._checkpoints.check()
        parts = self._parts
        assert parts is not None
        signum = self._signals.received
        is_settled = parts.source.is_settled
        is_best = is_settled and self._is_best(parts.progress)
        since, seconds = parts.progress.updates - self._saved_at[0], time.monotonic() - self._saved_at[1]
        is_due = self._must_save or (self._save_steps is not None and since >= self._save_steps)
        # By time one is written only when the last is done: where writing takes long, training does not wait for it.
        is_time = self._save_seconds is not None and seconds >= self._save_seconds and not self._checkpoints.is_busy
        if not (signum is not None or is_best or is_due or is_time):
            return
        if not is_settled:  # some batches were read and not used; soon they will be
            parts.source.settle()
            return
        self._save(self.capture(), is_finished=False)
        if signum is not None:
            self._checkpoints.wait()
            print(f"stopped by a signal at update {parts.progress.updates}: saved in {self._checkpoints.last}", flush=True)
            signals.stop(signum)

    def save(self) -> None:
        """See `Keeper`."""
        assert self._parts is not None
        if self._parts.source.is_settled:
            self._save(self.capture(), is_finished=False)
            self._checkpoints.wait()

    def watch(self) -> list[keras.callbacks.Callback]:
        """See `Keeper`."""
        return [_Watch(self._signals)]

    def finish(self, before: Mapping[str, Any]) -> None:
        """Saves the end of a fit; and what was `before` the end, if that changed a variable, for a longer run to go on from."""
        assert self._parts is not None
        after = self.capture()
        variables = {name: value for name, value in after["tensors"].items() if name.startswith("variables/")}
        changed = any(not np.array_equal(before["tensors"].get(name), value) for name, value in variables.items())
        if changed:
            self._save(before, is_finished=False)
        kept = [c for c in self._parts.listener.callbacks if isinstance(c, keras.callbacks.History)] or [
            keras.callbacks.History()
        ]
        history = {"epoch": list(getattr(kept[0], "epoch", [])), "history": dict(kept[0].history)}
        self._histories = [*self._histories[: self.fits], history]
        self._save(after, is_finished=True, extends=not changed)
        self._manifests = [*self._manifests[: self.fits], self._manifest]
        self._checkpoints.wait()
        self.fits += 1

    def skip(self) -> dict[str, Any]:
        """Counts a fit that was finished before, and returns its history."""
        self.fits += 1
        return self._histories[self.fits - 1]

    def _newest(self, request: Request, any_will_do: bool) -> Loaded:
        damaged: list[str] = []

        def on_damage(path: Path, reason: str) -> None:
            damaged.append(f"{path.name}: {reason}")
            warnings.warn(f"checkpoint {path} is damaged ({reason}): trying the one before", stacklevel=5)

        fallback = None
        for loaded in self._checkpoints.readable(on_damage):
            state = loaded.state
            is_short = state["fit"] == self.fits and state["finished"] and not self._is_enough(state, request)
            if not is_short or state.get("extends") or any_will_do:
                return loaded
            fallback = fallback or loaded
        if fallback is not None:
            return fallback
        raise ValueError(
            f"{self.directory}: no checkpoint can be read ({'; '.join(damaged)}): restore them from a copy, or begin anew "
            "(resume=never with overwrite)"
        )

    @staticmethod
    def _is_enough(state: Mapping[str, Any], request: Request) -> bool:
        if state["stop_training"] or list(request) == state["request"]:
            return True
        reached = state["progress"]["epoch"], state["progress"]["updates"]
        return any(wanted is not None and has >= wanted for has, wanted in zip(reached, request, strict=True))

    def _check(self, loaded: Loaded, current: Mapping[str, Any], rows: Sequence[str], override: Collection[str]) -> None:
        manifests = loaded.state["manifests"]  # of every fit so far
        everything = {**manifests[min(self.fits, len(manifests) - 1)], **{row: loaded.state[row] for row in RECORDED}}
        both = [row for row in rows if row in everything and row in current]
        found = manifest.differences({row: everything[row] for row in both}, {row: current[row] for row in both})
        refusing, warning = manifest.refusals(found, override)
        if refusing:
            lines = [f"{loaded.path} is of another run; nothing was touched. It differs in:"]
            for row in dict.fromkeys(difference.row for difference in refusing):
                of_row = [difference for difference in refusing if difference.row == row]
                lines += [str(difference) for difference in of_row[:_MAX_LINES]]
                lines += [f"{row}: {len(of_row) - _MAX_LINES} more"] if len(of_row) > _MAX_LINES else []
            raise manifest.OtherRun("\n  ".join(lines))
        for difference in warning:
            warnings.warn(f"resuming in spite of a difference: {difference}", stacklevel=4)
        self._overridden = {difference.row for difference in found if difference.row in override}

    def _check_names(self, loaded: Loaded) -> None:
        assert self._parts is not None
        known = self._parts.loop.snapshot()
        for name, value in _variables(loaded).items():
            if name in known and (tuple(known[name].shape) != value.shape or known[name].dtype != tf.as_dtype(value.dtype)):
                raise ValueError(
                    f"{loaded.path}: {name} is {value.dtype} {list(value.shape)}, here {known[name].dtype.name} "
                    f"{known[name].shape.as_list()}; nothing was touched"
                )

    def capture(self) -> Mapping[str, Any]:
        """Everything as it is now."""
        parts = self._parts
        assert parts is not None
        states = callback_state.get_states(parts.listener.callbacks)
        callback_state.check_states(states)
        arrays: dict[str, np.ndarray] = {}
        progress = dataclasses.asdict(parts.progress)
        state = {
            "manifests": [*self._manifests[: self.fits], self._manifest],
            "request": list(self._request),
            "fit": self.fits,
            "progress": {**progress, "logs": encode(progress["logs"], arrays, "logs")},
            "source": parts.source.state(),
            "stop_training": bool(parts.model.stop_training),
            "callbacks": encode(states, arrays, "callbacks"),
            "best": self._best,
            "metric": self._metric(parts.progress),
            **parts.record(),
        }
        tensors = {f"variables/{name}": value for name, value in parts.loop.snapshot().items()}
        return {"state": state, "tensors": {**tensors, **arrays}, "iterators": self._serialized()}

    def _save(self, captured: Mapping[str, Any], is_finished: bool, extends: bool = False) -> None:
        parts = self._parts
        assert parts is not None
        arrays: dict[str, np.ndarray] = {}
        histories = encode(self._histories, arrays, "histories")
        state = {**captured["state"], "histories": histories, "finished": is_finished, "extends": extends}
        tensors = {**captured["tensors"], **arrays}
        self._saved_at = parts.progress.updates, time.monotonic()
        self._must_save = False
        self._checkpoints.save(parts.progress.updates, tensors, state, captured["iterators"])

    def _serialized(self) -> Mapping[str, tf.Tensor]:
        assert self._parts is not None
        is_elsewhere = not self._parts.source.is_settled  # training was told to stop while more was read than used
        if is_elsewhere or not self._saves_iterators:
            return {}
        try:
            return self._parts.source.serialized()
        except ValueError as error:
            self._saves_iterators = False
            warnings.warn(f"x cannot be saved where it stands ({error}); a resume will read it again up to there", stacklevel=2)
            return {}

    def _metric(self, progress: Progress) -> float | None:
        """The metric of the epoch just ended, less being better."""
        if self._keep_best is None or progress.phase != "between" or not progress.logs:
            return None
        is_validated = any(name.startswith("val_") for name in progress.logs)
        if self._keep_best not in progress.logs and self._keep_best.startswith("val_") and not is_validated:
            return None  # not after every epoch
        if self._keep_best not in progress.logs:
            raise ValueError(f"keep_best={self._keep_best!r} is not among the logs: {', '.join(progress.logs)}")
        value = float(progress.logs[self._keep_best])
        if math.isnan(value):
            return None
        is_higher_better = any(word in self._keep_best for word in ("acc", "auc", "precision", "recall", "f1", "iou"))
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


def progress_of(loaded: Loaded) -> Progress:
    """How far the fit of a checkpoint had come."""
    progress = loaded.state["progress"]
    return Progress(**{**progress, "logs": decode(progress["logs"], loaded.arrays)})


def _variables(loaded: Loaded) -> dict[str, np.ndarray]:
    return {name.removeprefix("variables/"): v for name, v in loaded.arrays.items() if name.startswith("variables/")}
