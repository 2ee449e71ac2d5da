"""Plain is plain: SGD() is a bare tape loop, and every other strategy is the same step written with assign-and-restore."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import groups, loss_and_gradients, parameters, plain_step, relative, train
from tables import ACCUMULATING_STRATEGIES, EXACT_MODELS, MODELS, STRATEGIES, take

import trainlab as tl

# On a GPU, sums over rows are taken in no fixed order.
BITWISE = not tf.config.list_physical_devices("GPU")
NUM_EXAMPLES, BATCH_SIZE, EPOCHS = 10, 4, 2  # batches of 4, 4 and 2


def variables(model):
    """Everything that training may change."""
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def state(model):
    return [v.numpy() for v in variables(model)]


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        if BITWISE:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def check_plain(case, optimizer, run_eagerly):
    """Compares a Trainer with a loop by hand, and has the loop by hand differ by a little from itself."""
    data = (*case.arrays(NUM_EXAMPLES), case.weights(NUM_EXAMPLES))
    x, y, sample_weight = data
    model = case.compiled(optimizer())
    trainer = tl.Trainer(model, tl.SGD(), run_eagerly=run_eagerly)
    trainer.fit(x, y, sample_weight=sample_weight, batch_size=BATCH_SIZE, epochs=EPOCHS, shuffle=False, verbose=0)

    reference = case.compiled(optimizer())
    batches = [batch for group in groups(data, BATCH_SIZE, 1) for batch in group]
    reference._symbolic_build(data_batch=batches[0])
    step = plain_step(reference) if run_eagerly else tf.function(plain_step(reference), autograph=False)

    def train_by_hand(batches=batches):
        for _ in range(EPOCHS):
            reference.reset_metrics()
            for batch in batches:
                step(tf.nest.map_structure(lambda a: None if a is None else tf.convert_to_tensor(a), batch))
        return state(reference)

    start = state(reference)
    assert_same(state(model), train_by_hand())
    for variable, value in zip(variables(reference), start, strict=True):
        variable.assign(value)
    with pytest.raises(AssertionError):
        assert_same(state(model), train_by_hand([*batches[1:], batches[0]]))


PRECISIONS = [(name, "float32") for name in MODELS] + [
    ("cnn", "float64"),
    ("transformer", "mixed_bfloat16"),
]


@pytest.fixture
def no_graph_optimizer():
    """TensorFlow's graph optimizer rounds a function differently in a loop and outside one, the bare one too."""
    before = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before.get("disable_meta_optimizer", False)})


@pytest.mark.parametrize("name, precision", PRECISIONS, indirect=["precision"])
def test_sgd_is_a_tape_loop_bit_for_bit(name, precision, no_graph_optimizer):
    check_plain(MODELS[name], lambda: keras.optimizers.SGD(0.05, momentum=0.9), run_eagerly=False)


@pytest.mark.parametrize("name", MODELS)
def test_sgd_is_a_tape_loop_bit_for_bit_run_eagerly(name):
    check_plain(MODELS[name], lambda: keras.optimizers.Adam(0.01), run_eagerly=True)


def by_hand(strategy, case, data, rate):
    """Where the strategy's step, written by hand, leads; and how far that is."""
    model = case.compiled()
    model._symbolic_build(data_batch=take(data, slice(0, 2)))
    start = parameters(model)
    # Drawn noise and batch statistics are each batch's own; otherwise an update's batches are one.
    train(model, strategy, groups(data, 2, strategy.batches, whole=not case.is_random), rate)
    return model, parameters(model) - start


def check_by_hand(strategy, case, run_eagerly):
    data = (*case.arrays(9), case.weights(9))  # batches of 2, the last of 1
    x, y, sample_weight = data
    model = case.compiled(keras.optimizers.SGD(0.125))
    trainer = tl.Trainer(model, strategy.make(), run_eagerly=run_eagerly)
    trainer.fit(x, y, sample_weight=sample_weight, batch_size=2, shuffle=False, verbose=0)
    reference, moved = by_hand(strategy, case, data, 0.125)
    assert relative(parameters(model), parameters(reference), of=moved) < 1e-13
    for a, b in zip(model.non_trainable_variables, reference.non_trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-13, atol=1e-13)


PAIRS = list(itertools.product(STRATEGIES, MODELS))
CORE = [
    (strategy, name)
    for strategy, name in PAIRS
    if name in ("mlp_with_penalties", "vae") or strategy in ("accumulate_3_heun", "heavy_ball")
]


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("strategy, name", CORE)
def test_a_strategy_is_the_same_step_written_by_hand(strategy, name, precision):
    check_by_hand(STRATEGIES[strategy], MODELS[name], run_eagerly=True)


@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("strategy, name", [("heun", "embedding"), ("accumulate_3_heun", "cnn"), ("heavy_ball", "cnn")])
def test_so_it_is_compiled(strategy, name, precision):
    check_by_hand(STRATEGIES[strategy], MODELS[name], run_eagerly=False)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("strategy, name", PAIRS)
def test_so_are_all(strategy, name, run_eagerly, precision):
    check_by_hand(STRATEGIES[strategy], MODELS[name], run_eagerly)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("name", ["cnn"])
def test_the_methods_are_told_apart(name, precision):
    """Control: by the tolerance above no strategy passes for another, nor for itself at another step size."""
    case = MODELS[name]
    data = (*case.arrays(9), case.weights(9))
    ends = {name: parameters(by_hand(strategy, case, data, 0.125)[0]) for name, strategy in STRATEGIES.items()}
    del ends["noise_heun"]  # which is Heun, its temperature being 0
    other, moved = by_hand(STRATEGIES["sgd"], case, data, 0.125 * (1 + 1e-6))
    ends["sgd at another rate"] = parameters(other)
    for first, second in itertools.combinations(ends, 2):
        assert relative(ends[first], ends[second], of=moved) > 1e-8, (first, second)


@pytest.mark.parametrize("name", EXACT_MODELS)
def test_duplicate_rows_are_summed_by_the_reference(name):
    case = EXACT_MODELS[name]
    model = case.compiled()
    x, y = case.arrays(6)
    model._symbolic_build(data_batch=(x, y))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
    raw = tape.gradient(loss, model.trainable_variables)
    assert any(isinstance(g, tf.IndexedSlices) for g in raw) == case.is_sparse
    _, gradients = loss_and_gradients(model, (x, y, None))
    for a, b in zip(raw, gradients, strict=True):
        np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=1e-5, atol=1e-7)


def test_accumulating_strategies_take_several_batches():
    assert all(case.batches > 1 for case in ACCUMULATING_STRATEGIES.values())
