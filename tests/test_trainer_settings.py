"""Settings changed between two fits of one Trainer count in the second, as they do for a Trainer that begins there.

Each change is made between two fits of one Trainer and, for comparison, between the fits of two: the second traces everything
anew, so that the two must agree to the bit. The control: without the change the result is another.
"""

import keras
import numpy as np
import pytest
from keras import layers
from small import assert_same, compiled, dense_model, differ, everything, regression, weights

import trainlab as tl

FACTOR = 1.0


def power(y_true, y_pred):
    return keras.ops.mean(helped(y_true - y_pred))


def helped(x):
    return FACTOR * keras.ops.square(x)


class Scaled(layers.Layer):
    """A layer with attributes of its own, of the object and of the class."""

    shift = 0.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.options, self.table = 1.0, {"power": [1.0]}, np.ones(3, "float32")

    def call(self, x):
        return x * self.scale * self.options["power"][0] * self.table + self.shift


class Slope(keras.regularizers.Regularizer):
    def __init__(self):
        self.factor = 0.1

    def __call__(self, x):
        return self.factor * keras.ops.sum(x)


def mlp(*extra, **kwargs):
    """Makes a model; the arguments make layers, and what the first one is given."""

    def make(**changes):
        given = {name: fn() for name, fn in kwargs.items()}
        more = [lambda: layers.Dense(3, name="hidden", **given), *extra, lambda: layers.Dense(1, name="out")]
        return compiled(dense_model(*more), **{"optimizer": keras.optimizers.SGD(0.05), **changes})

    return make


def changed(path, value):
    """`model.<path> = value`, where a part may be an index."""

    def change(model):
        *parts, name = path.split(".")
        for part in parts:
            model = model[int(part)] if part.isdigit() else getattr(model, part)
        if name.isdigit():
            model[int(name)] = value
        elif isinstance(model, dict):
            model[name] = value
        else:
            setattr(model, name, value)

    return change


def optimized(name, value, optimizer=lambda: keras.optimizers.Adam(0.05), **kwargs):
    return (lambda: mlp()(optimizer=optimizer(), **kwargs)), changed(f"optimizer.{name}", value)


def _with_objects():
    """A model and the objects that it was compiled with, held where a change finds them."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    return mlp()(loss=loss)


def _smooth(model):
    model.loss.label_smoothing = 0.4
    vars(model.loss)["_fn_kwargs"]["label_smoothing"] = 0.4


def _closure():
    rate = {"now": 1.0}
    number = 1.0

    def loss(y_true, y_pred):
        return rate["now"] * number * keras.ops.mean(keras.ops.square(y_true - y_pred))

    def change(value):
        nonlocal number
        number = value

    loss.change, loss.rate = change, rate
    return mlp()(loss=loss)


def _adapted():
    model = mlp()()
    keras.utils.set_random_seed(1)
    normalization = layers.Normalization()
    normalization.adapt(regression()[0])
    model = keras.Sequential([keras.Input([3]), normalization, layers.Dense(1)])
    return compiled(model, keras.optimizers.SGD(0.05))


def _lookup():
    keras.utils.set_random_seed(1)
    found = layers.Discretization(num_bins=4, output_mode="multi_hot")
    found.adapt(np.arange(8.0))
    return compiled(keras.Sequential([keras.Input([3]), found, layers.Dense(1)]), keras.optimizers.SGD(0.05))


def _lambda():
    rate = {"now": 1.0}

    def scaled(x):
        return rate["now"] * x

    scaled.rate = rate
    return mlp(lambda: layers.Lambda(scaled))()


def _nested():
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([layers.Dense(3), layers.Dropout(0.1, seed=1), layers.Dense(3)])
    return compiled(keras.Sequential([keras.Input([3]), inner, layers.Dense(1)]))


class Options:
    power = 1.0


class Optioned(layers.Layer):
    """A layer whose settings an object of one's own holds."""

    def __init__(self):
        super().__init__()
        self.options = Options()

    def call(self, x):
        return x * self.options.power


def _asking():
    """A loss that asks another model."""
    asked = keras.Sequential([keras.Input([1]), layers.LeakyReLU(0.1)])
    model = mlp()(loss=lambda y_true, y_pred: keras.ops.mean(keras.ops.square(y_pred - asked(y_true))))
    model.loss.asked = asked
    return model


def _frozen_norm():
    return mlp(lambda: layers.BatchNormalization(center=False, scale=False, name="norm"))()


def _patch(model):
    model.get_layer("hidden").call = lambda x, training=None: 0.5 * x


def _class_attribute(model):
    model.layers[1].__class__ = type("Shifted", (Scaled,), {"shift": 1.0})


