"""What own_module.gin names: plain Python, of which gin sees every function and class by its name."""

import keras
import numpy as np

import trainlab as tl
from trainlab.datasets import Data


class Sam(tl.StepStrategy):
    """Sharpness-aware minimization (https://arxiv.org/abs/2010.01412): the gradient a little way uphill.

    Args:
        rho: How far uphill.
    """

    evaluations = 2

    def __init__(self, rho=0.05):
        self.rho = rho

    def step(self, objective, state):
        """One step; `tl.StepStrategy` says what comes in and what goes out."""
        here = objective(state.parameters)
        uphill = here.gradient * (self.rho / (here.gradient.norm() + 1e-12))
        return tl.Step(objective(state.parameters + uphill).gradient, at=here)


def residual_mlp(input_shape, num_classes, width=32, depth=2):
    """A network with skip connections; a run calls it with the shapes of its data."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(width)(inputs)
    for _ in range(depth):
        x = x + keras.layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x), name="residual_mlp")


def spirals(num_arms=2, num_examples=600, noise=0.02, seed=0):
    """Points on interleaved spirals in the plane; the label is the arm."""
    random = np.random.default_rng(seed)
    y = random.integers(num_arms, size=num_examples)
    radius = random.uniform(0.1, 1.0, num_examples)
    angle = 4 * radius + 2 * np.pi * y / num_arms
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = (x + noise * random.standard_normal(x.shape)).astype("float32")
    test = num_examples // 5
    return Data("spirals", train=(x[test:], y[test:]), test=(x[:test], y[:test]), num_classes=num_arms)
