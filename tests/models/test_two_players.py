"""Games as models: one loss, whose gradient is the joint field of two players."""

import doctest

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl
from trainlab.datasets import gaussian_grid
from trainlab.models import BilinearGame, Gan, GradientReversal, games

X, Y = np.array([0.5, -2.0]), np.array([1.0, 0.25, 3.0])
MATRIX = [[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]


def played(game, strategy, updates, rate=0.1, **kwargs):
    game.compile(optimizer=keras.optimizers.SGD(rate))
    tl.Trainer(game, strategy, **kwargs).fit(np.zeros([updates, 1]), batch_size=1, verbose=0)
    return game


# |R(0.1 i)|^1000 of the stability polynomial R.
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(
    "strategy, factor", [(tl.SGD(), abs(1 + 0.1j) ** 1000), (tl.Extragradient(), abs(1 + 0.1j - 0.01) ** 1000)]
)
def test_the_factor_of_the_norm(strategy, factor, precision):
    assert played(BilinearGame(), strategy, 1000).distance() == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(
    "mode", [{"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}], ids=["eager", "graph", "xla"]
)
def test_a_step_of_a_game_of_several_dimensions(mode, precision):
    a = np.array(MATRIX)
    for _ in range(3):  # an order of operations that is left to chance would show
        game = BilinearGame(MATRIX)
        game.x.assign(X), game.y.assign(Y)
        played(game, tl.SGD(), 1, **mode)
    np.testing.assert_allclose(game.x, X - 0.1 * a @ Y, rtol=1e-14)
    np.testing.assert_allclose(game.y, Y + 0.1 * a.T @ X, rtol=1e-14)
    assert game.history.history["loss"] == [pytest.approx(X @ a @ Y)]


def test_the_value_of_a_gan_falls_for_one_player_and_grows_for_the_other():
    keras.utils.set_random_seed(0)
    gan, x = Gan(2, latent_size=3, hidden_sizes=(8,)), tf.constant(np.random.default_rng(0).normal(size=[16, 2]), "float32")

    def value():
        gan.noise.state.assign([7, 0])
        return gan.compute_loss(y_pred=gan(x))

    with tf.GradientTape(persistent=True) as tape:
        before = value()
    for player, grows in ((gan.generator, True), (gan.discriminator, False)):
        weights = player.trainable_variables
        kept = [weight.numpy() for weight in weights]
        for weight, gradient in zip(weights, tape.gradient(before, [w.value for w in weights]), strict=True):
            weight.assign_sub(0.05 * gradient)
        assert (float(value()) > float(before)) is grows
        for weight, old in zip(weights, kept, strict=True):
            weight.assign(old)
    assert float(value()) == float(before)  # control: the same noise, and nothing has moved


@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Heun(), tl.Extragradient(), tl.OptimisticGradient(), tl.Accumulate(2)])
def test_a_gan_trains_with_any_strategy(strategy):
    gan = Gan(2, latent_size=4, hidden_sizes=(8,))
    gan.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [np.array(weight) for weight in gan.trainable_variables]
    history = tl.Trainer(gan, strategy).fit(gaussian_grid(64).train[0], batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all() and gan.sample(3).shape == (3, 2)
    assert not any((old == new).all() for old, new in zip(before, gan.trainable_variables, strict=True))
    np.testing.assert_array_equal(gan.sample(3), gan.sample(3))


@pytest.mark.parametrize("make", [lambda: BilinearGame(MATRIX), lambda: Gan(3, 4, (5,), seed=2)], ids=["bilinear", "gan"])
def test_it_is_saved_and_loaded(make, tmp_path):
    model = make()
    model.save(tmp_path / "game.keras")
    loaded = keras.models.load_model(tmp_path / "game.keras")
    assert loaded.get_config() == model.get_config()
    for one, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_reversal_in_a_model_of_ones_own():
    """As for domains: what is before it climbs, what is behind it descends."""
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1, use_bias=False), GradientReversal(), keras.layers.Dense(1)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.ones([1, 2])))
    before, behind, bias = tape.gradient(loss, [weight.value for weight in model.trainable_variables])
    np.testing.assert_allclose(before, -np.ones([2, 1]) * float(model.layers[2].kernel[0, 0]), rtol=1e-6)
    np.testing.assert_allclose(behind, np.ones([1, 2]) @ model.layers[0].kernel.numpy(), rtol=1e-6)
    assert bias == [1]


def test_the_grid():
    x, y = gaussian_grid(20_000, side=3, deviation=0.1, seed=4).train
    centres = np.stack([x[y == i].mean(axis=0) for i in range(9)])
    np.testing.assert_allclose(centres, [(a, b) for b in (-1, 0, 1) for a in (-1, 0, 1)], atol=0.02)
    assert np.concatenate([x[y == i] - centres[i] for i in range(9)]).std() == pytest.approx(0.1, rel=0.02)
    assert np.bincount(y).min() > 2000 and (gaussian_grid(5).train[0] == gaussian_grid(5).train[0]).all()


@pytest.mark.parametrize("make, message", [
    (lambda: BilinearGame(1.0), r"^matrix=1.0: must be rows of as many finite numbers, for example matrix=\(\(1.0,\),\)$"),
    (lambda: BilinearGame([[1.0], [2.0, 3.0]]), "^matrix=.*: must be rows"),
    (lambda: BilinearGame([[float("nan")]]), "^matrix=.*: must be rows"),
    (lambda: Gan(0), "^num_features=0: must be a positive integer"),
    (lambda: Gan(2, hidden_sizes=()), r"^hidden_sizes=\(\): must name at least one layer"),
    (lambda: gaussian_grid(0), "^num_examples=0: must be an integer >= 1$"),
    (lambda: gaussian_grid(side=1), "^side=1: must be an integer >= 2$"),
    (lambda: gaussian_grid(deviation=0), "^deviation=0: must be a number above 0"),
    (lambda: gaussian_grid(seed=-1), "^seed=-1: "),
])  # fmt: skip
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_docstring_examples():
    result = doctest.testmod(games)
    assert result.attempted > 0 and result.failed == 0
