"""Compiled is eager: Python step by step, a graph and XLA agree without noise; and each shape is traced once."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import parameters, relative
from tables import EXACT_MODELS, MODELS, STRATEGIES, ModelCase

import trainlab as tl

RATE = 0.05
TOLERANCE = 1e-5  # of the way gone, in float32
PAIRS = list(itertools.product(STRATEGIES, EXACT_MODELS))
FAST_GRAPH = [(strategy, "mlp_with_penalties") for strategy in STRATEGIES] + [
    ("heun", "lstm"),
    ("accumulate_3_heun", "transformer"),
    ("heavy_ball", "embedding"),
    ("sam", "two_outputs"),
]
FAST_XLA = [
    ("sgd", "mlp_with_penalties"),
    ("midpoint", "two_outputs"),
    ("accumulate_3_heun", "mlp_with_penalties"),
    ("sgd", "lstm"),
    ("accumulate_2_heavy_ball", "embedding"),
]


def fit(name, strategy, **kwargs):
    """Where a strategy goes in one epoch of an even number of updates, and what is reported."""
    case = EXACT_MODELS[name]
    model = case.compiled(keras.optimizers.SGD(kwargs.pop("rate", RATE), momentum=0.5))
    n = 2 * 2 * STRATEGIES[strategy].batches
    (x, y), weights = case.arrays(n), case.weights(n)
    model._symbolic_build(data_batch=(x, y, weights))
    start = parameters(model)
    trainer = tl.Trainer(model, STRATEGIES[strategy].make(), **kwargs)
    history = trainer.fit(x, y, sample_weight=weights, batch_size=2, verbose=0)
    return parameters(model) - start, history.history


def check(strategy, name, **kwargs):
    eager, eager_history = fit(name, strategy, run_eagerly=True)
    compiled, history = fit(name, strategy, **kwargs)
    assert relative(compiled, eager) < TOLERANCE
    for key, value in eager_history.items():
        assert history[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("strategy, name", FAST_GRAPH)
def test_a_graph_is_eager(strategy, name):
    check(strategy, name)


@pytest.mark.parametrize("strategy, name", FAST_XLA)
def test_xla_is_eager(strategy, name):
    check(strategy, name, jit_compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("strategy, name", PAIRS)
def test_all_are_eager(strategy, name, jit_compile):
    check(strategy, name, jit_compile=jit_compile)


def test_a_small_difference_would_show():
    """Control: a learning rate that is 0.1 % higher."""
    eager, _ = fit("mlp_with_penalties", "heun", run_eagerly=True)
    other, _ = fit("mlp_with_penalties", "heun", run_eagerly=True, rate=RATE * 1.001)
    assert relative(other, eager) > 50 * TOLERANCE


class Counter:
    """A loss that counts how often Python runs it."""

    def __init__(self):
        self.calls = 0

    def __call__(self, y_true, y_pred):
        self.calls += 1
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


def regression(counter, inputs=(3,)):
    case = ModelCase(
        lambda: keras.Sequential([keras.Input(inputs), keras.layers.Dense(2)]), None, lambda: {"loss": lambda t, p: counter(t, p)}
    )
    return case.compiled()


def arrays(n):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)).astype("float32"), rng.normal(size=(n, 2)).astype("float32")


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("strategy", ["sgd", "accumulate_3_heun"])
@pytest.mark.parametrize("ragged", [False, True])
def test_one_trace_for_each_batch_shape_and_none_after_the_first_epoch(ragged, strategy, jit_compile):
    case = STRATEGIES[strategy]
    counter = Counter()
    trainer = tl.Trainer(regression(counter), case.make(), jit_compile=jit_compile)
    x, y = arrays(12 * case.batches + (3 if ragged else 0))  # three updates, and one of 3 examples
    trainer.fit(x, y, batch_size=4, verbose=0)
    assert trainer.num_traces == (2 if ragged else 1)
    calls = counter.calls
    trainer.fit(x, y, batch_size=4, epochs=5, verbose=0)
    trainer.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), verbose=0)
    trainer.fit(x, y, batch_size=4, steps=5, verbose=0)
    assert trainer.num_traces == (2 if ragged else 1)
    assert counter.calls - calls <= 2  # Keras traces its own evaluation
    # Control: another batch size is another shape.
    trainer.fit(x, y, batch_size=2, verbose=0)
    assert trainer.num_traces > (2 if ragged else 1)


def test_eagerly_every_update_runs_python():
    """Control: the counter counts."""
    counter = Counter()
    trainer = tl.Trainer(regression(counter), run_eagerly=True)
    x, y = arrays(12)
    trainer.fit(x, y, batch_size=4, verbose=0)
    calls = counter.calls
    trainer.fit(x, y, batch_size=4, epochs=5, verbose=0)
    assert counter.calls >= calls + 15


@pytest.mark.parametrize("strategy", ["sgd", "accumulate_3_heun"])
def test_a_pipeline_is_traced_once_for_all_its_shapes(strategy):
    """Padded batches, all of different lengths: their specs leave the length open."""
    counter = Counter()
    model = regression(counter, (None, 3))
    rng = np.random.default_rng(0)
    lengths = [2, 5, 3, 7, 1, 4]

    def generate():
        for length in lengths:
            yield rng.normal(size=(2, length, 3)).astype("float32"), rng.normal(size=(2, length, 2)).astype("float32")

    signature = tuple(tf.TensorSpec([2, None, width], tf.float32) for width in (3, 2))
    trainer = tl.Trainer(model, STRATEGIES[strategy].make())
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    trainer.fit(dataset, verbose=0)
    traces, calls = trainer.num_traces, counter.calls
    assert traces == 1
    trainer.fit(dataset, epochs=3, verbose=0)
    assert (trainer.num_traces, counter.calls) == (traces, calls)


@pytest.mark.parametrize("strategy", ["sgd", "accumulate_2"])
def test_results_do_not_depend_on_how_many_updates_a_call_makes(strategy):
    case = MODELS["cnn"]
    (x, y), ends = case.arrays(22), []
    for steps_per_execution in (None, 1, 3):
        model = case.compiled(keras.optimizers.Adam(0.01))
        trainer = tl.Trainer(model, STRATEGIES[strategy].make(), steps_per_execution=steps_per_execution)
        trainer.fit(x, y, batch_size=4, epochs=2, verbose=0)
        ends.append([v.numpy() for v in (*model.variables, *model.optimizer.variables)])
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
