import warnings

import keras
import numpy as np
import pytest

from trainlab.loop.plan import plan_of


def plan(initial_epoch=0, epochs=1, steps=None, steps_per_epoch=None, validate_every=None):
    return plan_of(initial_epoch, epochs, steps, steps_per_epoch, validate_every)


def test_epochs_are_passes_unless_they_have_a_size():
    assert plan(epochs=5, initial_epoch=2).on(10, False).updates == 30
    assert plan(epochs=5, initial_epoch=2).on(10, False).last_epoch == 5
    assert plan(epochs=5, steps_per_epoch=4).on(10, False).updates == 20
    assert plan(epochs=5).on(None, False).updates == 0  # nobody knows


def test_steps_take_the_place_of_epochs():
    of_steps = plan(steps=25, initial_epoch=1).on(10, False)
    assert (of_steps.epochs, of_steps.updates, of_steps.last_epoch) == (None, 25, 4)
    assert plan(steps=25).on(None, True).last_epoch == 1
    assert plan(steps=0).on(None, True).last_epoch == 0


def test_numbers_of_numpy_become_python_s():
    of_steps = plan(steps=np.int32(2**30), steps_per_epoch=np.int32(7)).on(None, True)
    assert (type(of_steps.steps), type(of_steps.steps_per_epoch)) == (int, int)


def test_what_is_wrong_is_said_in_a_line():
    for given, message in [
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"initial_epoch": -1}, "initial_epoch"),
        ({"steps": -1}, "steps"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
        ({"steps": 3, "epochs": 2}, "give epochs or steps, not both: epochs=2, steps=3"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message) as error:
            plan(**given)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="x never ends: give steps_per_epoch, or steps"):
        plan(epochs=3).on(None, True)
    plan(epochs=3, steps_per_epoch=5).on(None, True)  # controls
    plan(steps=3).on(None, True)


@pytest.fixture
def limits():
    yield keras.config
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


def test_keras_limits_shorten_it_and_nothing_lengthens_it(limits):
    limits.set_max_epochs(2)
    limits.set_max_steps_per_epoch(3)
    with pytest.warns(UserWarning, match="epochs is limited to 2 by keras.config.set_max_epochs"):
        limited = plan(epochs=5)
    with pytest.warns(UserWarning, match="steps_per_epoch is limited to 3 by keras.config.set_max_steps_per_epoch"):
        limited = limited.on(10, False)
    assert (limited.updates, limited.last_epoch, limited.is_capped) == (6, 2, True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        within = plan(epochs=2, steps_per_epoch=2).on(10, False)
        assert (within.updates, within.steps_per_epoch, within.is_capped) == (4, 2, False)
        short = plan(epochs=1).on(3, False)  # a pass of 3 is not cut: nothing has to be said of it
        assert (short.updates, short.steps_per_epoch) == (3, None)
    with pytest.warns(UserWarning, match="steps_per_epoch is limited"):
        asked = plan(epochs=2, steps_per_epoch=9).on(10, False)
    assert (asked.updates, asked.is_capped) == (6, False)
    with pytest.warns(UserWarning, match="steps_per_epoch is limited"):
        assert plan(epochs=1).on(None, True).updates == 3  # so even what never ends has an end
    with pytest.warns(UserWarning, match="steps_per_epoch is limited"):
        of_steps = plan(steps=50).on(10, False)
    assert (of_steps.updates, of_steps.epochs) == (6, 2)


def test_keras_limits_hold_for_passes_that_are_validated_in_between(limits):
    limits.set_max_steps_per_epoch(3)
    with pytest.warns(UserWarning, match="steps_per_epoch is limited to 3 by keras.config.set_max_steps_per_epoch"):
        cut = plan(epochs=2, validate_every=5).on(10, False)
    assert (cut.updates, cut.updates_per_epoch) == (6, 5)
    with pytest.warns(UserWarning, match="steps_per_epoch is limited"):
        assert plan(epochs=2, validate_every=5).on(None, True).updates == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan(epochs=2, validate_every=5).on(2, False).updates == 4  # controls: nothing is cut
        assert plan(steps=12, validate_every=5).on(10, False).updates == 12
    limits.set_max_steps_per_epoch(None)
    limits.set_max_epochs(2)
    with pytest.warns(UserWarning, match="epochs is limited to 2 by keras.config.set_max_epochs"):
        assert plan(epochs=4, validate_every=5).on(10, False).updates == 20
    assert plan(steps=50, validate_every=5).on(10, False).updates == 20
    assert plan(steps=50, validate_every=5).on(None, True).updates == 10
