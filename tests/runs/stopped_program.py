"""A program that trains with a run and says "ready" where a test sends it a signal; then, often, it hangs: PHASES say where.

    python stopped_program.py DIRECTORY PHASE

In the phase "plain" nothing hangs; it prints what came out. A DIRECTORY "none" is no run.
"""

import ctypes
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl
from trainlab.loop import jit
from trainlab.loop.update import Update
from trainlab.runs.keeping import Checkpoints

NUM_BATCHES, EPOCHS = 30, 2
UPDATES = NUM_BATCHES * EPOCHS
HANGS_AT = 37  # an element of the data: in the second epoch


def ready():
    os.write(1, b"ready\n")


def hang():
    """In Python, but not where a signal is heard."""
    ready()
    threading.Event().wait()


def hang_in_c():
    """In one call, whatever signals come."""
    mutex, lock = ctypes.create_string_buffer(128), ctypes.CDLL(None).pthread_mutex_lock
    ready()
    lock(mutex), lock(mutex)


def batch(i):
    rng = np.random.default_rng(i)
    return rng.normal(size=(8, 3)).astype("float32"), rng.normal(size=(8, 1)).astype("float32")


class Numbers(keras.utils.PyDataset):
    """The batches, in processes or threads; at one of them it hangs."""

    def __init__(self, hangs_at, **kwargs):
        super().__init__(max_queue_size=4, **kwargs)
        self.hangs_at, self.passes = hangs_at, multiprocessing.Value("i", 0)

    def __len__(self):
        return NUM_BATCHES

    def on_epoch_end(self):
        self.passes.value += 1

    def __getitem__(self, i):
        if self.passes.value * NUM_BATCHES + i == self.hangs_at:
            hang()
        return batch(i)


def generated(hangs_at):
    taken = [0]

    def generate():
        for i in range(NUM_BATCHES):
            if taken[0] == hangs_at:
                hang()
            taken[0] += 1
            yield batch(i)

    spec = tf.TensorSpec([8, 3]), tf.TensorSpec([8, 1])
    return tf.data.Dataset.from_generator(generate, output_signature=spec)


FILE = Path(tempfile.gettempdir()) / f"read-by-{os.getpid()}"


def plug():
    """From now on whoever reads the file waits."""

    def wait_for_reader():
        os.open(FILE, os.O_WRONLY)
        FILE.unlink()
        ready()

    FILE.unlink()
    os.mkfifo(FILE)
    threading.Thread(target=wait_for_reader, daemon=True).start()


def read_from_file(hangs_at):
    """The batches by TensorFlow alone, whose iterator can be saved; a file that it reads for one of them may bring nothing."""
    xs, ys = (np.stack(arrays) for arrays in zip(*map(batch, range(NUM_BATCHES)), strict=True))
    FILE.write_text("")

    def load(i):
        read = tf.cond(i == (hangs_at or -1), lambda: tf.strings.length(tf.io.read_file(str(FILE))), lambda: 0)
        return tf.gather(xs, i) + 0.0 * tf.cast(read, tf.float32), tf.gather(ys, i)

    return tf.data.Dataset.range(NUM_BATCHES).map(load)


DATA = {
    "file": read_from_file,
    "generator": lambda hangs_at: generated(hangs_at),
    "threads": lambda hangs_at: Numbers(hangs_at, workers=2),
    "processes": lambda hangs_at: Numbers(hangs_at, workers=2, use_multiprocessing=True),
}


