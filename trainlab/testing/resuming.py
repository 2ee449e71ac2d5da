"""Runs that are stopped after every update and gone on with."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainlab.trainer import Trainer


def assert_resumes(make_trainer: Callable[[Path], Trainer], *data: Any, steps: int = 6, **fit: Any) -> None:
    """Asserts that a run which is stopped after any update, and gone on with by a new Trainer, ends with the same bits.

    Args:
        make_trainer: given a directory, makes everything anew: model, optimizer, strategy, and `Trainer(..., run=directory)`. It
          must make the same each time: `keras.utils.set_random_seed` first.
        *data: `x`, or `x, y`, as `Trainer.fit` takes them. An iterator or a generator is used up by the first run, and
          the shuffle of a `tf.data.Dataset` moves on in it: give a function without arguments in place of it, called for each.
        steps: updates of the whole run, at least 2.
        **fit: further arguments of `Trainer.fit`. Callbacks that remember something are used up too: give a function that makes
          the list.

    Raises:
        AssertionError: one ends otherwise; the line says after which update it was stopped and what differs first.
        ValueError: `steps` is less than 2, or the run is none on disk.

    Example:
        >>> import keras, numpy, trainlab as tl
        >>> def make_trainer(directory):
        ...     keras.utils.set_random_seed(0)
        ...     model = keras.Sequential([keras.Input([3]), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
        ...     return tl.Trainer(model, tl.Heun(), optimizer="adam", loss="mse", run=directory)
        >>> assert_resumes(make_trainer, numpy.ones([20, 3]), numpy.ones([20, 1]), steps=3, batch_size=5)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps = {steps!r}: must be a whole number of at least 2: something must be left to go on with")

    def run(directory: Path, stop: int | None = None) -> Trainer:
        trainer = make_trainer(directory)
        given = [value() if _is_maker(value) else value for value in data]
        callbacks = fit.get("callbacks", ())
        callbacks = [*(callbacks() if callable(callbacks) else callbacks), _Stop(stop)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(_Stopped):  # a run says where it is
            trainer.fit(*given, **{"verbose": 0, **fit, "steps": steps, "callbacks": callbacks})
        if trainer.last_checkpoint is None:
            raise ValueError("make_trainer must give the Trainer its run: Trainer(..., run=directory)")
        return trainer

    with tempfile.TemporaryDirectory() as folder:
        whole = _state(run(Path(folder) / "whole"))
        for stop in range(1, steps):
            directory = Path(folder) / f"stopped-{stop}"
            run(directory, stop)
            trainer = run(directory)
            where = f"stopped after update {stop} of {steps}"
            if trainer.resumed_at != stop:
                raise AssertionError(f"{where}: went on from {trainer.resumed_at}")
            for name, value in _state(trainer).items():
                if not np.array_equal(value, whole[name], equal_nan=True):
                    raise AssertionError(f"{where} and gone on with: {name} differs from the unbroken run")


class _Stopped(Exception):
    """Ends a run."""


class _Stop(keras.callbacks.Callback):
    """Raises after an update."""

    def __init__(self, when: int | None):
        super().__init__()
        self._when = when

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        del batch, logs
        if int(self.model.optimizer.iterations) == self._when:
            raise _Stopped

    def get_state(self) -> None:
        """Nothing."""

    def set_state(self, state: None) -> None:
        """Nothing."""


def _is_maker(value: Any) -> bool:
    is_data = hasattr(value, "__array__") or hasattr(value, "element_spec") or isinstance(value, keras.utils.PyDataset)
    return callable(value) and not is_data


def _state(trainer: Trainer) -> dict[str, np.ndarray]:
    """All that a training has come to: variables in order, and the last epoch's logs."""
    model = trainer.model
    # By their numbers: in the paths of an optimizer's Keras counts the layers of a process.
    state = {f"weight {number} ({variable.name})": np.asarray(variable) for number, variable in enumerate(model.variables)}
    state |= {f"optimizer's variable {number}": np.asarray(variable) for number, variable in enumerate(model.optimizer.variables)}
    last = {name: values[-1] if isinstance(values, list) else values for name, values in model.history.history.items()}
    return state | {f"history[{name!r}]": np.asarray(value) for name, value in last.items()}
