"""A Trainer: how it is made, what it says of itself, and what it leaves behind."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, close, compiled, dense_model, labelled, regression, two_outputs, weights

from trainlab import SGD, Accumulate, Heun, Step, StepStrategy, Trainer

layers = keras.layers


class TestConstructor:
    def test_a_compiled_model(self):
        model = compiled(metrics=["mae"])
        optimizer = model.optimizer
        trainer = Trainer(model, strategy=Heun())
        assert trainer.model is model
        assert model.optimizer is optimizer  # not compiled again
        assert isinstance(trainer.strategy, Heun)
        assert trainer.iterations == trainer.num_traces == 0

    def test_the_plain_step_is_the_default(self):
        assert isinstance(Trainer(compiled()).strategy, SGD)

    def test_it_compiles(self):
        model = dense_model()
        Trainer(model, loss="mse", optimizer=keras.optimizers.Adam(0.5), metrics=["mae"], weighted_metrics=["mse"])
        assert isinstance(model.optimizer, keras.optimizers.Adam)
        x, y = regression()
        history = Trainer(model).fit(x, y, verbose=0)
        assert set(history.history) == {"loss", "mae", "mse"}

    def test_a_loss_alone_takes_keras_default_optimizer(self):
        model = dense_model()
        Trainer(model, loss="mse")
        assert isinstance(model.optimizer, keras.optimizers.RMSprop)

    def test_compiling_a_compiled_model_keeps_its_optimizer(self):
        model = compiled(optimizer=keras.optimizers.SGD(0.3))
        optimizer = model.optimizer
        Trainer(model, metrics=["mae"])
        assert model.optimizer is optimizer

    @pytest.mark.slow
    def test_compiling_a_compiled_model_keeps_its_loss_weights(self):
        x, y = regression()
        results = []
        for metrics in (None, [["mae"], ["mae"]]):
            model = two_outputs(as_dict=False)
            model.compile(optimizer="sgd", loss=["mse", "mse"], loss_weights=[3.0, 0.0])
            trainer = Trainer(model, metrics=metrics)
            targets = [y, np.zeros([20, 4], "float32")]
            results.append(trainer.evaluate(x, targets, return_dict=True, verbose=0)["loss"])
        np.testing.assert_allclose(results[1], results[0], rtol=1e-6)

    def test_run_eagerly_and_jit_compile_reach_the_compiled_model(self):
        assert Trainer(dense_model(), loss="mse", run_eagerly=True).model.run_eagerly
        assert Trainer(dense_model(), loss="mse", jit_compile=True).model.jit_compile
        model = dense_model()
        model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
        x, y = regression()
        ran = []

        class Eager(StepStrategy):
            def step(self, objective, state):
                ran.append(tf.executing_eagerly())
                here = objective(state.parameters)
                return Step(here.gradient, at=here)

        Trainer(model, Eager()).fit(x, y, batch_size=10, verbose=0)
        Trainer(model, Eager(), run_eagerly=False).fit(x, y, batch_size=10, verbose=0)
        assert ran == [True, True, False]


class TestAfterwards:
    @pytest.mark.slow
    def test_evaluate_predict_and_fit_are_keras_own(self):
        x, y = labelled()
        model = classifier(metrics=["accuracy"])
        trainer = Trainer(model, Accumulate(2, Heun()))
        trainer.fit(x, y, batch_size=5, verbose=0)
        logits = model.predict(x, verbose=0)
        close([logits], [x @ weights(model)[0] + weights(model)[1]])
        result = trainer.evaluate(x, y, return_dict=True, verbose=0)
        assert result == model.evaluate(x, y, return_dict=True, verbose=0)
        assert result["accuracy"] == pytest.approx(np.mean(logits.argmax(axis=1) == y))
        assert model.predict_on_batch(x).shape == (20, 4)
        model.fit(x, y, verbose=0)
        assert trainer.iterations == 3
        trainer.fit(x, y, batch_size=20, verbose=0)
        assert trainer.iterations == 4

    @pytest.mark.slow
    @pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
    def test_save_and_load(self, tmp_path, suffix):
        x, y = regression()
        model = compiled(optimizer=keras.optimizers.Adam(0.1))
        Trainer(model, Heun()).fit(x, y, verbose=0)
        path = tmp_path / f"model{suffix}"
        if suffix == ".keras":
            model.save(path)
            loaded = keras.models.load_model(path)
            assert_same([np.array(v) for v in loaded.optimizer.variables], [np.array(v) for v in model.optimizer.variables])
            Trainer(model).fit(x, y, verbose=0)
            Trainer(loaded).fit(x, y, verbose=0)
        else:
            model.save_weights(path)
            loaded = compiled()
            loaded.load_weights(path)
        assert_same(weights(loaded), weights(model))

    @pytest.mark.slow
    def test_ema_takes_the_weights_place_at_the_end(self):
        x, y = regression()
        optimizer = {"use_ema": True, "ema_momentum": 0.5}
        ours, theirs = (compiled(optimizer=keras.optimizers.SGD(0.1, **optimizer)) for _ in range(2))
        Trainer(ours).fit(x, y, batch_size=5, shuffle=False, epochs=2, verbose=0)
        theirs.fit(x, y, batch_size=5, shuffle=False, epochs=2, verbose=0)
        close(weights(ours), weights(theirs))
        raw = compiled()
        Trainer(raw).fit(x, y, batch_size=5, shuffle=False, epochs=2, verbose=0)
        assert np.abs(weights(raw)[0] - weights(ours)[0]).max() > 1e-3


class Sub(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(4, activation="tanh"), layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.hidden(x))


def unbuilt_sequential():
    return keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(1)])


@pytest.mark.slow
@pytest.mark.parametrize("make", [Sub, unbuilt_sequential], ids=["subclassed", "Sequential"])
@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_a_model_not_yet_built(make, kind):
    x, y = regression()
    data, kwargs = (x, y), {"batch_size": 5}
    if kind == "tf.data":
        data, kwargs = (tf.data.Dataset.from_tensor_slices(data).batch(5),), {}
    models = []
    for use_keras in (True, False):
        keras.utils.set_random_seed(4)
        model = compiled(make())
        fit = model.fit if use_keras else Trainer(model).fit
        fit(*data, shuffle=False, verbose=0, **kwargs)
        models.append(weights(model))
    assert len(models[1]) == 4
    close(models[1], models[0])


class TestDescribe:
    @pytest.mark.parametrize(
        ("strategy", "text"),
        [
            (None, "16 examples"),
            (Heun(), "16 examples"),
            (Accumulate(4), "64 examples = 4 batches of 16"),
            (Accumulate(1), "16 examples"),
            (Accumulate(2, Accumulate(3, Heun())), "96 examples = 6 batches of 16"),
        ],
    )
    def test_says_what_an_update_is(self, strategy, text):
        assert Trainer(compiled(), strategy).describe(16) == text

    def test_device(self):
        assert Trainer(compiled()).device


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_building_changes_no_state(run_eagerly):
    class Counts(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return x

    x, y = regression(20)
    model = compiled(dense_model(Counts, lambda: layers.Dense(1)))
    Trainer(model, run_eagerly=run_eagerly).fit(x, y, batch_size=5, verbose=0)
    assert model.layers[0].count.value == 4


@pytest.mark.parametrize("is_default", [False, True], ids=["as on a CPU", "as on a GPU"])
def test_what_a_compiled_model_says_stays_where_the_trainer_says_nothing(is_default, monkeypatch):
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: is_default)

    def trainer(compiling, **given):
        model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        if compiling is not None:
            model.compile("sgd", "mse", **compiling)
        return Trainer(model, **given)

    def said(trainer):
        return trainer.jit_compile, trainer._is_eager, trainer.model.jit_compile, trainer.model.run_eagerly

    other = not is_default
    for compiling in ({"run_eagerly": True}, {"jit_compile": other}, {"jit_compile": is_default}, {}):
        assert said(trainer(compiling, metrics=["mae"])) == said(trainer(compiling))
    assert said(trainer({"run_eagerly": True}, metrics=["mae"]))[1] and said(trainer({"jit_compile": other}))[0] is other
    assert said(trainer({"run_eagerly": True}, metrics=["mae"], run_eagerly=False))[1::2] == (False, False)
    assert said(trainer({"jit_compile": True}, metrics=["mae"], jit_compile=False)) == (False, False, False, False)
    assert said(trainer({"jit_compile": other}, metrics=["mae"], jit_compile="auto"))[0] is None
    first = trainer(None, optimizer="sgd", loss="mse")  # nobody has said anything
    assert first.jit_compile is None and Trainer(first.model, metrics=["mae"]).jit_compile is None
