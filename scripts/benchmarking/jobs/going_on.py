"""A run under XLA that is begun, or goes on: `python -m benchmarking.jobs.going_on MODEL FOLDER EPOCHS STARTED`.

Prints a JSON object: seconds from STARTED, of the system's clock, to the end of the first update, and the update that it went on
from.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import keras

import trainlab as tl
from benchmarking.jobs import things

UPDATES, BATCH_SIZE = 3, 32  # an epoch


class _First(keras.callbacks.Callback):
    """Remembers when the first update ended."""

    at: float | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.at = time.time() if self.at is None else self.at


def main() -> None:
    """Trains to the end of the epochs that are asked for."""
    name, folder, epochs, started = sys.argv[1:]
    keras.utils.set_random_seed(0)
    trainer = tl.Trainer(getattr(things, name)(), run=folder, jit_compile=True)
    x, y = things.arrays(BATCH_SIZE * UPDATES, things.SHAPES[name])
    first = _First()
    trainer.fit(x, y, batch_size=BATCH_SIZE, epochs=int(epochs), verbose=0, callbacks=[first])
    if first.at is None:
        raise RuntimeError("there was no update")
    print(json.dumps({"seconds": first.at - float(started), "resumed_at": trainer.resumed_at}))


if __name__ == "__main__":
    main()
