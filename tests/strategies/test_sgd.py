import doctest

import tensorflow as tf

import trainlab as tl
from trainlab.strategies import sgd


def test_the_gradient_where_we_are():
    point = tl.Vector([tf.constant([1.0, 2.0])])
    here = tl.Evaluation(tf.constant(3.0), tl.Vector([tf.constant([5.0, 7.0])]))
    seen = []

    def objective(parameters):
        seen.append(parameters)
        return here

    state = tl.State(point, tf.constant(0.1), tf.zeros([], tf.int64), tf.constant([0, 0]))
    step = tl.SGD().step(objective, state)
    assert seen == [point]
    assert step.gradient is here.gradient and step.at is here
    assert step.memory is None and not step.logs


def test_docstring_examples():
    result = doctest.testmod(sgd)
    assert result.attempted > 0 and result.failed == 0
