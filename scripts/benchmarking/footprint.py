"""What variables and data take of the memory while they are trained, each in a process of its own.

`python -m benchmarking.footprint`, from the folder `scripts`, prints a table; with a name, one JSON object. Linux only.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarking import memory

# What is measured, in words.
KINDS = {
    "sgd": "variables, SGD: the weights",
    "sgd_saved": "the same, with checkpoints",
    "adam": "variables, Adam: the weights and two moments of each",
    "adam_saved": "the same, with checkpoints",
    "arrays": "arrays of float32, kept on the device",
    "memmap": "numpy.memmap of float32, kept on the device",
    "memmap_streamed": "numpy.memmap of float32, brought batch by batch",
}
_FEATURES = 256  # of an example


def measure(kind: str, megabytes: int) -> dict[str, float]:
    """Trains in a new process with so much of this kind; of the peak, how many times as much it takes, that itself not counted.

    Returns:
        `times`, `file_times` (pages of files among them, which the system takes back when it needs them), `megabytes`.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = memory.run_apart("benchmarking.footprint", [kind, str(megabytes), folder], memory.RETURNING)
    return found


def table(say: Any, variables: int = 300, data: int = 1000) -> dict[str, dict[str, float]]:
    """Says all of them, of so many megabytes of variables, and of data; returns them."""
    say("\n## What is taken of the memory while training\n")
    say("At the peak, besides what is there before, as a multiple of that; pages of the file in brackets.\n")
    say("| | MB | times as much |\n|---|---:|---:|")
    found = {}
    for kind, words in KINDS.items():
        found[kind] = one = measure(kind, data if kind.startswith(("arrays", "memmap")) else variables)
        pages = f" ({one['file_times']:.2f})" if one["file_times"] > 0.05 else ""
        say(f"| {words} | {one['megabytes']:.0f} | {one['times']:.2f}{pages} |")
    return found


def _trained(kind: str, megabytes: int, folder: Path) -> dict[str, float]:
    import keras

    import trainlab as tl
    from trainlab.data import array_source

    if kind.startswith(("sgd", "adam")):
        x, model = _wide(kind.partition("_")[0], megabytes)
        y, settings = x, {"batch_size": 8, "epochs": 5}
        size = sum(math.prod(v.shape) * 4 for v in (*model.variables, *model.optimizer.variables)) / 1e6
    else:
        x = _data(kind.startswith("memmap"), megabytes, folder)
        y, settings, size = np.zeros([len(x), 1], "float32"), {"batch_size": _FEATURES, "steps": 50}, x.nbytes / 1e6
        model = keras.Sequential([keras.Input([_FEATURES]), keras.layers.Dense(1)])
        model.compile(optimizer=keras.optimizers.SGD(1e-6), loss="mse")
        array_source.RESIDENT_SHARE = 0.0 if kind.endswith("streamed") else 1.0
    run = tl.Run(folder / "run", save_steps=3, keep=1) if kind.endswith("saved") else None
    trainer = tl.Trainer(model, run=run, jit_compile=False)
    before, files = memory.restart_resident_peak(), memory.resident("RssFile")
    trainer.fit(x, y, verbose=0, **settings)
    taken, pages = memory.resident("VmHWM") - before, memory.resident("RssFile") - files
    return {"times": taken / size, "file_times": pages / size, "megabytes": size}


def _wide(optimizer: str, megabytes: int) -> tuple[np.ndarray, Any]:
    """A few examples, and a model of one layer whose variables, with those of its optimizer, are so large."""
    import keras

    copies = {"sgd": 1, "adam": 3}[optimizer]
    width = math.isqrt(megabytes * 250_000 // copies)
    model = keras.Sequential([keras.Input([width]), keras.layers.Dense(width, use_bias=False)])
    model.compile(optimizer={"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[optimizer](1e-6), loss="mse")
    model.optimizer.build(model.trainable_variables)
    return np.ones([64, width], "float32"), model


def _data(is_memmap: bool, megabytes: int, folder: Path) -> np.ndarray:
    shape = megabytes * 250_000 // _FEATURES, _FEATURES
    if not is_memmap:
        return np.ones(shape, "float32")
    array = np.lib.format.open_memmap(folder / "x.npy", "w+", "float32", shape)
    for start in range(0, len(array), 2**14):
        array[start : start + 2**14] = 1
    array.flush()
    del array  # and with it the pages
    return np.load(folder / "x.npy", mmap_mode="r")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_trained(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))))
    else:
        table(print)
