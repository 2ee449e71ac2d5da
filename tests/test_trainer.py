import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, differ, everything, labelled, regression, weights

from trainlab import SGD, Accumulate, Heun, Step, StepStrategy, Trainer

layers = keras.layers


def close(a, b, rtol=1e-5):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-6)


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


def two_outputs(as_dict):
    keras.utils.set_random_seed(3)
    inputs = keras.Input([3])
    number, label = layers.Dense(1, name="number")(inputs), layers.Dense(4, name="label")(inputs)
    return keras.Model(inputs, {"number": number, "label": label} if as_dict else [number, label])


@pytest.mark.parametrize("as_dict", [False, True], ids=["lists", "dicts"])
def test_several_outputs_compile_and_train_as_in_keras(as_dict):
    x, y = regression(24)
    y_label = labelled(24)[1]
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weight = np.linspace(0.5, 2, 24, dtype="float32")
    if as_dict:
        arguments = {
            "loss": {"number": "mse", "label": cross_entropy},
            "loss_weights": {"number": 0.5, "label": 2.0},
            "metrics": {"number": ["mae"], "label": ["accuracy"]},
            "weighted_metrics": {"number": ["mse"], "label": []},
        }
        data = {"y": {"label": y_label, "number": y}, "sample_weight": {"number": weight, "label": weight[::-1].copy()}}
    else:
        arguments = {
            "loss": ["mse", cross_entropy],
            "loss_weights": [0.5, 2.0],
            "metrics": [["mae"], ["accuracy"]],
            "weighted_metrics": [["mse"], []],
        }
        data = {"y": [y, y_label], "sample_weight": [weight, weight[::-1].copy()]}
    fit = {"x": x, **data, "batch_size": 6, "epochs": 2, "shuffle": False, "verbose": 0}
    theirs, ours = two_outputs(as_dict), two_outputs(as_dict)
    theirs.compile(optimizer=keras.optimizers.SGD(0.1), **arguments)
    expected = theirs.fit(**fit)
    history = Trainer(ours, optimizer=keras.optimizers.SGD(0.1), **arguments).fit(**fit)
    close(weights(ours), weights(theirs))
    assert set(history.history) == set(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-5)


