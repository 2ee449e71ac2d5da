"""`Trainer.evaluate`, and validation: the numbers, calls and state of `keras.Model.evaluate`, many batches in a call."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import trainlab as tl
from trainlab.loop import CannotCompile, EvaluationLoop
from trainlab.loop.evaluation.evaluation_loop import CompiledLoop

N = 22
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 5)).astype("float32")
LABELS = RNG.integers(3, size=N)
TARGETS = RNG.normal(size=(N, 2)).astype("float32")
WEIGHTS = RNG.uniform(0.1, 3, size=N).astype("float32")
TOKENS = RNG.integers(0, 9, size=(N, 6))
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy


def classifier(*inner, **compiling):
    model = keras.Sequential([keras.Input([5]), layers.Dense(8, "relu"), *inner, layers.Dense(3)])
    settings = {"loss": CROSS_ENTROPY(from_logits=True), "metrics": ["accuracy"]} | compiling
    model.compile("sgd", **settings)
    return model


class Spread(keras.metrics.Metric):
    """Returns a dictionary."""

    def __init__(self):
        super().__init__(name="spread")
        self.low, self.high = (self.add_weight(name=name, initializer="zeros") for name in ("low", "high"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.low.assign(keras.ops.minimum(self.low, keras.ops.min(y_pred)))
        self.high.assign(keras.ops.maximum(self.high, keras.ops.max(y_pred)))

    def result(self):
        return {"low": self.low.value, "high": self.high.value}


class OwnLoss(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(5)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y_pred - x) ** 2) + (100.0 if training else 0.0)


class MoreMetrics(keras.Model):
    """Reports more than its metrics know; of the last batch, as in Keras."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "largest": keras.ops.max(y_pred), "each": keras.ops.sum(y_pred, axis=0)}


class Added(layers.Layer):
    def call(self, x, training=False):
        self.add_loss(keras.ops.mean(x**2))
        return x * 2 if training else x


def two_outputs():
    inputs = {name: keras.Input([5], name=name) for name in ("a", "b")}
    hidden = layers.Dense(6, "relu")(layers.Add()([*inputs.values()]))
    model = keras.Model(inputs, {"label": layers.Dense(3, name="label")(hidden), "value": layers.Dense(2, name="value")(hidden)})
    metrics = {"label": ["accuracy"], "value": ["mae"]}
    losses = {"label": CROSS_ENTROPY(from_logits=True), "value": "mse"}
    model.compile("sgd", losses, loss_weights={"label": 0.3, "value": 2.0}, metrics=metrics, weighted_metrics={"value": ["mse"]})
    return model


def recurrent():
    model = keras.Sequential([keras.Input([6], dtype="int32"), layers.Embedding(9, 4, mask_zero=True)])
    model.add(layers.LSTM(4, return_sequences=True))
    model.add(layers.Dense(3))
    model.compile("sgd", CROSS_ENTROPY(from_logits=True), metrics=["accuracy"], weighted_metrics=["accuracy"])
    return model


def own(model, loss=None):
    model.compile("sgd", loss)
    return model


