import keras
import numpy as np
import pytest

from trainlab import models

SHAPES = [(8, 8, 1), (28, 28, 1), (32, 32, 3)]
FACTORIES = [models.mlp, models.cnn, models.logistic_regression]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_batches_of_examples_to_logits(factory, shape):
    keras.utils.set_random_seed(1)  # of some initial weights all logits have one sign
    model = factory(shape, 7)
    assert model.name == factory.__name__
    assert not model.compiled
    assert model.input_shape == (None, *shape)
    # Scaled up, so that probabilities (in [0, 1], summing to 1) could not pass for logits.
    logits = model(100 * np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")).numpy()
    assert (logits.shape, logits.dtype) == ((2, 7), np.float32)
    assert np.abs(logits.sum(axis=1) - 1).min() > 1e-3
    assert logits.min() < 0


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_building_twice_gives_the_same_names(factory):
    sizes = {} if factory is models.logistic_regression else {"dropout": 0.1}
    first, second = factory((8, 8, 1), 10, **sizes), factory((8, 8, 1), 10, **sizes)
    # Not all variables: Keras counts up the name of a Dropout layer's seed, and lets nobody set it.
    assert [v.path for v in first.trainable_variables] == [v.path for v in second.trainable_variables]
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize("factory", [models.mlp, models.logistic_regression], ids=lambda factory: factory.__name__)
def test_flat_examples_need_no_flatten(factory):
    assert not any(isinstance(layer, keras.layers.Flatten) for layer in factory((64,), 10).layers)
    assert any(isinstance(layer, keras.layers.Flatten) for layer in factory((8, 8), 10).layers)


def test_mlp_sizes_and_parameters():
    model = models.mlp((8, 8, 1), 10, hidden_sizes=[32, np.int64(16)], activation="tanh")
    assert model.count_params() == (64 * 32 + 32) + (32 * 16 + 16) + (16 * 10 + 10)
    assert model.get_layer("hidden_2").activation is keras.activations.tanh
    assert model.get_layer("logits").activation is keras.activations.linear
    assert model.losses == []


def test_mlp_dropout_is_active_in_training_only():
    model = models.mlp((8, 8, 1), 10, dropout=0.5)
    x = np.ones((4, 8, 8, 1), "float32")
    np.testing.assert_array_equal(model(x, training=False), model(x, training=False))
    assert (model(x, training=True).numpy() != model(x, training=True).numpy()).any()


@pytest.mark.parametrize("factory", [models.mlp, models.logistic_regression], ids=lambda factory: factory.__name__)
def test_l2_adds_the_squared_kernels(factory):
    model = factory((5,), 3, l2=0.25)
    for variable in model.trainable_variables:
        variable.assign(variable + 1)  # biases too: they must not count
    kernels = [v.numpy() for v in model.trainable_variables if v.name == "kernel"]
    expected = sum(0.25 * (kernel.astype(np.float64) ** 2).sum() for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-6)


def test_cnn_parameters():
    model = models.cnn((28, 28, 1), 10, filters=(4, 8), dense_size=16)
    assert model.count_params() == (9 * 4 + 4) + (9 * 4 * 8 + 8) + (7 * 7 * 8 * 16 + 16) + (16 * 10 + 10)
    assert model.non_trainable_variables == []


def test_cnn_batch_norm_and_dropout():
    model = models.cnn((8, 8, 1), 10, dropout=0.5, batch_norm=True)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("BatchNormalization") == 2
    assert kinds.count("Dropout") == 1
    assert not any(layer.use_bias for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    statistics = [v.numpy() for v in model.non_trainable_variables if v.path.endswith("moving_mean")]
    model(np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32"), training=True)
    moved = [v.numpy() for v in model.non_trainable_variables if v.path.endswith("moving_mean")]
    assert all((a != b).any() for a, b in zip(statistics, moved, strict=True))


@pytest.mark.parametrize(("shape", "depth"), [((8, 8, 1), 3), ((28, 28, 1), 4), ((32, 32, 3), 5)])
def test_cnn_depth_is_bounded_by_the_image(shape, depth):
    assert models.cnn(shape, 10, filters=(2,) * depth).output_shape == (None, 10)
    with pytest.raises(ValueError, match=f"^filters: {depth + 1} entries halve .* use fewer entries$"):
        models.cnn(shape, 10, filters=(2,) * (depth + 1))


COUNTS = [0, -1, 2.0, "3", None, True, (3,)]
COUNT_LISTS = [(), [], 64, "64", None, (64, 0), (64, -2), (64.0,), ("64",), (True,), {64}]
RATES = [-0.1, 1, 1.0, 1.5, float("nan"), float("inf"), "0.5", "high", None, True, (0.5,)]
PENALTIES = [-1e-3, float("nan"), float("inf"), "0.1", None, True, [0.1]]
BAD = {
    models.mlp: {
        "num_classes": COUNTS,
        "hidden_sizes": COUNT_LISTS,
        "activation": ["rleu", 3, ["relu"]],
        "dropout": RATES,
        "l2": PENALTIES,
    },
    models.cnn: {
        "num_classes": COUNTS,
        "filters": COUNT_LISTS,
        "dense_size": COUNTS,
        "dropout": RATES,
        "batch_norm": [1, "yes", None],
    },
    models.logistic_regression: {"num_classes": COUNTS, "l2": PENALTIES},
}


@pytest.mark.parametrize(
    ("factory", "name", "value"),
    [
        pytest.param(factory, name, value, id=f"{factory.__name__}-{name}={value!r}")
        for factory, table in BAD.items()
        for name, values in table.items()
        for value in values
    ],
)
def test_bad_sizes_are_one_line(factory, name, value):
    with pytest.raises(ValueError, match=rf"^{name}(\[\d\])?=.*: must .*") as caught:
        factory((8, 8, 1), **{"num_classes": 10, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), 8, "8", None, (8, None, 1), (8, -8, 1), (8, 0, 1), (8.0,)], ids=str)
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_bad_input_shapes_are_one_line(factory, shape):
    with pytest.raises(ValueError, match=r"^input_shape(\[\d\])?=.*: must .*") as caught:
        factory(shape, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(64,), (8, 8), (8, 8, 1, 1)], ids=str)
def test_cnn_needs_images(shape):
    with pytest.raises(ValueError, match=r"^input_shape=.*: cnn needs \(height, width, channels\)"):
        models.cnn(shape, 10)