class TestChangingThings:
    def test_a_strategy_redefined_between_fits(self):
        x, y = regression()

        class Mine(StepStrategy):
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient * 0.0, at=here)

        model = compiled()
        before = weights(model)
        trainer = Trainer(model, Mine())
        trainer.fit(x, y, verbose=0)
        assert_same(weights(model), before)

        class Mine(StepStrategy):  # noqa: F811 - as in a notebook's later cell
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient, at=here)

        trainer.strategy = Mine()
        trainer.fit(x, y, verbose=0)
        assert differ(weights(model), before)
        assert trainer.iterations == 2

    def test_a_setting_changed_between_fits(self):
        class Scaled(StepStrategy):
            def __init__(self, scale):
                self.scale = scale

            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(self.scale * here.gradient, at=here)

        x, y = regression()
        model, strategy = compiled(), Scaled(0.0)
        before = weights(model)
        trainer = Trainer(model, Accumulate(1, strategy))
        trainer.fit(x, y, verbose=0)
        assert_same(weights(model), before)
        strategy.scale = 1.0
        trainer.fit(x, y, verbose=0)
        plain = compiled()
        Trainer(plain).fit(x, y, verbose=0)
        close(weights(model), weights(plain))

    def test_a_changed_setting_keeps_the_memory_and_another_strategy_does_not(self):
        class Counting(StepStrategy):
            def __init__(self, by=1.0):
                self.by = by

            def init(self, parameters):
                return {"count": tf.constant(0.0)}

            def step(self, objective, state):
                here, count = objective(state.parameters), state.memory["count"] + self.by
                return Step(here.gradient, at=here, memory={"count": count}, logs={"count": count})

        x, y = regression()
        trainer = Trainer(compiled(), Counting())
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]
        assert trainer.fit(x, y, verbose=0).history["count"] == [2.0]
        trainer.strategy.by = 10.0
        assert trainer.fit(x, y, verbose=0).history["count"] == [12.0]
        trainer.strategy = Counting()
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]

    def test_a_learning_rate_changed_between_fits_and_by_a_schedule(self):
        x, y = regression()
        model = compiled()
        trainer = Trainer(model, Heun())
        trainer.fit(x, y, verbose=0)
        moved = differ(weights(model), weights(compiled()))
        model.optimizer.learning_rate = 0.0
        before = weights(model)
        trainer.fit(x, y, verbose=0)
        assert moved
        assert_same(weights(model), before)
        assert trainer.num_traces == 1

    def test_recompiling(self):
        x, y = regression()
        model = compiled()
        trainer = Trainer(model)
        trainer.fit(x, y, verbose=0)
        model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mae", metrics=["mse"])
        before = weights(model)
        history = trainer.fit(x, y, verbose=0)
        assert set(history.history) == {"loss", "mse"}
        assert_same(weights(model), before)  # the new optimizer's learning rate
        assert trainer.iterations == 1  # and its own count

    def test_recompiling_with_the_same_optimizer(self):
        class Own(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return keras.ops.mean(keras.ops.abs(y - y_pred))

        x, y = regression()
        losses = []
        for use_keras in (True, False):
            keras.utils.set_random_seed(1)
            model, optimizer = Own([keras.Input([3]), layers.Dense(1)]), keras.optimizers.SGD(0.1)
            model.compile(optimizer)
            fit = model.fit if use_keras else Trainer(model).fit
            found = fit(x, y, epochs=2, verbose=0).history["loss"]
            model.compile(optimizer)
            losses.append(found + fit(x, y, epochs=2, verbose=0).history["loss"])
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)

    def test_an_optimizer_of_another_model(self):
        x, y = regression()
        optimizer = keras.optimizers.SGD(0.1)
        Trainer(compiled(optimizer=optimizer)).fit(x, y, verbose=0)
        with pytest.raises(ValueError, match="the optimizer was built for another model's variables: give this model a new one"):
            Trainer(compiled(dense_model(lambda: layers.Dense(1, name="another")), optimizer)).fit(x, y, verbose=0)

    def test_an_attribute_that_is_no_argument_counts_too(self):
        class Scaled(StepStrategy):
            def __init__(self):
                self.scale = 1.0

            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(self.scale * here.gradient, at=here)

        x, y = regression()
        trainer = Trainer(compiled(), Accumulate(1, Scaled()))
        trainer.fit(x, y, verbose=0)
        before = weights(trainer.model)
        trainer.strategy.inner.scale = 0.0
        trainer.fit(x, y, verbose=0)
        assert_same(weights(trainer.model), before)

    def test_another_inner_strategy_gets_a_memory_of_its_own(self):
        class Counting(StepStrategy):
            def init(self, parameters):
                return {"count": tf.constant(0.0)}

            def step(self, objective, state):
                here = objective(state.parameters)
                count = state.memory["count"] + 1
                return Step(here.gradient, at=here, memory={"count": count}, logs={"count": count})

        x, y = regression()
        trainer = Trainer(compiled(), Accumulate(2))
        trainer.fit(x, y, verbose=0)
        trainer.strategy.inner = Counting()
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]

    def test_freezing_and_unfreezing_layers(self):
        x, y = regression()
        make = [lambda: layers.Dense(3, name="first"), lambda: layers.Dense(1, name="second")]
        model = compiled(dense_model(*make))
        trainer = Trainer(model)
        trainer.fit(x, y, verbose=0)
        model.get_layer("first").trainable = False
        before = weights(model)
        trainer.fit(x, y, verbose=0)
        after = weights(model)
        assert_same(after[:2], before[:2])
        assert differ(after[2:], before[2:])
        model.get_layer("first").trainable = True
        trainer.fit(x, y, verbose=0)
        assert differ(weights(model)[:2], after[:2])

    def test_weights_set_between_fits(self):
        x, y = regression()
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        trainer = Trainer(model)
        first = trainer.fit(x, y, verbose=0).history["loss"][0]
        model.set_weights([np.zeros_like(w) for w in weights(model)])
        second = trainer.fit(x, y, verbose=0).history["loss"][0]
        assert second == pytest.approx(np.mean(y**2), rel=1e-5) != first

    def test_two_trainers_share_a_model(self):
        x, y = regression()
        alone, shared = compiled(), compiled()
        trainer = Trainer(alone)
        trainer.fit(x, y, epochs=2, shuffle=False, verbose=0)
        for _ in range(2):
            Trainer(shared).fit(x, y, shuffle=False, verbose=0)
        assert_same(everything(alone), everything(shared))


class TestAfterwards:
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


class CustomMetrics(keras.Sequential):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "largest": keras.ops.max(y_pred)}


