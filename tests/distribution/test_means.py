"""Metrics whose function gives one number a batch: means over examples are those of one device, others are told."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops
from replicating import mirrored
from small import compiled, dense_model, regression

import trainlab as tl
from trainlab.distribution import means


def mean_error(y, y_pred):
    return ops.mean(ops.abs(y - y_pred))


def root_error(y, y_pred):
    return ops.sqrt(ops.mean(ops.square(y - y_pred)))


def fit(replicas, metrics, strategy=None, **settings):
    """The history, and the lines that were told of several replicas."""
    x, y = regression(26)
    model = compiled(dense_model(), metrics=metrics)
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