BOTH = {"label": LABELS, "value": TARGETS}
CASES = {
    "labels": (classifier, (X, LABELS)),
    "weights": (lambda: classifier(weighted_metrics=["accuracy"]), (X, LABELS, WEIGHTS)),
    "weights in a column": (classifier, (X, LABELS, WEIGHTS[:, None])),
    "statistics and dropout": (lambda: classifier(layers.BatchNormalization(), layers.Dropout(0.5)), (X, LABELS)),
    "penalties": (lambda: classifier(layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")), (X, LABELS)),
    "added losses": (lambda: classifier(Added()), (X, LABELS)),
    "sum": (lambda: classifier(loss=CROSS_ENTROPY(from_logits=True, reduction="sum")), (X, LABELS)),
    "a dictionary": (lambda: classifier(metrics=[Spread(), "accuracy"]), (X, LABELS)),
    "an array": (lambda: classifier(loss="mse", metrics=[keras.metrics.F1Score()]), (X, np.eye(3)[LABELS])),
    "areas": (lambda: classifier(loss="mse", metrics=[keras.metrics.AUC(from_logits=True)]), (X, np.eye(3)[LABELS])),
    "several outputs": (two_outputs, ({"a": X, "b": X[::-1]}, BOTH)),
    "several outputs, weighted": (two_outputs, ({"a": X, "b": X[::-1]}, BOTH, {"label": WEIGHTS, "value": WEIGHTS**2})),
    "masks": (recurrent, (TOKENS, TOKENS % 3)),
    "masks and weights": (recurrent, (TOKENS, TOKENS % 3, np.tile(WEIGHTS[:, None], 6))),
    "own compute_loss": (lambda: own(OwnLoss()), (X,)),
    "own compute_metrics": (lambda: own(MoreMetrics(), CROSS_ENTROPY(from_logits=True)), (X, LABELS)),
    "float64": (classifier, (X.astype("float64"), LABELS)),
    "tensors": (classifier, (tf.constant(X), tf.constant(LABELS))),
    "sparse": (classifier, (tf.sparse.from_dense(X * (X > 0)), LABELS)),
}


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return X[i * 6 : i * 6 + 6], LABELS[i * 6 : i * 6 + 6], WEIGHTS[i * 6 : i * 6 + 6]


def endless():
    while True:
        for i in range(3):
            yield X[i * 6 : i * 6 + 6], LABELS[i * 6 : i * 6 + 6]


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


STREAMS = {
    "a data set": (lambda: slices(X, LABELS).batch(6), None),
    "weights": (lambda: slices(X, LABELS, WEIGHTS).batch(5), None),
    "of one size": (lambda: slices(X, LABELS).batch(6, drop_remainder=True), None),
    "endless": (lambda: slices(X, LABELS).repeat().batch(5), 7),
    "some of it": (lambda: slices(X, LABELS).batch(3), 4),
    "unknown size": (lambda: slices(X, LABELS).filter(lambda x, y: y > 0).batch(4), None),
    "a PyDataset": (Batches, None),
    "a PyDataset with workers": (lambda: Batches(workers=2), None),
    "a generator": (endless, 2),  # of whose batches Keras, too, gives the first two again
}


@pytest.fixture
def calls(monkeypatch):
    """How many batches each compiled call took."""
    made, run = [], EvaluationLoop.run

    def counted(self, *args, **kwargs):
        made.append(run(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(EvaluationLoop, "run", counted)
    return made


def same(ours, theirs, exact=False):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(value), rtol=0 if exact else 2e-6, atol=1e-7, err_msg=name)
        assert type(ours[name]) is float or np.ndim(value)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_keras(name, jit_compile, calls):
    make, (x, *rest) = CASES[name]
    model = make()
    y, sample_weight = (*rest, None, None)[:2]
    trainer = tl.Trainer(model, jit_compile=jit_compile)
    for how in ({"batch_size": 6}, {"batch_size": 5, "steps": 3}, {"steps": 4}, {}):
        if name == "sparse" and "steps" in how:  # Keras takes no steps for these
            continue
        given = {"x": x, "y": y, "sample_weight": sample_weight, "verbose": 0, **how}
        theirs = model.evaluate(**given, return_dict=True)
        state = [v.numpy() for v in model.metrics_variables]
        same(trainer.evaluate(**given, return_dict=True), theirs)
        for a, b in zip(model.metrics_variables, state, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)
        if not any(np.ndim(value) for value in theirs.values()) and name not in ("a dictionary", "own compute_metrics"):
            np.testing.assert_allclose(trainer.evaluate(**given), model.evaluate(**given), rtol=2e-6)
    assert sum(calls) > 0, "a control: Keras' own evaluation would give the same numbers"


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name, calls):
    make, steps = STREAMS[name]
    model = classifier(weighted_metrics=["accuracy"])
    trainer = tl.Trainer(model, jit_compile=False)
    for _ in range(2):
        theirs = model.evaluate(make(), steps=steps, verbose=0, return_dict=True)
        same(trainer.evaluate(make(), steps=steps, verbose=0, return_dict=True), theirs)
    assert sum(calls) > 0


@pytest.mark.parametrize("name", STREAMS)
def test_validation_on_streams(name, calls):
    make, steps = STREAMS[name]
    histories = []
    for fit in (keras.Model.fit, lambda model, *args, **kwargs: tl.Trainer(model).fit(*args, **kwargs)):
        keras.utils.set_random_seed(0)
        given = {"validation_data": make(), "validation_steps": steps, "epochs": 2, "shuffle": False, "verbose": 0}
        histories.append(fit(classifier(), X, LABELS, **given).history)
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-5, err_msg=key)
    assert sum(calls) > 0


def test_it_is_traced_once_and_many_batches_go_into_a_call(calls):
    model = classifier()
    trainer = tl.Trainer(model, jit_compile=False)
    x, y = np.tile(X, [40, 1]), np.tile(LABELS, 40)  # 880: 146 batches of 6, and one of 4
    for _ in range(8):
        trainer.evaluate(x, y, batch_size=6, verbose=0)
    (made,) = [trainer._evaluations._made]
    assert made.loop.num_traces == 2
    del calls[:]
    trainer.evaluate(x, y, batch_size=6, verbose=0)
    assert sum(calls) == 147 and len(calls) < 20


def test_what_is_changed_counts():
    class Scaled(layers.Layer):
        factor = 1.0

        def call(self, x):
            return x * self.factor

    model = classifier(Scaled())
    trainer = tl.Trainer(model, jit_compile=False)
    before = trainer.evaluate(X, LABELS, verbose=0)
    model.layers[1].factor = 3.0
    after = trainer.evaluate(X, LABELS, verbose=0)
    assert after != before
    model.compile("sgd", model.loss, metrics=["accuracy"])  # Keras keeps what it traced
    np.testing.assert_allclose(after, model.evaluate(X, LABELS, verbose=0), rtol=1e-6)


def test_weights_that_were_trained_or_set_count():
    model = classifier()
    trainer = tl.Trainer(model, jit_compile=False)
    first = trainer.evaluate(X, LABELS, verbose=0)[0]
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), epochs=3, verbose=0).history
    assert trainer.evaluate(X, LABELS, verbose=0)[0] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    assert history["val_loss"][-1] < first


