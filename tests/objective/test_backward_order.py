import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import batches_of, build, gradient_of
from small import compiled

from trainlab.objective import evaluation as objective
from trainlab.objective.model_function import ModelFunction

LAYERS = {
    "Conv2D": (keras.layers.Conv2D, [8, 8, 2]),
    "Conv3D": (keras.layers.Conv3D, [6, 6, 6, 2]),
    "DepthwiseConv2dNative": (keras.layers.DepthwiseConv2D, [8, 8, 2]),
}


class Penalized(keras.Model):
    """Adds the squared gradient of its output with respect to its input: the backward pass has one of its own in it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = keras.layers.Conv2D(3, 3, activation="tanh"), keras.layers.Conv2D(1, 3)

    def call(self, x, training=False):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_mean(self.second(self.first(x)), axis=[1, 2])
        self.add_loss(tf.reduce_sum(tf.square(tape.gradient(y, x))))
        return y


def convolutional(kind):
    keras.utils.set_random_seed(1)
    layer, shape = LAYERS[kind]
    sizes = (3,) if "Depthwise" in kind else (4, 3)
    layers = [keras.Input(shape), layer(*sizes), layer(*sizes), keras.layers.Flatten(), keras.layers.Dense(1)]
    return compiled(keras.Sequential(layers)), shape


def evaluation(model, shape, num_batches):
    """A traced evaluation, and what it gives."""
    x = tf.random.stateless_normal([num_batches, 4, *shape], [1, 2])
    data = [(batch, tf.ones([4, 1]), None) for batch in tf.unstack(x)]
    function = ModelFunction(build(model, data))

    def call():
        return objective.KerasObjective(function, batches_of(data))(function.read_parameters())

    traced = tf.function(call, autograph=False).get_concrete_function()
    inner = [traced.graph._get_function(f.name).graph for op in traced.graph.get_operations() for f in functions_of(op)]
    return [op for graph in (traced.graph, *inner) for op in graph.get_operations()], traced(), call


def functions_of(operation):
    return [attribute.func for attribute in operation.node_def.attr.values() if attribute.func.name]


@pytest.mark.parametrize("kind", LAYERS)
def test_an_input_waits_for_its_filter(kind):
    operations, *_ = evaluation(*convolutional(kind), num_batches=2)
    inputs = [op for op in operations if op.type.startswith(f"{kind}BackpropInput")]
    assert inputs
    for op in inputs:
        (first,) = op.control_inputs
        assert first.type.startswith(f"{kind}BackpropFilter") and first.inputs[2] is op.inputs[2]
    # Control: a plain step is a bare tape's.
    operations, *_ = evaluation(*convolutional(kind), num_batches=1)
    inputs = [op for op in operations if op.type.startswith(f"{kind}BackpropInput")]
    assert inputs and not any(op.control_inputs for op in inputs)


def test_no_circle_comes_of_it_where_a_gradient_has_another_in_it():
    keras.utils.set_random_seed(1)
    operations, traced, call = evaluation(compiled(Penalized()), [8, 8, 2], num_batches=3)
    assert sum(op.type == "Conv2DBackpropFilter" for op in operations) > 2  # that of the penalty too
    for a, b in zip(gradient_of(traced), gradient_of(call()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
