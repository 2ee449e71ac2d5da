import re
import threading
import time
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, differ, everything, regression

from trainlab import Accumulate, Heun, Trainer
from trainlab.data.stream import StopRequested, stoppable
from trainlab.loop import jit


@pytest.fixture
def eager_to_try(monkeypatch):
    """However short a run is, XLA is tried."""
    monkeypatch.setattr(jit, "FEWEST_UPDATES", 1)
    monkeypatch.setattr(jit, "SHARE", 1e6)
    monkeypatch.setattr(jit, "_SECONDS_A_TIMING", 0.001)
    monkeypatch.setattr(jit, "_LEAD", 1)


@pytest.fixture(params=[True, False], ids=["chosen", "not chosen"])
def outcome(request, monkeypatch, eager_to_try):
    """Whether XLA will be found fast enough, whatever the timings are."""
    monkeypatch.setattr(jit, "_is_worth_it", lambda *args: request.param)
    return request.param


def noisy_model(optimizer=None):
    """Everything that a step may move: weights, statistics, dropout seeds, the global seed generator, slots, metrics."""

    class Noise(keras.layers.Layer):
        def call(self, x):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x))

    layers = [keras.layers.BatchNormalization, Noise, lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)]
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.5), use_ema=True)
    return compiled(dense_model(*layers), optimizer, metrics=["mae"])


def data_of(kind):
    keras.utils.set_random_seed(1)  # the shuffle of a data set made later depends on it, whatever its own seed
    x, y = regression(46)
    if kind == "arrays":
        return (x, y), {"batch_size": 4}
    return (tf.data.Dataset.from_tensor_slices((x, y)).shuffle(46, seed=1).batch(4),), {}


