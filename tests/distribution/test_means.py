"""Metrics whose function gives one number a batch: means over examples are those of one device, others are told."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [root_error, lambda y, y_pred: ops.max(ops.abs(y - y_pred))], ids=["root", "largest"])
def test_a_number_of_a_batch_that_is_no_mean_is_told(number):
    line = LINE.replace("root_error", "of_batches")
    assert fit(2, [OfBatches(number)])[1] == [line]
    assert fit(None, [OfBatches(number)])[1] == []


class Told(keras.metrics.Mean):
    """A mean, or a sum, of what a function makes of a batch."""

    def __init__(self, values, name="told"):
        super().__init__(name=name)
        self.values = values

    def update_state(self, y, y_pred, sample_weight=None):
        super().update_state(self.values(y, y_pred))


class Added(Told, keras.metrics.Sum):
    """Adds up what a function makes of a batch."""

    def update_state(self, y, y_pred, sample_weight=None):
        keras.metrics.Sum.update_state(self, self.values(y, y_pred))


class PerClass(keras.metrics.Metric):
    """The mean over batches of something of each class."""

    def __init__(self, values, is_each=True, name="per_class"):
        super().__init__(name=name)
        self.values, self.total = values, None if is_each else self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y, y_pred, sample_weight=None):
        if self.total is None:
            self.total = self.add_variable(y.shape[1:], "zeros", name="total")
        self.total.assign_add(self.values(y, y_pred))
        self.count.assign_add(1)

    def result(self):
        return ops.sum(self.total) / self.count


def errors(y, y_pred):
    return ops.abs(y - y_pred)


def by_class(y, y_pred):
    return ops.mean(errors(y, y_pred), axis=0)


def two_means(y, y_pred):
    return ops.mean(errors(y, y_pred)) + ops.mean(y)


def exact():
    """Metrics that are those of one device."""
    return [
        keras.metrics.MeanMetricWrapper(by_class, name="function_of_an_axis"),
        Told(by_class, "mean_of_classes"),
        Told(two_means, "mean_of_two_means"),
        Told(errors, "mean_of_examples"),
        Added(two_means, "sum_of_two_means"),
        Added(lambda y, y_pred: errors(y, y_pred)[:, 0], "sum_of_examples"),
        Added(lambda y, y_pred: ops.sum(errors(y, y_pred)), "sum_of_a_sum"),
        PerClass(by_class, name="mean_each_class"),
        PerClass(lambda y, y_pred: ops.sum(by_class(y, y_pred)), False, "classes_added_up"),
        PerClass(two_means, False, "two_means_added_up"),
        PerClass(lambda y, y_pred: ops.sum(errors(y, y_pred), axis=0), name="sum_each_class"),
        keras.metrics.R2Score(name="numbers_of_examples"),
        keras.metrics.MeanAbsoluteError(name="by_element"),
    ]


def not_exact():
    """Metrics that compare examples."""
    return [
        keras.metrics.PearsonCorrelation(axis=0, name="correlations"),
        keras.metrics.CosineSimilarity(axis=0, name="cosines"),
        Told(lambda y, y_pred: ops.mean(ops.std(y, axis=0)), "deviations"),
        Told(lambda y, y_pred: ops.var(y), "variance"),
        Told(lambda y, y_pred: ops.abs(y - ops.mean(y, axis=0)), "distances"),
        Told(lambda y, y_pred: ops.abs(y[1:] - y_pred[:-1]), "pairs"),
        PerClass(lambda y, y_pred: ops.mean(ops.std(y, axis=0)), False, "deviations_added_up"),
    ]


def of_classes(metrics, replicas, first=None, as_data=False, classes=3):
    """What `fit` says of one batch of eight examples; what Keras says of some of them; and what was told of several replicas.

    Args:
        metrics: makes them.
        replicas: how many.
        first: the size of the batches of an epoch before.
        as_data: whether the data tell how many examples a batch has.
        classes: how many.
    """
    model = keras.Sequential([keras.Input([classes]), keras.layers.Dense(classes)])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=metrics())
    x, y = np.random.default_rng(3).normal(size=(2, 8, classes)).astype("float32")
    trainer = tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if first is not None:
            trainer.fit(x[:4], y[:4], batch_size=first, verbose=0)
        data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(8),) if as_data else (x, y)
        logs = trainer.fit(*data, **({} if as_data else {"batch_size": 8}), shuffle=False, verbose=0).history

    def wanted(part):
        return model.evaluate(x[part], y[part], batch_size=8, verbose=0, return_dict=True)

    return logs, wanted, [str(warning.message) for warning in caught if "replicas" in str(warning.message)]


@pytest.mark.parametrize(
    ("replicas", "settings"),
    [
        (2, {"first": 1}),
        pytest.param(3, {"as_data": True}, marks=pytest.mark.slow),
        pytest.param(3, {"classes": 8}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_what_is_a_sum_or_a_mean_over_examples_is_that_of_one_device(replicas, settings):
    """Of shards of one size, and of two; after a batch of one example; of as many classes as examples."""
    found, wanted, told = of_classes(exact, replicas, **settings)
    assert told == []
    for name, value in wanted(slice(None)).items():
        np.testing.assert_allclose(found[name][0], value, rtol=5e-6, err_msg=name)


@pytest.mark.slow
def test_what_is_none_is_told_and_averaged():
    """Not as many times as large as there are replicas."""
    found, wanted, told = of_classes(not_exact, 2)
    assert len(told) == 1 and "is no sum over elements" in told[0]
    halves, whole = [wanted(part) for part in (slice(0, 4), slice(4, 8))], wanted(slice(None))
    for metric in not_exact():
        assert repr(metric.name) in told[0]
        np.testing.assert_allclose(
            found[metric.name][0], np.mean([half[metric.name] for half in halves]), rtol=1e-5, err_msg=metric.name
        )
        assert abs(found[metric.name][0] / whole[metric.name] - 1) > 1e-3


@pytest.mark.slow
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
