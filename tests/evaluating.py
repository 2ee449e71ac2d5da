"""Evaluates objectives and strategies without a Trainer."""

import itertools

import tensorflow as tf

import trainlab as tl
from trainlab.objective.evaluation import Batches, KerasObjective
from trainlab.objective.model_function import ModelFunction


def batches_of(data):
    """`Batches` of a list of `(x, y, sample_weight)`: neighbours of one shape go through one loop, as in training."""
    parts = []
    for _, group in itertools.groupby(data, lambda batch: [leaf.shape for leaf in _leaves(batch)]):
        group = list(group)
        columns = [tf.stack(column) for column in zip(*map(_leaves, group), strict=True)]

        def fetch(index, columns=columns, like=group[0]):
            leaves = iter([column[index] for column in columns])
            return tf.nest.map_structure(lambda leaf: None if leaf is None else next(leaves), like)

        parts.append(Batches(len(group), fetch))
    return parts


def build(model, data):
    """Builds the model, its losses and its optimizer for batches like the first."""
    model._symbolic_build(data_batch=tf.nest.map_structure(_spec, data[0]))
    return model


def objective_on(model, data):
    """The model's objective on a list of batches; the model must be built."""
    return KerasObjective(ModelFunction(model), batches_of(data))


def evaluate(model, data, compiled=False):
    """Loss and gradient, at the model's weights, of an effective batch made of a list of batches."""
    build(model, data)
    function = ModelFunction(model)

    def call():
        return KerasObjective(function, batches_of(data))(function.read_parameters())

    return tf.function(call, autograph=False)() if compiled else call()


def take_step(strategy, model, data, learning_rate=0.125):
    """The `Step` of a strategy at the model's weights, from the memory of a first step."""
    build(model, data)
    function = ModelFunction(model)
    parameters = function.read_parameters()
    rate = tf.constant(learning_rate, parameters.leaves[0].dtype)
    memory = strategy.init(parameters)
    for iteration in range(2 if memory else 1):
        state = tl.State(parameters, rate, tf.constant(iteration, tf.int64), tf.constant([0, iteration]), memory)
        step = strategy.step(KerasObjective(function, batches_of(data)), state)
        memory = step.memory or memory
    return step


def gradient_of(evaluation):
    """The gradient's leaves, written out."""
    return [tf.convert_to_tensor(getattr(leaf, "to_dense", lambda leaf=leaf: leaf)()) for leaf in evaluation.gradient.leaves]


def _leaves(batch):
    return [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]


def _spec(leaf):
    return None if leaf is None else tf.TensorSpec(leaf.shape, leaf.dtype)
