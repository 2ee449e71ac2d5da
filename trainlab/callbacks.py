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
    hold (NaN, infinity) become null. The file is closed after each record: what is written survives a crash.

    Args:
        path: The file; records are added to what it holds.

    Example:
        >>> import tempfile
        >>> callback = JsonLines(tempfile.mkdtemp() + "/metrics.jsonl")
        >>> callback.write({"epoch": 3, "step": 150, "test_loss": float("nan")})
        >>> print(callback.path.read_text().strip())
        {"epoch": 3, "step": 150, "test_loss": null}
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__()
        self.path = Path(path)

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
        line = json.dumps({name: _json(value) for name, value in record.items()}, allow_nan=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _json(value: Any) -> Any:
    if isinstance(value, (str, type(None))):
        return value
    value = np.asarray(value).tolist() if not isinstance(value, list) else value
    if isinstance(value, list):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
