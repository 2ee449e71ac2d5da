"""State that is not trained: what becomes of what replicas leave."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from replicating import assert_same_training, mirrored
from small import compiled, everything, regression

import trainlab as tl


class Stateful(keras.layers.Layer):
    """Counts, in every way."""

    def __init__(self):
        super().__init__()
        self.batches = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.is_odd = self.add_weight(shape=(), dtype="bool", initializer="zeros", trainable=False)
        said = {"shape": (), "initializer": "zeros", "trainable": False}
        self.examples = self.add_weight(aggregation="sum", **said)
        self.many = self.add_weight(dtype="int64", aggregation="sum", **said)
        self.first = self.add_weight(aggregation="only_first_replica", **said)
        self.mean = self.add_weight(aggregation="mean", **said)

    def call(self, x):
        size = ops.shape(x)[0]
        self.batches.assign_add(1)
        self.steps.assign_add(1.0)
        self.is_odd.assign(~self.is_odd)
        self.examples.assign_add(ops.cast(size, "float32"))
        self.many.assign_add(ops.cast(size, "int64"))
        self.first.assign_add(ops.mean(x[:1]))
        self.mean.assign(ops.mean(x))
        return x


def fit(make, replicas, x, y, strategy=None, fit=None, **settings):
    keras.utils.set_random_seed(1)
    model = make()
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **{"jit_compile": False, **settings})
    return model, trainer.fit(x, y, **{"batch_size": 6, "epochs": 2, "verbose": 0, **(fit or {})}).history


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_state_by_its_aggregation(settings):
    x, y = regression(26)
    one, two, four = (
        fit(lambda: compiled(keras.Sequential([keras.Input([3]), Stateful(), keras.layers.Dense(1)])), n, x, y, **settings)
        for n in (None, 2, 4)
    )
    layer = one[0].layers[0]
    assert (int(layer.batches), float(layer.steps), bool(layer.is_odd.value)) == (10, 10, False)
    assert float(layer.examples) == int(layer.many) == 52
    for several in (two, four):
        for a, b in zip(everything(one[0]), everything(several[0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_statistics_are_averaged_by_examples():
    x, y = regression(5)
    model, _ = fit(
        lambda: compiled(keras.Sequential([keras.Input([3]), keras.layers.BatchNormalization(momentum=0.9)]), loss="mse"),
        2,
        x,
        np.repeat(y, 3, axis=1),
        fit={"batch_size": 5, "epochs": 1, "shuffle": False},
    )
    norm = model.layers[0]
    shards = x[:3], x[3:]
    mean = sum(len(part) * part.mean(0) for part in shards) / 5
    variance = sum(len(part) * part.var(0) for part in shards) / 5
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-5)
    assert np.abs(variance - x.var(0)).max() > 1e-3  # which is another


class Noisy(keras.layers.Layer):
    """Keeps what it drew last: with replicas, the mean of what they drew."""

    def __init__(self, seed=None):
        super().__init__()
        self.seed_generator = None if seed is None else keras.random.SeedGenerator(seed)
        self.drawn = self.add_weight(shape=(3,), initializer="zeros", trainable=False)

    def call(self, x):
        noise = keras.random.uniform((3,), seed=self.seed_generator)
        self.drawn.assign(noise)
        return x + noise


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, None], ids=["own generator", "global generator"])
def test_each_replica_draws_for_itself_and_the_same_again(seed):
    x, y = regression(8)

    def drawn(replicas):
        make = lambda: compiled(keras.Sequential([keras.Input([3]), Noisy(seed), keras.layers.Dense(1)]))  # noqa: E731
        model, _ = fit(make, replicas, x, y, fit={"batch_size": 4, "epochs": 1})
        return np.array(model.layers[0].drawn), everything(model)

    one, two, four = drawn(None), drawn(2), drawn(4)
    others = [2 * two[0] - one[0], 4 * four[0] - 2 * two[0]]  # what replica 1 drew; what replicas 1 and 3 drew, or 2 and 3
    assert all((np.abs(each - one[0]) > 1e-3).any() for each in others)
    assert ((others[0] >= 0) & (others[0] <= 1)).all()
    for a, b in zip(two[1], drawn(2)[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_masks_differ():
    inputs = keras.Input([400])
    dropped = keras.layers.Dropout(0.5, seed=3)(inputs)

    class Same(keras.losses.Loss):
        def call(self, y, y_pred):
            return ops.mean(y_pred, axis=-1)

    def gradient(replicas):
        keras.utils.set_random_seed(1)
        model = compiled(keras.Model(inputs, keras.layers.Dense(1, use_bias=False)(dropped)), loss=Same())
        before = model.get_weights()[0]
        x = np.ones([2, 400], "float32")
        tl.Trainer(model, distribute=mirrored(replicas), jit_compile=False).fit(x, x[:, :1], batch_size=2, verbose=0)
        return np.rint((before - model.get_weights()[0]) / 0.1).astype(int)

    # Half of the units twice over is kept by one mask in both examples, were it the same: 0, 1 or 2 masks keep a unit.
    counts = np.bincount(gradient(2).ravel(), minlength=3)
    assert counts.sum() == 400 and (counts > [60, 150, 60]).all()


class OwnMetrics(keras.Model):
    """Reports a metric, what is made of it, and something of the batch."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = keras.metrics.Mean(name="extra")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        self.extra.update_state(y_pred**2)
        made = {"root": ops.sqrt(self.extra.result()), "extra": self.extra.result(), "batch": ops.mean(y_pred)}
        made["perplexity"] = ops.exp(results["loss"])
        return {**results, **made}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("synchronized", [False, True])