class Recorder(keras.callbacks.Callback):
    """Writes down the hooks of evaluations, and what they are told."""

    def __init__(self, stops_after=None):
        super().__init__()
        self.calls, self._stops_after = [], stops_after

    def on_test_begin(self, logs=None):
        self.calls.append("begin")

    def on_test_end(self, logs=None):
        self.calls.append(("end", {name: round(value, 4) for name, value in logs.items()}))


class BatchRecorder(Recorder):
    """Those of batches too."""

    def on_test_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("batch ends", batch, {name: round(float(value), 4) for name, value in logs.items()}))
        if self._stops_after is not None and batch >= self._stops_after:
            self.model.stop_evaluating = True


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("stops_after", [None, 1])
@pytest.mark.parametrize("kind", [Recorder, BatchRecorder])
def test_hooks_are_those_of_keras(kind, stops_after, steps_per_execution):
    recorded = []
    for evaluate in (keras.Model.evaluate, lambda model, *args, **kwargs: tl.Trainer(model).evaluate(*args, **kwargs)):
        keras.utils.set_random_seed(0)
        recorder = kind(stops_after)
        model = classifier(steps_per_execution=steps_per_execution)
        evaluate(model, X, LABELS, batch_size=4, callbacks=[recorder], verbose=0)
        recorded.append(recorder.calls)
    assert recorded[1] == recorded[0]
    assert len(recorded[0]) > 2 or kind is Recorder


def test_the_progress_bar_ends_with_the_results(capsys):
    trainer = tl.Trainer(classifier(), jit_compile=False)
    result = trainer.evaluate(X, LABELS, batch_size=4, verbose=1, return_dict=True)
    shown = capsys.readouterr().out
    assert "6/6" in shown and f"loss: {result['loss']:.4f}" in shown


def test_data_that_run_out_are_said():
    trainer = tl.Trainer(classifier(), jit_compile=False)
    with pytest.warns(UserWarning, match="ran out after 6 of 9 steps"):
        result = trainer.evaluate(X, LABELS, batch_size=4, steps=9, verbose=0)
    np.testing.assert_allclose(result, trainer.evaluate(X, LABELS, batch_size=4, verbose=0), rtol=1e-6)


class OwnTestStep(keras.Sequential):
    def test_step(self, data):
        return {"own": keras.ops.convert_to_tensor(3.0)}


def test_a_test_step_of_its_own_is_left_to_keras_and_said_once(capsys, calls):
    model = OwnTestStep([keras.Input([5]), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True))
    trainer = tl.Trainer(model, jit_compile=False)
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), epochs=2, verbose=2).history
    assert history["val_own"] == [3.0, 3.0]
    assert (
        capsys.readouterr().out.count("evaluation: batch by batch, as Keras does it (OwnTestStep has a test_step of its own)")
        == 1
    )
    assert trainer.evaluate(X, LABELS, return_dict=True, verbose=0) == {"own": 3.0}
    assert not calls


