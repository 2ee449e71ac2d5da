"""A failure at every moment of a short run: the state is that of a committed update, the files are whole, and it goes on.

One trainer is used for all of them, since a trace each would take hours: before each case everything is put back.
"""

import contextlib
import shutil

import keras
import numpy as np
import pytest
from small import compiled, dense_model, regression

import trainlab as tl
from trainlab.data.array_source import ArraySource
from trainlab.loop import EvaluationLoop
from trainlab.loop import loop as loops
from trainlab.loop.nonfinite import Watch
from trainlab.runs.disk import checkpoint
from trainlab.runs.disk.checkpoint import Checkpoints

X, Y = regression(10)
UPDATES = 6  # 2 epochs of 3, the last of which is smaller
NUM_CASES = 1000
NUM_PARTS = 4  # which the workers of the quick suite share


class Fault(Exception):
    """What is injected."""


class Hears(keras.callbacks.Callback):
    """Every hook is a moment; by the batch hooks every update is one call."""

    def __init__(self, moments):
        super().__init__()
        for name in (f"on_{what}_{when}" for what in ("train", "epoch", "train_batch", "test") for when in ("begin", "end")):
            setattr(self, name, lambda *args, name=name, **kwargs: moments(name))

    def get_state(self):
        return None

    def set_state(self, state):
        pass


class Moments:
    """Counts the moments of a run; raises at the one of a number, or of a name, if that is asked for."""

    def __init__(self):
        self.seen, self.at, self.is_on = [], None, False

    def __call__(self, name):
        if not self.is_on:
            return
        self.seen.append(name)
        if self.at in (len(self.seen) - 1, name):
            raise Fault(name)

    def round(self, owner, name, end=True):
        """A patch that makes the beginning and, unless nothing can fail there, the end of a call two moments."""
        real = getattr(owner, name)

        def patched(*args, **kwargs):
            self(f"before {name}")
            result = real(*args, **kwargs)
            if end:
                self(f"after {name}")
            return result

        return owner, name, patched


@pytest.fixture
def moments(monkeypatch):
    found = Moments()
    for owner, name, patched in [
        found.round(loops.Loop, "_call"),
        found.round(loops.Loop, "_function"),
        found.round(loops.Loop, "snapshot"),
        found.round(Watch, "first"),
        found.round(ArraySource, "advance", end=False),
        found.round(ArraySource, "next_pass"),
        found.round(EvaluationLoop, "run"),
        found.round(checkpoint, "_write"),
        found.round(checkpoint, "sync"),
        found.round(checkpoint, "sha256"),
        found.round(checkpoint.os, "rename"),
        found.round(Checkpoints, "_remove"),
    ]:
        monkeypatch.setattr(owner, name, patched)
    return found


def state_of(trainer):
    """Everything that an update may change, but for metrics, which an evaluation and an epoch's beginning set anew."""
    model = trainer.model
    return [np.array(v) for v in (*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables)]


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_a_fault_at_every_moment(part, moments, tmp_path):
    model = compiled(
        dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)), keras.optimizers.SGD(0.1, 0.9)
    )
    trainer = tl.Trainer(model, run=tl.Run(tmp_path / "run", save_steps=3, save_seconds=None, keep=1))
    hears = Hears(moments)

    def fit():
        moments.seen = []
        with contextlib.suppress(Fault, OSError):
            trainer.fit(X, Y, 4, epochs=2, verbose=0, callbacks=[hears], validation_data=(X, Y), validation_freq=2)

    def begin(number):
        """As if the process had just begun, in a directory of its own."""
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        keeper = type(trainer._keeper)(tl.Run(tmp_path / str(number), save_steps=3, save_seconds=None, keep=1))
        trainer._keeper, trainer._whereabouts = keeper, type(trainer._whereabouts)()

    fit()
    variables = [*model.variables, *model.optimizer.variables]
    fresh = tl.Trainer(
        compiled(dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)), keras.optimizers.SGD(0.1, 0.9))
    )
    fresh.fit(X, Y, 4, steps=0, verbose=0)
    initial = [np.array(v) for v in (*fresh.model.variables, *fresh.model.optimizer.variables)]

    trained = [i for i, v in enumerate(model.variables) if any(v is t for t in model.trainable_variables)]
    committed = {}  # the right state after each number of updates

    class Keeps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            committed[trainer.iterations] = state_of(trainer)

        get_state, set_state = (lambda self: None), (lambda self, state: None)

    begin("right")
    committed[0] = state_of(trainer)
    trainer.fit(X, Y, 4, epochs=2, verbose=0, callbacks=[Keeps()], validation_data=(X, Y), validation_freq=2)
    assert len(committed) == UPDATES + 1

    begin("moments")
    moments.is_on = True
    fit()
    names = list(moments.seen)
    assert len(names) > 100 and len(set(names)) >= 25
    cases = sorted({int(i) for i in np.linspace(0, len(names) - 1, NUM_CASES)}) * (1 + NUM_CASES // len(names))
    for number, at in list(enumerate(cases[:NUM_CASES]))[part::NUM_PARTS]:
        begin(number)
        moments.at, moments.is_on = at, True
        fit()
        moments.is_on = False
        done = trainer.iterations
        for a, b in zip(state_of(trainer), committed[done], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{names[at]}, moment {at}")
        store = Checkpoints(tmp_path / str(number) / "checkpoints")
        damaged = []
        for loaded in store.readable(lambda path, reason, damaged=damaged: damaged.append((path, reason))):
            weights = [loaded.arrays[f"variables/model.{i}"] for i in trained]
            updates = loaded.state["progress"]["updates"]
            for a, b in zip(weights, committed[updates][: len(weights)], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{names[at]}, moment {at}: checkpoint {loaded.path.name}")
        assert damaged == [], names[at]
        if number % 10 == 0 and store.paths():  # and it goes on
            begin(number)
            trainer.fit(X, Y, 4, epochs=2, verbose=0, callbacks=[hears], validation_data=(X, Y), validation_freq=2)
            for a, b in zip(state_of(trainer), committed[UPDATES], strict=True):
                np.testing.assert_array_equal(a, b, err_msg=f"{names[at]}, moment {at}: gone on")
        shutil.rmtree(tmp_path / str(number))


@pytest.mark.parametrize("is_put_back", [True, False])
def test_a_state_that_is_torn_would_be_found(is_put_back, moments, monkeypatch):
    trainer = tl.Trainer(compiled())
    trainer.fit(X, Y, 4, steps=1, verbose=0)
    before = state_of(trainer)
    if not is_put_back:
        monkeypatch.setattr(loops.Loop, "assign", lambda self, values: None)
    moments.is_on, moments.at = True, "before advance"  # the call is over, and not committed yet
    with pytest.raises(Fault, match="before advance"):
        trainer.fit(X, Y, 4, steps=1, verbose=0)
    are_equal = all(np.array_equal(a, b) for a, b in zip(state_of(trainer), before, strict=True))
    assert are_equal is is_put_back
