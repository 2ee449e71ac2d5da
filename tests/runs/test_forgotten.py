"""Subclasses of Keras' callbacks that remember in what they hold, or in what Keras calls: named, and no others."""

import keras
import numpy as np
import pytest

from trainlab.runs.callback_state import forgotten

K = keras.callbacks


class Tracker:
    def __init__(self):
        self.seen = []

    def note(self, value):
        self.seen.append(value)

    def twice(self, value):
        return 2 * value


class Smoothed(K.EarlyStopping):
    ema = None

    def get_monitor_value(self, logs):
        value = super().get_monitor_value(logs)
        self.ema = value if self.ema is None else 0.9 * self.ema + 0.1 * value
        return self.ema


class Negated(K.EarlyStopping):
    def get_monitor_value(self, logs):
        return -super().get_monitor_value(logs)

    def set_model(self, model):
        super().set_model(model)
        self.first = model.layers[0]


class Logs(K.CSVLogger):
    def on_epoch_end(self, epoch, logs=None):
        self.num = epoch
        super().on_epoch_end(epoch, logs)


def holding(held, use, in_class=False):
    """A subclass of one of Keras', with something in an attribute that its hook uses."""

    class Holds(K.EarlyStopping):
        pass

    uses = {
        "note": lambda self, epoch, logs=None: self.held.note(epoch),
        "twice": lambda self, epoch, logs=None: self.held.twice(epoch),
        "next": lambda self, epoch, logs=None: next(self.held),
        "uniform": lambda self, epoch, logs=None: self.held.uniform(),
        "inner": lambda self, epoch, logs=None: self.held.on_epoch_end(epoch, logs),
        "read": lambda self, epoch, logs=None: self.held[epoch],
    }
    Holds.on_epoch_end = uses[use]
    callback = Holds("loss")
    (Holds if in_class else callback).held = held
    return callback


HOLDING = {
    "a helper": lambda: holding(Tracker(), "note"),
    "another callback": lambda: holding(K.ReduceLROnPlateau(), "inner"),
    "an iterator": lambda: holding(iter([1, 2]), "next"),
    "a generator of numbers": lambda: holding(np.random.default_rng(0), "uniform"),
    "one of the class": lambda: holding(np.random.default_rng(0), "uniform", in_class=True),
    "what Keras calls": lambda: Smoothed("loss"),
    "a logger's": lambda: Logs("a.csv", append=True),
}
NOT_HOLDING = {
    "a helper that does not": lambda: holding(Tracker(), "twice"),
    "a list that is read": lambda: holding([0.1, 0.2], "read"),
    "what Keras calls": lambda: Negated("loss"),
    "a logger": lambda: K.CSVLogger("a.csv", append=True),
}


@pytest.mark.parametrize("name", HOLDING)
def test_what_a_callback_remembers_in_what_it_holds_is_seen(name):
    callback = HOLDING[name]()
    assert forgotten([callback]) == [type(callback).__name__]


@pytest.mark.parametrize("name", NOT_HOLDING)
def test_what_only_looks_like_it_is_not_accused(name):
    assert forgotten([NOT_HOLDING[name]()]) == []
