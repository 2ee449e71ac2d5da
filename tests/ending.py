"""Fits of several workers, one after the other, that end otherwise than they were meant to; each says how.

`python ending.py DIRECTORY CASE ...` makes each case, by name, as one worker of the cluster that TF_CONFIG describes.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl

NUMBER, SIZE, CLASSES = 64, 8, 3


def made(*others, x_size=4, **compiled):
    """A small compiled model; the same weights everywhere."""
    keras.utils.set_random_seed(1)
    keras.utils.clear_session(free_memory=False)
    model = keras.Sequential([keras.Input([x_size]), keras.layers.Dense(8, "tanh"), *others, keras.layers.Dense(CLASSES)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, **compiled)
    return model


def data(number=NUMBER):
    rng = np.random.default_rng(2)
    return rng.normal(size=(number, 4)).astype("float32"), rng.integers(CLASSES, size=number)


def stream(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(SIZE)


class NoStep(tl.StepStrategy):
    """Returns none."""

    def step(self, objective, state):
        return objective(state.parameters)


class Explodes(tl.StepStrategy):
    """Is not finite from the 13th update on: the fifth of the second epoch."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient / tf.cast(state.iteration < 12, tf.float32), at=here)


class OfText(keras.layers.Layer):
    """An operation that XLA does not have."""

    def call(self, x):
        return x + 0.0 * tf.cast(tf.strings.length(tf.strings.as_string(x)), x.dtype)


class Says(keras.callbacks.Callback):
    """Raises at the beginning."""

    def on_train_begin(self, logs=None):
        raise KeyError("a callback's")


class Notes(keras.callbacks.Callback):
    """Sets an attribute of the model, which an update could be made of."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.last_epoch = epoch


def good(workers, rank, directory, **settings):
    """Nothing is wrong."""
    x, y = data()
    return tl.Trainer(made(), distribute=workers, **settings), {"x": x, "y": y, "batch_size": SIZE, "epochs": 2}


def annotated(workers, rank, directory):
    """A second fit of a step with a memory, after a callback has set an attribute of the model at the chief alone."""
    given = good(workers, rank, directory)[1]
    trainer = tl.Trainer(made(), tl.Lookahead(3), distribute=workers)
    trainer.fit(**given, verbose=0, callbacks=[Notes()] if rank == 0 else [])
    return trainer, given


class Phases(keras.layers.Layer):
    """Keeps complex numbers, which nothing trains, and counts in them."""

    def build(self, shape):
        kind = {"shape": [2], "initializer": "zeros", "trainable": False}
        self.narrow = self.add_weight(dtype="complex64", name="narrow", **kind)
        self.wide = self.add_weight(dtype="complex128", name="wide", **kind)

    def call(self, x):
        return x * tf.cast(tf.math.real(self.narrow)[0], x.dtype)


def complex_weights(workers, rank, directory):
    """Of which the chief's are those of all."""
    trainer, given = good(workers, rank, directory)
    model = made(Phases())
    for variable, value in zip(model.layers[1].variables, ([0.5 + 0.25j, -1e-9j], [np.pi - 1.5j, np.e]), strict=True):
        variable.assign(np.array(value, variable.dtype))
    return tl.Trainer(model, distribute=workers), given


class Fades(keras.callbacks.Callback):
    """Moves what the loss only reads."""

    def __init__(self, *shares):
        super().__init__()
        self.shares = shares

    def on_epoch_begin(self, epoch, logs=None):
        for share in self.shares:
            share.assign(epoch / 4)


def moved(workers, rank, directory, **settings):
    """A callback moves what nobody lists as his, and an update only reads: a variable of Keras', and a raw one."""
    given = good(workers, rank, directory)[1]
    model, share, bias = made(), keras.Variable(0.0, trainable=False), tf.Variable(0.0, trainable=False)

    def loss(y, p):
        usual = keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)
        return (1 - share) * usual + (share + bias) * keras.ops.mean(keras.ops.square(p - 1), axis=-1)

    model.compile(optimizer=model.optimizer, loss=loss)
    trainer = tl.Trainer(model, distribute=workers, **settings)
    return trainer, given | {"epochs": 5, "callbacks": [Fades(share, bias)] if rank == 0 else []}


