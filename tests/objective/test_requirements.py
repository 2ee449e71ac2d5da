import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, regression, weights

from trainlab import Trainer
from trainlab.objective import requirements


def refusal(model, exception=ValueError):
    with pytest.raises(exception) as error:
        requirements.check_compiled(model)
    assert "\n" not in str(error.value)
    # The Trainer says it at once, not at the first fit.
    with pytest.raises(exception) as again:
        Trainer(model)
    assert str(again.value) == str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(0.0),
        keras.optimizers.Adam(1e-3, clipnorm=1.0, weight_decay=0.1),
        keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.0, 1, 0.5)),  # a schedule may start at 0
        keras.optimizers.AdamW(use_ema=True),
        "adam",
    ],
    ids=lambda optimizer: getattr(optimizer, "name", optimizer),
)
def test_ordinary_models_pass(optimizer):
    requirements.check_compiled(compiled(optimizer=optimizer))


@pytest.mark.parametrize("model", [None, "model", keras.layers.Dense(1), keras.Model, 3], ids=lambda m: type(m).__name__)
def test_what_is_no_model(model):
    assert refusal(model, TypeError).startswith("model must be a keras.Model, not ")


def test_an_uncompiled_model():
    message = refusal(dense_model())
    assert "is not compiled: call model.compile(optimizer=..., loss=...)" in message


def test_no_optimizer():
    model = dense_model()
    model.compile(optimizer=None, loss="mse")
    if model.optimizer is None:
        assert "without an optimizer" in refusal(model)


@pytest.mark.parametrize("rate", [-0.1, np.nan, np.inf, -np.inf], ids=str)
def test_a_learning_rate_that_is_none(rate):
    model = compiled()
    model.optimizer.learning_rate = rate
    assert refusal(model) == f"the learning rate must be finite and at least 0, not {rate:g}"


def test_options_that_would_be_ignored_or_done_twice():
    message = refusal(compiled(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)))
    assert "gradient_accumulation_steps=4" in message
    assert "strategy=Accumulate(4)" in message


@pytest.mark.parametrize("by_function", [False, True])
@pytest.mark.parametrize(
    "settings, line", [({"gradient_accumulation_steps": 4}, "strategy=Accumulate"), ({"learning_rate": -1.0}, "0, not -1")]
)
def test_an_optimizer_among_several_is_looked_at_too(by_function, settings, line):
    def made(bad):
        good = keras.optimizers.SGD(0.1)
        several = keras.optimizers.OptimizerMap(good, {".*kernel": bad})
        return keras.optimizers.MultiOptimizer((lambda v: bad if "kernel" in v.path else good) if by_function else several)

    x, y = regression()
    model = compiled(optimizer=made(keras.optimizers.SGD(**{"learning_rate": 0.1, **settings})))
    before = weights(model)
    with pytest.raises(ValueError, match=line):
        Trainer(model).fit(x, y, verbose=0)
    assert_same(weights(model), before)
    Trainer(compiled(optimizer=made(keras.optimizers.SGD(0.1)))).fit(x, y, verbose=0)


def test_a_tf_distribute_scope():
    model = compiled()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert refusal(model).startswith("a tf.distribute strategy's scope is open, or was")
        inside = compiled()
    assert refusal(inside).startswith("a tf.distribute strategy's scope is open, or was")
    requirements.check_compiled(model)


class OwnLoop(keras.Sequential):
    def make_train_function(self, force=False):
        return super().make_train_function(force)


def test_a_loop_of_the_models_own():
    line = refusal(compiled(OwnLoop([keras.Input([3]), keras.layers.Dense(1)])))
    assert line.startswith("OwnLoop defines its own make_train_function, which a Trainer would silently ignore: ")
    on_the_object = compiled()
    on_the_object.make_train_function = lambda force=False: None
    assert "make_train_function" in refusal(on_the_object)
    inherited = compiled(type("Heir", (OwnLoop,), {})([keras.Input([3]), keras.layers.Dense(1)]))
    assert refusal(inherited).startswith("Heir defines its own make_train_function")
    requirements.check_compiled(compiled())


def test_a_layer_that_has_keras_fit_is_a_model():
    class Mixed(requirements.TRAINER, keras.layers.Dense):  # as in Keras' own tests
        def __init__(self):
            keras.layers.Dense.__init__(self, 1)
            requirements.TRAINER.__init__(self)

    x, y = regression()
    model, other = compiled(Mixed()), compiled(Mixed())
    for each in (model, other):
        each.build(x.shape)
    other.set_weights(model.get_weights())
    Trainer(model).fit(x, y, batch_size=4, shuffle=False, verbose=0)
    other.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert np.abs(model.get_weights()[0] - other.get_weights()[0]).max() < 1e-6
    for nothing in (keras.layers.Dense(1), "model", None):
        with pytest.raises(TypeError, match="model must be a keras.Model, not"):
            requirements.check_compiled(nothing)


