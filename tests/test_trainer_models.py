"""Models, losses, inputs and precisions beyond one dense layer on arrays train as in Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import close, compiled, dense_model, differ, labelled, regression, two_outputs, weights

from trainlab import Accumulate, Heun, Trainer

layers = keras.layers


@pytest.mark.slow
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
    assert set(history) == {"loss", "mae", "largest"} | ({"step_error"} if isinstance(strategy, Heun) else set())
    error = x @ weights(model)[0] + weights(model)[1]
    np.testing.assert_allclose(history["largest"], [error[10:].max()] * 2, rtol=1e-5)  # the last batch's, as in Keras
    np.testing.assert_allclose(history["loss"], [np.mean((error - y) ** 2)] * 2, rtol=1e-5)
    np.testing.assert_allclose(history["mae"], [np.mean(np.abs(error - y))] * 2, rtol=1e-5)


class Perplexity(keras.Sequential):
    """Makes something of the mean loss, which several batches have only once all of them are evaluated."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        made = {"perplexity": keras.ops.exp(results["loss"]), "product": results["loss"] * results["mae"]}
        last = float(y_pred.numpy()[-1, 0]) if self.run_eagerly else y_pred[-1, 0]  # which could not be traced
        return {**results, **made, "last": last}


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [(None, {}), (Accumulate(2), {}), (None, {"micro_batch_size": 4}), (Accumulate(2), {"run_eagerly": True})],
    ids=str,
)
def test_what_compute_metrics_makes_of_the_loss(strategy, settings):
    x, y = regression()
    keras.utils.set_random_seed(1)
    model = Perplexity([keras.Input([3]), layers.Dense(1)])
    compiled(model, keras.optimizers.SGD(0.0), metrics=["mae"], run_eagerly="run_eagerly" in settings)
    history = Trainer(model, strategy, jit_compile=False, **settings).fit(x, y, batch_size=10, shuffle=False, verbose=0).history
    prediction = x @ weights(model)[0] + weights(model)[1]
    loss, mae = np.mean((prediction - y) ** 2), np.mean(np.abs(prediction - y))
    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    np.testing.assert_allclose(history["perplexity"], [np.exp(loss)], rtol=1e-5)
    np.testing.assert_allclose(history["product"], [loss * mae], rtol=1e-5)
    np.testing.assert_allclose(history["last"], [prediction[-1, 0]], rtol=1e-5)


class AddsLoss(layers.Layer):
    def call(self, x):
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(x)))
        return x


@pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
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
