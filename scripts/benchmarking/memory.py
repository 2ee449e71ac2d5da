"""Peak memory and time to the first step, each measurement in a process of its own.

Run as `python -m benchmarking.memory NAME`; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BATCH_SIZE = 128
BATCH_SIZE_XLA = 8192

# Memory that was freed is kept for later, tens of megabytes of it, by glibc and, where TensorFlow turns oneDNN on (by the kind of
# CPU), by a pool besides, which the second run of a step fills without asking for more. So told, all is returned at once,
# and the resident set is what is alive.
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "262144", "TF_ENABLE_ONEDNN_OPTS": "0"}

# What is measured: how many batches one evaluation takes, and whether under XLA.
KINDS = {"batch": (1, False), "whole": (4, False), "xla": (1, True), "xla_whole": (4, True)}


def measure(what: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs one measurement in a new process, with these environment variables besides."""
    return run_apart("benchmarking.memory", [what], environment)


def run_apart(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs a module in a new process, with these environment variables besides; returns the JSON object that it prints last."""
    command = [sys.executable, "-m", module, *arguments]
    folder = Path(__file__).parent.parent
    environment = {**os.environ, **(environment or {})}
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    return json.loads(result.stdout.splitlines()[-1])


def _convolutional() -> Any:
    """Convolutions on larger images: activations are what matters, as on the small GPU that accumulation is for."""
    import keras

    layers = [keras.layers.Conv2D(32, 3, activation="relu", padding="same") for _ in range(4)]
    return keras.Sequential([keras.Input([32, 32, 3]), *layers, keras.layers.Flatten(), keras.layers.Dense(10)])


def _perceptron() -> Any:
    """The same in what XLA is quick to compile on a CPU."""
    import keras

    layers = [keras.layers.Dense(512, "relu") for _ in range(4)]
    return keras.Sequential([keras.Input([64]), *layers, keras.layers.Dense(10)])


def _peak_memory(strategy_name: str, batches: int, with_xla: bool) -> dict[str, Any]:
    """Peak memory above that of the built model and its data, in MB, who counted it, and one gradient's."""
    import keras
    import numpy as np

    import trainlab as tl

    keras.utils.set_random_seed(0)
    model = _perceptron() if with_xla else _convolutional()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss, jit_compile=with_xla)
    strategies = {
        "sgd": tl.SGD(),
        "heun": tl.Heun(),
        "accumulate": tl.Accumulate(4),
        "accumulate_heun": tl.Accumulate(4, tl.Heun()),
    }
    batch_size = batches * (BATCH_SIZE_XLA if with_xla else BATCH_SIZE)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * batch_size, *model.input_shape[1:])).astype("float32")
    y = rng.integers(10, size=len(x))
    trainer = tl.Trainer(model, strategies[strategy_name], jit_compile=with_xla)
    trainer.fit(x, y, batch_size=batch_size, steps=1, verbose=0)  # builds and traces: what that takes is not the step's
    gradient = sum(float(np.prod(v.shape)) * 4 for v in model.trainable_variables) / 1e6
    device = counting_device()
    before = _restart_peak(device)
    trainer.fit(x, y, batch_size=batch_size, steps=4, verbose=0)
    return {"peak_mb": _peak(device) - before, "counted_by": device or "Linux", "gradient_mb": gradient}


def counting_device() -> str | None:
    """The device whose allocator counts what it gave out: a GPU; the CPU, where TensorFlow has oneDNN's pool; or none."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return "GPU:0"
    try:
        tf.config.experimental.get_memory_info("CPU:0")
    except ValueError:
        return None
    return "CPU:0"


def _restart_peak(device: str | None) -> float:
    """What is taken now, in MB; the peak is from now on."""
    import tensorflow as tf

    if device is None:
        return restart_resident_peak()
    tf.config.experimental.reset_memory_stats(device)
    return tf.config.experimental.get_memory_info(device)["current"] / 1e6


def _peak(device: str | None) -> float:
    import tensorflow as tf

    if device is None:
        return resident("VmHWM")
    return tf.config.experimental.get_memory_info(device)["peak"] / 1e6


def restart_resident_peak() -> float:
    """What is resident now, in MB, as Linux counts; its peak, "VmHWM", is from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> float:
    """A line of what Linux says of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith(name))) / 1e3


def _first_step(who: str) -> dict[str, Any]:
    """Seconds from calling `fit` to its return after one update of the small MLP."""
    import trainlab as tl
    from benchmarking.workloads import WORKLOADS

    workload = WORKLOADS["mlp_32"]
    x, y = workload.arrays()
    model = workload.compiled()
    if who == "ours":
        trainer = tl.Trainer(model)
        started = time.perf_counter()
        trainer.fit(x, y, batch_size=workload.batch_size, steps=1, verbose=0)
    else:
        started = time.perf_counter()
        model.fit(x, y, batch_size=workload.batch_size, steps_per_epoch=1, verbose=0)
    return {"seconds": time.perf_counter() - started}


if __name__ == "__main__":
    kind, _, name = sys.argv[1].partition(":")
    if kind == "first_step":
        found = _first_step(name)
    else:
        found = _peak_memory(name, *KINDS[kind])
    print(json.dumps(found))
