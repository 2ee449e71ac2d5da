"""What TensorFlow registers for each `tf.custom_gradient` in a trace, and keeps for ever, is let go of with the trace."""

import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled, regression
from tensorflow.python.framework import ops

import trainlab as tl
from trainlab.loop import loop as loop_module
from trainlab.loop.evaluation import evaluation_loop
from trainlab.objective import CALLS, leftovers
from trainlab.parameters import tensorflow_internals

STRATEGIES = [tl.SGD(), tl.Accumulate(2, tl.Heun())]


class Inside(keras.layers.Layer):
    """Has a gradient of its own within a loop, whose gradient TensorFlow makes from what was registered."""

    def call(self, x):
        return tf.while_loop(lambda i, _: i < 2, lambda i, a: (i + 1, tf.nn.silu(a)), (0, x), maximum_iterations=2)[1]


def model_of():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(4, "silu"), Inside(), keras.layers.Dense(1)]
    return compiled(keras.Sequential([keras.Input([3]), *layers]), metrics=["mae"])


def registered():
    return {name for name in ops.gradient_registry.list() if name.startswith("CustomGradient")}


def trained(strategy, jit_compile):
    trainer = tl.Trainer(model_of(), strategy, jit_compile=jit_compile)
    x, y = regression(20)
    trainer.fit(x, y, 4, verbose=0)
    before = registered()  # Keras has registered some when it built the model
    trainer.fit(x, y, 5, epochs=2, validation_data=(x, y), verbose=0)
    trainer.predict(x, verbose=0)
    return trainer, registered() - before


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_nothing_is_left(strategy, jit_compile):
    trainer, left = trained(strategy, jit_compile)
    assert left == set()
    graphs = [weakref.ref(function.graph) for function in trainer._loops.made.loop._functions.values()]
    assert graphs
    del trainer
    keras.utils.clear_session(free_memory=False)
    for _ in range(2):  # a graph is taken apart when its function is collected
        gc.collect()
    assert all(graph() is None for graph in graphs)


@pytest.mark.slow
def test_the_control_where_it_is_not_let_go_of(monkeypatch):
    for module in (loop_module, evaluation_loop):
        monkeypatch.setattr(module, "forget_gradients", lambda graph, is_for_xla: None)
    assert len(trained(tl.SGD(), False)[1]) >= 4  # of training, validation and prediction
    monkeypatch.setattr(tensorflow_internals, "forget_gradient_of", lambda operation: None)
    assert len(trained(tl.SGD(), False)[1]) >= 5  # the optimizer's sum over replicas, too


@pytest.mark.slow
def test_what_somebody_else_calls_as_well_keeps_its_own(monkeypatch):
    """A `tf.function` that a strategy calls, and that is differentiated later, elsewhere."""
    sigmoid = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(differentiated_later(), sigmoid * (1 + 1 - sigmoid), rtol=1e-6)
    monkeypatch.setattr(leftovers, "_BRANCHES", CALLS)  # the control: those that are called lose theirs, too
    with pytest.raises(LookupError, match="No gradient defined"):
        differentiated_later()


def differentiated_later():
    silu = tf.function(tf.nn.silu)

    class Calls(tl.StepStrategy):
        def step(self, objective, state):
            here = objective(state.parameters)
            return tl.Step(here.gradient * silu(tf.constant(1.0)), at=here)

    x, y = regression(20)
    trainer = tl.Trainer(model_of(), Calls(), jit_compile=False)
    trainer.fit(x, y, 4, verbose=0)
    del trainer
    gc.collect()
    with tf.GradientTape() as tape:
        at = tf.constant(1.0)
        tape.watch(at)
        value = silu(at)
    return tape.gradient(value, at)
