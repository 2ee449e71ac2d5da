"""A small problem, for the tests of comparisons: six numbers in, three classes out, with dropout."""

import keras
import numpy as np

from trainlab.comparing import plan_of, problem_of

LOSS = keras.losses.SparseCategoricalCrossentropy


def arrays(number, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=[number, 6]).astype("float32")
    return x, (x @ np.random.default_rng(9).normal(size=[6, 3])).argmax(axis=1).astype("int32")


def model(rate=0.2):
    dense = keras.layers.Dense
    return keras.Sequential([keras.Input([6]), dense(8, "tanh"), keras.layers.Dropout(rate), dense(3)])


TRAIN, VALIDATION, TEST = arrays(96), arrays(40, 1), arrays(50, 2)
SETTINGS = {"deterministic": None}


def problem(**changes):
    given = {"batch_size": 16, "optimizer": keras.optimizers.SGD(momentum=0.5), "loss": LOSS(from_logits=True)}
    return problem_of(changes.pop("model", model), (*TRAIN, None), VALIDATION, TEST, **(given | changes))


def plan(of, strategies, rates=(0.1, 0.3), seeds=2, epochs=4):
    return plan_of(of, strategies, list(rates), seeds, epochs)


def asked(directory, strategies, **changes):
    """The arguments of `compare`."""
    given = {"validation_data": VALIDATION, "test_data": TEST, "optimizer": keras.optimizers.SGD(), "batch_size": 16}
    given |= {"loss": LOSS(from_logits=True), "metrics": ["accuracy"], "learning_rates": [0.1, 0.3], "seeds": 2, "epochs": 3}
    return (model, strategies, *TRAIN), given | {"directory": directory, "verbose": 0} | changes
