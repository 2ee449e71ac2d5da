import functools
import itertools
import json
import warnings

import keras
import numpy as np
import pytest
from small import compiled, regression

import trainlab as tl
from trainlab.runs.callback_state import check_states, forgotten, get_states, set_states
from trainlab.runs.disk.encoding import decode, encode

K = keras.callbacks


class Counting(keras.callbacks.Callback):
    def __init__(self, says=True):
        super().__init__()
        self.count = 0
        if says:
            self.get_state, self.set_state = lambda: {"count": self.count}, lambda state: setattr(self, "count", state["count"])


def trained(*callbacks, epochs=4):
    x, y = regression()
    compiled().fit(x, y, epochs=epochs, validation_data=(x[:4], y[:4]), callbacks=list(callbacks), verbose=0)
    return callbacks


def states_of(states):
    return [state for name, state in states.items() if name != "settings"]


CALLBACKS = {
    "stopping": lambda: keras.callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True, min_delta=10),
    "plateau": lambda: keras.callbacks.ReduceLROnPlateau("loss", patience=2, cooldown=3, min_delta=10),
    "history": keras.callbacks.History,
    "own": Counting,
}


@pytest.mark.parametrize("make", CALLBACKS.values(), ids=CALLBACKS)
def test_a_new_callback_takes_over(make):
    (callback,) = trained(make())
    if isinstance(callback, Counting):
        callback.count = 7
    states = get_states([callback])
    (state,) = states_of(states)
    fresh = make()
    fresh.set_model(callback.model)
    assert repr(get_states([fresh])) != repr(states)  # the control: there is something to take over
    set_states([fresh], states)
    (again,) = states_of(get_states([fresh]))
    assert repr(again) == repr(state)
    check_states(states)


def test_two_of_a_kind_are_told_apart():
    a, b = Counting(), Counting()
    a.count, b.count = 1, 2
    states = get_states([a, keras.callbacks.History(), b])
    c, d = Counting(), Counting()
    set_states([c, d], {name: state for name, state in states.items() if "Counting" in name})
    assert (c.count, d.count) == (1, 2)


def test_a_state_without_its_callback_is_a_warning():
    with pytest.warns(UserWarning, match="callback EarlyStopping is in the checkpoint but not among callbacks"):
        set_states([], {"EarlyStopping.0": {}})


def test_who_forgets_is_named():
    silent = Counting(says=False)
    quiet = [keras.callbacks.ProgbarLogger(), keras.callbacks.TerminateOnNaN(), keras.callbacks.Callback(), Counting()]
    trained(*quiet[1:3], epochs=1)
    assert forgotten([silent, *quiet, *(make() for make in CALLBACKS.values())]) == ["Counting"]


def test_a_state_that_no_checkpoint_can_hold_is_named():
    callback = Counting()
    callback.get_state = lambda: {"model": object()}
    with pytest.raises(TypeError, match=r"Counting.get_state\(\) holds a value of type object, which a checkpoint cannot"):
        check_states(get_states([callback]))
    check_states({"A.0": {"x": np.ones(2)}})


class Turning(keras.callbacks.Callback):
    """Has a state that can be saved, until an epoch ends."""

    def __init__(self, value):
        super().__init__()
        self.value, self.now = value, 1

    def get_state(self):
        if isinstance(self.now, Exception):
            raise self.now
        return {"now": self.now}

    def set_state(self, state):
        self.now = state["now"]

    def on_epoch_end(self, epoch, logs=None):
        self.now = self.value


@pytest.mark.parametrize("value", [{1}, 1j, b"a", np.array([{}]), np.datetime64("2026-01-01"), ZeroDivisionError("no")], ids=repr)
def test_a_state_that_cannot_be_saved_any_more_costs_nothing_else(value, tmp_path):
    x, y = regression()

    def fit(epochs):
        other = Counting()
        trainer = tl.Trainer(compiled(), run=tl.Run(tmp_path, save_seconds=None, save_steps=1))
        trainer.fit(x, y, 8, epochs=epochs, callbacks=[Turning(value), other], verbose=0)
        return trainer, other

    with pytest.warns(UserWarning, match="callback Turning is not in checkpoints any more, .* as new after a resume") as record:
        trainer, _ = fit(3)
    assert sum("Turning" in str(warning.message) for warning in record) == 1  # once, however often it is saved
    with pytest.warns(UserWarning, match="callback Turning begins as new, since the checkpoint has no state of it"):
        again, other = fit(4)
    assert again.resumed_at == trainer.iterations and again.iterations == trainer.iterations * 4 // 3


class Named(keras.callbacks.Callback):
    """Remembers, and says so; was made with a name, under another name, and with nothing that tells."""

    def __init__(self, name="a", count=0):
        super().__init__()
        self.label, self.count, self.seen = name, count, []

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


