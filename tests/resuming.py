"""Small runs, and ways to stop them."""

import dataclasses
import os
import shutil
import signal

import keras
from small import compiled, dense_model

import trainlab as tl


def only(checkpoint, directory):
    """A run's directory that holds this checkpoint and no other: a run killed right after it."""
    shutil.copytree(checkpoint, directory / "checkpoints" / checkpoint.name)
    return directory


def split_off_run(directory, settings):
    """The `Run` in a directory, and the settings that are not its own; no run without a directory."""
    names = {field.name for field in dataclasses.fields(tl.Run)}
    own = {name: value for name, value in settings.items() if name in names}
    rest = {name: value for name, value in settings.items() if name not in names}
    return (None if directory is None else tl.Run(directory, **own)), rest


def small(directory, strategy=None, seed=0, optimizer=None, **kwargs):
    """A trainer of a tiny model with dropout, whose run is in this directory."""
    model = compiled(dense_model(lambda: keras.layers.Dropout(0.2), lambda: keras.layers.Dense(1)), optimizer)
    run, settings = split_off_run(directory, kwargs)
    return tl.Trainer(model, strategy, run=run, seed=seed, **settings)


class Stopping(keras.callbacks.Callback):
    """Sends a signal to its own process, somewhere."""

    def __init__(self, when, signum=signal.SIGINT, hook="on_train_batch_end"):
        super().__init__()
        self.calls, self.when, self.signum = 0, when, signum
        setattr(self, hook, self.hear)

    def hear(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.when:
            os.kill(os.getpid(), self.signum)

    def get_state(self):
        return None

    def set_state(self, state):
        pass
