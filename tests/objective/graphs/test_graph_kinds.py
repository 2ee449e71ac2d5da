"""Whether a loss is a mean over examples: judged by its operations, and compared with what it computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import losses, ops

from trainlab.objective.graphs import is_mean_over_examples

SCALE = tf.constant([1.0, 2.0, 3.0])
MEANS = {
    "squares": lambda y, p: tf.reduce_mean(tf.square(y - p)),
    "Keras' operations": lambda y, p: ops.mean(ops.abs(y - p)),
    "two terms": lambda y, p: ops.mean(ops.square(y - p) * SCALE) + 0.1 * ops.mean(ops.abs(p)) - 3.0,
    "of Keras' function": lambda y, p: tf.reduce_mean(losses.mean_squared_error(y, p)),
    "cross entropy of logits": lambda y, p: tf.reduce_mean(losses.categorical_crossentropy(y, p, from_logits=True)),
    "cross entropy": lambda y, p: tf.reduce_mean(losses.categorical_crossentropy(y, tf.nn.softmax(p))),
    "binary cross entropy": lambda y, p: ops.mean(ops.binary_crossentropy(y, p)),
    "sum by the examples": lambda y, p: tf.reduce_sum((y - p) ** 2) / tf.cast(tf.shape(y)[0], tf.float32),
    "sum by the elements": lambda y, p: tf.reduce_sum((y - p) ** 2) / tf.cast(tf.size(y), tf.float32),
    "where": lambda y, p: 2.0 * tf.reduce_mean(tf.where(y > 0.5, tf.square(y - p), 2 * tf.abs(y - p))),
    "flattened": lambda y, p: tf.reduce_mean(tf.reshape(y - p, [-1]) ** 2),
    "columns": lambda y, p: tf.reduce_mean((y[:, 0] - p[:, 0]) ** 2) + tf.reduce_mean(y[..., 1:] * p[..., 1:]),
    "mean by column": lambda y, p: tf.reduce_mean(tf.reduce_mean((y - p) ** 2, axis=0) * SCALE),
    "norm of a row": lambda y, p: tf.reduce_mean(tf.sqrt(tf.reduce_sum((y - p) ** 2, axis=-1))),
    "quantile": lambda y, p: ops.mean(ops.maximum(0.9 * (y - p), -0.1 * (y - p))),
    "Keras' losses": lambda y, p: 0.5 * losses.MeanSquaredError()(y, p) + 0.5 * losses.MeanAbsoluteError()(y, p),
    "inner product": lambda y, p: tf.reduce_mean(tf.einsum("ij,ij->i", y, p)),
    "ones": lambda y, p: tf.reduce_mean(tf.ones_like(y) * p),
}
OTHERS = {
    "dice": lambda y, p: 1 - 2 * tf.reduce_sum(y * p) / (tf.reduce_sum(y) + tf.reduce_sum(p)),
    "root": lambda y, p: tf.sqrt(tf.reduce_mean((y - p) ** 2)),
    "sum": lambda y, p: tf.reduce_sum((y - p) ** 2),
    "by the columns": lambda y, p: tf.reduce_sum(y - p) / tf.cast(tf.shape(y)[1], tf.float32),
    "centred": lambda y, p: tf.reduce_mean((p - tf.reduce_mean(p, axis=0)) ** 2),
    "variance": lambda y, p: ops.var(p - y),
    "largest": lambda y, p: tf.reduce_max((y - p) ** 2),
    "square of a mean": lambda y, p: tf.reduce_mean(y - p) ** 2,
    "product of means": lambda y, p: tf.reduce_mean(y) * tf.reduce_mean(p),
    "pairs": lambda y, p: tf.reduce_mean(tf.matmul(p, p, transpose_b=True)),
    "all with all": lambda y, p: tf.reduce_mean(tf.square(y[:, None, :] - p[None, :, :])),
    "neighbours": lambda y, p: tf.reduce_mean(tf.square(p[1:] - p[:-1])),
    "the first": lambda y, p: tf.reduce_mean(p[:1]),
    "reversed": lambda y, p: tf.reduce_mean(y * tf.reverse(p, [0])),
    "sorted": lambda y, p: tf.reduce_mean(tf.sort(p, axis=0) * y),
    "softmax over the batch": lambda y, p: tf.reduce_mean(tf.nn.softmax(p, axis=0) * y),
    "running sum": lambda y, p: tf.reduce_mean(tf.cumsum(p, axis=0)),
    "of some": lambda y, p: tf.reduce_mean(tf.boolean_mask(y - p, y > 0.5)),
    "by the examples twice": lambda y, p: tf.reduce_mean((y - p) / tf.cast(tf.shape(y)[0], tf.float32)),
    "plus a sum": lambda y, p: tf.reduce_mean(y) + tf.reduce_sum(p),
}


def is_additive(function):
    """Whether means of two parts, weighted by their examples, are that of both."""
    y, p = np.random.default_rng(0).random((2, 10, 3)).astype("float32")
    whole, first, second = (
        float(function(tf.constant(y[part]), tf.constant(p[part]))) for part in (slice(10), slice(7), slice(7, 10))
    )
    return abs(whole - 0.7 * first - 0.3 * second) < 1e-5 * max(1, abs(whole))


@pytest.mark.parametrize("name", MEANS)
def test_means_are_found(name):
    assert is_additive(MEANS[name])
    for shape in ([10, 3], [1, 3]):
        assert is_mean_over_examples(MEANS[name], [tf.zeros(shape), tf.zeros(shape)])


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_mean_is_never_taken_for_one(name):
    assert not is_additive(OTHERS[name])
    assert not is_mean_over_examples(OTHERS[name], [tf.zeros([10, 3]), tf.zeros([10, 3])])


@pytest.mark.parametrize("softmax", [tf.nn.softmax, tf.nn.log_softmax])
def test_a_softmax_over_the_examples_is_none_over_classes(softmax):
    def weighed(y, p):
        return tf.reduce_mean(y * softmax(p))

    assert is_mean_over_examples(weighed, [tf.zeros([10, 3])] * 2)
    assert not is_mean_over_examples(weighed, [tf.zeros([10])] * 2)


def test_sequences_count_where_their_length_is_known():
    mean, tokens = MEANS["squares"], tf.zeros([2, 4, 3])
    assert is_mean_over_examples(mean, [tokens, tokens])
    found = []

    @tf.function(autograph=False)
    def of_any_length(y, p):
        found.append(is_mean_over_examples(mean, [y, p]))
        return mean(y, p)

    for length in (4, None):  # a batch of longer ones has more elements
        of_any_length.get_concrete_function(*[tf.TensorSpec([None, length, 3])] * 2)
    assert found == [True, False]


def test_what_a_loss_does_besides_leaves_nothing_behind():
    seeds, counter = keras.random.SeedGenerator(3), tf.Variable(0)
    before = seeds.state.numpy().tolist()

    def noisy(y, p):
        counter.assign_add(1)
        return tf.reduce_mean((y - p) * keras.random.uniform(tf.shape(p), seed=seeds))

    def failing(y, p):
        raise KeyError("own code")

    assert not is_mean_over_examples(noisy, [tf.zeros([4, 3])] * 2)
    assert not is_mean_over_examples(failing, [tf.zeros([4, 3])] * 2)
    assert not is_mean_over_examples(lambda y, p: float(p[0, 0].numpy()), [tf.zeros([4, 3])] * 2)
    assert seeds.state.numpy().tolist() == before and int(counter) == 0
