"""What a checkpoint holds, taken out of a fit under way."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainlab.data import StopRequested
from trainlab.runs import callback_state
from trainlab.runs.disk.encoding import AsText, encode, refuse
from trainlab.runs.epochs import Fit
from trainlab.runs.listeners.remembered import Remembered, is_history
from trainlab.runs.resuming import serialized_data


class Capture:
    """Takes everything out of a fit as it is, or as it was when it was told to remember.

    Args:
        fit: under way.
        as_text: what says of a log that it is no number; told of each only once.
    """

    def __init__(self, fit: Fit, as_text: AsText):
        self._fit, self._as_text = fit, as_text
        self._remembered: tuple[Remembered, Mapping[str, tf.Tensor], bool] | None = None
        self._saves_iterators = True
        self._unsaved = set[str]()

    @property
    def is_remembering(self) -> bool:
        """Whether hooks are being called, from before which everything is kept."""
        return self._remembered is not None

    def states(self) -> dict[str, Any]:
        """What callbacks remember now."""
        return callback_state.get_states(self._fit.listener.callbacks, has_files=True)

    def remember(self) -> None:
        """What hooks may change is taken as it is now, until `forget`."""
        loop = self._fit.loop
        values = {**loop.read_only(), **loop.snapshot()}
        self._remembered = Remembered(self.states()), values, bool(self._fit.model.stop_training)

    def forget(self) -> None:
        """It is taken as it is."""
        self._remembered = None

    def __call__(self, of_run: Mapping[str, Any], values: Mapping[str, tf.Tensor] | None = None) -> Mapping[str, Any]:
        """What `Checkpoints.save` takes: "state", "tensors" and "iterators".

        Args:
            of_run: what else the state is to hold.
            values: of variables, if not those of now.
        """
        fit = self._fit
        arrays: dict[str, np.ndarray] = {}
        states, stop_training = self.states(), bool(fit.model.stop_training)
        if self._remembered is not None:  # some hooks were called and others not: a resume calls all again
            remembered, values, stop_training = self._remembered
            states = remembered.states(states)
        encoded = [
            [n, callback_state.encoded(n, s, arrays, self._as_text if is_history(s) else refuse, self._unsaved)]
            for n, s in states.items()
        ]
        progress = {name: value for name, value in dataclasses.asdict(fit.progress).items() if name != "pair" or value}
        state = {
            **of_run,
            "progress": {**progress, "logs": encode(progress["logs"], arrays, "logs", self._as_text)},
            "source": fit.source.state(),
            "validation": None if fit.validator is None else fit.validator.place,
            "stop_training": stop_training,
            "callbacks": {"kind": "dict", "items": encoded},
            **fit.findings.record(),
        }
        values = {**fit.loop.read_only(), **(values or fit.loop.snapshot())}
        tensors = {f"variables/{name}": value for name, value in values.items()}
        return {"state": state, "tensors": {**tensors, **arrays}, "iterators": self._serialized()}

    def _serialized(self) -> Mapping[str, tf.Tensor]:
        fit = self._fit
        try:  # told to stop, it may have read more than was used
            return serialized_data(fit.source, fit.validator, fit.source.is_settled and self._saves_iterators)
        except StopRequested:  # it is being read: a resume reads it again up to there
            pass
        except ValueError as error:
            self._saves_iterators = False
            warnings.warn(f"x cannot be saved where it stands ({error}); a resume will read it again up to there", stacklevel=2)
        return serialized_data(fit.source, fit.validator, is_whole=False)