def stopping(best, *args, **kwargs):
    """An EarlyStopping in the middle of training: its sign is turned, its operator found."""
    callback = K.EarlyStopping(*args, **kwargs)
    callback.set_model(compiled(metrics=["mae"]))
    callback.on_train_begin()
    callback._set_monitor_op()
    callback.best, callback.wait = best, int(best)
    return callback


def saved(*callbacks):
    """Their states as a checkpoint holds them."""
    arrays = {}
    return decode(json.loads(json.dumps(encode(get_states(callbacks), arrays, "callbacks"))), arrays)


def bests(callbacks):
    return [getattr(callback, "best", None) or getattr(callback, "count", None) for callback in callbacks]


class Private(keras.callbacks.Callback):
    """Was made with something that it keeps to itself."""

    def __init__(self, tag):
        super().__init__()
        self._tag, self.count = tag, 0

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


MAKERS = {
    "a private attribute": [lambda n=n: Private(n) for n in "abc"],
    "an array": [lambda n=n: Private(np.full(2, n)) for n in range(3)],
    "a lambda": [lambda n=n: Private(lambda epoch: epoch + n) for n in range(3)],
    "a partial": [lambda n=n: Private(functools.partial(max, n)) for n in range(3)],
    "monitor": [lambda: K.EarlyStopping("loss"), lambda: K.EarlyStopping("mae", mode="min"), lambda: K.EarlyStopping("val_loss")],
    "patience": [lambda n=n: K.EarlyStopping("loss", patience=n) for n in (3, 5, 7)],
    "min_delta": [lambda n=n: K.EarlyStopping("loss", min_delta=n) for n in (0.1, 0.2, 0.3)],
    "restoring": [lambda n=n: K.EarlyStopping("loss", restore_best_weights=n) for n in (False, True)],
    "factor": [lambda n=n: K.ReduceLROnPlateau("loss", factor=n) for n in (0.1, 0.2, 0.3)],
    "filepath": [lambda n=n: K.ModelCheckpoint(f"{n}.keras", "loss") for n in "abc"],
    "a name of their own": [lambda n=n: Named(n) for n in "abc"],
}


@pytest.mark.parametrize("makers", MAKERS.values(), ids=MAKERS)
def test_states_go_to_the_callback_they_came_from_in_whatever_order(makers):
    callbacks = [make() for make in makers]
    for value, callback in enumerate(callbacks, start=1):
        callback.set_model(compiled(metrics=["mae"]))
        if isinstance(callback, (Named, Private)):
            callback.count = value
        else:
            callback._set_monitor_op()
            callback.best = value
    states = saved(K.History(), *callbacks)
    for order in itertools.permutations(range(len(makers))):
        fresh = [makers[i]() for i in order]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            set_states([*fresh[:1], K.History(), *fresh[1:]], states)
        assert bests(fresh) == [i + 1 for i in order]


@pytest.mark.slow
def test_through_a_run(tmp_path):
    """The control in the same order, and the same callbacks in another one: equal ends."""
    x, y = regression()

    def callbacks():
        return [
            K.EarlyStopping("loss", patience=90, min_delta=10),
            K.EarlyStopping("loss", patience=2, min_delta=10, start_from_epoch=3),
            K.ReduceLROnPlateau("loss", factor=0.5, patience=3, min_delta=10),
            K.ReduceLROnPlateau("loss", factor=0.9, patience=1, min_delta=10),
        ]

    def fit(directory, given, epochs):
        trainer = tl.Trainer(compiled(), run=directory)
        history = trainer.fit(x, y, epochs=epochs, callbacks=given, verbose=0)
        return history.history, [(c.wait, c.best) for c in sorted(given, key=lambda c: (c.patience, type(c).__name__))]

    whole = fit(None, callbacks(), 12)
    assert len(whole[0]["loss"]) == 6  # the second of them stopped it
    for name, order in {"same": [0, 1, 2, 3], "other": [1, 0, 3, 2], "mixed": [3, 1, 2, 0]}.items():
        fit(tmp_path / name, callbacks(), 4)
        given = callbacks()
        # The order of the two that set the rate is kept, or it is another run: 0.5 and 0.9 commute but for rounding.
        again = fit(tmp_path / name, [given[i] for i in order], 12)
        np.testing.assert_allclose(again[0]["loss"], whole[0]["loss"], rtol=1e-6)
        assert [wait for wait, _ in again[1]] == [wait for wait, _ in whole[1]]


