import keras
import pytest
from small import compiled

from trainlab import Accumulate, Heun, StepStrategy
from trainlab.loop.making.recipe import recipe_of


class Holds(StepStrategy):
    def __init__(self, value):
        self.value = value


def recipe(model, strategy, **changes):
    given = {"jit_compile": None, "run_eagerly": False, "updates_per_call": None, "seed": 0}
    return recipe_of(model, strategy, **{**given, **changes})


def test_nothing_changed():
    model, strategy = compiled(), Accumulate(2, Heun())
    assert recipe(model, strategy).matches(recipe(model, strategy))


@pytest.mark.parametrize(
    "changes", [{"jit_compile": True}, {"run_eagerly": True}, {"updates_per_call": 5}, {"seed": 1}], ids=lambda c: next(iter(c))
)
def test_what_a_loop_is_traced_with(changes):
    model, strategy = compiled(), Heun()
    old, new = recipe(model, strategy), recipe(model, strategy, **changes)
    assert not old.matches(new)
    assert old.has_same_memory(new)


def test_another_strategy_begins_its_memory_anew_and_another_setting_does_not():
    model, strategy = compiled(), Holds(1)
    old = recipe(model, strategy)
    assert not old.has_same_memory(recipe(model, Holds(1)))
    strategy.value = 2
    new = recipe(model, strategy)
    assert not old.matches(new) and old.has_same_memory(new)


def test_other_variables_and_another_compile():
    model, strategy = compiled(keras.Sequential([keras.Input([3]), keras.layers.Dense(2), keras.layers.Dense(1)])), Heun()
    old = recipe(model, strategy)
    model.layers[0].trainable = False
    frozen = recipe(model, strategy)
    assert not old.matches(frozen) and not old.has_same_memory(frozen)
    model.layers[0].trainable = True
    assert old.matches(recipe(model, strategy))  # control
    compiled(model)
    again = recipe(model, strategy)
    assert not old.matches(again) and old.has_same_memory(again)


def test_a_dtype_policy_that_is_set_and_set_back_is_no_change():
    keras.config.set_dtype_policy("float32")
    model, strategy = compiled(), Heun()
    old = recipe(model, strategy)
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        assert not old.matches(recipe(model, strategy))
    finally:
        keras.config.set_dtype_policy("float32")
    assert old.matches(recipe(model, strategy))