def resumed(workers, rank, directory):
    """The run of one process is gone on with, which knew whether XLA compiles."""
    trainer, given = good(workers, rank, directory, run=directory / "run")
    given.pop("epochs")
    return trainer, given | {"steps": 10}


def missing(workers, rank, directory):
    """The chief is to go on with what is not there."""
    trainer, given = good(workers, rank, directory, run=directory / "none")
    return trainer, given | ({"resume": "must"} if rank == 0 else {})


def callback(workers, rank, directory):
    trainer, given = good(workers, rank, directory)
    return trainer, given | ({"callbacks": [Says()]} if rank == 0 else {})


def synchronized(workers, rank, directory):
    x, y = data()
    trainer = tl.Trainer(made(keras.layers.BatchNormalization(synchronized=True)), distribute=workers)
    return trainer, {"x": x, "y": y, "batch_size": SIZE}


def unknown_to_xla(workers, rank, directory):
    x, y = data()
    return tl.Trainer(made(OfText()), distribute=workers, jit_compile=True), {"x": x, "y": y, "batch_size": SIZE}


def no_step(workers, rank, directory, **settings):
    x, y = data()
    return tl.Trainer(made(), NoStep(), distribute=workers, **settings), {"x": x, "y": y, "batch_size": SIZE}


def no_step_eagerly(workers, rank, directory):
    return no_step(workers, rank, directory, run_eagerly=True)


def no_step_at_one(workers, rank, directory, who=1):
    """What one alone cannot trace, the first time."""
    trainer, given = good(workers, rank, directory)
    of = trainer._loops.of

    def broken(*described):
        loop = of(*described)
        trainer._loops.of = of

        def fails(source):
            del loop.prepare
            raise RuntimeError("out of patience")

        loop.prepare = fails
        return loop

    trainer._loops.of = broken if rank == who else of
    return trainer, given


def no_step_at_the_chief_first(workers, rank, directory):
    """The same trainer once more, of which the others have traced the step already."""
    trainer, given = no_step_at_one(workers, rank, directory, who=0)
    with contextlib.suppress(*(() if workers is None else (RuntimeError,))):
        trainer.fit(**given, verbose=0)
    return trainer, given


HANGS = []


def examples():
    """Those of `data`, which may hang."""
    x, y = data()
    for one in zip(x, y, strict=True):
        if HANGS:
            time.sleep(600.0)
        yield one


def generated():
    spec = tf.TensorSpec([4], tf.float32), tf.TensorSpec([], tf.int64)
    return tf.data.Dataset.from_generator(examples, output_signature=spec).batch(SIZE)


def leaves(trainer, updates):
    """Takes this worker out of a fit, two seconds after it has made so many updates."""
    link = trainer._loop().link
    while link.variables is None or trainer.iterations < updates:
        time.sleep(0.1)
    time.sleep(2.0)
    link.give_up(RuntimeError("out of order"))


