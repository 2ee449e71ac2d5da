"""The law of accumulation for every loss, reduction, mask and weight."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from accumulating import check_law, data_of, float64, mean_of_means, merge
from by_hand import relative
from evaluating import evaluate, gradient_of
from keras import layers, losses
from tables import MODELS, ModelCase, cut, in_floatx, pad

import trainlab as tl
from trainlab.objective import accumulation


class Mixture(losses.Loss):
    """Somebody's own loss: one value for each token."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_pred - y_true) ** 1.5, axis=-1)


def absolute_error(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_pred - y_true), axis=-1)


LOSSES = {
    "mse": lambda: "mse",
    "function": lambda: absolute_error,
    "own class": Mixture,
    "sum": lambda: losses.MeanSquaredError(reduction="sum"),
    "mean": lambda: losses.MeanSquaredError(reduction="mean"),
    "mean_with_sample_weight": lambda: losses.Huber(0.7, reduction="mean_with_sample_weight"),
    "cosine": lambda: losses.CosineSimilarity(),
}
WEIGHTS = {
    "unweighted": lambda rng, n: None,
    "by example": lambda rng, n: rng.uniform(0.1, 4, (n, 1)),
    "by token": lambda rng, n: rng.uniform(0.1, 4, (n, 4)),
    "some zero": lambda rng, n: rng.uniform(0.1, 4, (n, 4)) * (np.arange(n)[:, None] >= 4),
}


def tokens(masked):
    """A model of sequences with two outputs a token."""
    mask = [layers.Masking(name="masking")] if masked else []
    return keras.Sequential([keras.Input([4, 3]), *mask, layers.Dense(5, activation="tanh"), layers.Dense(2)])


@float64
@pytest.mark.parametrize("weigh", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_reduction_with_weights_and_masks(loss, masked, weigh, precision):
    case = ModelCase(
        lambda: tokens(masked),
        lambda rng, n: (pad(rng, rng.normal(size=(n, 4, 3))), rng.normal(size=(n, 4, 2))),
        lambda: {"loss": loss()},
        weigh,
    )
    model = case.compiled()
    # The first batch has weights of zero only where some are; still it counts where the loss counts elements.
    data = data_of(case, [4, 3, 2], True)
    _, whole = check_law(model, data, precision)
    is_sum = getattr(model.loss, "reduction", None) == "sum"
    assert relative(mean_of_means(model, data), gradient_of(whole)) > 1e-3
    if is_sum:
        total = [3 * g for g in mean_of_means(model, data)]
        assert relative(total, gradient_of(whole)) < 1e-13


@float64
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_labels_to_ignore(reduction, precision):
    case = ModelCase(
        lambda: tokens(False),
        lambda rng, n: (rng.normal(size=(n, 4, 3)), rng.integers(-1, 2, size=(n, 4))),
        lambda: {"loss": losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction=reduction)},
        lambda rng, n: rng.uniform(0.1, 4, (n, 4)),
    )
    for weighted in (False, True):
        check_law(case.compiled(), data_of(case, [4, 3, 2], weighted), precision)


@pytest.mark.skipif(not hasattr(losses, "SparseCategoricalFocalCrossentropy"), reason="it came with Keras 3.16")
@float64
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_a_loss_of_keras_that_is_called_in_its_own_way(reduction, precision):
    case = ModelCase(
        lambda: keras.Sequential([keras.Input([4, 3]), layers.Masking(), layers.Dense(3)]),
        lambda rng, n: (pad(rng, rng.normal(size=(n, 4, 3))), rng.integers(3, size=(n, 4))),
        lambda: {"loss": losses.SparseCategoricalFocalCrossentropy(from_logits=True, reduction=reduction)},
        lambda rng, n: rng.uniform(0.1, 4, (n, 4)),
    )
    check_law(case.compiled(), data_of(case, [4, 3, 2], True), precision)


