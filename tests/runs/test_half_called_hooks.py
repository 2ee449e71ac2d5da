"""Where one of several callbacks raises, each of them has heard each thing once when the run that goes on has ended."""

import os
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from resuming import small
from small import assert_same, close, differ, everything, regression

from trainlab.loop import Loop

X, Y = regression(24)
HOOKS = {"on_epoch_begin": 3, "on_train_batch_begin": 8, "on_train_batch_end": 6, "on_test_batch_end": 5, "on_epoch_end": 2}


class Fails(keras.callbacks.Callback):
    """Raises, or sends itself a signal, at the n-th call of a hook."""

    def __init__(self, hook, number=0, signum=None):
        super().__init__()
        self.number, self.signum = number, signum
        setattr(self, hook, self.hear)

    def hear(self, *args, **kwargs):
        self.number -= 1
        if self.number == 0 and self.signum is not None:
            os.kill(os.getpid(), self.signum)
        elif self.number == 0:
            raise RuntimeError("mine")

    def get_state(self):
        return None

    def set_state(self, state):
        pass


class Counts(keras.callbacks.Callback):
    """Counts the calls of a hook, in a list that it changes in place, and lowers the learning rate at each."""

    def __init__(self, hook):
        super().__init__()
        self.calls, self.is_test = [], "test" in hook
        setattr(self, hook, self.hear)

    def hear(self, number=None, *args, **kwargs):
        self.calls.append(number)
        if not self.is_test:
            self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) * 0.97

    def get_state(self):
        return {"calls": self.calls}

    def set_state(self, state):
        self.calls = list(state["calls"])