CASES = {
    "Normalization adapted again": (_adapted, lambda m: m.layers[0].adapt(3 * regression(seed=5)[0] + 1)),
    "Dropout.rate": (mlp(lambda: layers.Dropout(0.1, seed=1)), changed("layers.1.rate", 0.9)),
    "GaussianNoise.stddev": (mlp(lambda: layers.GaussianNoise(0.1, seed=1)), changed("layers.1.stddev", 1.0)),
    "BatchNormalization.momentum": (mlp(lambda: layers.BatchNormalization()), changed("layers.1.momentum", 0.1)),
    "BatchNormalization.epsilon": (mlp(lambda: layers.BatchNormalization()), changed("layers.1.epsilon", 1.0)),
    "a BatchNormalization frozen": (mlp(lambda: layers.BatchNormalization()), changed("layers.1.trainable", False)),
    "one without weights frozen": (_frozen_norm, changed("layers.1.trainable", False)),
    "LeakyReLU.negative_slope": (mlp(lambda: layers.LeakyReLU(0.1)), changed("layers.1.negative_slope", 0.7)),
    "an activation": (mlp(activation=lambda: "tanh"), changed("layers.0.activation", keras.activations.relu)),
    "an activation that is a layer": (
        mlp(activation=lambda: layers.LeakyReLU(0.1)),
        changed("layers.0.activation.negative_slope", 0.7),
    ),
    "a regularizer's factor": (
        mlp(kernel_regularizer=lambda: keras.regularizers.L2(0.1)),
        changed("layers.0.kernel_regularizer.l2", 0.5),
    ),
    "a weight's regularizer": (mlp(), changed("layers.0.kernel.regularizer", keras.regularizers.L2(0.5))),
    "a weight's constraint": (mlp(), changed("layers.0.kernel.constraint", keras.constraints.MaxNorm(0.1))),
    "a regularizer's own factor": (mlp(kernel_regularizer=Slope), changed("layers.0.kernel_regularizer.factor", 0.5)),
    "an activity regularizer": (
        mlp(activity_regularizer=lambda: keras.regularizers.L1(0.1)),
        changed("layers.0.activity_regularizer.l1", 0.5),
    ),
    "a constraint's max": (
        mlp(kernel_constraint=lambda: keras.constraints.MaxNorm(1.0)),
        changed("layers.0.kernel_constraint.max_value", 0.3),
    ),
    "a layer's own attribute": (mlp(Scaled), changed("layers.1.scale", 2.0)),
    "one in a list in a dict": (mlp(Scaled), changed("layers.1.options.power", [3.0])),
    "an array in place": (mlp(Scaled), changed("layers.1.table.1", 5.0)),
    "another class": (mlp(Scaled), _class_attribute),
    "a method of one layer": (mlp(), _patch),
    "clipnorm": optimized("clipnorm", 0.01, lambda: keras.optimizers.SGD(0.05)),
    "clipvalue": optimized("clipvalue", 0.01, lambda: keras.optimizers.SGD(0.05)),
    "global_clipnorm": optimized("global_clipnorm", 0.01, lambda: keras.optimizers.SGD(0.05)),
    "momentum": optimized("momentum", 0.1, lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    "nesterov": optimized("nesterov", True, lambda: keras.optimizers.SGD(0.05, momentum=0.9)),
    "beta_1": optimized("beta_1", 0.1),
    "beta_2": optimized("beta_2", 0.1),
    "epsilon": optimized("epsilon", 0.1),
    "weight_decay": optimized("weight_decay", 0.5, lambda: keras.optimizers.AdamW(0.05)),
    "rho": optimized("rho", 0.1, lambda: keras.optimizers.RMSprop(0.05)),
    "ema_momentum": optimized("ema_momentum", 0.1, lambda: keras.optimizers.SGD(0.05, use_ema=True, ema_overwrite_frequency=1)),
    "a schedule in a rate's place": optimized("learning_rate", keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)),
    "a schedule's number": (
        lambda: mlp()(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.9))),
        lambda m: setattr(vars(m.optimizer)["_learning_rate"], "decay_rate", 0.1),
    ),
    "a loss's label smoothing": (_with_objects, _smooth),
    "a number that a loss closes over": (_closure, lambda m: m.loss.change(3.0)),
    "Discretization adapted again": (_lookup, lambda m: m.layers[0].adapt(regression()[0])),
    "a rate inside a model": (_nested, changed("layers.0.layers.1.rate", 0.9)),
    "what a Lambda closes over": (_lambda, lambda m: m.layers[1].function.rate.update(now=3.0)),
    "an object of one's own": (mlp(Optioned), changed("layers.1.options.power", 3.0)),
    "a layer inside a model that a loss asks": (_asking, changed("loss.asked.layers.0.negative_slope", 0.9)),
    "a function in place of compute_loss": (
        mlp(),
        lambda m: setattr(m, "compute_loss", lambda x, y, y_pred, *a, **k: keras.ops.mean(y_pred)),
    ),
    "a dict that a loss closes over": (_closure, lambda m: m.loss.rate.update(now=3.0)),
}
# A quarter of them is in the quick suite.
_QUICK = ["Normalization adapted again", "Dropout.rate", "one without weights frozen", "a layer's own attribute", "clipnorm"]
_QUICK += ["a schedule in a rate's place", "a number that a loss closes over", "a constraint's max"]


