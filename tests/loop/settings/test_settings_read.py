"""What is noticed, value by value; what of it a `fit` takes is tested in `test_trainer_settings.py`."""

import collections
import dataclasses
import enum
import functools
import threading
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainlab import Accumulate, Heun, StepStrategy
from trainlab.loop.settings import Settings
from trainlab.loop.settings.reading import _sample

layers = keras.layers
FACTOR, TABLE = 1.0, {"a": [1, 2]}


def seen(*values):
    return Settings(lambda: values)


class Holds(StepStrategy):
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


class Foreign:
    """As an object of a package's: `ml_collections.ConfigDict` keeps its fields so."""

    def __init__(self, **fields):
        self.fields = fields


Foreign.__module__ = "numpy_like"


@dataclasses.dataclass
class Config:
    rate: float
    names: list


class Percent(float):
    """A number with a class of its own."""


class Sulking:
    """Cannot be looked into."""

    @property
    def __dict__(self):
        raise RuntimeError("no")


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def closing_over(value):
    return lambda x: x * value


EQUAL = {
    "ints": (lambda: 1),
    "nan": (lambda: float("nan")),
    "lists": (lambda: [1, Heun(), {"k": 2.0}]),
    "sets": (lambda: {"a", "b"}),
    "arrays": (lambda: np.ones(3)),
    "large arrays": (lambda: np.arange(10**6)),
    "objects in arrays": (lambda: np.array([{"a": 1}, None], dtype=object)),
    "scalars": (lambda: np.float32(2)),
    "tensors": (lambda: tf.constant([1.0, 2.0])),
    "ragged tensors": (lambda: tf.ragged.constant([[1], [2, 3]])),
    "strategies": (lambda: Accumulate(2, Heun())),
    "losses": (lambda: keras.losses.Huber(0.5)),
    "schedules": (lambda: keras.optimizers.schedules.CosineDecay(0.1, 10)),
    "configurations": (lambda: Config(0.1, ["a"])),
    "slots": (lambda: Slotted(1)),
    "namespaces": (lambda: types.SimpleNamespace(a=1)),
    "enumerations": (lambda: Colour.RED),
    "closures": (lambda: closing_over(2)),
    "partials": (lambda: functools.partial(closing_over, 2)),
    "queues": (lambda: collections.deque([1, 2])),
    "long lists": (lambda: ["a"] * 5000),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_holds_the_same_is_equal(name):
    assert seen(Holds(EQUAL[name]())) == seen(Holds(EQUAL[name]()))


OTHER = {
    "ints": (1, 2),
    "an int and a float": (1, 1.0),
    "an int and a bool": (1, True),
    "strings": ("a", "b"),
    "nothing": (None, 0),
    "a list and a tuple": ([1], (1,)),
    "lists": ([1, Heun()], [2, Heun()]),
    "lengths": ([1, [2]], [1, [2], []]),
    "keys": ({"a": 1}, {"b": 1}),
    "values": ({"k": 2.0}, {"k": 3.0}),
    "sets": ({1, 2}, {1, 3}),
    "arrays": (np.ones(3), np.zeros(3)),
    "dtypes": (np.zeros(2, "float32"), np.zeros(2, "int32")),
    "shapes": (np.zeros([2, 3]), np.zeros([3, 2])),
    "scalars": (np.float32(1), np.float32(2)),
    "numbers of a class": (Percent(1), Percent(2)),
    "a number and one of a class": (1.0, Percent(1)),
    "what cannot be looked into": (Sulking(), Sulking()),
    "tensors": (tf.constant([1.0]), tf.constant([2.0])),
    "tensors' dtypes": (tf.zeros([1]), tf.zeros([1], tf.int32)),
    "ragged tensors": (tf.ragged.constant([[1], [2]]), tf.ragged.constant([[1, 2], []])),
    "variables": (tf.Variable(1.0), tf.Variable(1.0)),
    "objects that say nothing": (object(), object()),
    "schedules": (keras.optimizers.schedules.CosineDecay(0.1, 10), keras.optimizers.schedules.CosineDecay(0.1, 20)),
    "regularizers": (keras.regularizers.L2(0.1), keras.regularizers.L2(0.2)),
    "constraints": (keras.constraints.MaxNorm(1), keras.constraints.MaxNorm(2)),
    "configurations": (Config(0.1, ["a"]), Config(0.1, ["b"])),
    "slots": (Slotted(1), Slotted(2)),
    "namespaces": (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
    "foreign": (Foreign(a={"b": 1}), Foreign(a={"b": 2})),
    "enumerations": (Colour.RED, Colour.BLUE),
    "functions": (lambda x: x, lambda x: -x),
    "closures": (closing_over(1), closing_over(2)),
    "partials": (functools.partial(closing_over, 1), functools.partial(closing_over, 2)),
    "keywords": (functools.partial(closing_over, value=1), functools.partial(closing_over, value=2)),
    "methods": (Config(1, []).__repr__, Config(2, []).__repr__),
    "tf.functions": (tf.function(closing_over(1)), tf.function(closing_over(2))),
    "classes": (Config, Slotted),
    "long lists": (["a"] * 5000, ["a"] * 4999 + ["b"]),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_holds_something_else_is_not(name):
    one, other = OTHER[name]
    assert seen(Holds(one)) == seen(Holds(one))
    assert seen(Holds(one)) != seen(Holds(other))


def test_a_cycle_ends():
    one = Foreign()
    one.fields["self"] = [one]
    deep = []
    for _ in range(1000):
        deep = [deep]
    assert seen(one, deep) == seen(one, deep)


def test_what_is_changed_in_place():
    array, listed = np.zeros(10), [1]
    before = seen(Holds(array), listed)
    array[3] = 1
    assert before != seen(Holds(array), listed)
    array[3] = 0
    assert before == seen(Holds(array), listed)
    listed.append(2)
    assert before != seen(Holds(array), listed)


class Scale(tf.Module):
    """Somebody's, which a loss closes over."""

    def __init__(self):
        super().__init__()
        self.factor, self.offset = 1.0, tf.Variable(0.0)


def test_a_module_of_the_users_is_read_and_its_variables_are_what_they_are():
    module = Scale()
    before = Settings(lambda: [module])
    module.offset.assign(3.0)
    assert before == Settings(lambda: [module])
    module.factor = 0.0
    assert before != Settings(lambda: [module])


def test_of_a_large_array_a_sample_is_taken():
    array = np.zeros(10**7, "float32")
    assert len(_sample(array)) <= 2**20 and len(_sample(array[:100])) == 400
    before = seen(array)
    array[:] = 1
    assert before != seen(array)


@pytest.mark.parametrize("is_global", [True, False])
def test_what_a_function_names(is_global, monkeypatch):
    def helper(x):
        return x * FACTOR + TABLE["a"][0]

    def loss(x):
        return helper(x)

    def other(x):
        return x

    before, unrelated = seen(loss), seen(other)
    if is_global:
        monkeypatch.setitem(globals(), "FACTOR", 2.0)
    else:
        monkeypatch.setitem(TABLE, "a", [3, 2])
    assert before != seen(loss)
    assert unrelated == seen(other)


def test_a_method_put_in_place_of_another():
    class Scaled(StepStrategy):
        def step(self, objective, state):
            return 1

    strategy = Scaled()
    before = seen(strategy)
    Scaled.step = lambda self, objective, state: 2
    assert before != seen(strategy)


def test_what_training_itself_sets_is_no_setting():
    class Counting(layers.Layer):
        def __init__(self):
            super().__init__()
            self.calls, self.scale = 0, 1.0

        def call(self, x):
            self.calls += 1
            self.last = x
            return x * self.scale

    layer = Counting()
    before = seen(layer)
    layer(np.ones([1, 2]))
    assert before == seen(layer)
    layer.scale = 2.0
    assert before != seen(layer)


def test_tracing_is_no_change_and_what_was_changed_before_it_is():
    held = Holds(1)
    settings = seen(held)
    with settings.tracing():
        held.value = 2
    assert settings == seen(held)
    held.value = 3
    assert settings != seen(held)
    with settings.tracing():  # a program of another size: the first one does not know of the 3
        pass
    assert settings != seen(held) and settings == settings
    held.value = 2
    assert settings != seen(held)


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), time.time, len, (i for i in "ab"), collections],
    ids=lambda value: type(value).__name__ + getattr(value, "__name__", ""),
)
def test_things_are_what_they_are(value):
    assert seen(Holds(value)) == seen(Holds(value)) != seen(Holds(None))