def fit(directory, hook, failing=None, **settings):
    """Two callbacks that count, and between them one that may fail; returns all that was left."""
    trainer = small(directory, save_seconds=None, **settings)
    before, behind = Counts(hook), Counts(hook)
    # One that has no say in who hears what: with it, batch hooks are heard whatever else there is.
    each = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None)
    callbacks = [before, failing or Fails(hook), behind, each]
    history = trainer.fit(X, Y, 4, epochs=4, verbose=0, callbacks=callbacks, validation_data=(X, Y), validation_batch_size=8)
    return trainer, history.history, before.calls, behind.calls


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
@pytest.mark.parametrize("hook", HOOKS)
def test_everybody_hears_everything_once(hook, tmp_path):
    whole, history, *calls = fit(None, hook)
    assert calls[0] == calls[1] and len(calls[0]) >= 4
    with pytest.raises(RuntimeError, match="mine"):
        fit(tmp_path, hook, Fails(hook, HOOKS[hook]))
    again, resumed, *counted = fit(tmp_path, hook)
    assert again.resumed_at and counted == calls and resumed == history
    assert_same(everything(again.model), everything(whole.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
@pytest.mark.parametrize("hook", ["on_train_batch_begin", "on_train_batch_end"])
def test_a_pair_of_several_updates_goes_on(hook, tmp_path):
    whole, history, *calls = fit(None, hook, steps_per_execution=4)
    with pytest.raises(RuntimeError, match="mine"):  # after a checkpoint within the pair
        fit(tmp_path, hook, Fails(hook, 4), steps_per_execution=4, save_steps=3)
    again, resumed, *counted = fit(tmp_path, hook, steps_per_execution=4, save_steps=3)
    assert again.resumed_at and counted == calls and resumed == history
    assert_same(everything(again.model), everything(whole.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
def test_a_beginning_is_not_heard_again_for_an_update_that_failed(tmp_path, monkeypatch):
    hook, call, count = "on_train_batch_begin", Loop._call, iter(range(99))
    whole, history, *calls = fit(None, hook)

    def fails(*arguments):
        if next(count) == 8:
            raise RuntimeError("mine")
        call(*arguments)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="mine"):
        patch.setattr(Loop, "_call", fails)
        fit(tmp_path, hook)
    again, resumed, *counted = fit(tmp_path, hook)
    assert again.resumed_at == 8 and counted == calls and resumed == history
    assert_same(everything(again.model), everything(whole.model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*not in checkpoints")
def test_a_signal_in_an_evaluation_takes_back_what_was_heard_of_it(tmp_path):
    _, _, *calls = fit(None, "on_test_batch_end")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, "on_test_batch_end", Fails("on_test_batch_end", 5, signal.SIGINT))
    _, _, *counted = fit(tmp_path, "on_test_batch_end")
    assert counted == calls


def test_averages_that_an_evaluation_swapped_in_are_out_again_after_an_error():
    swapping = keras.callbacks.SwapEMAWeights()
    trainer = small(None, optimizer=keras.optimizers.SGD(0.1, use_ema=True))
    with pytest.raises(RuntimeError, match="mine"):
        arguments = {"callbacks": [swapping, Fails("on_test_batch_end", 2)], "validation_data": (X, Y)}
        trainer.fit(X, Y, 8, epochs=4, verbose=0, validation_batch_size=8, **arguments)
    raw = [v.numpy() for v in trainer.model.trainable_variables]
    average = [v.numpy() for v in trainer.model.optimizer._model_variables_moving_average]
    assert differ(raw, average)
    swapping.on_test_begin()
    close([v.numpy() for v in trainer.model.trainable_variables], average)  # they are swapped by sums


class Holds(keras.callbacks.Callback):
    """Counts epochs in something that it changes in place, and has no copy of."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def on_epoch_end(self, epoch, logs=None):
        held = self.state["deep"][0] if isinstance(self.state, dict) else self.state
        held.assign_add([1.0, 0.0]) if hasattr(held, "assign_add") else held.__setitem__(0, held[0] + 1)

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state

    @property
    def count(self):
        return np.asarray(self.state["deep"][0] if isinstance(self.state, dict) else self.state)[0]


HELD = {
    "an array": lambda: np.zeros(2),
    "an array, deep inside": lambda: {"deep": (np.zeros(2, int),)},
    "a variable": lambda: tf.Variable([0.0, 0.0]),
    "a variable of Keras'": lambda: {"deep": [keras.Variable([0.0, 0.0])]},
    "a list": lambda: [0, 0],  # a control
}


@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
def test_what_a_callback_changes_in_place_is_saved_as_it_was_before_the_hook(make, tmp_path):
    def fitted(failing):
        holds = Holds(make())
        small(tmp_path, save_seconds=None).fit(X, Y, 8, epochs=4, verbose=0, callbacks=[holds, failing])
        return holds

    with pytest.raises(RuntimeError, match="mine"):
        fitted(Fails("on_epoch_end", 2))
    assert fitted(Fails("on_epoch_end")).count == 4


class Writes(keras.callbacks.Callback):
    """Puts something into the history that is no list."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def on_epoch_end(self, epoch, logs=None):
        self.model.history.history["mine"] = self.value(epoch)


PUT = {
    "a number": lambda n: n,
    "a dict": lambda n: {"a": n},
    "text": str,
    "an array": lambda n: np.full(2, n),
    "none": lambda n: None,
}


@pytest.mark.slow
@pytest.mark.parametrize("value", PUT.values(), ids=PUT)
@pytest.mark.parametrize("has_run", [True, False])
def test_what_a_callback_puts_into_the_history_is_there(value, has_run, tmp_path):
    def fitted(epochs, *others):
        trainer = small(tmp_path if has_run else None, save_seconds=None)
        history = trainer.fit(X, Y, 8, epochs=epochs, verbose=0, callbacks=[Writes(value), *others], validation_data=(X, Y))
        assert history._repr_html_()
        return history.history

    def is_that_of(epoch, history):
        return np.array_equal(history["mine"], value(epoch)) and len(history["loss"]) == epoch + 1

    assert is_that_of(2, fitted(3))
    if has_run:
        with pytest.raises(RuntimeError, match="mine"):
            fitted(6, Fails("on_epoch_end", 2))
        assert is_that_of(5, fitted(6))
