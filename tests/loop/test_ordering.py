"""A loss that is linear in each weight: no gradient depends on its own weight, and yet each step uses the old ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import trainlab as tl
from trainlab.loop.ordering import ordered

A = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], "float32")
STARTS = {"x": [0.5, -2.0], "y": [1.0, 0.25, 3.0], "z": [2.0, -1.0]}


class Linear(keras.Model):
    """`x . A y + x . z`: linear in each weight."""

    def __init__(self):
        super().__init__()
        for name, start in STARTS.items():
            setattr(self, name, self.add_weight(shape=(len(start),), name=name))
            getattr(self, name).assign(start)
        self.built = True

    def call(self, inputs):
        return inputs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        here = ops.convert_to_tensor(self.x)
        return ops.sum(here * ops.matmul(A, ops.convert_to_tensor(self.y))) + ops.sum(here * ops.convert_to_tensor(self.z))


def trained(strategy, optimizer, **mode):
    model = Linear()
    model.compile(optimizer=optimizer(), jit_compile=False)
    tl.Trainer(model, strategy, **mode).fit(np.zeros([3 * strategy.batches, 1]), batch_size=1, verbose=0)
    return np.concatenate([weight.numpy() for weight in model.trainable_variables])


@pytest.mark.parametrize("optimizer", [
    lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.SGD(0.1, momentum=0.5),
    lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0), lambda: keras.optimizers.RMSprop(0.1),
], ids=["sgd", "momentum", "clipped", "rmsprop"])  # fmt: skip
@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Heun(), tl.Extragradient()], ids=["sgd", "heun", "extragradient"])
def test_a_step_uses_the_old_weights(strategy, optimizer):
    expected = trained(strategy, optimizer, run_eagerly=True)
    for _ in range(4):  # an order that is left to chance shows in a third of the tries, or more
        np.testing.assert_allclose(trained(strategy, optimizer), expected, rtol=1e-5)


def test_other_gradients_are_left_as_they_are():
    """What every network does: each gradient depends on its own weight."""

    @tf.function(autograph=False)
    def step(x, y, bends):
        reads = [tf.identity(x), tf.identity(y)]
        with tf.GradientTape() as tape:
            tape.watch(reads)
            value = tf.reduce_sum(reads[0] * reads[1])
            loss = value**2 if bends else value
        gradients = tape.gradient(loss, reads)
        found.append((gradients, ordered(gradients, reads)))
        return found[-1][1]

    found = []
    for bends in (True, False):
        step(tf.ones([2]), tf.ones([2]), bends)
        before, after = found.pop()
        assert [a is b for a, b in zip(before, after, strict=True)] == [bends, bends]


def test_rows_wait_as_well():
    @tf.function(autograph=False)
    def step(x, y):
        reads = tf.identity(x), tf.identity(y)
        rows = tf.IndexedSlices(tf.gather(reads[1], [1]), tf.constant([1]), tf.constant([3]))
        after = ordered([rows, reads[0] * 2.0], reads)
        assert after[0] is not rows and rows.values.op in after[1].op.control_inputs
        return tf.convert_to_tensor(after[0]), after[1]

    rows, other = step(tf.constant([1.0, 2.0, 3.0]), tf.constant([4.0, 5.0, 6.0]))
    np.testing.assert_array_equal(rows, [0, 5, 0])
    np.testing.assert_array_equal(other, [2, 4, 6])


def test_eagerly_there_is_nothing_to_order():
    gradients = [tf.ones([2])]
    assert ordered(gradients, [tf.ones([2])])[0] is gradients[0]
