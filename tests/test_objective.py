"""How an effective batch is evaluated; what comes of it is tested in `equalities`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import batches_of, build, gradient_of
from small import compiled, dense_model

from trainlab import objective
from trainlab.model_function import ModelFunction

LOOPS = ("While", "StatelessWhile")


def perceptron():
    x = tf.random.stateless_normal([3, 4, 3], [1, 2])
    return compiled(dense_model(lambda: keras.layers.Dense(5, "tanh"), lambda: keras.layers.Dense(1))), x


def recurrent():
    x = tf.random.stateless_normal([3, 4, 6, 2], [1, 2])
    keras.utils.set_random_seed(1)
    return compiled(keras.Sequential([keras.Input([6, 2]), keras.layers.LSTM(3), keras.layers.Dense(1)])), x


def traced(model, x, may_unroll):
    """An evaluation of three batches."""
    data = [(batch, tf.ones([4, 1]), None) for batch in tf.unstack(x)]
    function = ModelFunction(build(model, data))

    def call():
        batches = [part._replace(may_unroll=may_unroll) for part in batches_of(data)]
        return objective.KerasObjective(function, batches)(function.read_parameters())

    return tf.function(call, autograph=False).get_concrete_function()


def num_loops(function):
    return sum(op.type in LOOPS for op in function.graph.get_operations())


@pytest.mark.parametrize("limit", [None, "_MAX_OPERATIONS", "_MAX_BYTES"])
def test_batches_of_a_small_model_are_written_out_where_they_may_be(limit, monkeypatch):
    model, x = perceptron()
    if limit is not None:
        monkeypatch.setattr(objective, limit, 5)
    assert num_loops(traced(model, x, may_unroll=True)) == (0 if limit is None else 1)
    assert num_loops(traced(model, x, may_unroll=False)) == 1


def test_batches_of_a_size_that_is_not_known_are_not():
    """Nobody knows what memory they would take."""
    model, x = perceptron()
    data = [(batch, tf.ones([4, 1]), None) for batch in tf.unstack(x)]
    function = ModelFunction(build(model, data))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([3, None, 3])])
    def call(x):
        batches = [objective.Batches(3, lambda i: (x[i], tf.ones([tf.shape(x)[1], 1]), None), may_unroll=True)]
        return objective.KerasObjective(function, batches)(function.read_parameters())

    assert num_loops(call.get_concrete_function()) >= 1


def test_batches_of_a_model_with_loops_are_not():
    model, x = recurrent()
    looped = traced(model, x, may_unroll=False)
    assert num_loops(traced(model, x, may_unroll=True)) == num_loops(looped) == 1  # its own loops are inside that one


def test_both_are_the_same_evaluation():
    model, x = perceptron()
    written_out, looped = (traced(model, x, may_unroll)() for may_unroll in (True, False))
    np.testing.assert_allclose(written_out.loss, looped.loss, rtol=1e-6)
    for a, b in zip(gradient_of(written_out), gradient_of(looped), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def ancestors(operation):
    """All operations that must be done before this one."""
    found, left = set(), [operation]
    while left:
        for before in (*[tensor.op for tensor in left[-1].inputs], *left.pop().control_inputs):
            if before not in found:
                found.add(before)
                left.append(before)
    return found


@pytest.mark.parametrize("num_batches", [1, 3])
def test_an_evaluation_waits_for_the_one_before_wherever_it_is(num_batches):
    model, x = perceptron()
    data = [(batch, tf.ones([4, 1]), None) for batch in tf.unstack(x)[:num_batches]]
    function = ModelFunction(build(model, data))
    waiting = []

    @tf.function(autograph=False)
    def call():
        ask, graph, start = objective.KerasObjective(function, batches_of(data)), tf.compat.v1.get_default_graph(), 0
        for _ in range(2):  # at one point: what is computed for one does not depend on the other
            evaluation = ask(function.read_parameters())
            made = graph.get_operations()
            work = [operation for operation in made[start:] if operation.type in (*LOOPS, "MatMul")]
            waiting.append([ancestors(operation) for operation in work])
            waiting.append({leaf.op for leaf in evaluation.gradient.leaves})
            start = len(made)
        return evaluation.loss

    call.get_concrete_function()
    first, gradient, second, _ = waiting
    assert first and second
    assert all(gradient <= before for before in second)
    assert not any(gradient <= before for before in first)