@float64
def test_a_batch_that_is_masked_whole_counts_for_nothing(precision):
    model = ModelCase(lambda: tokens(True), None, lambda: {"loss": "mse"}).compiled()
    rng = np.random.default_rng(0)
    x, y = in_floatx((rng.normal(size=(6, 4, 3)), rng.normal(size=(6, 4, 2))))
    x[2:4] = 0
    data = cut((x, y, None), [2, 2, 2])
    parts, _ = check_law(model, data, precision)
    without = evaluate(model, [data[0], data[2]])
    assert relative(gradient_of(parts), gradient_of(without)) < 1e-13


class WordDropout(layers.Layer):
    """Puts padding in place of half the words."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, ids):
        return keras.ops.where(keras.random.uniform(keras.ops.shape(ids), seed=self.seeds) > 0.5, ids, 0)


@pytest.mark.parametrize("how", ["eager", "written out", "loop", "replicas"])
def test_masks_are_counted_as_they_are_drawn(how, monkeypatch):
    """Each word that is left has the loss 1, so that is their mean, whatever is drawn for a batch."""
    monkeypatch.setattr(accumulation, "_MAX_OPERATIONS", 0 if how == "loop" else 10**4)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input([6], dtype="int32"), WordDropout(), layers.Embedding(10, 4, mask_zero=True), layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.1), lambda y, p: 1 + 0 * keras.ops.mean(p, axis=-1))
    given = {"distribute": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])} if how == "replicas" else {}
    trainer = tl.Trainer(model, tl.Accumulate(3), run_eagerly=how == "eager", jit_compile=False, **given)
    ids = np.random.default_rng(0).integers(1, 10, (24, 6))
    seen = []
    remember = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]))
    trainer.fit(ids, np.ones([24, 6, 1]), batch_size=4, epochs=2, verbose=0, callbacks=[remember])
    np.testing.assert_allclose(seen, np.ones(4), rtol=1e-6)


class WithAddedLoss(layers.Layer):
    """Adds a loss that is a mean over examples."""

    def call(self, x):
        self.add_loss(keras.ops.mean(keras.ops.logsumexp(x, axis=-1)))
        return x


@float64
def test_added_losses_are_averaged_over_examples_and_penalties_count_once(precision):
    penalty = keras.regularizers.L2(0.3)
    case = ModelCase(
        lambda: keras.Sequential(
            [keras.Input([5]), layers.Dense(4, kernel_regularizer=penalty), WithAddedLoss(), layers.Dense(3)]
        ),
        MODELS["mlp_with_penalties"].data,
        lambda: {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)},
    )
    for weighted in (False, True):
        check_law(case.compiled(), data_of(case, [4, 3, 2], weighted), precision)
    # Control: counted once a batch, the penalty is three times itself.
    model = case.compiled()
    data = data_of(case, [3, 3, 3], False)
    whole = gradient_of(evaluate(model, [merge(data)]))
    once_a_batch = [g + 2 * 2 * 0.3 * v.value if v.name == "kernel" and v.shape[0] == 5 else g
                    for g, v in zip(whole, model.trainable_variables, strict=True)]  # fmt: skip
    assert relative(gradient_of(evaluate(model, data)), whole) < 1e-13
    assert relative(once_a_batch, whole) > 1e-3


class OwnLoss(keras.Model):
    """Overrides compute_loss with a mean over examples."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1))

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
        return keras.ops.mean(loss if sample_weight is None else loss * sample_weight) + sum(self.losses)


@float64
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_a_loss_inside_compute_loss_is_averaged_over_examples(weighted, precision):
    case = ModelCase(OwnLoss, MODELS["mlp_with_penalties"].data, dict)
    check_law(case.compiled(), data_of(case, [4, 3, 2], weighted), precision)


