"""What a callback changes while a run trains: a resume trains with what the run trained with, or says that it does not."""

import hashlib
import json
import re
import warnings

import keras
import numpy as np
import pytest
from small import regression

import trainlab as tl
from trainlab.runs.manifest import rows as rows_module

WORDS = "settings changed while the run trained"


class Sets(keras.callbacks.Callback):
    """Does something to the model at the beginning of an epoch, or of training."""

    def __init__(self, does, hook="on_epoch_begin"):
        super().__init__()
        setattr(self, hook, lambda epoch=None, logs=None: does(self.model, epoch))

    def get_state(self):
        return None

    def set_state(self, state):
        pass


class Stops(Sets):
    """Raises after so many updates."""

    def __init__(self, when):
        super().__init__(lambda model, epoch: None)
        self._when = when

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self._when:
            raise InterruptedError


def train(directory, does, hook="on_epoch_begin", stop=None, **settings):
    """Three epochs of three updates, with BatchNorm, Dropout and momentum; the weights."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.1, seed=1), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input([3]), *layers])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    trainer = tl.Trainer(model, optimizer=optimizer, loss="mse", run=tl.Run(directory, save_steps=1), **settings)
    trainer.fit(*regression(24, 3), 8, 3, 0, [Sets(does, hook), Stops(stop)])
    return [np.array(weight) for weight in model.weights]


def stopped_and_gone_on(directory, does, stop, **settings):
    """The weights of the unbroken run, those of one that was stopped, and the warnings of the resume."""
    whole = train(directory / "whole", does, **settings)
    with pytest.raises(InterruptedError):
        train(directory / "stopped", does, stop=stop, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        weights = train(directory / "stopped", does, **settings)
    said = [str(warning.message) for warning in caught if WORDS in str(warning.message)]
    return all(map(np.array_equal, whole, weights)), said


def rate(model, value):
    model.layers[1].rate = value


def trainable(model, value):
    model.layers[0].trainable = value


def momentum(model, value):
    model.optimizer.momentum = value


CASES = {
    "a layer is frozen": (lambda m, epoch: trainable(m, epoch != 1), 4, "trainable: True, now False"),
    "an optimizer's attribute": (lambda m, epoch: epoch == 1 and momentum(m, 0.5), 4, "optimizer momentum: 0.9, now 0.5"),
    "in the first epoch alone": (lambda m, epoch: epoch == 0 and rate(m, 0.5), 4, "rate: 0.5, now 0.1"),
    "in every epoch": (lambda m, epoch: rate(m, (epoch + 1) / 8), 7, "rate: 0.125, now 0.375"),
}


@pytest.mark.parametrize("name", [name if i == 1 else pytest.param(name, marks=pytest.mark.slow) for i, name in enumerate(CASES)])
def test_what_a_callback_changes_is_said_at_a_resume_that_trains_with_something_else(name, tmp_path):
    does, stop, words = CASES[name]
    is_same, said = stopped_and_gone_on(tmp_path, does, stop)
    assert not is_same
    assert len(said) == 1
    assert words in said[0]


@pytest.mark.parametrize("stop", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_what_makes_no_difference_is_not_said(stop, tmp_path):
    assert stopped_and_gone_on(tmp_path, lambda m, epoch: epoch == 1 and momentum(m, 0.5), stop) == (True, [])


@pytest.mark.parametrize(
    ("hook", "settings"),
    [("on_train_begin", {}), pytest.param("on_epoch_begin", {"jit_compile": True}, marks=pytest.mark.slow)],
)
def test_what_every_process_sets_before_the_step_is_traced_is_not_said(hook, settings, tmp_path):
    def does(model, epoch):
        rate(model, 0.5 if hook == "on_train_begin" or epoch == 0 else 0.1)

    assert stopped_and_gone_on(tmp_path, does, 4, hook=hook, **settings) == (True, [])


@pytest.mark.slow
def test_eagerly_a_change_counts_at_once_and_is_missing_later(tmp_path):
    for stop, expected in (4, []), (7, ["rate: 0.5, now 0.1"]):
        does = lambda m, epoch: epoch == 1 and rate(m, 0.5)  # noqa: E731
        is_same, said = stopped_and_gone_on(tmp_path / str(stop), does, stop, run_eagerly=True)
        assert is_same == (not expected)
        assert [words in line for words, line in zip(expected, said, strict=True)] == [True] * len(expected)


CALLS = [0]


class Counts(keras.layers.Layer):
    """Grows with every call, by what the module holds."""

    def call(self, x):
        CALLS[0] += 1
        return x * CALLS[0]


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_what_code_counts_eagerly_is_said_without_a_callback(run_eagerly, tmp_path):
    def go_on(stop):
        CALLS[0] = 0
        model = keras.Sequential([keras.Input([3]), Counts(), keras.layers.Dense(1)])
        trainer = tl.Trainer(model, optimizer="sgd", loss="mse", run=tl.Run(tmp_path), run_eagerly=run_eagerly)
        trainer.fit(*regression(24, 3), 8, verbose=0, steps=stop)

    go_on(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        go_on(3)
    assert any(f"{WORDS}, by" in str(one.message) and "uses.CALLS: [" in str(one.message) for one in caught) == run_eagerly


class Inside(keras.layers.Layer):
    """Holds a layer of Keras', which Keras does not write down."""

    def __init__(self):
        super().__init__()
        self.drop = keras.layers.Dropout(0.1, seed=1)

    def call(self, x, training=False):
        return self.drop(x, training=training)


@pytest.mark.slow
@pytest.mark.parametrize("is_older", [False, True])
def test_a_layer_inside_a_layer_is_seen_too(is_older, tmp_path, monkeypatch):
    def fit(stop):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input([3]), Inside(), keras.layers.Dense(1)])
        trainer = tl.Trainer(model, optimizer="sgd", loss="mse", run=tl.Run(tmp_path, save_steps=1))
        does = lambda model, epoch: epoch == 0 and setattr(model.layers[0].drop, "rate", 0.5)  # noqa: E731
        trainer.fit(*regression(24, 3), 8, 3, 0, [Sets(does), Stops(stop)])

    with monkeypatch.context() as patched:
        if is_older:  # one that did not look there
            of_model = rows_module.of_model
            patched.setattr(rows_module, "of_model", lambda *given: {**of_model(*given), "inner layers": {}})
        with pytest.raises(InterruptedError):
            fit(4)
        if is_older:
            (state,) = tmp_path.glob("checkpoints/*-4/state.json")
            held = json.loads(state.read_text())
            assert [m.pop("inner layers") for m in held["manifests"]] == [{}] and held["in_force"] == [{}]
            state.write_text(json.dumps(held))
            (sums := state.with_name("SHA256SUMS")).write_text(
                re.sub(r"\w+(?=  state)", hashlib.sha256(state.read_bytes()).hexdigest(), sums.read_text())
            )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(None)
    said = [str(one.message) for one in caught if WORDS in str(one.message)]
    assert ["inner layers dropout#0.rate: 0.5, now 0.1" in line for line in said] == [True] * (not is_older)


@pytest.mark.slow
def test_an_attribute_that_nobody_reads_is_not_said(tmp_path):
    assert stopped_and_gone_on(tmp_path, lambda m, epoch: setattr(m, "note", epoch), 4) == (True, [])