@pytest.mark.slow
def test_every_attribute_that_keras_counts_in_is_known():
    """Else a `fit` might take what Keras itself does there for a change."""
    model = keras.Sequential([keras.Input([3]), layers.Dense(2, activation="relu"), layers.BatchNormalization(), layers.Dense(1)])
    model.compile("adam", loss="mse", metrics=["mae"])
    before = seen(model, model.optimizer, list(model.metrics))
    x, y = np.ones([4, 3]), np.ones([4, 1])
    model.fit(x, y, verbose=0)
    built = seen(model, model.optimizer, list(model.metrics))
    assert before != built  # the optimizer has its variables now: the control
    for use in (
        lambda: model.fit(x, y, verbose=0, epochs=2),
        lambda: model.evaluate(x, y, verbose=0),
        lambda: model.predict(x, verbose=0),
    ):
        use()
        assert built == seen(model, model.optimizer, list(model.metrics))
    model.summary(print_fn=lambda *a, **k: None)
    model.get_config()
    assert built == seen(model, model.optimizer, list(model.metrics))


@pytest.mark.slow
def test_a_large_model_is_read_in_a_moment():
    x = inputs = keras.Input([8, 8, 4])
    for _ in range(100):
        x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(4, 1)(x)))
    model = keras.Model(inputs, x)
    model.compile("adam", loss="mse")
    model.optimizer.build(model.trainable_variables)
    seen(model, model.optimizer)
    started = time.process_time()
    for _ in range(5):
        seen(model, model.optimizer)
    assert (time.process_time() - started) / 5 < 0.2  # about 0.005