@pytest.mark.parametrize("strategy", [None, pytest.param(Accumulate(2, Heun()), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_finding_out_moves_nothing(kind, strategy, outcome, capsys):
    ends = []
    for jit_compile in ("auto", outcome):
        data, kwargs = data_of(kind)
        trainer = Trainer(noisy_model(), strategy, jit_compile=jit_compile)
        history = trainer.fit(*data, epochs=3, verbose=2, **kwargs)
        lines = [line for line in capsys.readouterr().out.splitlines() if " XLA: " in line]
        assert len(lines) == (jit_compile == "auto")
        assert trainer.jit_compile is outcome
        seeds = keras.src.random.seed_generator.global_seed_generator().state
        ends.append([*everything(trainer.model), np.array(seeds), *map(np.array, history.history.values())])
    assert_same(*ends)
    trainer.fit(*data, steps=1, verbose=0, **kwargs)  # control
    assert differ(everything(trainer.model), ends[0])


@pytest.mark.slow
def test_finding_out_itself_moves_nothing(eager_to_try):
    (x, y), kwargs = data_of("arrays")
    trainer = Trainer(noisy_model())
    trainer.fit(x, y, steps=3, verbose=0, **kwargs)
    loop, update = trainer._loops.made.loop, trainer._loops.made.loop.update
    source = trainer_source(trainer, x, y)
    source.position = 12
    before = [np.array(v) for v in update.variables.values()]
    choice = loop.choose(source, 10**6)
    assert choice.is_final and choice.seconds > 0
    assert (source.epoch, source.position) == (0, 12)
    assert_same([np.array(v) for v in update.variables.values()], before)
    loop.run(source, 1)  # control
    assert differ([np.array(v) for v in update.variables.values()], before)


def trainer_source(trainer, x, y):
    from trainlab.data.array_source import ArraySource

    return ArraySource((x, y, None), 4, True, trainer.seed)


@pytest.mark.slow
def test_it_is_found_out_once(outcome, monkeypatch, capsys):
    (x, y), kwargs = data_of("arrays")
    trainer = Trainer(noisy_model())
    assert trainer.jit_compile is None
    trainer.fit(x, y, verbose=2, **kwargs)
    assert "XLA: " in capsys.readouterr().out
    monkeypatch.setattr(jit, "choose", None)
    trainer.fit(x, y, verbose=2, **kwargs)
    trainer.strategy = Heun()
    trainer.fit(x, y, verbose=2, **kwargs)
    assert trainer.jit_compile is outcome
    assert "XLA: " not in capsys.readouterr().out


@pytest.mark.slow
def test_a_short_run_does_not_try_and_a_long_one_does(monkeypatch):
    (x, y), kwargs = data_of("arrays")
    trainer = Trainer(noisy_model())
    with monkeypatch.context() as patch:
        patch.setattr(jit, "choose", None)  # not even the step's time is taken
        trainer.fit(x, y, verbose=0, **kwargs)
    assert trainer.jit_compile is None
    choice = trainer._loops.made.loop.choose(trainer_source(trainer, x, y), 100)
    assert not choice.is_final and not choice.jit_compile and "would not repay" in choice.reason
    assert trainer._loops.made.loop.choose(trainer_source(trainer, x, y), 10**9).is_final


class Clock:
    """Stands in for a block and for both functions: tells how long a turn of each takes."""

    def __init__(self, ratios):
        self.turns = [seconds for ratio in ratios for seconds in (ratio, 1.0)]

    def seconds_of(self, function):
        return self.turns.pop(0)

    def race(self, until=float("inf")):
        return jit._race(None, None, self, mock.MagicMock(), until)


def test_turns_are_taken_until_they_tell():
    assert len(Clock([1.3] * 30).race()) == len(Clock([0.8] * 30).race()) == 5
    assert len(Clock([1.3, 1.3, 0.8] + [1.3] * 30).race()) == 7  # one turn lost, two more are needed
    assert len(Clock([1.3, 0.8] * 30).race()) == 25
    assert len(Clock([1.3, 0.8] * 30).race(until=0)) == 5  # the time is up


def test_the_faster_is_taken_if_that_repays_compiling():
    slower_once = [(1.3, 1.0)] * 4 + [(1.0, 9.0)]  # somebody else had the machine in one turn
    assert jit._is_worth_it(slower_once, 10.0, 100)
    assert not jit._is_worth_it(slower_once, 31.0, 100)
    assert not jit._is_worth_it([(1.04, 1.0)] * 5, 0.0, 10**6)  # alike
    assert not jit._is_worth_it([(1.0, 1.3)] * 5, 0.0, 10**6)


@pytest.mark.slow
def test_compiling_for_too_long_is_given_up(eager_to_try, monkeypatch):
    (x, y), kwargs = data_of("arrays")
    monkeypatch.setattr(jit, "finishes", lambda work, seconds: False)
    trainer = Trainer(noisy_model())
    trainer.fit(x, y, verbose=0, **kwargs)
    assert trainer.jit_compile is False


@pytest.mark.slow
def test_a_stop_leaves_the_compiler_behind_and_moves_nothing(eager_to_try, monkeypatch):
    (x, y), kwargs = data_of("arrays")
    trainer = Trainer(noisy_model())
    trainer.fit(x, y, steps=3, verbose=0, **kwargs)
    loop = trainer._loops.made.loop
    loop.jit_compile = None
    before = [np.array(v) for v in loop.update.variables.values()]
    may_end, is_compiling = threading.Event(), threading.Event()

    def compile_for_ever(jitted, block, copies, until):
        copies.lend(jitted)
        jit.finishes(lambda: is_compiling.set() or may_end.wait(60), 60)

    monkeypatch.setattr(jit, "_compile", compile_for_ever)
    started = time.monotonic()
    with stoppable(is_compiling.is_set), pytest.raises(StopRequested):
        loop.choose(trainer_source(trainer, x, y), 10**6)
    assert time.monotonic() - started < 30
    may_end.set()
    assert loop.jit_compile is None
    assert_same([np.array(v) for v in loop.update.variables.values()], before)
    trainer.fit(x, y, steps=6, verbose=0, **kwargs)  # and the step works on the real ones
    assert trainer.iterations == 9


class Looks(keras.layers.Layer):
    """Runs Python, which XLA cannot."""

    def call(self, x):
        return tf.ensure_shape(tf.py_function(lambda value: value, [x], x.dtype), x.shape)

    def compute_output_shape(self, shape):
        return shape


def looking_model():
    return compiled(dense_model(Looks, lambda: keras.layers.Dense(1)))


class Counts(keras.layers.Layer):
    """A size that only the data tell."""

    def call(self, x):
        valid = tf.cast(tf.sequence_mask(tf.cast(1.0 + tf.abs(x[:, 0]), tf.int32)), x.dtype)
        return x * tf.reduce_sum(valid, axis=1, keepdims=True)


def counting_model():
    return compiled(dense_model(Counts, lambda: keras.layers.Dense(1)))


class Lengths(keras.layers.Layer):
    def call(self, x):
        return tf.cast(tf.strings.length(x), tf.float32)[:, None]

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, 1))


def text_model():
    inputs = keras.Input([], dtype="string")
    return compiled(keras.Model(inputs, keras.layers.Dense(1)(Lengths(dtype="string")(inputs))))


UNSUPPORTED = {
    "python": (looking_model, lambda: regression(20), "XLA has no kernel for EagerPyFunc"),
    "sizes": (
        counting_model,
        lambda: regression(20),
        r"XLA must know sizes beforehand, but that of Range \(.*Range\) depends on the data",
    ),
    "strings": (text_model, lambda: (np.array(["a b", "b"] * 10), np.ones([20, 1])), "XLA cannot compile string tensors: "),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "strings")) for name in UNSUPPORTED])
