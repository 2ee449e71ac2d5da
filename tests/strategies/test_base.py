"""What every strategy can do without being asked: be written down, read back, printed."""

import doctest
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import close, differ, weights
from tables import STRATEGIES, HeavyBall, Midpoint, Sam

import trainlab as tl
from trainlab.strategies import base

CUSTOM = {cls.__name__: cls for cls in (Sam, Midpoint, HeavyBall)}
MODES = {"eager": {"run_eagerly": True}, "graph": {"jit_compile": False}, "xla": {"jit_compile": True}}
every_strategy = pytest.mark.parametrize("case", STRATEGIES.values(), ids=STRATEGIES)


class Sloppy(tl.StepStrategy):
    def __init__(self, rho=0.05):
        self.radius = rho


class Wrapper(tl.StepStrategy):
    """As the tutorial in the base class' docstring says: keep it as `inner`, and delegate."""

    def __init__(self, inner, factor=2.0):
        self.inner, self.factor = inner, factor
        self.evaluations, self.batches = inner.evaluations, inner.batches

    def init(self, parameters):
        return self.inner.init(parameters)

    def step(self, objective, state):
        step = self.inner.step(objective, state)
        return step._replace(gradient=self.factor * step.gradient)


@every_strategy
def test_through_json_and_back(case):
    strategy = case.make()
    text = json.dumps(keras.saving.serialize_keras_object(strategy))
    with keras.saving.custom_object_scope(CUSTOM):
        again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is type(strategy) and again is not strategy
    assert repr(again) == repr(strategy)
    assert again.get_config() == strategy.get_config()
    assert (again.batches, again.evaluations) == (strategy.batches, strategy.evaluations)


@every_strategy
def test_from_its_own_config(case):
    strategy = case.make()
    with keras.saving.custom_object_scope(CUSTOM):
        again = type(strategy).from_config(strategy.get_config())
    assert repr(again) == repr(strategy)


def test_settings_are_kept():
    strategy = tl.Accumulate(3, Sam(rho=0.25))
    config = keras.saving.serialize_keras_object(strategy)
    with keras.saving.custom_object_scope(CUSTOM):
        again = keras.saving.deserialize_keras_object(config)
    assert again.num_batches == 3
    assert isinstance(again.inner, Sam) and again.inner.rho == 0.25
    assert again.inner.rho != Sam().rho  # control: it is not the default


def test_three_deep():
    strategy = tl.Accumulate(2, Wrapper(tl.Accumulate(3, tl.Heun()), factor=0.5))
    with keras.saving.custom_object_scope({"Wrapper": Wrapper}):
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(strategy))
    assert repr(again) == "Accumulate(num_batches=2, inner=Wrapper(inner=Accumulate(num_batches=3, inner=Heun()), factor=0.5))"
    assert (again.batches, again.evaluations) == (6, 2)


def test_a_strategy_of_the_package_needs_no_custom_objects_and_a_users_own_does():
    keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tl.Accumulate(2, tl.Heun())))

    class Local(tl.StepStrategy):
        pass

    with pytest.raises(TypeError, match="Local"):
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(Local()))


@pytest.mark.parametrize("strategy, text", [
    (tl.SGD(), "SGD()"),
    (tl.Heun(), "Heun()"),
    (tl.Accumulate(4), "Accumulate(num_batches=4, inner=SGD())"),
    (tl.Accumulate(4, Sam(0.1)), "Accumulate(num_batches=4, inner=Sam(rho=0.1))"),
    (Sloppy(), "Sloppy(...)"),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_repr_is_the_call_that_makes_it(strategy, text):
    assert repr(strategy) == text


@keras.saving.register_keras_serializable(package="tests")
class Annealed(tl.StepStrategy):
    def __init__(self, schedule):
        self.schedule = schedule


def test_a_schedule_is_described_and_written():
    strategy = Annealed(keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5))
    described = json.loads(json.dumps(keras.saving.serialize_keras_object(strategy)))
    again = keras.saving.deserialize_keras_object(described)
    assert float(again.schedule(10)) == 0.5
    text = "Annealed(schedule=ExponentialDecay(initial_learning_rate=1.0, decay_steps=10, decay_rate=0.5, staircase=False))"
    assert repr(again) == repr(strategy) == text


def test_a_setting_that_is_not_kept_is_named_with_the_remedy():
    with pytest.raises(AttributeError, match=r"Sloppy.__init__ takes 'rho' but self.rho is not set: keep it as self.rho"):
        Sloppy().get_config()


def test_a_strategy_without_a_step_says_so():
    class Empty(tl.StepStrategy):
        pass

    with pytest.raises(NotImplementedError, match=r"Empty must define step\(self, objective, state\)"):
        Empty().step(None, None)
    x = np.zeros([2, 3], "float32")
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(), "mse")
    with pytest.raises(NotImplementedError, match="Empty must define step"):
        tl.Trainer(model, Empty()).fit(x, x[:, :1], batch_size=2, verbose=0)


def test_defaults():
    strategy = tl.StepStrategy()
    assert (strategy.evaluations, strategy.batches) == (1, 1)
    assert strategy.init(tl.Vector([tf.zeros([2])])) == {}
    assert tl.Step(gradient=None, at=None) == (None, None, None, {}, None, None)


def test_docstring_examples():
    result = doctest.testmod(base, extraglobs={"StepStrategy": tl.StepStrategy, "Step": tl.Step})
    assert result.attempted > 0 and result.failed == 0


class FromHere(tl.StepStrategy):
    """Goes, whatever the optimizer does, along the gradient from where it was."""

    def __init__(self, along, when=None):
        self.along, self.when = along, when

    def step(self, objective, state):
        here = objective(state.parameters)
        there = state.parameters + self.along * here.gradient

        def then(fast):
            return (state.parameters if self.along == 0 else there), {}

        return tl.Step(here.gradient, at=here, then=then, when=None if self.when is None else tf.constant(self.when))


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("along", "when"), [(0, None), (-0.5, None), (-0.5, True)], ids=["there", "moved", "moved when told"])
def test_what_follows_the_optimizer_reads_a_table_as_it_was(mode, along, when):
    def trained(strategy, rate):
        keras.utils.set_random_seed(1)
        table = keras.layers.Embedding(200, 4)
        model = keras.Sequential([keras.Input([2], dtype="int32"), table, keras.layers.Flatten(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(rate), "mse")
        start = weights(model)
        x, y = np.arange(8).reshape(4, 2), np.ones([4, 1])
        tl.Trainer(model, strategy, **mode).fit(x, y, batch_size=2, shuffle=False, verbose=0)
        return start, weights(model)

    start, found = trained(FromHere(along, when), 0.3)
    _, expected = trained(tl.SGD(), -along) if along else (None, start)
    close(found, expected)
    assert differ(found, trained(tl.SGD(), 0.3)[1])
