"""The law of accumulation, that n batches are their concatenation, for every model and strategy, and in whole trainings."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from accumulating import TOLERANCE, check_law, data_of, float64, mean_of_means, merge
from by_hand import groups, loss_and_gradients, parameters, relative
from evaluating import build, evaluate, gradient_of, take_step
from keras import layers, losses
from small import regression
from tables import EXACT_MODELS, FAMILY_STRATEGIES, MODELS, PLAIN_STRATEGIES, ModelCase

import trainlab as tl
from trainlab.parameters import dense

SPLITS = {"ragged": [4, 4, 2], "equal": [5, 5], "singles": [1, 1, 2, 6]}
ALONE = {**PLAIN_STRATEGIES, **FAMILY_STRATEGIES}
both_precisions = pytest.mark.parametrize("precision", ["float32", "float64"], indirect=True)


@both_precisions
@pytest.mark.parametrize(
    "split, weighted",
    [
        ("ragged", True),
        ("singles", True),
        pytest.param("ragged", False, marks=pytest.mark.slow),
        pytest.param("equal", False, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", EXACT_MODELS)
def test_every_model(name, split, weighted, precision):
    model = EXACT_MODELS[name].compiled()
    data = data_of(EXACT_MODELS[name], SPLITS[split], weighted)
    _, whole = check_law(model, data, precision)
    if split != "equal":
        assert relative(mean_of_means(model, data), gradient_of(whole)) > 1e-3


@float64
@pytest.mark.parametrize("name", EXACT_MODELS)
def test_every_model_compiled(name, precision):
    case = EXACT_MODELS[name]
    check_law(case.compiled(), data_of(case, SPLITS["ragged"], True), precision, compiled=True)


@pytest.mark.parametrize("precision", ["mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("name", ["transformer", "embedding"])
def test_bfloat16(name, precision):
    model = EXACT_MODELS[name].compiled()
    data = data_of(EXACT_MODELS[name], [6, 6, 1], False)
    _, whole = check_law(model, data, precision)
    assert relative(mean_of_means(model, data), gradient_of(whole)) > 2 * TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["bfloat16"], indirect=True)
def test_the_sum_over_many_batches_is_wider_than_bfloat16(precision):
    model = keras.Sequential([keras.Input([1]), layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(), losses.MeanAbsoluteError(), jit_compile=False)
    num_batches = 1024
    x = tf.ones([1, 1], tf.bfloat16)
    gradient = gradient_of(evaluate(model, [(x, x, None)] * num_batches, compiled=True))
    assert float(gradient[0][0, 0]) == -1.0
    total = tf.zeros([], tf.bfloat16)
    for _ in range(num_batches):  # control
        total += tf.constant(1 / num_batches, tf.bfloat16)
    assert float(total) < 0.5


@float64
@pytest.mark.parametrize(
    "name, split", [("mlp_with_penalties", "ragged"), ("mlp_with_penalties", "singles"), ("embedding", "ragged")]
)
@pytest.mark.parametrize("strategy", ALONE.values(), ids=ALONE)
def test_every_strategy(strategy, name, split, precision):
    case = EXACT_MODELS[name]
    model = case.compiled()
    data = data_of(case, SPLITS[split], True)
    parts = take_step(tl.Accumulate(len(data), strategy.make()), model, data)
    whole = take_step(strategy.make(), model, [merge(data)])
    assert relative(gradient_of(parts), gradient_of(whole)) < 1e-13
    assert relative(gradient_of(parts.at), gradient_of(whole.at)) < 1e-13
    assert float(parts.at.loss) == pytest.approx(float(whole.at.loss), rel=1e-13)
    for key, value in (whole.memory or {}).items():
        one, other = ([dense(leaf) for leaf in getattr(each, "leaves", (each,))] for each in (parts.memory[key], value))
        assert relative(one, other, of=[*other, np.ones(1)]) < 1e-13
    # Control: the first batches without the last.
    other = take_step(strategy.make(), model, [merge(data[:-1])])
    assert relative(gradient_of(other), gradient_of(whole)) > 1e-3


@float64
@pytest.mark.parametrize("num_examples", [15, 16])
@pytest.mark.parametrize("strategy", ALONE.values(), ids=ALONE)
def test_every_strategy_through_the_trainer(strategy, num_examples, precision):
    """`Accumulate(2, S)` on batches of 3 is `S` on batches of 6; what is left is a batch of 3, or one of 3 and one of 1."""
    case = MODELS["mlp_with_penalties"]
    (x, y), weights = case.arrays(num_examples), case.weights(num_examples)

    def train(strategy, batch_size):
        model = case.compiled()
        start = parameters(model)
        fit = {"batch_size": batch_size, "shuffle": False, "verbose": 0}
        history = tl.Trainer(model, strategy, run_eagerly=True).fit(x, y, sample_weight=weights, **fit)
        return parameters(model) - start, history.history

    whole, whole_history = train(strategy.make(), 6)
    parts, history = train(tl.Accumulate(2, strategy.make()), 3)
    assert relative(parts, whole) < 1e-13
    for key, value in whole_history.items():
        assert history[key] == pytest.approx(value, rel=1e-6), key  # Keras' metrics count in float32
    if num_examples == 16:
        assert relative(train(strategy.make(), 3)[0], whole) > 1e-3  # control


@pytest.mark.filterwarnings("ignore:.*fewer than one update takes")
@pytest.mark.parametrize("source", ["arrays", "pipeline"])
def test_the_losses_of_several_outputs_are_reported_of_the_whole(source):
    case = MODELS["two_outputs"]
    data = (*case.arrays(10), case.weights(10))
    x, y, weights = data
    histories = []
    for strategy, batch_size in ((tl.SGD(), 10), (tl.Accumulate(3), 4), (tl.SGD(), 4)):
        trainer = tl.Trainer(case.compiled(keras.optimizers.SGD(0.0)), strategy, run_eagerly=source == "arrays")
        if source == "arrays":
            fit = {"x": x, "y": y, "sample_weight": weights, "batch_size": batch_size, "shuffle": False}
        else:
            fit = {"x": tf.data.Dataset.from_tensor_slices(data).batch(batch_size)}
        histories.append(trainer.fit(**fit, verbose=0).history)
    whole, parts, means = histories
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5), name
    assert means["left_out_loss"] != pytest.approx(whole["left_out_loss"], rel=1e-3)  # control: masks weigh, not examples


class SizeLost(keras.layers.Layer):
    """What comes out of `tf.py_function`, say: nobody knows its size while it is traced."""

    def call(self, x):
        return tf.compat.v1.placeholder_with_default(x, [None, *x.shape[1:]])


def test_an_output_whose_size_is_lost_counts_by_its_examples():
    """The rates are 0, so that the losses are those of the start: of the examples one by one, whatever the batches are."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([3])
    outputs = [SizeLost(name="lost")(keras.layers.Dense(1)(inputs)), keras.layers.Dense(1, name="kept")(inputs)]
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), ["mse", "mse"])
    x, y = regression(5)
    expected = [np.mean((np.asarray(found) - y) ** 2) for found in model(x)]
    assert not np.isclose(np.mean([np.mean((np.asarray(model(x[part])[0]) - y[part]) ** 2) for part in (slice(4), slice(4, 5))]),
                          expected[0], rtol=1e-3)  # fmt: skip
    logs = tl.Trainer(model).fit(x, [y, y], batch_size=4, shuffle=False, verbose=0).history
    assert [logs["lost_loss"][0], logs["kept_loss"][0]] == pytest.approx(expected, rel=1e-5)