def left_while_the_chief_validates(workers, rank, directory):
    """On data that hang."""
    trainer, given = good(workers, rank, directory)
    HANGS.append(True)
    if rank == 1:
        threading.Thread(target=leaves, args=[trainer, NUMBER // SIZE], daemon=True).start()
    return trainer, given | {"validation_data": generated()}


def to_be_read_again(workers, rank, directory):
    """A run of what no iterator can say where it stands."""
    return tl.Trainer(made(), distribute=workers, run=directory / "read"), {"x": generated(), "epochs": 2}


def left_while_the_chief_reads_again(workers, rank, directory):
    """Data that hang by now, up to where the run stands."""
    trainer, given = to_be_read_again(workers, rank, directory)
    HANGS.append(True)
    if rank == 1:
        threading.Thread(target=leaves, args=[trainer, 0], daemon=True).start()
    return trainer, given


def interrupted(workers, rank, directory, who=1):
    """At one, by Ctrl-C, while it waits for the other to come."""
    trainer, given = good(workers, rank, directory)
    trainer.model.build([None, 4])
    if rank == who:
        threading.Timer(3.0, os.kill, [os.getpid(), signal.SIGINT]).start()
    else:
        time.sleep(8.0)
    return trainer, given


def interrupted_chief(workers, rank, directory):
    return interrupted(workers, rank, directory, who=0)


def nan_weights(workers, rank, directory):
    trainer, given = good(workers, rank, directory)
    kernel = trainer.model.layers[0].kernel
    kernel.assign(kernel * np.nan)
    return trainer, given


def scale(workers, rank, directory):
    x, y = data()
    model = made()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=4.0)
    model.compile(optimizer=optimizer, loss=model.loss)
    trainer = tl.Trainer(model, distribute=workers)
    optimizer.build(model.trainable_variables)
    optimizer.dynamic_scale.assign(0.0)
    return trainer, {"x": x, "y": y, "batch_size": SIZE}


def explodes(workers, rank, directory, **more):
    x, y = data()
    return tl.Trainer(made(), Explodes(), distribute=workers), {"x": x, "y": y, "batch_size": SIZE, "epochs": 4, **more}


def explodes_by_updates(workers, rank, directory):
    return explodes(workers, rank, directory, validate_every=3)


def label(workers, rank, directory, **settings):
    """The last example of the third batch, which worker 1 evaluates, is out of range."""
    x, y = data()
    y[3 * SIZE - 1] = CLASSES
    return tl.Trainer(made(), distribute=workers, **settings), {"x": stream(x, y), "epochs": 2}


def label_skipped(workers, rank, directory):
    return label(workers, rank, directory, on_nonfinite="skip")


def label_unchecked(workers, rank, directory):
    """The same of arrays."""
    x, y = data()
    y[3 * SIZE - 1] = CLASSES
    given = {"x": x, "y": y, "batch_size": SIZE, "shuffle": False, "check_data": False, "epochs": 2}
    return tl.Trainer(made(), distribute=workers), given


def eagerly_at_one(workers, rank, directory):
    return good(workers, rank, directory, run_eagerly=rank == 1)


def eagerly(workers, rank, directory):
    """A run, whose chief looks for what an update changes."""
    return good(workers, rank, directory, run_eagerly=True, run=tl.Run(directory / "eager", keep_best="loss"))


def eagerly_again(workers, rank, directory):
    """It is gone on with."""
    trainer, given = eagerly(workers, rank, directory)
    return trainer, given | {"epochs": 3}


def eagerly_compiled_at_one(workers, rank, directory):
    x, y = data()
    return tl.Trainer(made(run_eagerly=rank == 1), distribute=workers), {"x": x, "y": y, "batch_size": SIZE}


def find(workers, rank, directory):
    trainer, given = good(workers, rank, directory)
    trainer.fit = lambda **_: trainer.find_learning_rate(given["x"], given["y"], batch_size=SIZE)
    return trainer, {}


def find_at_chief(workers, rank, directory):
    return find(workers, rank, directory) if rank == 0 else good(None, rank, directory)


def weights_of(model):
    """All as one vector, the parts of a complex one one after the other."""
    parts = [part for w in model.get_weights() for part in ([w.real, w.imag] if np.iscomplexobj(w) else [w])]
    return np.concatenate([np.ravel(part) for part in parts])


def said(case, workers, rank, directory):
    """How a case ended, in a line; and what it left."""
    trainer, given = globals()[case](workers, rank, directory)
    try:
        result = trainer.fit(**given, **({"verbose": 0} if given else {}))
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}", trainer.iterations
    weights = weights_of(trainer.model).tolist()
    return "trained" if isinstance(result, keras.callbacks.History) else type(result).__name__, trainer.iterations, weights


def main(directory, cases):
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    workers = tl.join_workers(60, 15)
    found = {}
    for case in cases:
        found[case] = said(case, workers, rank, directory)
        (directory / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