@pytest.mark.parametrize("strategy", [None, Heun(), Accumulate(2)], ids=["SGD", "Heun", "Accumulate(2)"])
def test_compute_metrics_with_entries_of_its_own(strategy):
    x, y = regression()
    keras.utils.set_random_seed(1)
    model = compiled(CustomMetrics([keras.Input([3]), layers.Dense(1)]), keras.optimizers.SGD(0.0), metrics=["mae"])
    history = Trainer(model, strategy).fit(x, y, batch_size=10, shuffle=False, epochs=2, verbose=0).history
    assert set(history) == {"loss", "mae", "largest"}
    error = x @ weights(model)[0] + weights(model)[1]
    np.testing.assert_allclose(history["largest"], [error[10:].max()] * 2, rtol=1e-5)  # the last batch's, as in Keras
    np.testing.assert_allclose(history["loss"], [np.mean((error - y) ** 2)] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["mae"], [np.mean(np.abs(error - y))] * 2, rtol=1e-5)


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(x)))
        return x


@pytest.mark.parametrize("strategy", [None, Accumulate(2)], ids=["SGD", "Accumulate(2)"])
def test_added_losses_and_penalties_count(strategy):
    x, y = regression()
    make = [
        lambda: layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer=keras.regularizers.L1(0.2)),
        AddsLoss,
        lambda: layers.Dense(1),
    ]
    ours, theirs = compiled(dense_model(*make)), compiled(dense_model(*make))
    # Two batches accumulated are one of twice the size.
    history = Trainer(ours, strategy).fit(x, y, batch_size=5, shuffle=False, verbose=0)
    expected = theirs.fit(x, y, batch_size=10 if strategy else 5, shuffle=False, verbose=0)
    close(weights(ours), weights(theirs))
    np.testing.assert_allclose(history.history["loss"], expected.history["loss"], rtol=1e-5)
    without = compiled(dense_model(lambda: layers.Dense(3), lambda: layers.Dense(1)))
    Trainer(without, strategy).fit(x, y, batch_size=5, shuffle=False, verbose=0)
    assert np.abs(weights(without)[0] - weights(ours)[0]).max() > 1e-3