def padded_batches(lengths, batch_size):
    """A pipeline of sequences of token ids, each batch padded to its longest; and all of them in one batch."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(1, 9, size=length) for length in lengths]
    labels = [rng.integers(3, size=length) for length in lengths]

    def pipeline(size):
        spec = tf.TensorSpec([None], tf.int64)
        dataset = tf.data.Dataset.from_generator(lambda: zip(ids, labels, strict=True), output_signature=(spec, spec))
        return dataset.padded_batch(size)

    return pipeline(batch_size), next(iter(pipeline(len(lengths))))


def tagger():
    """A label for each token; padding is masked."""
    table = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal", name="table")
    lstm = layers.LSTM(4, return_sequences=True)
    lstm.supports_masking = True  # it passes the mask on to the loss: by default until Keras 3.16
    return keras.Sequential([keras.Input([None], dtype="int64"), table, lstm, layers.Dense(3)])


@float64
@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_padded_batches_of_different_lengths_have_the_gradient_of_all_valid_tokens(precision, run_eagerly):
    case = ModelCase(tagger, None, lambda: {"loss": losses.SparseCategoricalCrossentropy(from_logits=True)})
    lengths = [2, 9, 3, 1, 5, 2, 4]  # batches of (2, 9), (3, 1), (5, 2) and (4)
    pipeline, (ids, labels) = padded_batches(lengths, 2)
    assert len({x.shape for x, _ in pipeline}) == 4
    model = case.compiled(keras.optimizers.SGD(1.0))
    build(model, [(ids, labels, None)])
    start = parameters(model)

    # By hand: sum over valid tokens, over their number.
    with tf.GradientTape() as tape:
        values = losses.sparse_categorical_crossentropy(labels, model(ids), from_logits=True)
        loss = tf.reduce_sum(values * tf.cast(ids != 0, values.dtype)) / sum(lengths)
    gradients = tape.gradient(loss, model.trainable_variables)
    expected = [tf.convert_to_tensor(g) for g in gradients]
    means = mean_of_means(model, [(x, y, None) for x, y in pipeline])

    history = tl.Trainer(model, tl.Accumulate(4), run_eagerly=run_eagerly).fit(pipeline, verbose=0)
    assert model.optimizer.iterations.numpy() == 1
    moved = start - parameters(model)
    assert relative(moved, np.concatenate([g.numpy().ravel() for g in expected])) < 1e-13
    assert history.history["loss"][0] == pytest.approx(float(loss), rel=1e-6)
    assert relative(means, expected) > 1e-3  # control


@pytest.mark.slow
@float64
def test_one_full_update_and_the_rest(precision):
    """End to end with a learning rate of 1: each update moves by the gradient of all that it holds."""
    case = MODELS["mlp_with_penalties"]
    data = (*case.arrays(10), case.weights(10))
    model = case.compiled(keras.optimizers.SGD(1.0))
    reference = case.compiled(keras.optimizers.SGD(1.0))
    x, y, weights = data
    tl.Trainer(model, tl.Accumulate(2)).fit(x, y, sample_weight=weights, batch_size=3, shuffle=False, verbose=0)
    assert model.optimizer.iterations.numpy() == 2  # 6 examples, then 3 + 1
    reference.build([None, 5])
    start = parameters(reference)
    for [batch] in groups(data, 3, 2, whole=True):
        _, gradients = loss_and_gradients(reference, batch)
        for variable, gradient in zip(reference.trainable_variables, gradients, strict=True):
            variable.assign_sub(gradient)
    assert relative(parameters(model), parameters(reference), of=parameters(reference) - start) < 1e-13