class TestBuilt:
    def test_nothing_to_train(self):
        model = dense_model(lambda: keras.layers.Dense(1, trainable=False))
        with pytest.warns(UserWarning, match="has no trainable variables, so fit only computes its metrics") as said:
            requirements.check_built(compiled(model))
        assert "\n" not in str(said[0].message)

    def test_a_layer_unfrozen_after_the_optimizer_was_built(self):
        model = dense_model(lambda: keras.layers.Dense(2, name="first", trainable=False), lambda: keras.layers.Dense(1))
        compiled(model)
        x, y = regression()
        Trainer(model).fit(x, y, verbose=0)
        model.get_layer("first").trainable = True
        with pytest.raises(ValueError, match="first/kernel' became trainable after the optimizer was built: call model.compile"):
            requirements.check_built(model)
        compiled(model)
        model.optimizer.build(model.trainable_variables)
        requirements.check_built(model)


class Inner(keras.layers.Layer):
    """A user's layer that takes `training`, whatever it does with it."""

    def call(self, x, training=None):
        return 2.0 * x if training else x


DIFFERENT = {
    "dropout": lambda: keras.layers.Dropout(0.5),
    "noise": lambda: keras.layers.GaussianNoise(1.0),
    "norm": lambda: keras.layers.BatchNormalization(),
    "inside": lambda: keras.Sequential([keras.layers.Dense(2), keras.layers.Dropout(0.5)]),
    "wrapped": lambda: keras.layers.TimeDistributed(keras.layers.Dropout(0.5)),
    "rnn": lambda: keras.layers.LSTM(2, recurrent_dropout=0.5, return_sequences=True),
    "attention": lambda: SelfAttention(0.5),
    "own": Inner,
    "lambda": lambda: keras.layers.Lambda(lambda x, training=None: 2.0 * x if training else x),
}
ALIKE = {
    "dense": lambda: keras.layers.Dense(2),
    "no dropout": lambda: keras.layers.Dropout(0.0),
    "frozen norm": lambda: keras.layers.BatchNormalization(trainable=False),
    "layer norm": lambda: keras.layers.LayerNormalization(),
    "rnn": lambda: keras.layers.LSTM(2, return_sequences=True),
    "attention": lambda: SelfAttention(0.0),
    "inside": lambda: keras.Sequential([keras.layers.Dense(2)]),
    "lambda": lambda: keras.layers.Lambda(lambda x: 2.0 * x),
}


class SelfAttention(keras.layers.Layer):
    def __init__(self, dropout):
        super().__init__()
        self.attention = keras.layers.MultiHeadAttention(1, 2, dropout=dropout)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x):
        return self.attention(x, x)


def _forgetful(make, takes_training=False):
    """A subclassed model of one layer and a sum, whose `call` takes no `training`."""

    class Forgetful(keras.Model):
        def __init__(self):
            super().__init__(name="forgetful")
            self.inner, self.out = make(), keras.layers.Dense(1)

        def call(self, x):
            return self.out(self.inner(x))

    class Careful(Forgetful):
        def call(self, x, training=None):
            return super().call(x)

    keras.utils.set_random_seed(1)
    model = Careful() if takes_training else Forgetful()
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    return model


def _loss(fit):
    return fit(np.ones([4, 3, 2], "float32"), np.ones([4, 3, 1], "float32"), verbose=0).history["loss"][0]


def _told(model):
    """What a fit says of `training`, and its loss."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loss = _loss(Trainer(model).fit)
    return [str(w.message) for w in caught if "`training`" in str(w.message)], loss


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_call_without_training_is_told_of_once(name):
    model = _forgetful(DIFFERENT[name])
    (line,), ours = _told(model)
    assert "\n" not in line and line.startswith("model 'forgetful': Forgetful.call takes no `training`: ")
    assert "call(self, inputs, training=None)" in line and "training=False" in line
    assert _told(model)[0] == []
    said, as_written = _told(_forgetful(DIFFERENT[name], takes_training=True))
    assert said == []
    if name in ("own", "lambda"):  # where it is no matter of chance: what the line says is so
        assert ours != pytest.approx(_loss(_forgetful(DIFFERENT[name]).fit), rel=1e-3)
        careful = _forgetful(DIFFERENT[name], takes_training=True)
        assert ours == pytest.approx(as_written, rel=1e-5) == pytest.approx(_loss(careful.fit), rel=1e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_and_not_where_it_makes_no_difference(name):
    said, ours = _told(_forgetful(ALIKE[name]))
    assert said == []
    assert ours == pytest.approx(_loss(_forgetful(ALIKE[name]).fit), rel=1e-5)
