"""`--dry-run`: two updates, an evaluation and a checkpoint in a directory that goes away, and what the run will be."""

import math
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config
from trainlab.cli.running.failing import Failure, attempted, show_warning
from trainlab.cli.running.run_directory import RunDirectory
from trainlab.cli.running.setup import Setup, check_config, check_saving, seed, set_up
from trainlab.cli.running.summary import summary
from trainlab.cli.running.workers import tell_alone
from trainlab.cli.verbs.job import fit_arguments
from trainlab.data import device

_UPDATES = 2


class DryRun:
    """A run that is tried; takes what a `Job` takes, and leaves nothing."""

    def __init__(
        self, files: Sequence[str], bindings: Sequence[str], directory: str | Path, how: Mapping[str, Any], use: str, debug: bool
    ):
        self._files, self._bindings, self._how, self._debug = files, bindings, how, debug
        self._directory = RunDirectory(directory)
        self._config: Config | None = None
        del use

    def run(self) -> Failure | None:
        """Does it; of a failure the line that explains it, and the exit status."""
        return attempted(self._work, lambda: self._config, lambda: "nothing is saved", self._debug)

    def _work(self) -> None:
        device.grow_memory()
        self._config = config = reading.load(self._files, self._bindings)
        try:
            self._directory.check(self._how["resume"], self._how["overwrite"])
        finally:
            self._directory.release()
        tell_alone(config, "tried")
        seed(config)
        with tempfile.TemporaryDirectory() as folder:
            setup = set_up(config, Path(folder) / "run")
            check_config(setup)
            check_saving(setup.trainer.model)
            print(summary(setup), flush=True)
            timing = _Timing(setup)
            logs = tried(setup, _UPDATES, [timing])
            checkpoint = setup.trainer.last_checkpoint
            size = sum(path.stat().st_size for path in checkpoint.rglob("*")) if checkpoint else 0
            for line in _lines(setup, timing, size):
                print(line)
        _check_monitors(setup, logs)
        where = self._directory.given
        print(f"dry run   {_UPDATES} updates, an evaluation and a checkpoint; nothing is left, and {where} is as it was")


def tried(setup: Setup, num_updates: int, callbacks: Sequence[keras.callbacks.Callback] = ()) -> dict[str, Any]:
    """Makes so many updates, and validates; returns what was in the logs.

    Callbacks of the config are made, but not called: what they write is not ours to take away.
    """
    given = fit_arguments(setup) | {"steps": num_updates}
    given.pop("epochs", None)
    history = setup.trainer.fit(**given, callbacks=list(callbacks), verbose=0)
    return {name: values[-1] for name, values in history.history.items()}


class _Timing(keras.callbacks.Callback):
    """Takes the time of each update, which this makes a call of its own, and checks the test data before the first."""

    def __init__(self, setup: Setup):
        super().__init__()
        self._setup = setup
        self.seconds: list[float] = []
        self.validation = 0.0
        self._start = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        self._setup.check_test_data()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.monotonic() - self._start)

    def on_test_begin(self, logs: Any = None) -> None:
        self._start = time.monotonic()

    def on_test_end(self, logs: Any = None) -> None:
        self.validation = time.monotonic() - self._start

    def get_state(self) -> None:
        """Nothing."""

    def set_state(self, state: None) -> None:
        """Nothing."""


def _lines(setup: Setup, timing: _Timing, checkpoint: int) -> list[str]:
    model, data, settings = setup.trainer.model, setup.settings.data, setup.settings
    trained = sum(map(_bytes, model.trainable_variables))
    others = sum(map(_bytes, model.non_trainable_variables)) + sum(map(_bytes, model.optimizer.variables))
    arrays = keras.tree.flatten(tuple(data.train)) if data.is_arrays else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    # While it trains: all variables twice, to go back to, and a gradient for each evaluation that is alive at once.
    needed = 2 * (trained + others) + settings.strategy.evaluations * trained + sum(getattr(a, "nbytes", 0) for a in arrays)
    lines = [
        f"memory    weights {_size(trained)}, statistics and optimizer {_size(others)}; with gradients and data {_size(needed)}",
        f"          and the activations of a batch (estimate); the process had {_size(peak)} at most",
        f"disk      {_size(checkpoint)} a checkpoint, {settings.keep} are kept",
    ]
    seconds = timing.seconds[-1] if len(timing.seconds) == _UPDATES else math.nan
    updates = _updates_per_epoch(setup)
    if updates is None:
        return [*lines, f"time      {_time(seconds)} an update at most (estimate)"]
    total = ""
    if settings.steps is None and settings.epochs > 1:
        total = f", {settings.epochs:,} of them {_time(updates * seconds * settings.epochs)}"
    said = f"time      an epoch of {updates:,} update{'s' * (updates != 1)} takes {_time(updates * seconds)} at most{total}"
    return [*lines, f"{said} (estimate, without validation)"]


def _updates_per_epoch(setup: Setup) -> int | None:
    data, settings = setup.settings.data, setup.settings
    if data.is_arrays:
        return -(-data.num_examples // (settings.batch_size * settings.strategy.batches))
    number = int(getattr(data.train, "cardinality", lambda: -1)())
    return -(-number // settings.strategy.batches) if number >= 0 else None


def _check_monitors(setup: Setup, logs: Mapping[str, Any]) -> None:
    """Warns of callbacks that watch what nobody reports: in the run they would do nothing."""
    for callback in setup.settings.callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str) and monitor not in logs:
            show_warning(f"{type(callback).__name__}.monitor = {monitor!r}: is not among the logs, which are {', '.join(logs)}")


def _bytes(variable: Any) -> int:
    return int(np.prod(variable.shape, dtype=np.int64)) * np.dtype(_plain(variable.dtype)).itemsize


def _plain(dtype: str) -> str:
    return "float16" if dtype == "bfloat16" else dtype if dtype not in ("string",) else "int64"


def _size(number: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 100 else f"{number:.2g} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    for unit, length in (("s", 60), ("min", 60), ("h", 24)):
        if seconds < length or unit == "h":
            return f"{seconds:.2g} {unit}" if seconds < 10 else f"{seconds:.0f} {unit}"
        seconds /= length
    raise AssertionError("unreachable")
