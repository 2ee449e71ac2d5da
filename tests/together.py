"""Fits that several workers make together, and one process alone: the same program for both.

`python together.py OUT CASE ...` trains each case, by name, as one worker of the cluster that TF_CONFIG describes.
"""

import functools
import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tables import MODELS, STRATEGIES, take

import trainlab as tl

NUMBER = 27  # examples, in batches of 6: the last has 3


def stream(x, y, w, sizes):
    """Batches of these sizes, some smaller than there are workers."""
    ends = np.cumsum(sizes)

    def batches():
        for end, size in zip(ends, sizes, strict=True):
            part = functools.partial(take, index=slice(end - size, end))
            yield part(x), part(y), part(w)

    first = next(iter(batches()))
    spec = tf.nest.map_structure(lambda leaf: tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype), first)
    return tf.data.Dataset.from_generator(batches, output_signature=spec)


def train(name, distribute=None):
    """Trains "model/strategy/kind"; returns weights as one vector, and History."""
    model_name, strategy_name, kind = name.split("/")
    keras.utils.clear_session(free_memory=False)
    case = MODELS[model_name]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.5, use_ema=True, ema_momentum=0.9)
    if kind == "adam":
        optimizer = keras.optimizers.Adam(0.01)
    model = case.compiled(optimizer)
    x, y = case.arrays(NUMBER)
    w = case.weights(NUMBER) if kind in ("weighted", "stream") else None
    data = {"x": x, "y": y, "sample_weight": w, "batch_size": 6}
    if kind == "stream":
        data = {"x": stream(x, y, w, [6, 2, 1, 9, 4, 3, 2])}  # the largest shards of two updates differ
    if kind == "few":
        data["batch_size"] = 13  # and a last batch of one: fewer than there are workers
    trainer = tl.Trainer(model, STRATEGIES[strategy_name].make(), distribute=distribute, jit_compile=False)
    history = trainer.fit(**data, epochs=2, verbose=0)
    return np.concatenate([np.ravel(v) for v in model.get_weights()]), dict(sorted(history.history.items()))


def main(out, names):
    """What each worker does."""
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    workers = tl.join_workers(120)
    results = {}
    for name in names:
        weights, history = train(name, workers)
        results |= {f"{name} weights": weights, f"{name} history": np.array(list(history.values()), np.float64)}
    np.savez(Path(out) / f"{rank}.npz", **results)


if __name__ == "__main__":
    if os.environ.get("PRECISION") == "float64":
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
    main(sys.argv[1], sys.argv[2:])
