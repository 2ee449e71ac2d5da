"""A model in which non-finite values of every kind can be provoked, and data that do it."""

import keras
import numpy as np
import tensorflow as tf
from small import compiled, regression

FIRST, SECOND = 1.0, 2.0  # marks, in the last column of x


class ToZero(keras.constraints.Constraint):
    """Where an update starts from, the variable is 0; at a probe it is not."""

    def __call__(self, w):
        return w * 0.0


class BadGradient(keras.layers.Layer):
    """Passes its input on; the gradient is NaN where an example has the mark of this evaluation, the first or a later one."""

    def build(self, shapes):
        self.probe = self.add_weight(shape=(), initializer="zeros", constraint=ToZero(), name="probe")

    def call(self, inputs):
        x, mark = inputs
        is_bad = keras.ops.any(mark == keras.ops.where(self.probe == 0, FIRST, SECOND))

        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: tf.where(is_bad, np.nan * upstream, upstream)

        return identity(x) + 0.1 * self.probe


def fragile_model(optimizer=None):
    """BatchNorm, Dropout, relu, momentum and a metric: every kind of state, and a relu that hides NaN."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([4])
    x = keras.layers.BatchNormalization(name="norm")(inputs[:, :3])
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(5, "relu", name="hidden")(x)
    x = BadGradient(name="bad_gradient")([x, inputs[:, 3:]])
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(x))
    return compiled(model, optimizer or keras.optimizers.SGD(0.01, momentum=0.9), loss=marked_loss, metrics=["mae"])


def marked_loss(y_true, y_pred):
    """NaN for a target of 100, with a gradient that is finite."""
    return tf.reduce_mean(tf.where(y_true == 100.0, np.nan, tf.square(y_pred - y_true)), axis=-1)


def set_feature(value):
    return lambda x, y, i: x.__setitem__((i, 0), value)


# What is done to example `i` of x and y, and the reason that the line must give.
KINDS = {
    "data": (set_feature(np.nan), r"in {place}, x holds NaN in example 2; evaluation 1 of {evaluations} gave a "),
    "loss": (lambda x, y, i: y.__setitem__(i, 100.0), ": evaluation 1 of {evaluations} gave a loss of nan;"),
    "gradient": (
        lambda x, y, i: x.__setitem__((i, 3), FIRST),
        ": evaluation 1 of {evaluations} gave a non-finite gradient of 'norm/gamma';",
    ),
    "second gradient": (
        lambda x, y, i: x.__setitem__((i, 3), SECOND),
        ": evaluation 2 of {evaluations} gave a non-finite gradient of 'norm/gamma';",
    ),
    "statistics": (set_feature(1e25), ": it left 'norm/moving_variance' non-finite;"),
}


def examples(num_examples):
    x, y = regression(num_examples)
    return np.concatenate([x, np.zeros([num_examples, 1], "float32")], axis=1), y


def stream(x, y, batch_size=4):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)


def bad_at(kind, x, y, *at):
    x, y = x.copy(), y.copy()
    for i in at:
        KINDS[kind][0](x, y, i)
    return x, y


def state(trainer):
    """Copies of all that an update may change: weights, statistics, seeds, metrics, the optimizer, memory, logs."""
    return [v.numpy() for v in trainer._loops.made.loop.update.variables.values()]


def put_back(trainer, values):
    for variable, value in zip(trainer._loops.made.loop.update.variables.values(), values, strict=True):
        variable.assign(value)
