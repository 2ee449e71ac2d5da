"""A run that goes on with another number of replicas, or as several processes.

`python elastic.py DIRECTORY STRATEGY STEPS` goes on with it to so many updates, as one worker of those that TF_CONFIG describes.
"""

import json
import os
import sys
import warnings

import keras
import numpy as np
from replicating import mirrored
from small import compiled, dense_model, regression, weights

import trainlab as tl

X, Y = regression(24)
STRATEGIES = {"heun": tl.Heun(), "accumulate_2": tl.Accumulate(2)}


def trainer(directory, replicas, strategy=None, dropout=0.0, distribute=None, **settings):
    """A trainer whose run is in this directory, on so many replicas."""
    layers = [lambda: keras.layers.Dense(5, "tanh"), lambda: keras.layers.Dropout(dropout, seed=3), lambda: keras.layers.Dense(1)]
    optimizer = keras.optimizers.Adam(0.02, global_clipnorm=0.5, use_ema=True, ema_overwrite_frequency=4)
    model = compiled(dense_model(*layers), optimizer, metrics=["mae"])
    settings = {"jit_compile": False, "seed": 5, **settings}
    return tl.Trainer(model, strategy, run=directory, distribute=distribute or mirrored(replicas), **settings)


def fit(trainer, **kwargs):
    """Trains it."""
    return trainer.fit(X, Y, **{"batch_size": 5, "verbose": 0, **kwargs})


def told(trainer, **kwargs):
    """Trains it; returns what was said of replicas."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(trainer, **kwargs)
    return [str(w.message) for w in caught if "replicas" in str(w.message)]


def main(directory, strategy, steps):
    """What each worker does."""
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    part = trainer(f"{directory}/run", None, STRATEGIES[strategy], distribute=tl.join_workers(120))
    lines = told(part, steps=steps)
    np.savez(f"{directory}/{rank}.npz", *weights(part.model), lines=lines, resumed_at=str(part.resumed_at))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
