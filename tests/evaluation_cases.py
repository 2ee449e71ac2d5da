"""Models and data that are evaluated in every way: the tables of the tests of evaluation."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

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


def same(ours, theirs, exact=False):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_allclose(np.asarray(ours[name]), np.asarray(value), rtol=0 if exact else 2e-6, atol=1e-7, err_msg=name)
        assert type(ours[name]) is float or np.ndim(value)


def counted_calls(loop, monkeypatch):
    """A list that grows by how many batches each compiled call of such a loop took."""
    made, run = [], loop.run

    def counted(self, *args, **kwargs):
        made.append(run(self, *args, **kwargs))
        return made[-1]

    monkeypatch.setattr(loop, "run", counted)
    return made