def test_what_xla_cannot_compile_is_named(name, eager_to_try, capsys):
    model_fn, data_fn, message = UNSUPPORTED[name]
    x, y = data_fn()
    trainer = Trainer(model_fn())
    trainer.fit(x, y, batch_size=5, verbose=2)
    assert re.search(f"without XLA: {message}", capsys.readouterr().out)
    assert trainer.jit_compile is False and trainer.iterations == 4

    forced = Trainer(model_fn(), jit_compile=True)
    before = everything(forced.model)
    with pytest.raises(ValueError, match=f'jit_compile=True: {message}.*: write jit_compile=False, or "auto"') as error:
        forced.fit(x, y, batch_size=5, verbose=0)
    assert "\n" not in str(error.value)
    assert forced.iterations == 0
    assert_same(everything(forced.model)[: len(before)], before)


def test_any_other_failure_of_xla_leaves_it_out(eager_to_try, monkeypatch, capsys):
    """A compiler's bug, say; the same step has just run without it."""

    def fail(work, seconds):
        raise tf.errors.InternalError(None, None, "the compiler\nfell over")

    monkeypatch.setattr(jit, "finishes", fail)
    x, y = regression(20)
    trainer = Trainer(compiled())
    trainer.fit(x, y, batch_size=5, verbose=2)
    assert "without XLA, with which the step fails: the compiler\n" in capsys.readouterr().out
    assert trainer.jit_compile is False and trainer.iterations == 4


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Something new\n\ttf2xla conversion failed while converting f[]", "XLA cannot compile it: Something new"),
        ("labels must be less than 10", None),  # the data's fault
    ],
)
def test_how_refusals_are_told_from_other_errors(message, reason):
    error = tf.errors.InvalidArgumentError(None, None, message)
    with pytest.raises(tf.errors.InvalidArgumentError if reason is None else jit.UnsupportedOperation, match=reason or message):
        with jit.unsupported_operations():
            raise error


@pytest.mark.parametrize("kind", ["unknown size", "many shapes", "refused by a layer"])
def test_where_it_is_not_tried(kind, eager_to_try, monkeypatch):
    x, y = regression(20)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    model = compiled()
    if kind == "unknown size":
        data = data.filter(lambda *_: True)
    if kind == "many shapes":
        lengths = tf.data.Dataset.range(2, 6)
        data = lengths.map(lambda n: (tf.ones([tf.cast(n, tf.int32), 3]), tf.ones([1]))).padded_batch(2)
        inputs = keras.Input([None, 3])
        model = compiled(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(inputs))))
    if kind == "refused by a layer":
        model.layers[-1].supports_jit = False
    # Shapes are known from a block of batches only, which choosing begins with; the others are told by the model and the data.
    monkeypatch.setattr(jit, "_compile" if kind == "many shapes" else "choose", None)
    trainer = Trainer(model, jit_compile="auto")
    trainer.fit(data, verbose=0)
    assert trainer.jit_compile is (False if kind == "many shapes" else None)


@pytest.mark.parametrize(
    "compiled_with, given, expected",
    [("auto", None, None), (True, "auto", None), ("auto", False, False), ("auto", True, True), ("other", None, "other")],
)
def test_whose_choice_counts(compiled_with, given, expected):
    model = dense_model()
    other = not tf.config.list_physical_devices("GPU")  # than Keras would choose
    model.compile(optimizer="sgd", loss="mse", jit_compile=other if compiled_with == "other" else compiled_with)
    assert Trainer(model, jit_compile=given).jit_compile is (other if expected == "other" else expected)
    with pytest.raises(ValueError, match="jit_compile must be True, False or \"auto\", not 'yes'"):
        Trainer(model, jit_compile="yes")


def test_a_step_that_fails_says_so_itself(eager_to_try):
    x, y = regression(20)

    def fail(value):
        raise ArithmeticError("the layer failed")

    class Fails(Looks):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(fail, [x], x.dtype), x.shape)

    trainer = Trainer(compiled(dense_model(Fails, lambda: keras.layers.Dense(1))))
    with pytest.raises(tf.errors.OpError, match="the layer failed"):
        trainer.fit(x, y, verbose=0)
    assert trainer.iterations == 0


def test_the_time_that_it_takes_is_bounded(eager_to_try, monkeypatch):
    """A compiler that needs a second where the work ahead takes less is not waited for."""
    monkeypatch.setattr(jit, "SHARE", 0.1)
    monkeypatch.setattr(jit, "_COMPILE_RATIO", 0.0)
    waited = []
    monkeypatch.setattr(jit, "finishes", lambda work, seconds: waited.append(seconds) or False)
    x, y = regression(20)
    started = time.monotonic()
    Trainer(compiled()).fit(x, y, epochs=3, verbose=0)
    assert waited == [pytest.approx(1.0, abs=0.1)]  # the least that it is given
    assert time.monotonic() - started < 60
