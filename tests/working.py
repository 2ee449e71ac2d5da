"""A training script of several workers, of which one may do something that it should not.

`python working.py DIRECTORY MODE WHO`: DIRECTORY takes the run and what each worker has left; worker WHO does MODE.
"""

import errno
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
from trainlab.data import device
from trainlab.runs.disk import checkpoint

JOIN_SECONDS, ANSWER_SECONDS = 60, 15
EPOCHS, SIZE, NUMBER = 12, 16, 320
SIGNALS = {"TERM": signal.SIGTERM, "INT": signal.SIGINT, "KILL": signal.SIGKILL, "STOP": signal.SIGSTOP}


class Misbehaves(keras.callbacks.Callback):
    """At the chief, after the third epoch; what the others do they do by the clock of the chief's epochs."""

    def __init__(self, mode, directory):
        super().__init__()
        self.mode, self.directory = mode, directory

    def on_epoch_end(self, epoch, logs=None):
        (self.directory / "epoch").write_text(str(epoch))
        if epoch == 3:
            if self.mode == "error":
                raise KeyError("a callback's")
            if self.mode == "assign":
                self.model.layers[0].kernel.assign(self.model.layers[0].kernel * 0.5)
            if self.mode == "stop":
                self.model.stop_training = True
            if self.mode == "full":
                os.chmod(self.directory / "run" / "checkpoints", 0o500)
                raise OSError(28, "No space left on device")
            if self.mode == "disk":
                checkpoint._write = full
        if self.mode == "slow":
            time.sleep(0.5)

    def on_train_end(self, logs=None):
        if self.mode == "last":
            (self.directory / "epoch").write_text(str(2 * EPOCHS))
            time.sleep(3.0)


def full(*args):
    """A write of a checkpoint, in its thread, where nothing more fits."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def when_epoch(directory, number, do):
    """Does something once the chief has ended this epoch."""

    def wait():
        while not (directory / "epoch").is_file() or int((directory / "epoch").read_text() or 0) < number:
            time.sleep(0.01)
        do()

    threading.Thread(target=wait, daemon=True).start()


def data_of(directory, mode, is_me, x, y):
    """What `fit` is given."""
    if mode == "rows" and is_me:
        x = x + 1
    if mode == "size" and is_me:
        return {"x": x, "y": y, "batch_size": SIZE * 2}
    if mode in ("order", "failing", "hanging", "short", "stream", "later"):
        seed = 3 + (mode == "order" and is_me)
        indices = np.random.default_rng(seed).permutation(NUMBER)

        def batches():
            for start in range(0, NUMBER, SIZE):
                if is_me and mode == "failing" and start > NUMBER // 2:
                    raise OSError("the disk is gone")
                if is_me and mode == "hanging" and start > NUMBER // 2:
                    (directory / "hangs").touch()
                    time.sleep(1000)
                if is_me and mode == "short" and start > NUMBER // 2:
                    return
                part = indices[start : start + SIZE]
                yield x[part] + (is_me and mode == "later" and start == 13 * SIZE), y[part]

        spec = (tf.TensorSpec([None, 8], tf.float32), tf.TensorSpec([None], tf.int64))
        return {"x": tf.data.Dataset.from_generator(batches, output_signature=spec)}
    return {"x": x, "y": y, "batch_size": SIZE}


def main(directory, mode, who):
    """What each worker does."""
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    is_me = rank == who
    if mode == "absent" and is_me:
        return
    if mode == "late" and is_me:
        time.sleep(5)
    if mode == "joining" and is_me:
        tf.distribute.MultiWorkerMirroredStrategy = lambda: os._exit(9)
    if mode == "memory" and is_me:
        device.memory = lambda: 1000
    workers = tl.join_workers(10 if mode == "absent" else JOIN_SECONDS, ANSWER_SECONDS)
    keras.utils.set_random_seed(1 + rank)  # other weights at each: the chief's count
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(NUMBER, 8)).astype("float32"), rng.integers(3, size=NUMBER)
    layers = [keras.layers.Dense(16 + (mode == "model" and is_me), "relu"), keras.layers.Dropout(0.2)]
    layers += [keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input([8]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    calls = {"steps_per_execution": NUMBER // SIZE} if mode == "later" else {}  # each call begins where a pass does
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"], **calls)
    run = tl.Run(directory / "run", save_steps=17, save_seconds=None)
    settings = {"seed": 3 + (mode == "seed" and is_me), "on_nonfinite": "stop"}
    trainer = tl.Trainer(model, tl.Heun() if mode != "nan" else Explodes(), run=run, distribute=workers, **settings)
    if mode in SIGNALS and is_me:
        when_epoch(directory, 3, lambda: os.kill(os.getpid(), SIGNALS[mode]))
    if mode in ("slow", "last") and is_me:
        when_epoch(directory, 3 if mode == "slow" else 2 * EPOCHS, lambda: os.kill(os.getpid(), signal.SIGTERM))
    if mode in ("tensorflow", "keras") and is_me:
        {"tensorflow": tf, "keras": keras}[mode].__version__ = "2.0.1"
    callbacks = [Misbehaves(mode, directory)] if rank == 0 else []
    try:
        history = trainer.fit(
            **data_of(directory, mode, is_me, x, y),
            resume="never" if mode == "afresh" else "auto",
            epochs=EPOCHS,
            verbose=0,
            callbacks=callbacks,
            validation_data=(x[:50], y[:50]),
        )
    finally:
        (directory / f"stopped-{rank}").write_text(str(int(model.optimizer.iterations)))
    variables = {str(i): np.array(v) for i, v in enumerate([*model.variables, *model.optimizer.variables])}
    np.savez(directory / f"{rank}.npz", **variables, history=json.dumps(history.history), resumed_at=str(trainer.resumed_at))


class Explodes(tl.StepStrategy):
    """Is not finite from the fortieth update on."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient / tf.cast(state.iteration < 40, tf.float32), at=here)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