class At(keras.callbacks.Callback):
    """Does something in the n-th call of a hook."""

    def __init__(self, hook, number, do):
        super().__init__()
        self.number, self.do, self.calls = number, do, 0
        setattr(self, hook, self.count)

    def count(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.number:
            self.do()

    def get_state(self):
        return None

    def set_state(self, state):
        pass


class Slow(keras.layers.Layer):
    """The identity; at one call of the step it takes for ever."""

    def call(self, x):
        count = [0]

        def wait(value):
            count[0] += 1
            if count[0] == HANGS_AT:
                hang()
            return value

        return tf.ensure_shape(tf.py_function(wait, [x], x.dtype), x.shape)


class Deep(keras.layers.Layer):
    """Almost nothing; XLA takes minutes to compile it."""

    def call(self, x):
        y = tf.tile(tf.stop_gradient(x)[:1, :1, None, None], [4, 16, 32, 16])
        for i in range(300):
            y = tf.nn.conv2d(y, tf.random.stateless_normal([3, 3, 16, 16], [i, 1]), 1, "SAME")
            y = tf.sort(tf.nn.relu(y) + tf.reduce_mean(y), axis=-1)
        return x + 0.0 * tf.reduce_mean(y)


def kill_workers():
    for worker in multiprocessing.active_children():  # one of them holds the lock of their queue, which nobody will let go
        os.kill(worker.pid, signal.SIGKILL)
    ready()


def before(owner, name, number, do=ready, **settings):
    """Says that it is ready, or does something else, before the n-th call of a function; returns the settings."""
    real, calls = getattr(owner, name), []

    def called(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            do()
        return real(*args, **kwargs)

    setattr(owner, name, called)
    return settings


# What a phase changes: of the data, the layer before the last, callbacks, XLA.
PHASES = {
    "importing": hang,
    "building": lambda: {"build": hang},
    "tracing": lambda: before(Update, "__call__", 1),
    "training": lambda: {"callbacks": [At("on_train_batch_end", 33, ready)]},
    "a callback": lambda: {"callbacks": [At("on_epoch_end", 1, lambda: (ready(), time.sleep(1)))]},
    "a beginning in C": lambda: {"callbacks": [At("on_epoch_begin", 2, hang_in_c)]},
    "a callback in C": lambda: {"callbacks": [At("on_epoch_end", 1, hang_in_c)]},
    "a batch hook in C": lambda: {"callbacks": [At("on_train_batch_end", 33, hang_in_c)]},
    "hanging generator": lambda: {"data": "generator", "hangs_at": HANGS_AT},
    "generator that hangs from the start": lambda: {"data": "generator", "hangs_at": 0},
    "hanging file": lambda: {"data": "file", "hangs_at": 20, "callbacks": [At("on_epoch_end", 1, plug)]},
    "hanging threads": lambda: {"data": "threads", "hangs_at": HANGS_AT},
    "hanging processes": lambda: {"data": "processes", "hangs_at": HANGS_AT},
    "killed workers": lambda: {"data": "processes", "callbacks": [At("on_train_batch_end", 33, kill_workers)]},
    "trying XLA": lambda: before(jit, "_compile", 1, layer=Deep(), jit_compile="auto"),
    "compiling": lambda: before(jit, "check_strings", 1, layer=Deep(), jit_compile=True),
    "a long update": lambda: {"layer": Slow()},
    "evaluation": lambda: {"callbacks": [At("on_test_batch_begin", 33, ready)]},
    "hanging evaluation": lambda: {"validation": generated(HANGS_AT)},
    "saving": lambda: before(sys.modules[Checkpoints.__module__], "_write", 2, save_steps=20),
    "a disk that hangs": lambda: before(sys.modules[Checkpoints.__module__], "_write", 2, hang, save_steps=20),
    "ending": lambda: {"callbacks": [At("on_train_end", 1, ready)]},
}


def train(
    directory,
    *,
    data="generator",
    hangs_at=None,
    validation=None,
    layer=None,
    callbacks=(),
    jit_compile=False,
    build=None,
    save_steps=None,
):
    keras.utils.set_random_seed(1)
    layers = [keras.Input([3]), keras.layers.Dense(4), keras.layers.Dropout(0.2)]
    model = keras.Sequential([*layers, keras.layers.Activation("linear") if layer is None else layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    if build is not None:
        build()
    run = None if directory is None else tl.Run(directory, save_seconds=None, save_steps=save_steps)
    trainer = tl.Trainer(model, run=run, jit_compile=jit_compile)
    validation = generated(None) if validation is None else validation
    settings = {"epochs": EPOCHS, "verbose": 2, "shuffle": False, "callbacks": list(callbacks), "validation_data": validation}
    if jit_compile == "auto":
        settings["steps_per_epoch"] = NUM_BATCHES
    history = trainer.fit(DATA[data](hangs_at), **settings)
    values = [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]
    digest = hashlib.sha256(b"".join(value.tobytes() for value in values)).hexdigest()
    losses = [*history.history["loss"], *history.history["val_loss"]]
    return {"resumed_at": trainer.resumed_at, "updates": trainer.iterations, "digest": digest, "losses": losses}


def main(directory, phase="plain", data="generator"):
    jit.FEWEST_UPDATES, jit.SHARE = 1, 1e6
    settings = {"data": data} if phase == "plain" else PHASES[phase]()
    print(json.dumps(train(None if directory == "none" else Path(directory), **settings)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