class TestInputsOfOtherKinds:
    """Through tf.data: what no array can hold."""

    def test_ragged(self):
        ragged = tf.ragged.constant([[1, 2, 3], [4], [5, 6], [1], [2, 2, 2, 2], [3]], dtype=tf.int64)
        y = np.arange(6.0, dtype="float32")[:, None]

        class Mean(keras.Model):
            def __init__(self):
                super().__init__()
                self.table = self.add_weight(shape=[7, 2], initializer="glorot_uniform", name="table")
                self.out = layers.Dense(1)

            def call(self, ids):
                rows = tf.ragged.map_flat_values(lambda flat: tf.gather(self.table.value, flat), ids)
                return self.out(tf.reduce_mean(rows, axis=1))

        data = tf.data.Dataset.from_tensor_slices((ragged, y)).batch(2)
        trained = []
        for strategy, batches in [(None, data), (Accumulate(3), data), (None, data.unbatch().batch(6))]:
            keras.utils.set_random_seed(1)
            model = compiled(Mean())
            Trainer(model, strategy).fit(batches, verbose=0)
            trained.append(weights(model))
        assert differ(trained[0], trained[1])
        close(trained[1], trained[2])

    def test_sparse(self):
        x, y = regression(12)
        x[x < 0.3] = 0.0
        dense = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        sparse = dense.map(lambda a, b: (tf.sparse.from_dense(a), b))
        results = []
        for data, is_sparse in ((dense, False), (sparse, True)):
            keras.utils.set_random_seed(1)
            inputs = keras.Input([3], sparse=is_sparse)
            model = compiled(keras.Model(inputs, layers.Dense(1)(inputs)))
            Trainer(model).fit(data, epochs=2, verbose=0)
            results.append(weights(model))
        close(results[1], results[0])

    def test_words(self):
        words = np.array(["good film", "bad film", "good good", "bad bad bad"] * 3)
        y = np.array([1.0, 0.0, 1.0, 0.0] * 3, "float32")[:, None]
        vectorization = layers.TextVectorization(max_tokens=10, output_sequence_length=4)
        vectorization.adapt(words)
        keras.utils.set_random_seed(1)
        inputs = keras.Input([], dtype="string")
        x = layers.Embedding(10, 3, mask_zero=True)(vectorization(inputs))
        x = layers.GlobalAveragePooling1D()(x)
        model = compiled(keras.Model(inputs, layers.Dense(1)(x)), keras.optimizers.SGD(0.3))
        trainer = Trainer(model, Accumulate(2, Heun()))
        history = trainer.fit(tf.data.Dataset.from_tensor_slices((words, y)).batch(3), epochs=20, verbose=0)
        assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
        trainer.fit(words, y, batch_size=3, verbose=0)  # strings in arrays too
        assert trainer.iterations == 42

    @pytest.mark.parametrize("lookup", [layers.StringLookup, layers.IntegerLookup])
    def test_lookups(self, lookup):
        keys = np.array(["a", "b", "c", "a"]) if lookup is layers.StringLookup else np.array([7, 8, 9, 7])
        y = np.array([[1.0], [2.0], [3.0], [1.0]], "float32")
        keras.utils.set_random_seed(1)
        inputs = keras.Input([1], dtype="string" if lookup is layers.StringLookup else "int64")
        x = layers.Flatten()(layers.Embedding(5, 2)(lookup(vocabulary=list(dict.fromkeys(keys.tolist())))(inputs)))
        model = compiled(keras.Model(inputs, layers.Dense(1)(x)), keras.optimizers.SGD(0.3))
        data = tf.data.Dataset.from_tensor_slices((keys[:, None], y)).batch(2)
        history = Trainer(model).fit(data, epochs=60, verbose=0)
        assert history.history["loss"][-1] < 0.01

    @pytest.mark.parametrize("strategy", [None, Heun()], ids=["SGD", "Heun"])
    def test_a_stateful_lstm(self, strategy):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(12, 5, 2)).astype("float32"), rng.normal(size=(12, 1)).astype("float32")

        def make():
            keras.utils.set_random_seed(1)
            inputs = keras.Input(batch_shape=[4, 5, 2])
            return compiled(keras.Model(inputs, layers.Dense(1)(layers.LSTM(3, stateful=True)(inputs))))

        ours, theirs = make(), make()
        Trainer(ours, strategy).fit(x, y, batch_size=4, shuffle=False, verbose=0)
        theirs.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        states = [[np.array(s) for s in model.layers[1].states] for model in (ours, theirs)]
        assert np.abs(states[0][0]).max() > 0.01
        if strategy is None:
            close(weights(ours), weights(theirs))
            close(states[0], states[1])
        else:  # the state moved on once a step, from the point really visited
            assert differ(weights(ours), weights(theirs))
            assert np.abs(states[0][0] - states[1][0]).max() < 0.1

    def test_a_batch_that_is_empty(self):
        x, y = regression(10)
        pieces = [(x[:4], y[:4]), (x[:0], y[:0]), (x[4:], y[4:])]
        specs = (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]))
        trained = []
        for parts in (pieces, pieces[::2]):
            data = tf.data.Dataset.from_generator(lambda parts=parts: iter(parts), output_signature=specs)
            model = compiled()
            Trainer(model, Accumulate(3)).fit(data, verbose=0)
            trained.append(weights(model))
        close(*trained)

    def test_several_inputs_by_name(self):
        x, y = regression(20)
        keras.utils.set_random_seed(1)
        a, b = keras.Input([3], name="a"), keras.Input([3], name="b")
        model = compiled(keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Subtract()([a, b]))))
        trainer = Trainer(model, Accumulate(2))
        trainer.fit({"b": np.zeros_like(x), "a": x}, y, batch_size=5, verbose=0)
        data = tf.data.Dataset.from_tensor_slices(({"b": np.zeros_like(x), "a": x}, y)).batch(5)
        trainer.fit(data, verbose=0)
        assert trainer.iterations == 4


@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("strategy", [None, Accumulate(2, Heun())], ids=["SGD", "Accumulate(2, Heun)"])
def test_other_precisions(precision, strategy):
    x, y = regression(20)
    model = dense_model(lambda: layers.Dense(4, activation="tanh"), layers.BatchNormalization, lambda: layers.Dense(1))
    compiled(model, metrics=["mae"])
    history = Trainer(model, strategy).fit(x, y, batch_size=5, epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert {v.dtype for v in model.trainable_variables} == {"float64" if precision == "float64" else "float32"}


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(None, id="SGD"), pytest.param(Accumulate(2, Heun()), id="Accumulate(2, Heun)", marks=pytest.mark.slow)],
)
def test_xla_and_eager_agree_with_graph_mode(strategy):
    x, y = regression(20)
    trained = []
    for kwargs in ({}, {"jit_compile": True}, {"run_eagerly": True}):
        model = compiled(dense_model(lambda: layers.Dense(4, activation="tanh"), lambda: layers.Dense(1)), metrics=["mae"])
        history = Trainer(model, strategy, **kwargs).fit(x, y, batch_size=4, epochs=2, verbose=0)
        trained.append([*weights(model), *map(np.array, history.history.values())])
    close(trained[1], trained[0])
    close(trained[2], trained[0])


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