@float64
def test_outputs_with_denominators_of_their_own(precision):
    """One output sums, one is masked, one is weighted: each divides by what is its own."""

    def make():
        x = keras.Input([4, 3])
        hidden = layers.Dense(5, activation="tanh")(layers.Masking()(x))
        pooled = layers.Dense(4)(layers.Flatten()(x))
        outputs = {"summed": layers.Dense(2, name="summed")(pooled), "masked": layers.Dense(2, name="masked")(hidden)}
        return keras.Model(x, {**outputs, "weighted": layers.Dense(1, name="weighted")(pooled)})

    case = ModelCase(
        make,
        lambda rng, n: (
            pad(rng, rng.normal(size=(n, 4, 3))),
            {"summed": rng.normal(size=(n, 2)), "masked": rng.normal(size=(n, 4, 2)), "weighted": rng.normal(size=(n, 1))},
        ),
        lambda: {
            "loss": {
                "summed": losses.MeanSquaredError(reduction="sum"),
                "masked": "mae",
                "weighted": losses.LogCosh(reduction="mean_with_sample_weight"),
            },
            "loss_weights": {"summed": 0.3, "masked": 2.5, "weighted": 1.1},
        },
        lambda rng, n: {
            "summed": rng.uniform(0.1, 3, n),
            "masked": rng.uniform(0.1, 3, (n, 4)),
            "weighted": rng.uniform(0.1, 3, n),
        },
    )
    model = case.compiled()
    data = data_of(case, [4, 3, 2], True)
    _, whole = check_law(model, data, precision)
    assert relative(mean_of_means(model, data), gradient_of(whole)) > 1e-3


class Contrasts(losses.Loss):
    """A value for each example, of all."""

    def call(self, y_true, y_pred):
        return keras.ops.logsumexp(keras.ops.matmul(y_pred, keras.ops.transpose(y_pred)), axis=1)


NO_SUMS = {
    "dice": lambda: losses.Dice(name="dice_of_this_test"),
    "dice, a sum": lambda: losses.Dice(name="summed_dice_of_this_test", reduction="sum"),
    "dice by output": lambda: losses.Dice(name="dice_by_output_of_this_test", axis=0),
    "contrasts": lambda: Contrasts(name="contrasts_of_this_test"),
}


@pytest.mark.parametrize("make", NO_SUMS.values(), ids=NO_SUMS)
def test_a_loss_that_is_no_sum_over_elements_is_named_once(make):
    case = ModelCase(
        lambda: keras.Sequential([keras.Input([4]), layers.Dense(3, activation="sigmoid")]),
        lambda rng, n: (rng.normal(size=(n, 4)), rng.integers(2, size=(n, 3)).astype("float64")),
        lambda: {"loss": make()},
    )
    model, data = case.compiled(), data_of(case, [3, 3], False)
    with pytest.warns(UserWarning, match="of_this_test.*not exact") as record:
        parts = evaluate(model, data)
    assert sum("of_this_test" in str(warning.message) for warning in record) == 1
    whole = evaluate(model, [merge(data)])
    assert relative(gradient_of(parts), gradient_of(whole)) > 1e-6  # no law holds for it


class MeanOfSquares(losses.Loss):
    """Somebody's own loss: the mean itself, one number a batch."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred))


def mean_of_absolutes(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))


class SumOfSquares(losses.Loss):
    """The sum itself."""

    def call(self, y_true, y_pred):
        return keras.ops.sum(keras.ops.square(y_true - y_pred))


class ByOutput(losses.Loss):
    """One value for each of the numbers that are predicted, none for an example."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=0)


def of_vectors(y_true, y_pred):
    """A value for each example, by what nothing looks into."""
    return tf.cumsum(keras.ops.square(y_true - y_pred), axis=-1)[:, -1]


OF_ALL = {
    "class": MeanOfSquares,
    "function": lambda: mean_of_absolutes,
    "a mean told to be a sum": lambda: MeanOfSquares(reduction="sum"),
    "a sum told to be one": lambda: SumOfSquares(reduction="sum"),
    "by output": ByOutput,
    "by output, summed": lambda: ByOutput(reduction="sum"),
    "by example": lambda: of_vectors,
}


