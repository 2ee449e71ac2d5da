import keras
import numpy as np
import pytest
from small import compiled, regression

from trainlab.runs.callback_state import check_states, forgotten, get_states, set_states


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
    (state,) = states.values()
    fresh = make()
    fresh.set_model(callback.model)
    assert repr(get_states([fresh])) != repr(states)  # the control: there is something to take over
    set_states([fresh], states)
    (again,) = get_states([fresh]).values()
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