def second_fits(make, change, has_new_trainer):
    """All variables, and the logs, after a second fit."""
    x, y = regression()
    model = make()
    trainer = tl.Trainer(model)
    trainer.fit(x, y, epochs=2, batch_size=20, verbose=0, shuffle=False)
    change(model)
    if has_new_trainer:
        trainer = tl.Trainer(model)
    history = trainer.fit(x, y, epochs=2, batch_size=20, verbose=0, shuffle=False).history
    return [*everything(model), *history.values()]


@pytest.mark.parametrize("name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES])
def test_a_setting_that_was_changed_counts(name):
    make, change = CASES[name]
    found = second_fits(make, change, False)
    assert_same(found, second_fits(make, change, True))
    assert differ(found, second_fits(make, lambda model: None, False))  # the control


@pytest.mark.slow
def test_what_a_helper_of_a_loss_reads_from_its_module(monkeypatch):
    def change(model):
        monkeypatch.setitem(globals(), "FACTOR", 3.0)

    def fit(change, has_new_trainer):
        monkeypatch.setitem(globals(), "FACTOR", 1.0)
        return second_fits(lambda: mlp()(loss=power), change, has_new_trainer)

    found = fit(change, False)
    assert_same(found, fit(change, True))
    assert differ(found, fit(lambda model: None, False))


def test_a_metrics_threshold():
    x, y = regression()
    y = (y > 0).astype("float32")
    metric = keras.metrics.Precision(thresholds=0.0, name="precision")
    trainer = tl.Trainer(mlp()(metrics=[metric]))
    first = trainer.fit(x, y, verbose=0).history["precision"]
    metric.thresholds = [2.0]
    assert trainer.fit(x, y, verbose=0).history["precision"] == [0.0] != first


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (lambda: keras.config.set_epsilon(0.5), lambda: keras.config.set_epsilon(1e-7)),
        (lambda: keras.config.set_dtype_policy("mixed_bfloat16"), lambda: keras.config.set_dtype_policy("float32")),
    ],
)
def test_keras_own_configuration(change, back):
    x, y = regression()
    trainer = tl.Trainer(mlp()())
    trainer.fit(x, y, verbose=0)
    loop = trainer._loops.made.loop
    trainer.fit(x, y, verbose=0)
    assert trainer._loops.made.loop is loop
    try:
        change()
        trainer.fit(x, y, verbose=0)
        assert trainer._loops.made.loop is not loop
    finally:
        back()


def test_another_optimizer_in_its_place():
    x, y = regression()
    model = mlp()()
    trainer = tl.Trainer(model)
    trainer.fit(x, y, verbose=0)
    model.optimizer = keras.optimizers.SGD(0.0)
    before = weights(model)
    trainer.fit(x, y, verbose=0)
    assert_same(weights(model), before)


@pytest.mark.slow
def test_compiled_again_for_xla():
    x, y = regression()
    model = mlp()()
    trainer, asked = tl.Trainer(model), tl.Trainer(mlp()(), jit_compile="auto")
    for one in (trainer, asked):
        one.fit(x, y, verbose=0)
        assert one.jit_compile is None
        compiled(one.model, jit_compile=True)
        one.fit(x, y, verbose=0)
    assert trainer.jit_compile is True and trainer._loops.made.loop.jit_compile is True
    assert asked.jit_compile is None  # to whom it was said otherwise
    compiled(model)
    trainer.fit(x, y, verbose=0)
    assert trainer.jit_compile is None


def test_a_change_in_the_middle_of_a_fit_counts_in_the_next():
    class Changing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.layers[1].scale = 0.0

    x, y = regression()
    trainer = tl.Trainer(mlp(Scaled)())
    first = trainer.fit(x, y, epochs=3, verbose=0, callbacks=[Changing()])
    loop = trainer._loops.made.loop
    trainer.fit(x, y, verbose=0)
    assert len(set(first.history["loss"])) == 3
    assert trainer._loops.made.loop is not loop
    loop = trainer._loops.made.loop
    trainer.fit(x, y, verbose=0, callbacks=[Changing()])
    assert trainer._loops.made.loop is loop  # it was 0 already
