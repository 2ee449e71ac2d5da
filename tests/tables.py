"""The table of all strategies and the table of models, over which the equalities are tested.

A strategy comes with the same step written by hand, on flat NumPy vectors and a gradient function: what a person would
write with assign-and-restore. A model comes with its data.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

import trainlab as tl


class Sam(tl.StepStrategy):
    """Sharpness-aware minimization, as in a notebook."""

    evaluations = 2

    def __init__(self, rho=0.05):
        self.rho = rho

    def step(self, objective, state):
        here = objective(state.parameters)
        uphill = here.gradient * (self.rho / (here.gradient.norm() + 1e-12))
        return tl.Step(objective(state.parameters + uphill).gradient, at=here)


class Midpoint(tl.StepStrategy):
    """The gradient half an Euler step ahead."""

    evaluations = 2

    def step(self, objective, state):
        here = objective(state.parameters)
        halfway = objective(state.parameters - 0.5 * state.learning_rate * here.gradient)
        return tl.Step(halfway.gradient, at=here)


class HeavyBall(tl.StepStrategy):
    """Momentum of its own, kept in the memory."""

    def __init__(self, friction=0.1):
        self.friction = friction

    def init(self, parameters):
        return {"velocity": parameters * 0.0}

    def step(self, objective, state):
        here = objective(state.parameters)
        velocity = (1 - self.friction) * state.memory["velocity"] + here.gradient
        return tl.Step(velocity, at=here, memory={"velocity": velocity}, logs={"speed": velocity.norm()})


def _sgd(gradient, w, h, velocity):
    return gradient(w), velocity


def _heun(gradient, w, h, velocity):
    here = gradient(w)
    return (here + gradient(w - h * here)) / 2, velocity


def _sam(gradient, w, h, velocity):
    here = gradient(w)
    return gradient(w + 0.05 * here / np.linalg.norm(here)), velocity


def _midpoint(gradient, w, h, velocity):
    return gradient(w - h / 2 * gradient(w)), velocity


def _heavy_ball(gradient, w, h, velocity):
    velocity = 0.9 * velocity + gradient(w)
    return velocity, velocity


def _runge_kutta_4(gradient, w, h, velocity):
    a = gradient(w)
    b = gradient(w - h / 2 * a)
    c = gradient(w - h / 2 * b)
    return (a + 2 * b + 2 * c + gradient(w - h * c)) / 6, velocity


def _adaptive_heun(gradient, w, h, memory):
    """A tolerance of 0.3 and at most twice the learning rate."""
    scale, before = memory or (1.0, 0.3)
    here, tries = gradient(w), 0
    while True:
        direction = (here + gradient(w - h * scale * here)) / 2
        error = np.linalg.norm(direction - here) / np.linalg.norm(direction)
        if error <= 0.3 or tries == 9:
            break
        scale, tries = scale * np.clip(0.9 * 0.3 / error, 0.2, 1), tries + 1
    error = max(error, 3e-5)
    factor = 0.9 * (0.3 / error) ** 0.7 * (0.3 / before) ** -0.4
    return scale * direction, (min(2.0, scale * np.clip(factor, 0.2, 1 if tries else 5)), error)


def _asam(gradient, w, h, velocity):
    here, size = gradient(w), np.abs(w) + 0.01
    return gradient(w + 0.02 * size * size * here / np.linalg.norm(size * here)), velocity


def _extragradient(gradient, w, h, velocity):
    return gradient(w - h * gradient(w)), velocity


def _optimistic_gradient(gradient, w, h, memory):
    here = gradient(w)
    return (here if memory is None or np.isscalar(memory) else 2 * here - memory), here


def _lookahead(k, alpha, inner):
    def by_hand(gradient, w, h, memory):
        slow, steps, within = memory or (w, 0, 0.0)
        direction, within = inner(gradient, w, h, within)
        if steps + 1 < k:
            return direction, (slow, steps + 1, within)
        there = slow + alpha * (w - h * direction - slow)
        return (w - there) / h, (there, 0, within)

    return by_hand


@dataclasses.dataclass(frozen=True)
class StrategyCase:
    """A strategy.

    Attributes:
      make: builds it.
      by_hand: `(gradient, w, h, velocity) -> (direction, velocity)`, on flat vectors: one step of it.
      batches: how many batches of the data an update takes.
      evaluations: how often a step evaluates the objective.
    """

    make: Callable[[], tl.StepStrategy]
    by_hand: Callable[..., tuple[np.ndarray, np.ndarray]]
    batches: int = 1
    evaluations: int = 1


PLAIN_STRATEGIES = {
    "sgd": StrategyCase(tl.SGD, _sgd),
    "heun": StrategyCase(tl.Heun, _heun, evaluations=2),
    "sam": StrategyCase(Sam, _sam, evaluations=2),
    "midpoint": StrategyCase(Midpoint, _midpoint, evaluations=2),
    "heavy_ball": StrategyCase(HeavyBall, _heavy_ball),
}
FAMILY_STRATEGIES = {
    "runge_kutta_4": StrategyCase(tl.RungeKutta, _runge_kutta_4, evaluations=4),
    "adaptive_heun": StrategyCase(lambda: tl.AdaptiveStep("heun", 0.3, max_scale=2.0), _adaptive_heun, evaluations=2),
    "asam": StrategyCase(lambda: tl.Asam(0.02), _asam, evaluations=2),
    "extragradient": StrategyCase(tl.Extragradient, _extragradient, evaluations=2),
    "optimistic_gradient": StrategyCase(tl.OptimisticGradient, _optimistic_gradient),
    "lookahead_2_sam": StrategyCase(lambda: tl.Lookahead(2, 0.5, tl.Sam(0.05)), _lookahead(2, 0.5, _sam), evaluations=2),
    # What it draws nobody else can: of a temperature above 0 is told in its own tests.
    "noise_heun": StrategyCase(lambda: tl.Noise(0.0, tl.Heun()), _heun, evaluations=2),
}
ACCUMULATING_STRATEGIES = {
    "accumulate_2": StrategyCase(lambda: tl.Accumulate(2), _sgd, 2),
    "accumulate_3_heun": StrategyCase(lambda: tl.Accumulate(3, tl.Heun()), _heun, 3, 2),
    "accumulate_2_sam": StrategyCase(lambda: tl.Accumulate(2, Sam()), _sam, 2, 2),
    "accumulate_2_midpoint": StrategyCase(lambda: tl.Accumulate(2, Midpoint()), _midpoint, 2, 2),
    "accumulate_2_heavy_ball": StrategyCase(lambda: tl.Accumulate(2, HeavyBall()), _heavy_ball, 2),
    "accumulate_2_lookahead_2_optimistic_gradient": StrategyCase(
        lambda: tl.Accumulate(2, tl.Lookahead(2, 0.5, tl.OptimisticGradient())), _lookahead(2, 0.5, _optimistic_gradient), 2
    ),
    "accumulate_2_accumulate_2_heun": StrategyCase(lambda: tl.Accumulate(2, tl.Accumulate(2, tl.Heun())), _heun, 4, 2),
}
STRATEGIES = {**PLAIN_STRATEGIES, **FAMILY_STRATEGIES, **ACCUMULATING_STRATEGIES}


def _mlp_with_penalties():
    return keras.Sequential(
        [
            keras.Input([5]),
            layers.Dense(7, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.02), name="hidden"),
            layers.Dense(6, activation="softplus", activity_regularizer=keras.regularizers.L2(0.05), name="active"),
            layers.Dense(3, bias_regularizer=keras.regularizers.L2(0.1), bias_initializer="ones", name="logits"),
        ]
    )


def _cnn():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Conv2D(3, 3, name="convolution"),
            layers.BatchNormalization(momentum=0.8, name="norm"),
            layers.Activation("softplus"),
            layers.Dropout(0.4, seed=11, name="dropout"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def _lstm():
    return keras.Sequential(
        [
            keras.Input([5, 2]),
            layers.Masking(name="masking"),
            layers.LSTM(4, return_sequences=True, name="lstm"),
            layers.Dense(3, name="logits"),
        ]
    )


def _transformer():
    x = inputs = keras.Input([4, 6])
    x = x + layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm1")(x)
    x = x + layers.Dense(6, name="narrow")(layers.Dense(8, activation="gelu", name="wide")(x))
    x = layers.LayerNormalization(name="norm2")(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.GlobalAveragePooling1D()(x)))


def _embedding():
    # So many rows that a probe moves those that it names where they are looked up, not in a copy of the table.
    return keras.Sequential(
        [
            keras.Input([4], dtype="int32"),
            layers.Embedding(4000, 4, embeddings_initializer=keras.initializers.RandomUniform(-1, 1, seed=5), name="table"),
            layers.Dense(3, activation="tanh", name="hidden"),
            layers.Flatten(),
            layers.Dense(3, name="logits"),
        ]
    )


def _two_outputs():
    left, right = keras.Input([4, 3], name="left"), keras.Input([3, 2], name="right")
    outputs = {}
    for name, x, width in (("left", left, 2), ("right", right, 1)):
        x = layers.Masking(name=f"{name}_masking")(x)
        x = layers.Dense(4, activation="tanh", name=f"{name}_hidden")(x)
        outputs[f"{name}_out"] = layers.Dense(width, name=f"{name}_out")(x)
    return keras.Model({"left": left, "right": right}, outputs)


class Vae(keras.Model):
    """A variational autoencoder whose loss is its own."""

    def __init__(self):
        super().__init__(name="vae")
        self.encoder = layers.Dense(4, name="encoder")
        self.decoder = layers.Dense(5, name="decoder")
        self.seed_generator = keras.random.SeedGenerator(7)

    def call(self, x):
        mean, log_variance = ops.split(self.encoder(x), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=self.seed_generator)
        return {"x": self.decoder(mean + ops.exp(log_variance / 2) * noise), "mean": mean, "log_variance": log_variance}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        mean, log_variance = y_pred["mean"], y_pred["log_variance"]
        misfit = ops.mean(ops.square(y_pred["x"] - x), axis=-1)
        divergence = 0.5 * ops.mean(ops.square(mean) + ops.exp(log_variance) - log_variance - 1, axis=-1)
        return ops.mean(misfit + divergence)


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """A model and its data.

    Attributes:
      make: builds it, uncompiled.
      data: `(rng, n) -> (x, y)`, NumPy.
      compile: makes the arguments of `compile` besides the optimizer.
      weigh: `(rng, n) -> sample_weight`.
      is_random: whether its loss depends on noise or on batch statistics: evaluated in parts, it is another function.
      is_sparse: whether a gradient is row-sparse.
    """

    make: Callable[[], keras.Model]
    data: Callable[[np.random.Generator, int], tuple[Any, Any]]
    compile: Callable[[], dict[str, Any]]
    weigh: Callable[[np.random.Generator, int], Any] = lambda rng, n: rng.uniform(0.2, 3, n)
    is_random: bool = False
    is_sparse: bool = False

    def compiled(self, optimizer=None, seed=1, **kwargs):
        """The model, compiled; the same weights for the same seed. The optimizer is SGD(0.1) by default."""
        keras.utils.set_random_seed(seed)
        model = self.make()
        optimizer = keras.optimizers.SGD(0.1) if optimizer is None else optimizer
        model.compile(optimizer=optimizer, jit_compile=False, **{**self.compile(), **kwargs})
        return model

    def arrays(self, n, seed=3):
        """`x, y` of `n` examples, in Keras' floatx."""
        return in_floatx(self.data(np.random.default_rng(seed), n))

    def weights(self, n, seed=4):
        """Weights for `n` examples, in Keras' floatx."""
        return in_floatx(self.weigh(np.random.default_rng(seed), n))


