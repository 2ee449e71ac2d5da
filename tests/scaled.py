"""Models under loss scaling whose gradients overflow, and layers that keep bad data from the loss."""

import keras
import numpy as np
import tensorflow as tf
from small import compiled, dense_model

import trainlab as tl

LossScaleOptimizer = keras.optimizers.LossScaleOptimizer
MODES = {"graph": {"jit_compile": False}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}


def scaling(scale=2.0**8, growth=2000, optimizer=None):
    inner = keras.optimizers.SGD(0.01) if optimizer is None else optimizer
    return LossScaleOptimizer(inner, initial_scale=scale, dynamic_growth_steps=growth)


def half(optimizer=None, *layer_fns):
    """A model under mixed_float16."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return compiled(dense_model(*(layer_fns or (lambda: keras.layers.Dense(1),))), optimizer or scaling())
    finally:
        keras.config.set_dtype_policy("float32")


@keras.saving.register_keras_serializable("scaled")
class Steep(keras.layers.Layer):
    """Passes on what it is given, and of a gradient makes infinity where the feature is above a bound."""

    def __init__(self, bound, **kwargs):
        super().__init__(**kwargs)
        self.bound = bound

    def call(self, x):
        @tf.custom_gradient
        def steep(x):
            return tf.identity(x), lambda upstream: tf.where(x > self.bound, tf.constant(np.inf, x.dtype), upstream)

        return steep(x)

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


def steep(bound=-1e9, optimizer=None):
    """Its gradient is infinite, whatever the scale; its loss is finite."""
    return compiled(dense_model(lambda: keras.layers.Dense(2), lambda: Steep(bound)), optimizer or scaling())


@keras.saving.register_keras_serializable("scaled")
class Positive(keras.layers.Layer):
    """relu, as TensorFlow computes it of float32 on a CPU: of NaN it makes 0."""

    def call(self, x):
        return keras.ops.where(x > 0, x, keras.ops.zeros_like(x))


@keras.saving.register_keras_serializable("scaled")
class Masking(keras.layers.Layer):
    """Takes NaN for a number that is missing, of all features or the first so many."""

    def __init__(self, number=None, **kwargs):
        super().__init__(**kwargs)
        self.number = number

    def call(self, x):
        masked = keras.ops.where(keras.ops.isnan(x), keras.ops.zeros_like(x), x)
        return masked if self.number is None else keras.ops.concatenate([masked[:, : self.number], x[:, self.number :]], axis=1)

    def get_config(self):
        return {**super().get_config(), "number": self.number}


class Far(tl.StepStrategy):
    """The gradient far away, where it overflows."""

    evaluations = 2

    def __init__(self, distance=1e3):
        self.distance = distance

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(objective(state.parameters.map(lambda leaf: leaf + self.distance)).gradient, at=here)
