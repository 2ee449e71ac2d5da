"""Which checkpoint is the best, by a name in the logs."""

from __future__ import annotations

import difflib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainlab.data import Source
from trainlab.loop import Loop
from trainlab.objective import keras_internals
from trainlab.runs.disk.checkpoint import Checkpoints, is_of_scale, peek, write_atomically

_MODES = ("max", "min")


def check_keep_best(value: Any) -> None:
    """Makes sure that this is None, a name in the logs, or `("max", name)` or `("min", name)`.

    Raises:
        TypeError: it is something else.
    """
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and value[0] in _MODES and isinstance(value[1], str)
    if value is not None and not isinstance(value, str) and not is_pair:
        what = 'a name in the logs, such as "val_loss", or ("max", name) or ("min", name)'
        raise TypeError(f"keep_best must be {what}, not {value!r}")


class Best:
    """The best value so far of a name in the logs.

    Args:
        keep_best: a name, or `("max", name)` or `("min", name)`; None measures nothing.

    Attributes:
        name: in the logs.
        mode: "max" or "min"; None until `prepare` has found it out.
        metric: the best so far, less being better; None at first.
        last: that of the epoch that has just ended; None if it has none, and in the middle of one.
    """

    def __init__(self, keep_best: Any):
        is_name = isinstance(keep_best, (str, type(None)))
        self.mode: str | None = None if is_name else keep_best[0]
        self.name: str | None = keep_best if is_name else keep_best[1]
        self.metric: float | None = None
        self.last: float | None = None

    def prepare(self, loop: Loop, source: Source, is_validated: bool, callbacks: Sequence[keras.callbacks.Callback] = ()) -> None:
        """Finds out, before the first update, whether more or less is better.

        Warns where other weights will be measured than those that are saved.

        Args:
            loop: of a built model.
            source: what it will be trained on.
            is_validated: whether there is something to validate on.
            callbacks: of the fit.

        Raises:
            ValueError: there will be no such name in the logs, it is no number, or nothing says which is better.
        """
        if self.name is None:
            return
        model, update = loop.update.function.model, loop.update
        if self.name.removeprefix("val_") not in keras_internals.metric_directions(model):
            loop.prepare(source)  # what steps log shows when they are traced
        of_metrics = keras_internals.metric_directions(model)
        directions = {**dict.fromkeys([*update.logs, *update.function.reports]), **of_metrics}
        known = [*directions, *(f"val_{name}" for name in of_metrics if is_validated)]  # steps are not made in an evaluation
        # What a model makes of its metrics in code of its own shows only in the logs.
        is_open = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in ("test_step", "compute_metrics"))
        if self.name not in known and not is_open:
            close = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "without validation data there is no val_..." * (not is_validated)
            raise ValueError(f"keep_best={self.name!r} is not among the logs: {', '.join(known)}{f'; {hint}' if hint else ''}")
        if not is_open and (name := self.name.removeprefix("val_")) in of_metrics:
            if (shape := _shape(model, name)) is None:
                loop.prepare(source)
                shape = _shape(model, name)
            if shape is not None and math.prod(shape) != 1:
                raise ValueError(_no_number(self.name, shape))
        direction = directions.get(self.name.removeprefix("val_"))
        if self.mode is None:
            if direction is None:
                raise ValueError(
                    f"keep_best={self.name!r}: nothing says whether more or less of it is better: write "
                    f'keep_best=("max", {self.name!r}) or ("min", {self.name!r})'
                )
            self.mode = "max" if direction == "up" else "min"
        if self.name.startswith("val_") and any(
            isinstance(callback, keras.callbacks.SwapEMAWeights) and not callback.swap_on_epoch for callback in callbacks
        ):
            warnings.warn(
                f"keep_best={self.name!r} is measured on the averages that SwapEMAWeights() swaps in for an evaluation, and "
                "checkpoints hold the weights behind them, which load_best() gives: write SwapEMAWeights(swap_on_epoch=True)",
                stacklevel=4,
            )

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's state, if that was measured on the same scale: by the same name, and the same way up."""
        is_same = is_of_scale(state, self.name, self.mode)
        self.metric, self.last = (state["best"], state["metric"]) if is_same else (None, None)

    def is_better(self, logs: Mapping[str, Any], counts: bool = True) -> bool:
        """Whether an epoch was the best so far, which it is then.

        Args:
            logs: of an epoch that has just ended; nothing in the middle of one.
            counts: whether it may be the best; otherwise it is measured, and no more.

        Raises:
            ValueError: the name is not among the logs, or its value is no number.
        """
        self.last = None  # if it raises, there is none
        self.last = metric = self._measured(logs)
        if not counts or metric is None or (self.metric is not None and metric >= self.metric):
            return False
        self.metric = metric
        return True

    def _measured(self, logs: Mapping[str, Any]) -> float | None:
        """The metric of an epoch, less being better; None if it has none."""
        if self.name is None or not logs:
            return None
        is_validated = any(name.startswith("val_") for name in logs)
        if self.name not in logs and self.name.startswith("val_") and not is_validated:
            return None  # not after every epoch
        if self.name not in logs:
            raise ValueError(f"keep_best={self.name!r} is not among the logs: {', '.join(logs)}")
        if np.size(logs[self.name]) != 1:
            raise ValueError(_no_number(self.name, np.shape(logs[self.name])))
        value = np.asarray(logs[self.name]).item()
        if math.isnan(value):
            return None
        return -value if self.mode == "max" else value


def _no_number(name: str, shape: Any) -> str:
    return (
        f"keep_best={name!r}: its result is no number but an array {list(shape)}, of which none is the best: name another, or "
        'let the metric average (for F1Score average="macro")'
    )


def _shape(model: keras.Model, name: str) -> Any:
    """Of a metric's result; None where it has none yet."""
    with suppress(Exception):  # of a metric of the user's own before the first update, or one that only this builds
        return np.shape(keras.tree.map_structure(np.asarray, model.get_metrics_result())[name])
    return None


def said_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's state says of how good it is: its epoch, and the value by its name, which until 0.2 it did not say."""
    value = -state["metric"] if state.get("mode") == "max" else state["metric"]
    return {"epoch": state["progress"]["epoch"], state.get("metric_name", "metric"): value}


def _is_ours(file: Path) -> bool:
    """Whether nobody else has put it there."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and {"checkpoint", "epoch"} <= said.keys()


def forget_best(checkpoints: Checkpoints) -> None:
    """Removes what `note_best` has left, with the checkpoints that it speaks of."""
    if _is_ours(file := checkpoints.directory.with_name("best.json")):
        file.unlink(missing_ok=True)


def note_best(checkpoints: Checkpoints) -> None:
    """Says beside the checkpoints, in the run's directory, which is the best, and how good.

    What goes wrong here is warned of: the checkpoint has been written.
    """
    if (path := checkpoints.best) is None:
        return
    file = checkpoints.directory.with_name("best.json")
    try:
        text = json.dumps({"checkpoint": path.name, **said_of(peek(path))}) + "\n"
        if not _is_ours(file):
            warnings.warn(f"{file} is no run's, and is left as it is: no file says which checkpoint is the best", stacklevel=2)
            return
        write_atomically(file, lambda aside: aside.write_text(text, encoding="utf-8"))
    except (OSError, KeyError, TypeError) as error:  # a state that somebody has edited; a disk that is full
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        warnings.warn(f"{file} could not be written ({why}): {path} is the best checkpoint", stacklevel=2)