def test_what_own_metrics_report(settings, synchronized):
    x, y = regression(16)

    def make():
        inputs = hidden = keras.Input([3])
        if synchronized:
            hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
        return compiled(OwnMetrics(inputs, keras.layers.Dense(1)(hidden)), metrics=["mae"])

    if synchronized and settings.get("jit_compile"):
        return
    one, several = (fit(make, number, x, y, **settings) for number in (None, 2))
    assert {"extra", "root", "batch", "mae", "loss"} <= set(one[1])
    np.testing.assert_allclose(several[1]["perplexity"], np.exp(several[1]["loss"]), rtol=1e-5)
    assert_same_training(one, several, 2e-6)


class Reports(keras.Model):
    """Reports what it finds in a batch itself."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {
            "right": ops.sum(ops.cast(y_pred > 0, "int32")),
            "total": ops.sum(ops.abs(y_pred)),
            "size": ops.shape(x)[0],
            "mean": ops.mean(ops.abs(y - y_pred)),
            "two": ops.convert_to_tensor(2),
        }


class Others(Reports):
    """The same, and what is none of a sum and a mean."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        most = ops.argmax(y_pred[:, 0])
        return {**found, "root": ops.sqrt(found["mean"]), "largest": ops.max(y_pred), "most": most}


class Steps(keras.Model):
    """Its step reports the norm of the gradient, and how many examples there were."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        size = tf.shape(x)[0]
        return {"loss": loss, "norm": tf.linalg.global_norm(gradients), "size": size, "even": tf.cast(size, "float32")}


def reported(make, replicas, **settings):
    """The logs of one batch of seven, and what was told of several replicas."""
    x, y = regression(7)

    def model():
        inputs = keras.Input([3])
        return compiled(make(inputs, keras.layers.Dense(1)(inputs)), keras.optimizers.SGD(0.0))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, logs = fit(model, replicas, x, y, fit={"batch_size": 7, "epochs": 1, "shuffle": False}, **settings)
    return logs, [str(warning.message) for warning in caught if "replicas" in str(warning.message)]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
def test_reports_that_are_sums_or_means_are_those_of_one_device(settings):
    (one, _), (several, told) = (reported(Reports, number, **settings) for number in (None, 3))
    assert told == [] and several["size"] == [7] and several["two"] == [2] and several["right"] == one["right"] != [0]
    for name in one:
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_other_reports_are_told():
    logs, (floating, whole) = reported(Others, 2)
    assert "metric 'largest', 'root' is no sum over elements" in floating
    assert "'most' is reported as a whole number that is no sum" in whole and "\n" not in floating + whole
    assert logs["size"] == [7] and reported(Others, None)[1] == []


@pytest.mark.slow
def test_reports_of_a_train_step():
    (one, _), (several, told) = (reported(Steps, number) for number in (None, 2))
    assert len(told) == 1 and "metric 'norm' is no sum over elements" in told[0]
    for name in ("loss", "size", "even"):
        np.testing.assert_allclose(several[name], one[name], rtol=1e-5, err_msg=name)


class Seen(keras.layers.Layer):
    """Counts examples, and says of it what is asked for."""

    def __init__(self, **said):
        super().__init__()
        silent = {"shape": (), "initializer": "zeros", "trainable": False}
        self.seen = self.add_weight(name="seen", **silent, **said)
        self.whole = self.add_weight(name="whole", dtype="int32", **silent, **said)
        self.last, self.steps = self.add_weight(name="last", **silent), self.add_weight(name="steps", **silent)

    def call(self, x):
        self.seen.assign_add(ops.cast(ops.shape(x)[0], "float32"))
        self.whole.assign_add(ops.shape(x)[0])
        self.last.assign(0.5 * self.last + ops.mean(x))
        self.steps.assign_add(1.0)
        return x


@pytest.mark.parametrize("aggregation", [None, "sum", "mean"])
def test_a_sum_of_a_layer_that_does_not_say_so_is_told(aggregation):
    x, y = regression(8)
    said = {} if aggregation is None else {"aggregation": aggregation}

    def make():
        return compiled(keras.Sequential([keras.Input([3]), Seen(**said), keras.layers.Dense(1)]))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, _ = fit(make, 2, x, y, fit={"batch_size": 8, "epochs": 2})
    told = [str(warning.message) for warning in caught if "replicas" in str(warning.message)]
    assert len(told) == (aggregation is None)
    if told:
        assert "/seen', " in told[0] and "/whole'," in told[0] and "aggregation='sum'" in told[0] and "\n" not in told[0]
        assert "last" not in told[0] and "steps" not in told[0]
    assert float(model.layers[0].seen) == {None: 8, "sum": 16, "mean": 8}[aggregation]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}], ids=str)
def test_metrics_of_keras(settings):
    x, y = regression(26)
    named = "mae mse auc cosine_similarity".split()
    classes = keras.metrics.Precision, keras.metrics.F1Score, keras.metrics.RootMeanSquaredError, keras.metrics.R2Score

    def make():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(1, "sigmoid")])
        metrics = [cls(name=cls.__name__) for cls in classes]
        return compiled(model, metrics=[*named, *metrics, keras.metrics.MeanIoU(2, name="iou")])

    one, several = (fit(make, number, x, (y > 0).astype("float32"), tl.Accumulate(2), **settings) for number in (None, 4))
    assert_same_training(one, several, 2e-6)


@pytest.mark.slow
def test_a_loss_that_is_a_sum_and_a_frozen_layer():
    x, y = regression(14)

    def make():
        frozen = keras.layers.Dense(4, "tanh", trainable=False)
        model = keras.Sequential([keras.Input([3]), frozen, keras.layers.BatchNormalization(trainable=False)])
        model.add(keras.layers.Dense(1))
        return compiled(model, keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError("sum"))

    one, several = (fit(make, number, x, y) for number in (None, 4))
    assert_same_training(one, several, 1e-6)
    assert tf.config.list_logical_devices("CPU")  # several of them: nothing is proven otherwise


class ReadsASum(keras.Model):
    """Its loss grows with the examples that a metric has counted, and a layer's own count scales its outputs."""

    def __init__(self):
        super().__init__()
        self.out, self.seen = keras.layers.Dense(1), keras.metrics.Sum(name="seen")
        self.count = self.add_weight(shape=(), dtype="int64", initializer="zeros", aggregation="sum", trainable=False)

    def call(self, x):
        outputs = self.out(x) * (1 + ops.cast(self.count, "float32") / 50)
        self.count.assign_add(ops.cast(ops.shape(x)[0], "int64"))
        return outputs

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        return ops.minimum(1.0, self.seen.result() / 30) * ops.mean((y - y_pred) ** 2)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.seen.update_state(ops.ones_like(y))
        return self.get_metrics_result()


@pytest.mark.slow
def test_a_sum_that_the_loss_reads_is_the_same_for_all():
    x, y = regression(26)
    one, several = (fit(lambda: compiled(ReadsASum()), number, x, y) for number in (None, 2))
    assert int(several[0].count) == 52 and several[1]["seen"] == [26, 26]
    assert_same_training(one, several, 2e-6)


def test_a_sum_that_the_loss_reads_in_the_middle_of_an_update_is_told():
    x, y = regression(12)
    with pytest.warns(UserWarning, match="the loss, .* reads 'seen/total', .* after examples of the same"):
        fit(lambda: compiled(ReadsASum()), 2, x, y, tl.Accumulate(2), {"epochs": 1})
