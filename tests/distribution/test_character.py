import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from own_step_cases import OWN_STEPS
from replicating import mirrored
from small import assert_same, compiled, dense_model, everything, regression

import trainlab as tl


class Changing(keras.metrics.Metric):
    """A metric that changes its variable in some way."""

    def __init__(self, change, name="changing"):
        super().__init__(name=name)
        self.change, self.value = change, self.add_variable((), "zeros", name="value")

    def update_state(self, y, y_pred, sample_weight=None):
        self.value.assign(self.change(self.value, ops.mean(ops.abs(y_pred))))

    def result(self):
        return self.value + 0


NO_SUMS = {
    "max": ops.maximum,
    "min": ops.minimum,
    "last": lambda before, found: found,
    "moving": lambda before, found: 0.9 * before + 0.1 * found,
    "twice": lambda before, found: before + found + 0.1 * before,
    "product": lambda before, found: before * found + 1.0,
    "cumulative": lambda before, found: ops.where(before > 1, before, before + found),
}
SUMS = {
    "sum": lambda before, found: before + found,
    "from the left": lambda before, found: found + before,
    "difference": lambda before, found: before - found,
    "where": lambda before, found: ops.where(found > 0.1, before + found, before),
    "several": lambda before, found: (before + found) + 2 * found,
    "cast": lambda before, found: ops.cast(ops.reshape(before + found, ()), "float32"),
    "wide": lambda before, found: ops.cast(ops.cast(before, "float64") + 1.0, "float32"),
}


def told(metrics, replicas=2, loss="mse"):
    x, y = regression(8)
    model = compiled(dense_model(), loss=loss, metrics=metrics)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False).fit(x, y, batch_size=4, epochs=2, verbose=0)
    return [str(warning.message) for warning in caught if "replicas" in str(warning.message)]


@pytest.mark.parametrize("change", NO_SUMS)
def test_metrics_that_are_no_sums_are_told_once(change):
    lines = told([Changing(NO_SUMS[change])])
    assert len(lines) == 1 and "'changing/value'" in lines[0] and "\n" not in lines[0]
    assert told([Changing(NO_SUMS[change])], replicas=None) == []


@pytest.mark.parametrize("change", SUMS)
def test_metrics_that_are_sums_are_not(change):
    assert told([Changing(SUMS[change])]) == []


class Wide(keras.metrics.Metric):
    """Adds something of each column to a state of two axes, which Keras does by `BiasAdd`."""

    def __init__(self, name="wide"):
        super().__init__(name=name)
        self.total = self.add_variable((1, 3), "zeros", name="total")

    def update_state(self, y, y_pred, sample_weight=None):
        self.total.assign_add(ops.sum(ops.abs(y - y_pred), axis=0, keepdims=True))

    def result(self):
        return ops.sum(self.total)


def test_a_state_of_two_axes_is_added_up():
    x, y = np.random.default_rng(1).normal(size=(2, 8, 3)).astype("float32")
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[Wide()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        logs = tl.Trainer(model, distribute=mirrored(2), jit_compile=False).fit(x, y, batch_size=4, verbose=0).history
    np.testing.assert_allclose(logs["wide"], np.abs(y - model.predict(x, verbose=0)).sum(), rtol=1e-5)


@pytest.mark.slow
def test_metrics_of_keras_are_not():
    names = "mae mse mape msle cosine_similarity poisson".split()
    assert told([*names, keras.metrics.R2Score(), keras.metrics.RootMeanSquaredError()]) == []


@pytest.mark.slow
def test_a_mean_over_examples_in_place_of_a_maximum():
    x, y = regression(6)

    def most(replicas):
        model = compiled(dense_model(), keras.optimizers.SGD(0.0), metrics=[Changing(ops.maximum)])
        trainer = tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logs = trainer.fit(x, y, batch_size=6, shuffle=False, verbose=0).history
        return logs["changing"][0], np.abs(model.predict(x, verbose=0))

    for replicas, sizes in ((2, (3, 3)), (4, (2, 1, 2, 1))):
        value, outputs = most(replicas)
        means = [part.mean() for part in np.split(outputs, np.cumsum(sizes)[:-1])]
        np.testing.assert_allclose(value, np.average(means, weights=sizes), rtol=1e-5)


@pytest.mark.parametrize("layer", [keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN])
def test_layers_with_a_state_for_each_example(layer):
    model = keras.Sequential([keras.Input([4, 2], batch_size=4), layer(3, stateful=True), keras.layers.Dense(1)])
    compiled(model)
    before = everything(model)
    with pytest.raises(ValueError) as error:
        tl.Trainer(model, distribute=mirrored(2)).fit(np.ones([8, 4, 2]), np.ones([8, 1]), batch_size=4, verbose=0)
    assert f"layer {model.layers[0].name!r} is stateful: " in str(error.value) and "\n" not in str(error.value)
    assert_same(before, everything(model)[: len(before)])


def test_one_inside_a_model_with_its_own_step():
    case = OWN_STEPS["words_in_order"]
    with pytest.raises(ValueError, match="is stateful: "):
        tl.Trainer(case.compiled(), distribute=mirrored(2)).fit(case.dataset(8, 4), verbose=0)


def test_what_cannot_be_traced_is_not_where_it_need_not_be():
    class Eager(keras.layers.Layer):
        def call(self, x):
            return x if not hasattr(x, "numpy") else tf.constant(x.numpy() * 0 + 1.0) * x

        def compute_output_shape(self, shape):
            return shape

    x, y = regression(8)
    models = []
    for replicas in (None, 2):
        models.append(compiled(keras.Sequential([keras.Input([3]), Eager(), keras.layers.Dense(1, kernel_initializer="ones")])))
        tl.Trainer(models[-1], distribute=mirrored(replicas), run_eagerly=True).fit(x, y, batch_size=4, verbose=0)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