def in_floatx(data):
    """The same nest, floating arrays in Keras' floatx."""
    if data is None or isinstance(data, np.ndarray):
        return data.astype(keras.config.floatx()) if data is not None and data.dtype.kind == "f" else data
    if isinstance(data, dict):
        return {name: in_floatx(value) for name, value in data.items()}
    return tuple(in_floatx(value) for value in data)


def take(data, index):
    """The same nest, indexed."""
    if data is None or hasattr(data, "shape"):
        return None if data is None else data[index]
    if isinstance(data, dict):
        return {name: take(value, index) for name, value in data.items()}
    return tuple(take(value, index) for value in data)


def cut(data, sizes):
    """Batches of these sizes, one after the other."""
    ends = np.cumsum(sizes)
    return [take(data, slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def pad(rng, x):
    """Zeroes the tail of each example `[n, time, ...]`: at least one step is left, and lengths differ."""
    lengths = rng.integers(1, x.shape[1] + 1, len(x))
    return x * (np.arange(x.shape[1]) < lengths[:, None])[..., None]


def _classes():
    return {
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
        "weighted_metrics": [keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name="weighted")],
    }


def _dense_data(*shape):
    return lambda rng, n: (rng.normal(size=(n, *shape)), rng.integers(3, size=n))


MODELS = {
    "mlp_with_penalties": ModelCase(_mlp_with_penalties, _dense_data(5), _classes),
    "cnn": ModelCase(_cnn, _dense_data(6, 6, 1), _classes, is_random=True),
    "lstm": ModelCase(
        _lstm,
        lambda rng, n: (pad(rng, rng.normal(size=(n, 5, 2))), rng.integers(3, size=(n, 5))),
        lambda: {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "metrics": ["accuracy"]},
        lambda rng, n: rng.uniform(0.2, 3, (n, 5)),
    ),
    "transformer": ModelCase(_transformer, _dense_data(4, 6), _classes),
    "embedding": ModelCase(
        _embedding, lambda rng, n: (rng.integers(5, size=(n, 4)), rng.integers(3, size=n)), _classes, is_sparse=True
    ),
    "two_outputs": ModelCase(
        _two_outputs,
        lambda rng, n: (
            {"left": pad(rng, rng.normal(size=(n, 4, 3))), "right": pad(rng, rng.normal(size=(n, 3, 2)))},
            {"left_out": rng.normal(size=(n, 4, 2)), "right_out": rng.normal(size=(n, 3, 1))},
        ),
        lambda: {
            "loss": {"left_out": "mse", "right_out": keras.losses.Huber(0.5, reduction="mean_with_sample_weight")},
            "loss_weights": {"left_out": 0.7, "right_out": 1.9},
            "metrics": {"left_out": ["mae"], "right_out": ["mae"]},
        },
        lambda rng, n: {"left_out": rng.uniform(0.2, 3, (n, 4)), "right_out": rng.uniform(0.2, 3, (n, 3))},
    ),
    "vae": ModelCase(Vae, lambda rng, n: (rng.normal(size=(n, 5)), None), dict, lambda rng, n: None, is_random=True),
}
EXACT_MODELS = {name: case for name, case in MODELS.items() if not case.is_random}
RANDOM_MODELS = {name: case for name, case in MODELS.items() if case.is_random}
