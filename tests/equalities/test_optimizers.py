"""Optimizers that replace what Keras' `fit` calls, or that are made of several."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small import close, differ, regression, weights

import trainlab as tl

RATES = {"hidden": 0.05, "out": 0.2}


class Centralized(keras.optimizers.SGD):
    """Gradient centralization (Yong et al. 2020, https://arxiv.org/abs/2004.01461), as the official example writes it."""

    def apply_gradients(self, grads_and_vars):
        return super().apply_gradients([(_central(g), v) for g, v in grads_and_vars])


class ByApply(keras.optimizers.Adam):
    """Takes the sign of each gradient, where every way to apply one passes."""

    def apply(self, grads, trainable_variables=None):
        return super().apply([tf.sign(g) for g in grads], trainable_variables)


class Counting(keras.optimizers.SGD):
    """Takes an argument of its own, and returns something else."""

    def apply_gradients(self, grads_and_vars, scale=0.5):
        super().apply_gradients([(scale * g, v) for g, v in grads_and_vars])


def _central(gradient):
    return gradient if len(gradient.shape) < 2 else gradient - tf.reduce_mean(gradient, axis=0, keepdims=True)


def multi():
    """SGD of two rates."""
    rates = {f"{name}.*": keras.optimizers.SGD(rate) for name, rate in RATES.items()}
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.SGD(9.0), rates))


def multi_of_a_function():
    """By a function, one of them with a memory and a schedule."""
    adam = keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.05, 3, 0.5))
    momentum = keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5)
    return keras.optimizers.MultiOptimizer(lambda v: adam if "hidden" in v.path else momentum)


MAKES = {
    "apply_gradients": lambda: Centralized(0.1),
    "apply": lambda: ByApply(0.01),
    "an argument more": lambda: Counting(0.1),
    "several": multi,
    "several by a function": multi_of_a_function,
}


def made(optimizer, idle=False):
    """A model of two layers, and one that no loss depends on."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input([3])
    outputs = layers.Dense(1, name="out")(layers.Dense(4, "tanh", name="hidden")(inputs))
    if idle:
        outputs = [outputs, layers.Dense(2, name="hidden_idle")(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile(optimizer=optimizer, loss=["mse", None] if idle else "mse")
    return model


def trained(optimizer, strategy=None, batch_size=5, **kwargs):
    """A model after two epochs; by Keras without a strategy."""
    model = made(optimizer)
    fit = model.fit if strategy is None else tl.Trainer(model, strategy, **kwargs).fit
    fit(*regression(), batch_size=batch_size, epochs=2, shuffle=False, verbose=0)
    return model


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", MAKES)
def test_training_is_that_of_keras(name, jit_compile):
    ours, keras_own = trained(MAKES[name](), tl.SGD(), jit_compile=jit_compile), trained(MAKES[name]())
    close(weights(ours), weights(keras_own), 1e-4)
    assert ours.optimizer.iterations.numpy() == keras_own.optimizer.iterations.numpy() == 8
    assert differ(weights(ours), weights(trained(keras.optimizers.SGD(0.1))))  # control


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("inner", [tl.SGD, tl.Heun])
def test_accumulated_batches_are_one_batch(name, inner):
    close(weights(trained(MAKES[name](), tl.Accumulate(2, inner()))), weights(trained(MAKES[name](), inner(), 10)), 1e-4)


class TrainsThePart(keras.Sequential):
    """A step that trains the last layer alone."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
            scaled = self.optimizer.scale_loss(loss)
        variables = self.layers[-1].trainable_variables
        self.optimizer.apply(tape.gradient(scaled, variables), variables)
        return {"loss": loss}


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "scaled"])
@pytest.mark.parametrize("kind", [keras.Sequential, TrainsThePart])
def test_averages_take_the_place_of_their_own_weights(kind, scaled):
    """The layers are of one shape, and the optimizer is not of the weights that are trainable: of one more, or one less."""
    keras.utils.set_random_seed(3)
    model = kind([keras.Input([1]), layers.Dense(1, name="first"), layers.Dense(1, name="second")])
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    if kind is keras.Sequential:
        optimizer.build(model.trainable_variables)
        model.layers[0].trainable = False
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer, 8.0) if scaled else optimizer, "mse")
    start, trained = weights(model), []
    remember = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: trained.append(weights(model)))
    x, y = np.ones([4, 1], "float32"), np.zeros([4, 1], "float32")
    tl.Trainer(model).fit(x, y, batch_size=2, shuffle=False, verbose=0, callbacks=[remember])
    assert len(trained) == 2 and differ(trained[0][2:], trained[1][2:])
    close(weights(model)[:2], start[:2])
    close(weights(model)[2:], [0.5 * first + 0.5 * second for first, second in zip(*trained, strict=True)][2:])


def test_a_probe_moves_each_variable_by_its_own_rate():
    model, (x, y) = made(multi()), regression()
    variables = model.trainable_variables

    def gradient():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x) - y) ** 2)
        return [g.numpy() for g in tape.gradient(loss, [v.value for v in variables])]

    rates = [RATES[v.path.split("/")[0]] for v in variables]
    start, here = [v.numpy() for v in variables], gradient()
    for v, w, h, g in zip(variables, start, rates, here, strict=True):
        v.assign(w - h * g)
    ahead = gradient()
    want = [w - h * (a + b) / 2 for w, h, a, b in zip(start, rates, here, ahead, strict=True)]
    model = made(multi())
    tl.Trainer(model, tl.Heun()).fit(x, y, batch_size=20, verbose=0)
    close(weights(model), want)
    euler = [w - h * a for w, h, a in zip(start, rates, here, strict=True)]
    assert max(np.abs(a - b).max() for a, b in zip(want, euler, strict=True)) > 1e-4  # control


def test_one_that_no_loss_depends_on_is_left_alone():
    model = made(multi(), idle=True)
    before = weights(model)
    with pytest.warns(UserWarning, match="does not depend on hidden_idle/kernel, hidden_idle/bias"):
        tl.Trainer(model).fit(*regression(), verbose=0)
    moved = [v.path for v, a, b in zip(model.weights, before, weights(model), strict=True) if np.any(a != b)]
    assert sorted(moved) == ["hidden/bias", "hidden/kernel", "out/bias", "out/kernel"]


@pytest.mark.parametrize("make", [multi, multi_of_a_function])
def test_a_resume_is_exact(make, tmp_path):
    def run(steps, **kwargs):
        model = made(make())
        trainer = tl.Trainer(model, tl.Heun(), **kwargs)
        trainer.fit(*regression(), batch_size=5, steps=steps, verbose=0)
        return trainer.resumed_at, weights(model), [np.array(v) for v in model.optimizer.variables]

    run(3, run=tmp_path / "a")
    resumed_at, *resumed = run(7, run=tmp_path / "a")
    _, *whole = run(7)
    assert resumed_at == 3
    assert not any(differ(a, b) for a, b in zip(resumed, whole, strict=True))


def test_a_bad_update_is_taken_back_in_all_of_them():
    x, y = regression()
    y[7] = 1e30  # finite, and its square is not
    model, without = made(multi_of_a_function()), made(multi_of_a_function())
    with pytest.warns(UserWarning, match="skipped"):
        tl.Trainer(model, on_nonfinite="skip").fit(x, y, batch_size=5, shuffle=False, verbose=0)
    good = np.r_[0:5, 10:20]
    tl.Trainer(without).fit(x[good], y[good], batch_size=5, shuffle=False, verbose=0)
    close(weights(model), weights(without))
    close([np.array(v) for v in model.optimizer.variables], [np.array(v) for v in without.optimizer.variables])
