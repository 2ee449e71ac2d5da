"""Two-player games as models: a loss of one number, whose "gradient" is the joint field of both players.

One player makes a value small, the other one makes it large. Descent knows one loss; so the second player's gradient is turned
round on its way back (`GradientReversal`), and what a step is handed is the joint field `(dV/dx, -dV/dy)`: simultaneous descent
of both.

What that field is: a vector field like any other to a strategy that follows one. `Heun`, `RungeKutta`, `Extragradient` and
`OptimisticGradient` are what theory speaks of; `Lookahead` as well (it averages points), and `Noise`.

What it is not: the gradient of a loss. Where the players turn round each other its Jacobian is not symmetric, so no function has
it as a gradient, and nothing that reads it as one holds: the reported loss is the value of the game and falls for nobody in
particular; a lower one is no better, so `EarlyStopping`, `keep_best` and a search for a learning rate by the loss mean nothing;
a balanced point is a saddle. `Sam` and `Asam` climb a loss that is not there: they move both players along the field, which
is an extragradient step backwards. `step_error` still compares two steps and says how well the field is followed, not how far
the players are from a balance; and `AdaptiveStep`, which follows the field as closely as it is told, circles where the field
does.

Both players share one optimizer and one learning rate (`keras.optimizers.MultiOptimizer` gives each its own). Games whose
players have losses that are not each other's opposite are a `train_step` of your own, which applies both gradients in one
`optimizer.apply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from trainlab.models.arguments import checked_count, checked_counts


@tf.custom_gradient
def _reversed(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    return tf.identity(x), tf.negative


@keras.saving.register_keras_serializable(package="trainlab")
class GradientReversal(keras.layers.Layer):
    """Hands on what it is given, and turns its gradient round: what lies before it climbs where what lies behind descends.

    Source: Y. Ganin, V. Lempitsky, Unsupervised Domain Adaptation by Backpropagation, ICML 2015
    (https://arxiv.org/abs/1409.7495), where it stands before a classifier of domains.

    Example:
        >>> import tensorflow as tf
        >>> x = tf.Variable(3.0)
        >>> with tf.GradientTape() as tape:
        ...     value = GradientReversal()(x) ** 2
        >>> float(value), float(tape.gradient(value, x))
        (9.0, -6.0)
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        """The inputs, of any shape."""
        return _reversed(tf.convert_to_tensor(inputs))


@keras.saving.register_keras_serializable(package="trainlab")
class BilinearGame(keras.Model):
    """`min over x, max over y` of `x . A y`: the simplest game in which plain descent spirals outwards.

    The weights are `x` and `y`; both begin at ones. What `fit` is given means nothing, and sets the number of updates:
    `fit(np.zeros([1000, 1]), batch_size=1)` makes 1,000. By plain steps of `h` the distance from the balance, 0, grows by
    `sqrt(1 + h^2)` an update for `A = 1`; `Extragradient` shrinks it.

    Source: G. Gidel et al., A Variational Inequality Perspective on Generative Adversarial Networks, ICLR 2019
    (https://arxiv.org/abs/1802.10551).

    Example:
        >>> import numpy as np, trainlab as tl
        >>> game = BilinearGame()
        >>> game.compile(optimizer=keras.optimizers.SGD(0.5))
        >>> _ = tl.Trainer(game, tl.SGD()).fit(np.zeros([2, 1]), batch_size=1, verbose=0)
        >>> float(game.x.numpy()[0]), float(game.y.numpy()[0]), game.distance()
        (-0.25, 1.75, 1.25)

    Args:
        matrix: `A`, `(n, m)`: rows of numbers.

    Raises:
        ValueError: It is no matrix of finite numbers.
    """

    def __init__(self, matrix: Sequence[Sequence[float]] = ((1.0,),), **kwargs: Any):
        super().__init__(**kwargs)
        try:
            given = ops.convert_to_numpy(ops.array(matrix, dtype="float64"))
        except (TypeError, ValueError):
            given = None
        if given is None or given.ndim != 2 or not given.size or not (abs(given) < float("inf")).all():
            raise ValueError(f"matrix={matrix!r}: must be rows of as many finite numbers, for example matrix=((1.0,),)")
        self.matrix = given.tolist()
        self.x = self.add_weight(shape=(len(given),), initializer="ones", name="x")
        self.y = self.add_weight(shape=(given.shape[1],), initializer="ones", name="y")
        self.reversal = GradientReversal(dtype=self.dtype_policy)
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The inputs: there is nothing to predict."""
        return inputs

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """The value of the game, which the weight `x` makes small and the weight `y` large."""
        del x, y, y_pred, sample_weight, training
        a = ops.convert_to_tensor(self.matrix, dtype=self.x.dtype)
        # Through one tensor: neither gradient depends on anything that reads the other player's own weights, and TensorFlow's
        # dependency optimizer (2.21, without XLA) then lets one be assigned before the other's gradient has read it.
        both = ops.concatenate([ops.convert_to_tensor(self.x), self.reversal(ops.convert_to_tensor(self.y))])
        return ops.sum(both[: len(self.matrix)] * ops.matmul(a, both[len(self.matrix) :]))

    def distance(self) -> float:
        """How far both players are from 0, where neither gains by moving: the norm over that at the start."""
        squares = sum(float(ops.sum(ops.square(weight))) for weight in (self.x, self.y))
        return (squares / (len(self.matrix) + len(self.matrix[0]))) ** 0.5

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "matrix": self.matrix}


@keras.saving.register_keras_serializable(package="trainlab")
class Gan(keras.Model):
    """A small generative adversarial network for points: both players as one model, with the value of the game as its loss.

    The discriminator makes `mean(softplus(-real) + softplus(fake))` small, the generator large: the original, zero-sum game.
    Trained on `x` alone: `fit(x, batch_size=256)`. Noise is drawn from a seed generator of the model's, so that all evaluations
    of a step see the same.

    Source: I. Goodfellow et al., Generative Adversarial Nets, NeurIPS 2014 (https://arxiv.org/abs/1406.2661); as a flow that
    Runge–Kutta methods follow: C. Qin et al., Training Generative Adversarial Networks by Solving Ordinary Differential
    Equations, NeurIPS 2020 (https://arxiv.org/abs/2010.15040).

    Example:
        >>> import numpy as np, trainlab as tl
        >>> gan = Gan(2, hidden_sizes=(8,))
        >>> gan.compile(optimizer=keras.optimizers.SGD(0.1))
        >>> _ = tl.Trainer(gan, tl.Heun()).fit(np.zeros([64, 2], "float32"), batch_size=16, verbose=0)
        >>> gan.sample(5).shape
        (5, 2)

    Args:
        num_features: Numbers a point.
        latent_size: Numbers of noise that a point is made of.
        hidden_sizes: Units of each hidden layer, of either player.
        seed: Of the noise.

    Raises:
        ValueError: A size breaks its rule.
    """

    def __init__(
        self, num_features: int, latent_size: int = 32, hidden_sizes: Sequence[int] = (64, 64), seed: int = 0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.num_features = checked_count("num_features", num_features)
        self.latent_size = checked_count("latent_size", latent_size)
        self.hidden_sizes = checked_counts("hidden_sizes", hidden_sizes, empty="for example hidden_sizes=(64,)")
        self.seed = seed
        self.noise = keras.random.SeedGenerator(seed)
        self.generator = self._player(self.latent_size, self.num_features, "generator")
        self.discriminator = self._player(self.num_features, 1, "discriminator")
        self.reversal = GradientReversal()
        self.built = True

    def _player(self, num_inputs: int, num_outputs: int, name: str) -> keras.Model:
        layers = [keras.layers.Dense(size, activation="relu") for size in self.hidden_sizes]
        return keras.Sequential([keras.Input([num_inputs]), *layers, keras.layers.Dense(num_outputs)], name=name)

    def call(self, inputs: Any) -> Any:
        """From points `(n, num_features)` to logits `(n, 2)`: of each for real, and of as many generated ones for real."""
        made = self.generator(keras.random.normal([ops.shape(inputs)[0], self.latent_size], seed=self.noise))
        return ops.concatenate([self.discriminator(inputs), self.discriminator(self.reversal(made))], axis=1)

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """What the discriminator makes small: the mean over points."""
        del x, y, sample_weight, training
        return ops.mean(ops.softplus(-y_pred[:, 0]) + ops.softplus(y_pred[:, 1]))

    def sample(self, num: int, seed: int = 0) -> Any:
        """Generated points.

        Args:
            num: How many.
            seed: Of their noise.

        Returns:
            An array `(num, num_features)`.
        """
        noise = keras.random.normal([checked_count("num", num), self.latent_size], seed=seed)
        return ops.convert_to_numpy(self.generator(noise))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = "num_features", "latent_size", "hidden_sizes", "seed"
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
