"""Metrics whose function gives one number a batch: means over examples are those of one device, others are told."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from replicating import mirrored
from small import compiled, dense_model, regression

import trainlab as tl
from trainlab.distribution import character, means
from trainlab.distribution.addends import OnceABatch


def mean_error(y, y_pred):
    return ops.mean(ops.abs(y - y_pred))


def root_error(y, y_pred):
    return ops.sqrt(ops.mean(ops.square(y - y_pred)))


class OfBatches(keras.metrics.Metric):
    """The mean over batches of one number each; and what else is counted."""

    def __init__(self, number=mean_error, count="float32", name="of_batches"):
        super().__init__(name=name)
        self.number = number
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", dtype=count, name="count")
        self.examples = self.add_variable((), "zeros", name="examples")

    def update_state(self, y, y_pred, sample_weight=None):
        self.total.assign_add(ops.cast(self.number(y, y_pred), self.total.dtype))
        self.count.assign_add(1)
        self.examples.assign_add(ops.shape(y)[0])

    def result(self):
        return {"mean": self.total / ops.cast(self.count, self.total.dtype), "of": self.count + 0, "examples": self.examples + 0}


class Tells(keras.Model):
    """Tells a mean, for each batch, what is none over its examples."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.number, self.told = number, keras.metrics.Mean(name="told")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.told.update_state(self.number(y, y_pred))
        return super().compute_metrics(x, y, y_pred, sample_weight)


def fit(replicas, metrics, strategy=None, model=None, **settings):
    """The history, and the lines that were told of several replicas."""
    x, y = regression(26)
    model = compiled(dense_model() if model is None else model, metrics=metrics)
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **{"jit_compile": False, **settings})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = trainer.fit(x, y, batch_size=7, epochs=2, verbose=0).history
    return history, [str(warning.message) for warning in caught if "replicas" in str(warning.message)]


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (None, {}),
        (tl.Accumulate(2, tl.Heun()), {}),
        (tl.Accumulate(2), {"jit_compile": True}),
        (None, {"run_eagerly": True}),
        (None, {"micro_batch_size": 4}),
    ],
    ids=str,
)
def test_a_mean_over_examples_is_that_of_one_device(strategy, settings, precision):
    """Shards are of two, of one, and of no example."""
    (one, _), (several, told) = (fit(number, [mean_error], strategy, **settings) for number in (None, 4))
    assert told == []
    np.testing.assert_allclose(several["mean_error"], one["mean_error"], rtol=1e-12)


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_a_shard_that_counts_as_a_batch_would_be_seen(precision, monkeypatch):
    one, _ = fit(None, [mean_error])
    monkeypatch.setattr(means, "_is_one_number", lambda values: False)
    monkeypatch.setattr(character, "once_a_batch", lambda groups, kinds: OnceABatch())
    several, _ = fit(4, [mean_error])
    assert np.abs(np.divide(several["mean_error"], one["mean_error"]) - 1).max() > 1e-3


LINE = (
    "several replicas: metric 'root_error' is no sum over elements (it returns one number a batch): it is averaged over the "
    "replicas' shards by their examples, which is another number than that of the whole batch (evaluate, and validation, are not "
    "divided)"
)


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_what_is_none_is_told_once(settings):
    x, y = regression(26)
    history, told = fit(2, [root_error, mean_error, "mse"], **settings)
    assert told == [LINE]
    assert fit(None, [root_error], **settings)[1] == []
    # Its mean over shards, by their examples; the weights stay as they are.
    model = compiled(dense_model(), keras.optimizers.SGD(0.0), metrics=[root_error])
    trainer = tl.Trainer(model, distribute=mirrored(2), jit_compile=False)
    with pytest.warns(UserWarning, match="one number a batch"):
        found = trainer.fit(x[:7], y[:7], batch_size=7, shuffle=False, verbose=0).history["root_error"]
    errors = np.square(model.predict(x[:7], verbose=0) - y[:7])
    wanted = np.average([np.sqrt(errors[:4].mean()), np.sqrt(errors[4:].mean())], weights=[4, 3])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("count", ["float64", "int32"])
@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        (None, {}),
        (tl.Accumulate(2, tl.Heun()), {}),
        (None, {"jit_compile": True}),
        (None, {"run_eagerly": True}),
    ],
    ids=str,
)
def test_a_metric_that_counts_batches_is_that_of_one_device(strategy, settings, count, precision):
    """Of 26 examples, four batches an epoch: shards are of two, of one, and of no example."""
    (one, _), (several, told) = (fit(number, [OfBatches(count=count)], strategy, **settings) for number in (None, 4))
    assert told == [] and one["of"] == several["of"] == [4, 4] and several["examples"] == [26, 26]
    np.testing.assert_allclose(several["mean"], one["mean"], rtol=1e-12)


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_what_counts_examples_by_their_shape_is_let_be(precision):
    """R2Score adds up ones, broadcast to the shape of a batch."""
    (one, _), (several, told) = (fit(number, [keras.metrics.R2Score(dtype="float64")]) for number in (None, 4))
    assert told == []
    np.testing.assert_allclose(several["r2_score"], one["r2_score"], rtol=1e-12)


def test_a_shard_counts_as_its_part_of_a_batch():
    """Of seven errors 1, 1, 1, 1, 0, 0, 0 two shards have four and three."""
    model = compiled(dense_model(), keras.optimizers.SGD(0.0), metrics=[OfBatches()])
    x = np.zeros([7, 3], "float32")
    y = model.predict(x, verbose=0) + np.array([[1.0]] * 4 + [[0.0]] * 3, "float32")
    trainer = tl.Trainer(model, distribute=mirrored(2), jit_compile=False)
    found = trainer.fit(x, y, batch_size=7, shuffle=False, verbose=0).history
    np.testing.assert_allclose(found["mean"], 4 / 7, rtol=1e-6)


@pytest.mark.parametrize("number", [root_error, lambda y, y_pred: ops.max(ops.abs(y - y_pred))], ids=["root", "largest"])
def test_a_number_of_a_batch_that_is_no_mean_is_told(number):
    line = LINE.replace("root_error", "of_batches")
    assert fit(2, [OfBatches(number)])[1] == [line]
    assert fit(None, [OfBatches(number)])[1] == []


@pytest.mark.parametrize(("number", "is_told"), [(root_error, True), (mean_error, False)])
def test_also_where_a_model_tells_it_to_a_mean(number, is_told):
    inputs = keras.Input([3])
    _, told = fit(2, [], model=Tells(number, inputs=inputs, outputs=keras.layers.Dense(1)(inputs)))
    assert told == is_told * [LINE.replace("root_error", "told")]


def test_others_are_let_be():
    original = keras.metrics.Mean.update_state, keras.metrics.MeanMetricWrapper.update_state
    metric = keras.metrics.Mean()
    with means.shared(ops.convert_to_tensor(0.25)):
        metric.update_state(2.0)  # a quarter of a batch
        metric.update_state([4.0])  # an example
        metric.update_state(8.0, sample_weight=2.0)
    np.testing.assert_allclose(metric.result(), (0.5 + 4 + 16) / (0.25 + 1 + 2))
    with pytest.raises(KeyError), means.noticed():
        raise KeyError
    assert original == (keras.metrics.Mean.update_state, keras.metrics.MeanMetricWrapper.update_state)
