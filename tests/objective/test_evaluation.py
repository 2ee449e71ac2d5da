"""How an effective batch is evaluated; what comes of it is tested in `equalities`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import batches_of, build, gradient_of
from small import compiled, dense_model

from trainlab.objective import accumulation
from trainlab.objective import evaluation as objective
from trainlab.objective.model_function import ModelFunction

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
        monkeypatch.setattr(accumulation, limit, 5)
    assert num_loops(traced(model, x, may_unroll=True)) == (0 if limit is None else 1)
    assert num_loops(traced(model, x, may_unroll=False)) == 1


def of_open_size(model, x, may_unroll):
    """The same where only the data tell how many examples a batch has; the last of each is masked."""
    y, weight = tf.ones([*x.shape[:2], 1]), tf.concat([tf.ones([3, 3]), tf.zeros([3, 1])], 1)
    function = ModelFunction(build(model, [(x[0], y[0], weight[0])]))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([3, None, *x.shape[2:]])])
    def call(x):
        size = tf.shape(x)[1]
        batches = [objective.Batches(3, lambda i: (x[i], y[i, :size], weight[i, :size]), may_unroll=may_unroll)]
        return objective.KerasObjective(function, batches)(function.read_parameters())

    return call.get_concrete_function()


@pytest.mark.slow
@pytest.mark.parametrize("num_features", [3, 2**12])
def test_batches_of_a_size_that_only_the_data_tell_are_if_an_example_is_small(num_features):
    x = tf.random.stateless_normal([3, 4, num_features], [1, 2])
    model = compiled(dense_model(lambda: keras.layers.Dense(5, "tanh"), num_features=num_features))
    written_out, looped = (of_open_size(model, x, may_unroll) for may_unroll in (True, False))
    assert (num_loops(written_out) == 0) == (num_features == 3) and num_loops(looped) > 0
    assert_alike(written_out(x), looped(x))


def test_batches_that_are_written_out_are_traced_once():
    calls, numbers = [], []
    model = compiled(dense_model(lambda: keras.layers.Dense(5, lambda x: calls.append(x) or tf.tanh(x))))
    _, x = perceptron()
    for num_batches in (2, 2, 3):  # the first time, the model is built
        calls.clear()
        traced(model, x[:num_batches], may_unroll=True)
        numbers.append(len(calls))
    assert numbers[1] == numbers[2] > 0


@pytest.mark.parametrize(("sizes", "num_calls"), [((4, 2), 0), ((4, 4, 2), 3)], ids=["not written out", "written out"])
def test_only_batches_that_are_written_out_share_a_trace(sizes, num_calls):
    """Where one whole batch and a smaller one, pieces perhaps, are all there is, calls would only take memory."""
    model, _ = perceptron()
    data = [(tf.ones([size, 3]), tf.ones([size, 1]), None) for size in sizes]
    function = ModelFunction(build(model, data))

    @tf.function(autograph=False)
    def call():
        batches = [part._replace(may_unroll=True) for part in batches_of(data)]
        return objective.KerasObjective(function, batches)(function.read_parameters())

    operations = call.get_concrete_function().graph.get_operations()
    assert sum(operation.type.endswith("PartitionedCall") for operation in operations) == num_calls


@pytest.mark.slow
def test_batches_of_a_model_with_loops_are_not():
    model, x = recurrent()
    looped = traced(model, x, may_unroll=False)
    assert num_loops(traced(model, x, may_unroll=True)) == num_loops(looped) == 1  # its own loops are inside that one


def test_both_are_the_same_evaluation():
    model, x = perceptron()
    assert_alike(*(traced(model, x, may_unroll)() for may_unroll in (True, False)))


def assert_alike(written_out, looped):
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


def test_a_batch_that_is_written_out_is_fetched_after_those_before_it_are_done():
    """Nothing else keeps the activations of both from being in memory."""
    model, x = perceptron()
    data = [(batch, tf.ones([4, 1]), None) for batch in tf.unstack(x)]
    function = ModelFunction(build(model, data))
    fetched = []

    @tf.function(autograph=False)
    def call():
        def fetch(index):
            fetched.append(tf.identity(x[index]))
            return fetched[-1], tf.ones([4, 1]), None

        return objective.KerasObjective(function, [objective.Batches(3, fetch, may_unroll=True)])(function.read_parameters())

    graph = call.get_concrete_function().graph
    made = [operation for operation in graph.get_operations() if operation.type.endswith("PartitionedCall")]
    first, *others = [batch.op for batch in fetched if batch.graph is graph]
    assert len(made) == 3 and len(others) == 2
    assert not set(made) & ancestors(first)
    for i, batch in enumerate(others, start=1):
        assert set(made[:i]) <= ancestors(batch) and made[i] not in ancestors(batch)


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
