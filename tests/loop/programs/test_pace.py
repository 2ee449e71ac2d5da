"""How many steps a call makes is measured, and a measurement holds for what was measured."""

import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluation_cases import counted_calls

import trainlab as tl
from trainlab.loop import loop as loop_module
from trainlab.loop.evaluation import evaluation_loop
from trainlab.loop.programs import MAX_STEPS_PER_CALL, Pace


def block(num_updates, batch_size=4, is_sized=True):
    layout = LAYOUTS.setdefault((is_sized, batch_size), Layout(is_sized))
    return types.SimpleNamespace(layout=layout, num_updates=num_updates)


class Layout(types.SimpleNamespace):
    __hash__ = object.__hash__

    def __init__(self, is_sized):
        super().__init__(is_sized=is_sized)


class Source:
    must_read = False


LAYOUTS = {}


def test_it_grows_while_calls_are_short_and_shrinks_after_long_ones():
    pace = Pace()
    for _ in range(20):
        pace.note(block(pace.size), 0.01, 0.01)
    assert pace.size == MAX_STEPS_PER_CALL
    pace.note(block(pace.size), 0.15, 0.15)
    assert pace.size == MAX_STEPS_PER_CALL
    pace.note(block(pace.size), 0.25, 0.25)
    assert pace.size == MAX_STEPS_PER_CALL // 2


def test_fewer_steps_than_planned_tell_of_too_many_alone():
    pace = Pace()
    pace.expect(Source(), 0.001)
    assert pace.size == 150
    pace.note(block(10), 0.01, 0.01)
    pace.note(block(10), 5.0, 0.15)  # that waited for its data
    assert pace.size == 150
    pace.note(block(10), 0.3, 0.3)
    assert pace.size == 5


def test_what_is_known_of_a_size_is_remembered_and_tells_nothing_of_another():
    pace, first, second = Pace(), Source(), Source()
    assert pace.allows(first, block(1))
    for _ in range(6):
        pace.note(block(pace.size), 0.01, 0.01)
    assert pace.size == 64 and pace.allows(first, block(64))
    assert not pace.allows(second, block(64, batch_size=500)) and pace.size == 1
    assert pace.allows(second, block(1, batch_size=500))
    third, fourth = Source(), Source()
    assert pace.allows(third, block(1)) and pace.size == 64
    assert not pace.allows(fourth, block(64, is_sized=False)) and pace.size == 1  # a stream's may be of any size


def test_a_fixed_number_stays():
    pace, source = Pace(3), Source()
    source.must_read = True
    pace.expect(source, 1e-6)
    pace.note(block(3), 0.0, 0.0)
    assert pace.allows(Source(), block(3))
    pace.note(block(3), 9.0, 9.0)
    assert pace.size == pace.first(source) == 3


class Slow(keras.layers.Layer):
    """Takes 4 ms an example."""

    def call(self, x):
        (n,) = tf.numpy_function(lambda n: (time.sleep(0.004 * n), np.float32(n))[1:], [tf.shape(x)[0]], [tf.float32])
        return x + 0.0 * tf.ensure_shape(n, [])


def slow_model():
    model = keras.Sequential([keras.Input([1]), Slow(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


X = np.zeros([400, 1], "float32")


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True])
def test_larger_batches_begin_with_one_update_a_call(is_stream, monkeypatch):
    def fit(examples, batch_size):
        x = X[:examples]
        if is_stream:
            trainer.fit(tf.data.Dataset.from_tensor_slices((x, x)).batch(batch_size), verbose=0)
        else:
            trainer.fit(x, x, batch_size=batch_size, verbose=0)

    trainer = tl.Trainer(slow_model(), jit_compile=False)
    fit(60, 1)
    assert trainer._loops.made.loop._pace.size > 1
    counts = counted_calls(loop_module.Loop, monkeypatch)
    fit(400, 100)  # an update takes four tenths of a second
    assert [count for count in counts if count] == [1, 1, 1, 1]
    fit(60, 1)
    counts.clear()
    fit(400, 100)
    assert max(counts) == 1


@pytest.mark.slow
def test_larger_batches_to_evaluate_or_predict_on_begin_with_one_a_call(monkeypatch):
    trainer = tl.Trainer(slow_model(), jit_compile=False)
    for method, data in ((trainer.evaluate, (X, X)), (trainer.predict, (X,))):
        method(*(array[:60] for array in data), batch_size=1, verbose=0)
        with monkeypatch.context() as context:
            counts = counted_calls(evaluation_loop.CompiledLoop, context)
            method(*data, batch_size=100, verbose=0)
            assert [count for count in counts if count] == [1, 1, 1, 1]
