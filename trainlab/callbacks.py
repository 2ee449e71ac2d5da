"""Our callbacks, in Keras' own protocol."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np


class JsonLines(keras.callbacks.Callback):
    """Appends one JSON object an epoch to a file: `{"epoch": 1, "step": 45, "loss": 1.2, "val_loss": 0.7, ...}`.

    `epoch` counts from 1, as the progress line does; `step` is the number of updates so far. Numbers that JSON cannot
    hold (NaN, infinity) become null. The file is closed after each record: what is written survives a crash. A run that goes
    on from a checkpoint drops the records written after it, when it writes its first.

    Args:
        path: The file; records are added to what it holds.
        restart: Whether what it holds is dropped by the first record, unless the run goes on from a checkpoint.

    Example:
        >>> import tempfile
        >>> callback = JsonLines(tempfile.mkdtemp() + "/metrics.jsonl")
        >>> callback.write({"epoch": 3, "step": 150, "test_loss": float("nan")})
        >>> print(callback.path.read_text().strip())
        {"epoch": 3, "step": 150, "test_loss": null}
    """

    def __init__(self, path: str | os.PathLike, restart: bool = False):
        super().__init__()
        self.path = Path(path)
        self._size: int | None = 0 if restart else None  # what is kept of the file by the next record; None is all

    def get_state(self) -> dict[str, int]:
        """How much of the file is written."""
        size = self.path.stat().st_size if self.path.exists() else 0
        return {"size": size if self._size is None else min(size, self._size)}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Goes on from there."""
        self._size = state["size"]

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the epoch's record."""
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self.write({"epoch": epoch + 1, "step": step, **(logs or {})})

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one record.

        Args:
            record: Numbers, arrays or tensors of numbers, or text, by name.

        Raises:
            OSError: The file cannot be written.
        """
        line = json.dumps({name: json_value(value) for name, value in record.items()}, allow_nan=False)
        with open(self.path, "a", encoding="utf-8") as file:
            if self._size is not None:
                file.truncate(min(self._size, os.fstat(file.fileno()).st_size))
                self._size = None
            file.write(line + "\n")


def json_value(value: Any) -> Any:
    """A number, array, tensor, text, or a dictionary of them, as JSON can hold it; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {name: json_value(item) for name, item in value.items()}
    if isinstance(value, (str, type(None))):
        return value
    value = np.asarray(value).tolist() if not isinstance(value, list) else value
    if isinstance(value, list):
        return [json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
