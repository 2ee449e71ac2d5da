"""Models in which TensorFlow itself looks for the variables that a function reads, or compiles a part by itself."""

import functools

import keras
import tensorflow as tf
from keras import layers

L2 = 0.1


class Remat(layers.Layer):
    """Layers that are computed again in the backward pass, by `keras.remat` at each call."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = list(inner)

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)

    def compute_output_shape(self, shape):
        for layer in self.inner:
            shape = layer.compute_output_shape(shape)
        return shape

    def call(self, x, training=None):
        def run(x):
            for layer in self.inner:
                x = layer(x, training=training) if isinstance(layer, (layers.Dropout, layers.BatchNormalization)) else layer(x)
            return x

        return keras.remat(run)(x)


class RecomputedOnce(layers.Layer):
    """A layer whose `tf.recompute_grad` was made with it, and which is called with two arguments, one of them an integer."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(6, "tanh")
        self.again = tf.recompute_grad(lambda x, power: self.dense(x) ** tf.cast(power, x.dtype))

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.again(x, tf.constant(3))


class StraightThrough(layers.Layer):
    """A matrix product with a gradient of its own: that of the weights is doubled, and reads them again."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), initializer="glorot_uniform", name="kernel")

    def call(self, x):
        @tf.custom_gradient
        def product(x):
            def gradient(upstream, variables=None):
                assert len(variables) == 1
                with tf.GradientTape() as tape:
                    y = tf.matmul(x, tf.convert_to_tensor(variables[0]))
                (own,) = tape.gradient(y, variables, output_gradients=upstream)
                return tf.matmul(upstream, self.kernel, transpose_b=True), [2 * own]

            return tf.matmul(x, self.kernel), gradient

        return product(x)


class Reversed(layers.Layer):
    """`tf.grad_pass_through` and a reversed gradient, neither of which reads a variable."""

    def call(self, x):
        @tf.custom_gradient
        def turned(x):
            return tf.identity(x), lambda upstream: -3 * upstream

        return turned(x) + tf.grad_pass_through(tf.round)(x)


class _Two(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(6, "tanh"), layers.Dense(1)

    def call(self, x):
        return self.out(self.hidden(x))

    def _loss(self, x, y):
        return tf.reduce_mean((self(x) - y) ** 2)


class WeightPenalty(_Two):
    """Penalizes the gradient with respect to the weights."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with tf.GradientTape() as tape:
            loss = self._loss(x, y)
        gradients = tape.gradient(loss, self.trainable_variables)
        return loss + L2 * tf.add_n([tf.reduce_sum(g**2) for g in gradients])


class WatchedPenalty(_Two):
    """The same of one weight, which the tape is told to watch; and by a Jacobian."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(self.out.kernel.value)
            loss = self._loss(x, y)
            rows = tf.reduce_mean(self(x), axis=1)
        jacobian = tape.jacobian(rows, self.out.kernel.value)
        return loss + L2 * tf.reduce_sum(tape.gradient(loss, self.out.kernel) ** 2) + L2 * tf.reduce_mean(jacobian**2)


class ForwardPenalty(_Two):
    """A directional derivative, by forward accumulation."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        kernel = self.out.kernel.value
        with tf.autodiff.ForwardAccumulator(kernel, tf.ones(kernel.shape)) as accumulator:
            loss = self._loss(x, y)
        return loss + L2 * accumulator.jvp(loss) ** 2


class Maml(_Two):
    """One step inside: the loss at the weights that a step of gradient descent leads to."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        with tf.GradientTape() as tape:
            loss = self._loss(x, y)
        steps = zip(self.trainable_variables, tape.gradient(loss, self.trainable_variables), strict=True)
        y_after, _ = self.stateless_call([v - 0.1 * g for v, g in steps], [], x)
        return tf.reduce_mean((y_after - y) ** 2)


class OwnXla(layers.Layer):
    """A function that asks for XLA, traced once and called twice with a weight that it reads."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), initializer="glorot_uniform", name="kernel")

    @tf.function(jit_compile=True)
    def product(self, x):
        return tf.tanh(tf.matmul(x, self.kernel))

    def call(self, x):
        return self.product(x) + 0.5 * self.product(2 * x)


class XlaWithState(layers.Layer):
    """A function that asks for XLA, and that leaves statistics behind."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=None):
        return tf.function(lambda x: self.norm(x, training=training), jit_compile=True)(x)


@functools.cache
def has_channels_first():
    """Whether TensorFlow has kernels for it here: oneDNN's, which it takes on some processors only (TF_ENABLE_ONEDNN_OPTS)."""
    filters = tf.ones((2, 2, 4, 5))
    try:
        with tf.GradientTape() as tape:
            tape.watch(filters)
            y = tf.nn.conv2d(tf.ones((1, 4, 4, 4)), filters, 1, "VALID", "NCHW")
        tape.gradient(y, filters)
    except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
        return False
    return True


def stack(*fns, shape=(5,)):
    """A function that makes a Sequential of what the functions make, and a Dense(1)."""

    def make():
        keras.utils.set_random_seed(4)
        return keras.Sequential([keras.Input(shape), *(fn() for fn in fns), layers.Flatten(), layers.Dense(1)])

    return make


def _subclassed(cls):
    def make():
        keras.utils.set_random_seed(4)
        return cls()

    return make


def scoped():
    """Of a `keras.RematScope`."""
    keras.utils.set_random_seed(4)
    with keras.RematScope(mode="activations"):
        return keras.Sequential([keras.Input([5]), layers.Dense(6, "tanh"), layers.Flatten(), layers.Dense(1)])


def _tokens(*inner):
    return stack(lambda: layers.Embedding(11, 4), *inner, shape=(5,))


SEARCHING = {
    "remat": stack(lambda: Remat(layers.Dense(6, "tanh"), layers.Dense(4, "softplus"))),
    "remat of normalization": stack(lambda: Remat(layers.Dense(6), layers.BatchNormalization(), layers.ReLU())),
    "remat in remat": stack(lambda: Remat(layers.Dense(6, "tanh"), Remat(layers.Dense(5, "tanh")))),
    "RematScope": scoped,
    "recompute_grad": stack(RecomputedOnce),
    "custom_gradient": stack(StraightThrough),
    "custom_gradient of no variable": stack(lambda: layers.Dense(3), Reversed),
    "penalty on the gradient": _subclassed(WeightPenalty),
    "penalty by watching": _subclassed(WatchedPenalty),
    "penalty by forward accumulation": _subclassed(ForwardPenalty),
    "a step inside": _subclassed(Maml),
    "a function under XLA": stack(OwnXla),
    "a function under XLA with state": stack(XlaWithState),
    "Conv1D of groups": stack(lambda: layers.Conv1D(4, 2, groups=2), shape=(5, 2)),
    # Where there are as many filters as columns, Keras adds the bias to the columns, but for the compiled graph, which mends it.
    "Conv2D, channels first": stack(lambda: layers.Conv2D(5, 2, data_format="channels_first"), shape=(2, 4, 4)),
    "Conv2D of groups": stack(lambda: layers.Conv2D(4, 2, groups=2), shape=(4, 4, 2)),
    "Conv3D of groups": stack(lambda: layers.Conv3D(4, 2, groups=2), shape=(3, 3, 3, 2)),
    "Conv3D, channels first": stack(lambda: layers.Conv3D(3, 2, data_format="channels_first"), shape=(2, 3, 3, 3)),
}
# Rows of a table are looked up, but for where a function with a gradient of its own is to find the table.
EMBEDDED = {"remat of an embedding": stack(lambda: Remat(layers.Embedding(11, 4), layers.Dense(3, "tanh")))}
