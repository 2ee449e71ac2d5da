"""Two replicas of one CPU device each, on two threads, against one device on one thread: each side in a process of its own.

`python -m benchmarking.replicas WORKLOAD NUM_REPLICAS`, from the folder `scripts`, prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarking import memory
from benchmarking.timing import ratio

WANTED = 1.6
# Of each, examples a batch, and updates of one timing.
WORKLOADS = {"mlp 784-512-512-10": (256, 250), "cnn 32-64, images of 28 x 28": (64, 100)}
_ROUNDS = 3  # of a process, of which the fastest counts: others use the machine too


def table(say: Any, pairs: int, scale: float = 1.0) -> dict[str, Any]:
    """Says how many times as fast two replicas are, in pairs; returns it."""
    say("\n## Several devices: two replicas on two threads, one on one\n")
    say(f"{pairs} pairs; us an update.\n")
    say("| | one | two | times as fast | least | most | wanted |\n|---|---:|---:|---:|---:|---:|---|")
    found = {}
    for name, (batch_size, _) in WORKLOADS.items():
        seconds: dict[str, list[float]] = {"one": [], "two": []}
        for _ in range(pairs):
            for replicas, side in enumerate(seconds, 1):
                measured = memory.run_apart("benchmarking.replicas", [name, str(replicas), str(scale)])
                seconds[side].append(measured["seconds"])
        middle, least, most = ratio(seconds, "one", "two")
        one, two = (sorted(values)[len(values) // 2] * 1e6 for values in seconds.values())
        label = f"{name}, batch {batch_size}"
        say(f"| {label} | {one:,.0f} | {two:,.0f} | {middle:.2f} | {least:.2f} | {most:.2f} | >= {WANTED} |")
        found[label] = {"seconds": seconds, "times": [middle, least, most]}
    return found


def _seconds(name: str, replicas: int, scale: float) -> float:
    """Seconds an update, of the fastest of a few fits."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(replicas)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    import keras
    import numpy as np

    import trainlab as tl

    batch_size, updates = WORKLOADS[name]
    updates = max(int(updates * scale), 5)
    model = _model(name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8 * batch_size, *model.input_shape[1:])).astype("float32")
    y = rng.integers(10, size=len(x))
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    trainer = tl.Trainer(model, distribute=strategy, jit_compile=False)

    def run() -> float:
        started = time.perf_counter()
        trainer.fit(x, y, batch_size=batch_size, steps=updates, verbose=0)
        return (time.perf_counter() - started) / updates

    run()
    return min(run() for _ in range(_ROUNDS))


def _model(name: str) -> Any:
    from keras import Input, Sequential, layers

    if name.startswith("mlp"):
        hidden = [layers.Dense(512, "relu") for _ in range(2)]
        return Sequential([Input([784]), *hidden, layers.Dense(10)])
    body = [f() for units in (32, 64) for f in (lambda n=units: layers.Conv2D(n, 3, activation="relu"), layers.MaxPooling2D)]
    return Sequential([Input([28, 28, 1]), *body, layers.Flatten(), layers.Dense(10)])


if __name__ == "__main__":
    print(json.dumps({"seconds": _seconds(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))}))
