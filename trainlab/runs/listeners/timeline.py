"""What happens in a run and when, written into its directory for reports, a line an event."""

from __future__ import annotations

import datetime
import errno
import json
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from trainlab.callbacks import json_value
from trainlab.data import device
from trainlab.objective import inner_of, keras_internals, num_parameters
from trainlab.reports import TIMELINE, is_timeline
from trainlab.runs.manifest import Manifest

if TYPE_CHECKING:
    from trainlab.runs.epochs import Fit
    from trainlab.runs.signals import Signals

_MOST_TEXT = 500  # characters of a setting
# Of a manifest, what users set.
_ROWS = ["optimizer", "learning_rate", "loss and metrics", "seed", "batches", "on_nonfinite", "sum_duplicate_rows"]
_ROWS += ["micro_batch_size", "dtypes", "determinism", "replicas"]


class Timeline:
    """Appends to a run's `timeline.jsonl`; see `trainlab.reports` for what is in it.

    A line is one write to the end of the file, and nothing waits for the disk. Whatever goes wrong with it is a warning, once:
    training does not end because of it.

    Args:
        directory: the run's.
        may_write: whether the run still has its directory.

    Attributes:
        is_anew: whether what the file holds is dropped by the next beginning.
    """

    def __init__(self, directory: Path, may_write: Callable[[], bool] = lambda: True):
        self.path = directory / TIMELINE
        self.is_anew = False
        self._may_write = may_write
        self._is_open = self._is_told = False
        self._since = 0.0
        self._fit: tuple[int, Fit] | None = None

    @contextmanager
    def session(self, signals: Signals) -> Iterator[None]:
        """Round a whole `fit`: what ends it is written, if it began and did not end itself."""
        try:
            yield
        except BaseException as error:
            number = signals.received if isinstance(error, (SystemExit, KeyboardInterrupt)) else None
            said = " ".join(str(error).split())[:_MOST_TEXT] if isinstance(error, Exception) else ""
            self.end(type(error).__name__ if number is None else f"signal {signal.Signals(number).name}", said)
            raise
        finally:
            self._fit = None

    def begin(self, fit: Fit, number: int, is_resumed: bool, manifest: Manifest) -> None:
        """Training begins, or goes on.

        Args:
            fit: under way.
            number: how many fits of the run are finished.
            is_resumed: whether it goes on from a checkpoint.
            manifest: what it is made of.
        """
        self._is_open, is_anew, self.is_anew = is_timeline(self.path), self.is_anew, False
        if not self._is_open:
            self._warn("was not written by a run, and is left alone: move it away")
        self._fit, self._since = (number, fit), time.monotonic()
        record = {"event": "begin", "time": _now(), "fit": number, "update": fit.progress.updates, "epoch": fit.progress.epoch}
        self._append({**record, "resumed": is_resumed, **_described(fit, manifest)}, is_anew)

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Round the hooks of an epoch's end: they may add to its logs, and change the learning rate for the next one."""
        rate = None if self._fit is None else _learning_rate(self._fit[1].model.optimizer)
        yield
        if self._fit is not None and self._fit[1].progress.phase == "hooks":  # and not at one that got no batch
            number, fit = self._fit
            logs = {str(name): _logged(value) for name, value in _logs(fit).items()}
            record = {"event": "epoch", "fit": number, "epoch": fit.progress.epoch, **self._where(fit)}
            self._append({**record, "learning_rate": rate, "logs": logs})

    def end(self, why: str, said: str = "") -> None:
        """Training ends, for this process; a second end of one beginning is none."""
        if (under_way := self._fit) is None:
            return
        self._fit = None
        number, fit = under_way
        message = {"message": said} if said else {}
        self._append({"event": "end", "time": _now(), "fit": number, **self._where(fit), "why": why, **message})

    def finish(self) -> None:
        """The same, at the end of what was asked for."""
        if self._fit is not None:
            self.end("stopped by a callback" if self._fit[1].model.stop_training else "finished")

    def _where(self, fit: Fit) -> dict[str, Any]:
        """How far this session has come; of the updates some may have been left out."""
        seconds, num_skipped = round(time.monotonic() - self._since, 4), fit.loop.guard.num_skipped
        return {"update": fit.progress.updates, "seconds": seconds} | ({"skipped": num_skipped} if num_skipped else {})

    def _append(self, record: Mapping[str, Any], is_anew: bool = False) -> None:
        if not self._is_open or not self._may_write():
            return
        line = json.dumps(record, allow_nan=False, default=str).encode() + b"\n"
        # Opened each time: whoever moves the file away loses nothing, and nothing is held over a fork. Never through a link.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | (os.O_TRUNC if is_anew else 0)
        try:
            descriptor = os.open(self.path, flags, 0o644)
            try:
                size = os.fstat(descriptor).st_size
                is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # a crash came in the middle of a line
                text = b"\n" * is_torn + line
                if os.write(descriptor, text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._warn(f"cannot be written ({error.strerror})")

    def _warn(self, what: str) -> None:
        if not self._is_told:
            self._is_told = True
            warnings.warn(
                f"{self.path}: {what}; training goes on, and reports of this run will lack what it would hold", stacklevel=4
            )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _logs(fit: Fit) -> dict[str, Any]:
    """Of the epoch that has just ended, with what callbacks have added, which only History keeps."""
    for callback in fit.listener.callbacks:
        if isinstance(callback, keras.callbacks.History) and callback.epoch[-1:] == [fit.progress.epoch]:
            num = len(callback.epoch)
            whole = {name: v for name, v in callback.history.items() if isinstance(v, list) and len(v) == num}
            return fit.progress.logs | {name: values[-1] for name, values in whole.items()}
    return fit.progress.logs


def _logged(value: Any) -> Any:
    try:
        return json.loads(json.dumps(json_value(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError):  # somebody's object among the logs
        return str(value)[:_MOST_TEXT]


def _learning_rate(optimizer: Any) -> Any:
    """The optimizer's now, its schedule applied; a list of several."""
    inner = keras_internals.inner_optimizers(optimizer)
    if inner is not None:
        return [_learning_rate(one) for one in {id(one): one for one in inner.values()}.values()]
    try:
        return json_value(np.asarray(keras.ops.convert_to_numpy(inner_of(optimizer).learning_rate), "float64").item())
    except Exception:  # of an optimizer of the user's own, which need not have one
        return None


def _described(fit: Fit, manifest: Manifest) -> dict[str, Any]:
    """What trains what, and on which machine."""
    model, source, update = fit.model, fit.source, fit.loop.update
    batch_size = getattr(source, "batch_size", None)
    replicas = manifest.get("replicas", 1)
    return {
        "host": socket.gethostname(),
        "device": device.name() if replicas == 1 else f"{replicas} replicas on {device.name()}",
        "versions": manifest["versions"] | {"numpy": np.__version__},
        "cores": manifest["threads"]["cores"],
        "strategy": repr(update.strategy),
        "evaluations": update.strategy.evaluations,
        "batches": update.strategy.batches,
        "examples": None if batch_size is None else batch_size * update.strategy.batches,
        "model": model.name,
        "parameters": num_parameters(model),
        "optimizer": type(inner_of(model.optimizer)).__name__,
        "jit_compile": bool(fit.loop.jit_compile),
        "directions": keras_internals.metric_directions(model),
        "settings": _settings(manifest, getattr(source, "num_examples", None)),
    }


def _settings(manifest: Manifest, num_examples: int | None) -> dict[str, Any]:
    """What users set, of what the run is made of, flat: `optimizer.beta_1`, `batches.batch_size`, `seed`."""
    flat = {place: value for row in _ROWS if row in manifest for place, value in _flat(manifest[row], row)}
    return {"examples": num_examples} | {place: value for place, value in flat.items() if value is not None}


def _flat(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}")
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{place}[{i}]")
    else:
        text = str(value)
        # Code is no setting: it is compared by what it does, and nobody can read that.
        if "bytecode" not in text and len(text) <= _MOST_TEXT:
            yield place, _logged(value)