@pytest.mark.parametrize("how", ["the model", "the Trainer"])
def test_eagerly_it_is_left_to_keras(how, calls):
    seen = []

    class Looking(layers.Layer):
        def call(self, x):
            seen.append(tf.executing_eagerly())
            return x

    model = classifier(Looking(), run_eagerly=how == "the model")
    tl.Trainer(model, run_eagerly=None if how == "the model" else True).evaluate(X, LABELS, verbose=0)
    assert not calls and seen


def test_a_model_that_was_not_built_is():
    model = keras.Sequential([layers.Dense(4), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True), metrics=["accuracy"])
    ours = tl.Trainer(model, jit_compile=False).evaluate(X, LABELS, verbose=0, return_dict=True)
    same(ours, model.evaluate(X, LABELS, verbose=0, return_dict=True))


def test_text_is_not_handed_to_xla():
    words = np.array(["a", "b", "c"])[RNG.integers(3, size=N)]
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")
    model = keras.Sequential([keras.Input([1], dtype="string"), lookup, layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True))
    ours = tl.Trainer(model, jit_compile=True).evaluate(words[:, None], LABELS, verbose=0)
    assert ours == pytest.approx(model.evaluate(tf.constant(words[:, None]), LABELS, verbose=0), rel=1e-6)


def test_bad_input_is_one_line():
    trainer = tl.Trainer(classifier())
    for given, said in {
        "lengths": ((X, LABELS[:-1]), "21"),
        "shapes": ((X[:, :4], LABELS), "4"),
        "nothing": ((None,), "x is missing"),
    }.values():
        with pytest.raises((TypeError, ValueError), match=said) as raised:
            trainer.evaluate(*given, verbose=0)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="steps must be"):
        trainer.evaluate(X, LABELS, steps=0, verbose=0)


def test_an_evaluation_of_nothing_is_not_a_number():
    model = classifier()
    history = None
    with pytest.warns(UserWarning):
        history = (
            tl.Trainer(model)
            .fit(X, LABELS, validation_data=slices(X, LABELS).batch(4).skip(100), validation_steps=2, verbose=0)
            .history
        )
    assert np.isnan(history["val_loss"]).all()


class OnlyInInference(layers.Layer):
    """Has no kernel in XLA, and is not there while training."""

    def call(self, x, training=False):
        if training:
            return x
        return tf.ensure_shape(tf.numpy_function(lambda a: 2 * a, [x], tf.float32), x.shape)


def test_what_xla_cannot_compile_in_inference_goes_without_it(calls):
    model = classifier(OnlyInInference())
    trainer = tl.Trainer(model, jit_compile=True)
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), batch_size=4, epochs=2, verbose=0).history
    expected = model.evaluate(X, LABELS, batch_size=4, verbose=0, return_dict=True)
    same(trainer.evaluate(X, LABELS, batch_size=4, verbose=0, return_dict=True), expected)
    assert history["val_loss"][-1] == pytest.approx(expected["loss"], rel=2e-6)
    assert sum(calls) == 18


def test_who_stops_an_evaluation_before_it_begins_has_stopped_it():
    class Stopping(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            self.model.stop_evaluating = True

    model = classifier()
    result = tl.Trainer(model).evaluate(X, LABELS, batch_size=4, callbacks=[Stopping()], verbose=0)
    assert np.isnan(result).all()


@pytest.mark.parametrize("kind", ["evaluate", "predict"])
def test_a_generator_that_was_looked_at_in_vain_loses_no_batch(kind, monkeypatch):
    def batches():
        yield from ((X[i : i + 4], LABELS[i : i + 4]) for i in range(0, 20, 4))

    def prepare(self, source):
        raise CannotCompile("it is to be tried in vain")

    model = classifier()
    expected = getattr(model, kind)(X[:20], *([LABELS[:20]] if kind == "evaluate" else []), verbose=0)
    monkeypatch.setattr(CompiledLoop, "prepare", prepare)
    np.testing.assert_allclose(getattr(tl.Trainer(model), kind)(batches(), steps=5, verbose=0), expected, rtol=1e-5)
