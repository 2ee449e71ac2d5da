"""What tests of `Trainer.find_learning_rate` share: a quadratic, and all state."""

import keras
import numpy as np
import tensorflow as tf

import trainlab as tl

FEW = {"smallest": 1e-3, "largest": 0.5, "num_updates": 7}


class Quadratic(keras.Model):
    """Half of the sum of curvatures times squared weights; the data do not matter."""

    def __init__(self, *curvatures, floor=0.0):
        super().__init__()
        self.curvatures, self.floor = np.asarray(curvatures, "float32"), floor
        self.w = self.add_weight(shape=(len(curvatures),), initializer="ones", name="w")

    def call(self, x):
        return x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.sum(self.curvatures * self.w**2) / 2 + self.floor + 0.0 * keras.ops.sum(x)


def found(model, strategy=None, optimizer=None, **kwargs):
    """The sweep of a compiled quadratic, on data that go round."""
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.01), jit_compile=False)
    return tl.Trainer(model, strategy).find_learning_rate(np.zeros([8, 1], "float32"), batch_size=4, **kwargs)


def state(trainer):
    """Every variable that a `fit` knows of, with metrics and the generator that layers without a seed share."""
    model = trainer.model
    shared = (
        keras.random.SeedGenerator(0).state if model is None else keras.src.random.seed_generator.global_seed_generator().state
    )
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables, shared]
    memory = (
        []
        if trainer._loops.made is None
        else tf.nest.flatten([list(v.values()) for v in [trainer._loops.made.loop.update.memory]])
    )
    return [np.array(v) for v in variables] + [np.array(v) for v in memory]
