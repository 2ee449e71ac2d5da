import pytest
import tensorflow as tf

from trainlab.parameters.same_tensor import surely_same

SAME = {
    "the same": lambda x, i: (x, x),
    "an operation twice": lambda x, i: (x + 1.0, x + 1.0),
    "a chain twice": lambda x, i: (tf.reshape(tf.gather(x, i), [-1]), tf.reshape(tf.gather(x, i), [-1])),
    "an output of several": lambda x, i: (tf.unstack(x, 3)[1], tf.unstack(x, 3)[1]),
    "drawn from a given seed": lambda x, i: (tf.random.stateless_normal([2], [1, 2]),) * 2,
}
OTHER = {
    "another constant": lambda x, i: (x + 1.0, x + 2.0),
    "another order": lambda x, i: (x - 2 * x, 2 * x - x),
    "another operation": lambda x, i: (tf.sin(x), tf.cos(x)),
    "another attribute": lambda x, i: (tf.cast(x, tf.int32), tf.cast(x, tf.int64)),
    "another argument": lambda x, i: (tf.cast(x, tf.int64), tf.cast(i, tf.int64)),
    "another output": lambda x, i: (tf.unstack(x, 3)[1], tf.unstack(x, 3)[2]),
    "deep down": lambda x, i: (tf.exp(tf.sin(x + 1.0)), tf.exp(tf.sin(x + 3.0))),
    "another argument with a default": lambda x, i: tuple(tf.raw_ops.PlaceholderWithDefault(input=x, shape=[3]) for _ in "ab"),
    "drawn": lambda x, i: (tf.random.uniform([2]), tf.random.uniform([2])),
    "a variable, which may be assigned between": lambda x, i: (VARIABLE + 1.0, VARIABLE + 1.0),
}
VARIABLE = tf.Variable(1.0)


def judged(pair):
    found = []

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([3]), tf.TensorSpec([3], tf.int32)])
    def trace(x, i):
        found.append(surely_same(*pair(x, i)))

    trace.get_concrete_function()
    return found[-1]


@pytest.mark.parametrize("name", SAME)
def test_what_is_computed_twice_is_the_same(name):
    assert judged(SAME[name])


@pytest.mark.parametrize("name", OTHER)
def test_what_may_differ_is_not(name):
    assert not judged(OTHER[name])


def test_eager_tensors_are_not_compared():
    assert not surely_same(tf.constant(1.0), tf.constant(1.0))
    one = tf.constant(1.0)
    assert surely_same(one, one)


def test_those_of_other_graphs_are_not_compared():
    found = []

    @tf.function(autograph=False)
    def trace(x):
        outer = x + 1.0

        @tf.function(autograph=False)
        def inside():
            found.append(surely_same(outer, x + 1.0))

        inside()

    trace(tf.constant(1.0))
    assert found == [False]


def test_a_long_way_back_is_gone_once():
    """Each step doubles the ways, not the work."""

    @tf.function(autograph=False)
    def trace(x):
        a, b = x + 1.0, x + 1.0
        for _ in range(60):
            a, b = a * a + a, b * b + b
        assert surely_same(a, b)

    trace.get_concrete_function(tf.TensorSpec([]))
