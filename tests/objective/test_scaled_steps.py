"""A model's own `train_step` under loss scaling: exactly Keras' `fit` if it scales its loss, one line if it does not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import everything, regression
from tables import Sam

import trainlab as tl

pytestmark = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="sums there have no fixed order")
LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


class Own(keras.Model):
    """The step of a tutorial, in mixed precision."""

    def __init__(self):
        super().__init__()
        self.net = keras.Sequential([keras.Input([3]), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1, dtype="float32")])
        self.tracker = keras.metrics.Mean(name="loss")

    def call(self, x):
        return self.net(x)

    def scaled(self, loss):
        return self.optimizer.scale_loss(loss)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self.net(x, training=True) - y) ** 2)
            scaled = self.scaled(loss)
        gradients = tape.gradient(scaled, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


class Wrapping(Own):
    """Does something more than Keras' own step."""

    def train_step(self, data):
        logs = keras.Model.train_step(self, data)
        return {**logs, "twice": 2 * logs["loss"]}


class Applying(Own):
    """Calls `apply`, and adds a part to what it has scaled."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self.net(x, training=True) - y) ** 2)
            total = self.scaled(loss) + self.scaled(keras.ops.mean(loss))
        self.optimizer.apply(tape.gradient(total, self.trainable_weights), self.trainable_weights)
        self.tracker.update_state(loss)
        return {"loss": self.tracker.result()}


class ByHand(Own):
    """Multiplies by the scale itself."""

    def scaled(self, loss):
        return loss * self.optimizer.dynamic_scale


class Compiled(Own):
    """A step that is a `tf.function`."""

    @tf.function
    def train_step(self, data):
        return super().train_step(data)


class Averaged(Own):
    """Follows its weights with an average, and counts its batches."""

    def __init__(self):
        super().__init__()
        self.average = keras.models.clone_model(self.net)
        self.average.trainable = False

    def train_step(self, data):
        logs = super().train_step(data)
        for average, weight in zip(self.average.weights, self.net.weights, strict=True):
            average.assign(0.5 * average + 0.5 * weight)
        return logs


class Unscaled(Own):
    def scaled(self, loss):
        return loss


KINDS = [Own, Wrapping, Applying, ByHand, Compiled]


@pytest.fixture
def half():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def compiled(kind, optimizer=None, **kwargs):
    keras.utils.set_random_seed(1)
    model = kind()
    model.compile(keras.optimizers.Adam(0.01) if optimizer is None else optimizer, "mse", jit_compile=False, **kwargs)
    if kind is ByHand:  # or there is no scale to multiply by, under Keras neither
        model.optimizer.build(model.trainable_variables)
    return model


def dynamic(scale=2.0**24):
    return LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=scale, dynamic_growth_steps=3)


FIT = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sgd_is_fit_bit_for_bit_through_skips(kind, run_eagerly, half):
    x, y = regression(24)
    model, reference = compiled(kind, dynamic()), compiled(kind, dynamic())
    history = tl.Trainer(model, run_eagerly=run_eagerly).fit(x, y, **FIT).history
    expected = reference.fit(x, y, **FIT).history
    assert 0 < sum(history.pop("skipped")) < 18 and history.pop("loss_scale")
    assert history == expected
    for ours, theirs in zip(everything(model), everything(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Own, Wrapping, Applying, Compiled])
def test_so_it_is_with_a_factor(kind):
    x, y = regression(24)
    model, reference = (compiled(kind, keras.optimizers.Adam(0.01, loss_scale_factor=100.0)) for _ in range(2))
    history = tl.Trainer(model).fit(x, y, **FIT).history
    assert history == reference.fit(x, y, **FIT).history
    for ours, theirs in zip(everything(model), everything(reference), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [tl.Heun(), Sam(), tl.Accumulate(2, tl.Heun())])
def test_strategies_see_true_numbers(strategy):
    x, y = regression(24)

    class Noting(type(strategy)):
        def step(self, objective, state):
            step = super().step(objective, state)
            return step._replace(logs={"norm": step.gradient.norm(), "at": step.at.loss})

    ends = []
    for optimizer in (keras.optimizers.SGD(0.1), LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**10)):
        model = compiled(Own, optimizer)
        noting = Noting(2, tl.Heun()) if isinstance(strategy, tl.Accumulate) else Noting()
        history = tl.Trainer(model, noting).fit(x, y, **FIT).history
        ends.append((model.get_weights(), history))
    (weights, history), (scaled, of_scaled) = ends
    for a, b in zip(weights, scaled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for name, values in history.items():
        assert of_scaled[name] == pytest.approx(values, rel=1e-5)


@pytest.mark.slow
def test_a_skipped_update_leaves_what_follows_the_weights():
    """The average of the weights moves at updates alone; what is reported counts every batch."""
    x, y = regression(16)
    scales = iter([2.0**127, 2.0**126])
    model, without = (compiled(Averaged, LossScaleOptimizer(keras.optimizers.SGD(0.1), next(scales))) for _ in range(2))
    y = y * 1e3  # so that a scale of 2**127 is too large
    start = [np.array(v) for v in model.average.weights]
    seen = []

    def note(batch, logs):
        seen.append((logs["skipped"], [np.array(v) for v in model.average.weights]))

    told = [keras.callbacks.LambdaCallback(on_train_batch_end=note)]
    tl.Trainer(model).fit(x, y, 4, shuffle=False, verbose=0, callbacks=told)
    tl.Trainer(without).fit(x[4:], y[4:], 4, shuffle=False, verbose=0)
    assert seen[0][0] == 1
    for a, b in zip(start, seen[0][1], strict=True):
        np.testing.assert_array_equal(a, b)
    for ours, theirs in zip(everything(model), everything(without), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Control: at an update that is made the average moves.
    model = compiled(Averaged, LossScaleOptimizer(keras.optimizers.SGD(0.1), 8.0))
    tl.Trainer(model).fit(x, y, 4, steps=1, verbose=0)
    assert any(not np.array_equal(a, v) for a, v in zip(start, model.average.weights, strict=True))


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [None, dynamic, lambda: keras.optimizers.SGD(0.1, loss_scale_factor=8.0)],
    ids=["made by Keras", "by the user", "a factor"],
)
def test_a_step_that_does_not_scale_is_one_line(optimizer, run_eagerly, half):
    model = compiled(Unscaled, None if optimizer is None else LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    name = "LossScaleOptimizer"
    if optimizer is not None:
        model.compile(optimizer(), "mse", auto_scale_loss=False)
        name = type(model.optimizer).__name__
    message = (
        rf"^Unscaled.train_step does not scale its loss, and {name} divides gradients by the loss scale: "
        r"write loss = self.optimizer.scale_loss\(loss\) before tape.gradient$"
    )
    with pytest.raises(ValueError, match=message):
        tl.Trainer(model, run_eagerly=run_eagerly).fit(*regression(8), verbose=0)


@pytest.mark.slow
def test_a_step_that_does_not_scale_trains_where_nothing_does(half):
    x, y = regression(24)
    model, reference = (compiled(Unscaled, auto_scale_loss=False) for _ in range(2))
    assert tl.Trainer(model).fit(x, y, **FIT).history == reference.fit(x, y, **FIT).history
