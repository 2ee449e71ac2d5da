"""Gradient flows whose solutions are known: a model that is nothing but weights and a potential."""

import keras
import numpy as np
from keras import ops

import trainlab as tl

MATRIX = [  # symmetric and positive definite, as any leading block of it is; all numbers dyadic
    [2, 1, 0, 0.5, 0],
    [1, 3, -0.5, 0, 0.25],
    [0, -0.5, 1.5, 0.25, 0],
    [0.5, 0, 0.25, 2.5, -1],
    [0, 0.25, 0, -1, 4],
]
START = [1, -2, 0.5, 3, -0.25]
MODES = {"eager": {"run_eagerly": True}, "graph": {}, "xla": {"jit_compile": True}}


class Flow(keras.Model):
    """Weights w with a potential as their loss; the data mean nothing."""

    def __init__(self, start, potential):
        super().__init__()
        self.start = np.asarray(start, "float64")
        self.w = self.add_weight(shape=self.start.shape, initializer=lambda shape, dtype: ops.cast(self.start, dtype))
        self.potential = potential

    def call(self, x):
        return x

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.potential(self.w)


def trainer_of(start, potential, strategy, rate=0.1, optimizer=None, **kwargs):
    """A Trainer on a potential, with plain descent unless an optimizer is given."""
    model = Flow(start, potential)
    model.compile(optimizer=keras.optimizers.SGD(rate) if optimizer is None else optimizer, jit_compile=False)
    return tl.Trainer(model, strategy, **kwargs)


def run(trainer, steps):
    """Takes this many steps; returns the weights."""
    batches = trainer.strategy.batches
    trainer.fit(np.zeros([steps * batches, 1]), batch_size=1, verbose=0)
    return trainer.model.w.numpy()


def quadratic(a):
    """`w'Aw / 2` of a symmetric matrix; of another one only its symmetric part counts."""
    return lambda w: 0.5 * ops.sum(w * ops.matmul(a, w[:, None])[:, 0])


def well(w):
    """A convex potential with a flow that bends."""
    a = np.array([[1.0, 0.5], [0.5, 2.0]])
    return ops.sum(ops.cosh(w)) + quadratic(a)(w) + ops.sum(w**4) / 4


def gradient_of_well(w):
    """The same by NumPy."""
    return np.sinh(w) + np.array([[1.0, 0.5], [0.5, 2.0]]) @ w + w**3


def flow(start, time, steps=4000):
    """The solution of `w' = -grad V(w)` for V of `well`, by Runge-Kutta 4 in NumPy: exact to about 1e-14."""
    w, h = np.array(start, "float64"), time / steps
    for _ in range(steps):
        k1 = gradient_of_well(w)
        k2 = gradient_of_well(w - h / 2 * k1)
        k3 = gradient_of_well(w - h / 2 * k2)
        k4 = gradient_of_well(w - h * k3)
        w = w - h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return w