def test_a_changed_setting_keeps_the_state():
    states = saved(stopping(3, "loss", patience=3), stopping(5, "loss", patience=5))
    fresh = [K.EarlyStopping("loss", patience=5), K.EarlyStopping("loss", patience=4)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_states(fresh, states)
    assert [c.best for c in fresh] == [5, 3]
    (one,) = fresh = [K.EarlyStopping("loss", patience=9, restore_best_weights=True)]
    set_states(fresh, saved(stopping(3, "loss", patience=3)))
    assert one.best == 3


def test_a_state_of_another_quantity_is_not_taken():
    (one,) = fresh = [K.EarlyStopping("mae", mode="min")]
    with pytest.warns(UserWarning, match=r"EarlyStopping\(monitor='loss'\) is in the checkpoint but not among callbacks"):
        set_states(fresh, saved(stopping(3, "loss")))
    assert one.best is None


def test_one_that_is_added_or_left_out_takes_nothing_from_the_others():
    states = saved(stopping(3, "loss", patience=3))
    fresh = [K.EarlyStopping("val_loss"), K.EarlyStopping("loss", patience=5), K.EarlyStopping("loss", patience=3)]
    set_states(fresh, states)
    assert [c.best for c in fresh] == [None, None, 3]
    states = saved(stopping(3, "loss", patience=3), stopping(5, "loss", patience=5))
    (one,) = fresh = [K.EarlyStopping("loss", patience=5)]
    with pytest.warns(UserWarning, match=r"callback EarlyStopping\(monitor='loss'\) is in the checkpoint but not among"):
        set_states(fresh, states)
    assert one.best == 5


@pytest.mark.parametrize(
    "then, now",
    [
        ([K.EarlyStopping("loss", patience=n) for n in (3, 5)], [K.EarlyStopping("loss", patience=n) for n in (4, 6)]),
        ([K.EarlyStopping("loss", patience=n) for n in (3, 5)], [K.EarlyStopping("loss", patience=4)]),
        ([K.ModelCheckpoint(f"{n}.keras", "loss") for n in "ab"], [K.ModelCheckpoint(f"{n}.keras", "loss") for n in "cd"]),
    ],
)
def test_what_cannot_be_told_apart_is_said(then, now):
    for best, callback in enumerate(then, start=1):
        callback.best = best
    with pytest.warns(UserWarning, match=f"the checkpoint does not tell which {type(now[0]).__name__} is which: each goes on"):
        set_states(now, saved(*then))
    assert [c.best for c in now] == [1, 2][: len(now)]  # by place


def test_equal_ones_go_by_place_and_nothing_is_said():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh = [Named(), Named()]
        set_states(fresh, saved(Named(count=4), Named(count=7)))  # what changes while training is no setting
        assert bests(fresh) == [4, 7]
        fresh = [K.EarlyStopping("loss") for _ in range(2)]
        set_states(fresh, saved(stopping(1, "loss"), stopping(2, "loss")))
        assert bests(fresh) == [1, 2]


def test_states_of_an_older_version_go_by_place():
    states = {"EarlyStopping.0": {"best": 1}, "EarlyStopping.1": {"best": 2}, "Named.0": {"count": 3}}
    fresh = [K.EarlyStopping("loss"), Named(), K.EarlyStopping("loss")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_states(fresh, states)
    assert bests(fresh) == [1, 3, 2]
    fresh = [K.EarlyStopping("loss", patience=1), Named(), K.EarlyStopping("loss", patience=2)]
    with pytest.warns(UserWarning, match="does not tell which EarlyStopping is which"):
        set_states(fresh, states)
    assert bests(fresh) == [1, 3, 2]


def test_functions_that_remember_are_named():
    seen, rates = [], [0.1, 0.01]
    remembering = [
        K.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch)),
        K.LambdaCallback(on_test_begin=lambda logs: seen.append(logs)),
        K.LearningRateScheduler(lambda epoch: seen.append(epoch) or 0.1),
    ]
    assert forgotten(remembering) == ["LambdaCallback", "LambdaCallback", "LearningRateScheduler"]
    not_remembering = [
        K.LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch)),
        K.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        K.LearningRateScheduler(lambda epoch: rates[min(epoch, 1)]),
    ]
    assert forgotten(not_remembering) == []
    hook_on_the_object = keras.callbacks.Callback()
    hook_on_the_object.on_epoch_end = lambda epoch, logs=None: print(epoch)
    assert forgotten([hook_on_the_object]) == []
    hook_on_the_object.on_epoch_end = lambda epoch, logs=None: seen.append(epoch)
    assert forgotten([hook_on_the_object]) == ["Callback"]


class CountsInItsClass(keras.callbacks.Callback):
    num = 0

    def on_epoch_end(self, epoch, logs=None):
        CountsInItsClass.num += 1


class CountsBesides(keras.callbacks.EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        self.num = epoch
        super().on_epoch_end(epoch, logs)


class Stops(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_callbacks_whose_hooks_remember_are_named():
    assert forgotten([CountsInItsClass(), CountsBesides("loss"), Stops()]) == ["CountsInItsClass", "CountsBesides"]