@float64
@pytest.mark.parametrize("loss", OF_ALL.values(), ids=OF_ALL)
def test_a_loss_that_is_a_mean_is_exact_and_not_warned_of(loss, precision):
    case = ModelCase(
        lambda: keras.Sequential([keras.Input([4]), layers.Dense(5, activation="tanh"), layers.Dense(3)]),
        lambda rng, n: (rng.normal(size=(n, 4)), rng.normal(size=(n, 3))),
        lambda: {"loss": loss()},
    )
    model = case.compiled()
    data = data_of(case, [4, 4, 1], False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, whole = check_law(model, data, precision)
    assert relative(mean_of_means(model, data), gradient_of(whole)) > 1e-3  # the control: weighted alike it is not exact


def error(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


MIXED = {
    "weighed by their mean": lambda y, p: error(y, p) * y[:, 0] ** 2 / keras.ops.mean(y[:, 0] ** 2),
    "over the deviation": lambda y, p: error(y, p) / (keras.ops.std(y) + 0.1),
    "the harder ones": lambda y, p: keras.ops.where(error(y, p) >= keras.ops.mean(error(y, p)), error(y, p), 0.0),
    "the worse half": lambda y, p: keras.ops.sort(error(y, p))[keras.ops.shape(y)[0] // 2 :],
    "neighbours": lambda y, p: keras.ops.sum((p[1:] - p[:-1]) ** 2, axis=-1),
    "from the first": lambda y, p: error(p[:1], p),
    "rolled": lambda y, p: error(keras.ops.roll(p, 1, axis=0), p),
    "reversed": lambda y, p: error(tf.reverse(p, [0]), p),
    "added up": lambda y, p: tf.cumsum(error(y, p)),
    "by an axis of examples": lambda y, p: error(y, keras.ops.normalize(p, axis=0)),
    "to the highest": lambda y, p: error(y, p / keras.ops.max(keras.ops.abs(p))),
    "a branch": lambda y, p: tf.cond(keras.ops.mean(p) > 0, lambda: error(y, p), lambda: 2 * error(y, p)),
}
BY_EXAMPLE = {
    "the rest of each": lambda y, p: error(y[:, 1:], p[..., :-1]),
    "added up in each": lambda y, p: tf.cumsum(p - y, axis=1)[:, -1] ** 2,
    "sorted in each": lambda y, p: error(keras.ops.sort(y, axis=-1), keras.ops.sort(p, axis=-1)),
    "rolled in each": lambda y, p: error(y, keras.ops.roll(p, 1, axis=-1)),
    "normalized in each": lambda y, p: error(y, keras.ops.normalize(p, axis=-1)),
    "the worst of each": lambda y, p: keras.ops.max(keras.ops.abs(y - p), axis=-1),
    "with an axis more": lambda y, p: error(y[:, None], p[:, None])[:, 0],
}


def told(loss):
    """What is said where a loss is accumulated."""
    named = lambda y, p: loss(y, p)  # noqa: E731
    named.__name__ = f"loss_{len(_named)}"  # of one name it is said once
    _named.append(named)
    model = ModelCase(
        lambda: keras.Sequential([keras.Input([4]), layers.Dense(5, activation="tanh"), layers.Dense(3)]),
        lambda rng, n: (rng.normal(size=(n, 4)), rng.normal(size=(n, 3))),
        lambda: {"loss": named},
    )
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        evaluate(model.compiled(), data_of(model, [4, 4, 2], False))
    return [str(warning.message) for warning in record if "accumulated over batches it is not exact" in str(warning.message)]


_named = []


@pytest.mark.parametrize("name", MIXED)
def test_values_that_are_made_of_several_examples_are_told(name):
    assert len(told(MIXED[name])) == 1


@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_those_of_one_example_each_are_not(name):
    assert told(BY_EXAMPLE[name]) == []
