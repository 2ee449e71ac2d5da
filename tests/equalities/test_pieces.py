"""A batch evaluated in pieces is the whole batch: the law of accumulation through the Trainer, for every source of data."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import loss_and_gradients, parameters, relative
from tables import EXACT_MODELS, MODELS, STRATEGIES, ModelCase

import trainlab as tl
from trainlab.data import array_source

# Of the gradient's norm.
TOLERANCE = {"float64": 1e-13, "float32": 1e-6}
KINDS = ["arrays", "streamed", "static", "unknown"]
MODES = {"graph": {"jit_compile": False}, "eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}
PAIRS = list(itertools.product(STRATEGIES, EXACT_MODELS))
FAST = [
    ("sgd", "embedding"),
    ("heun", "two_outputs"),
    ("heavy_ball", "lstm"),
    ("midpoint", "transformer"),
    ("accumulate_2_sam", "mlp_with_penalties"),
]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


float64 = pytest.mark.parametrize("precision", ["float64"], indirect=True)
both_precisions = pytest.mark.parametrize("precision", ["float32", "float64"], indirect=True)


class Recorded(tl.StepStrategy):
    """A strategy whose memory keeps the last step's direction, the evaluation's gradient and its loss."""

    def __init__(self, inner):
        self.inner = inner
        self.evaluations, self.batches = inner.evaluations, inner.batches

    def init(self, parameters):
        zero = parameters * 0.0
        return {**self.inner.init(parameters), "last_direction": zero, "last_gradient": zero, "loss": tf.zeros([], tf.float64)}

    def step(self, objective, state):
        memory = {name: value for name, value in state.memory.items() if name not in ("last_direction", "last_gradient", "loss")}
        step = self.inner.step(objective, state._replace(memory=memory))
        kept = {"last_direction": step.gradient, "last_gradient": step.at.gradient, "loss": tf.cast(step.at.loss, tf.float64)}
        return step._replace(memory={**(step.memory or memory), **kept})


def train(case, strategy, size, mode="graph", kind="arrays", num_examples=None, batch_size=5, epochs=1, **kwargs):
    """Trains with pieces of `size`; returns the Trainer and what the last update was: direction, gradient, loss."""
    batches = STRATEGIES[strategy].batches
    n = batch_size * batches + 3 if num_examples is None else num_examples  # one update, and one of 3 examples
    if kind == "static":
        n = n // batch_size * batch_size
    model = case.compiled(keras.optimizers.SGD(0.05))
    (x, y), weights = case.arrays(n), case.weights(n)
    trainer = tl.Trainer(model, Recorded(STRATEGIES[strategy].make()), micro_batch_size=size, **MODES[mode], **kwargs)
    if kind in ("arrays", "streamed"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(array_source, "RESIDENT_SHARE", 0.0 if kind == "streamed" else 1.0)
            trainer.fit(x, y, sample_weight=weights, batch_size=batch_size, shuffle=False, epochs=epochs, verbose=0)
    else:
        data = tf.data.Dataset.from_tensor_slices((x, y, weights) if weights is not None else (x, y))
        trainer.fit(data.batch(batch_size, drop_remainder=kind == "static"), epochs=epochs, verbose=0)
    memory = trainer._loops.made.loop.update.memory
    return trainer, *(list(memory[name].leaves) for name in ("last_direction", "last_gradient")), float(memory["loss"])


def check(strategy, name, precision, size=2, mode="graph", **kwargs):
    _, *whole = train(EXACT_MODELS[name], strategy, None, mode, **kwargs)
    trainer, *parts = train(EXACT_MODELS[name], strategy, size, mode, **kwargs)
    for ours, theirs in zip(parts[:2], whole[:2], strict=True):
        assert relative(ours, theirs) < TOLERANCE[precision]
    assert parts[2] == pytest.approx(whole[2], rel=TOLERANCE[precision])
    assert trainer.micro_batch_size == size
    assert trainer.iterations == (1 if kwargs.get("kind") == "static" else 2)


@float64
@pytest.mark.parametrize("strategy, name", FAST)
def test_every_strategy_and_every_model(strategy, name, precision):
    check(strategy, name, precision, mode="eager")


@pytest.mark.slow
@both_precisions
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("strategy, name", PAIRS)
def test_every_pair(strategy, name, size, precision):
    check(strategy, name, precision, size, mode="eager")


@pytest.mark.slow
@float64
@pytest.mark.parametrize("strategy, name", PAIRS)
def test_every_pair_compiled(strategy, name, precision):
    check(strategy, name, precision)


@pytest.mark.parametrize(
    "kind, precision",
    [
        ("unknown", "float64"),
        *(slow(kind, name) for kind in KINDS for name in TOLERANCE if (kind, name) != ("unknown", "float64")),
    ],
    indirect=["precision"],
)
def test_every_source(kind, precision):
    check("heun", "mlp_with_penalties", precision, kind=kind)


@pytest.mark.slow
@both_precisions
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy, name", [("accumulate_3_heun", "embedding"), ("accumulate_2_heavy_ball", "two_outputs")])
def test_every_source_accumulated(strategy, name, kind, precision):
    check(strategy, name, precision, kind=kind)


@pytest.mark.slow
@both_precisions
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "strategy, name", [("heun", "mlp_with_penalties"), ("accumulate_2", "embedding"), ("sgd", "two_outputs")]
)
def test_every_source_under_xla(strategy, name, kind, precision):
    check(strategy, name, precision, kind=kind, mode="xla")


@float64
def test_the_gradient_is_that_of_the_whole_batch_and_not_the_mean_of_the_pieces(precision):
    case, sizes = MODELS["two_outputs"], [4, 4, 2]
    model = case.compiled(keras.optimizers.SGD(0.0))
    (x, y), weights = case.arrays(10), case.weights(10)
    ends = np.cumsum(sizes)

    def gradient(start, end):
        piece = tf.nest.map_structure(lambda a: a[start:end], (x, y, weights))
        model._symbolic_build(data_batch=piece)
        return loss_and_gradients(model, piece)[1]

    whole = gradient(0, 10)
    mean = [
        tf.add_n(g) / 3 for g in zip(*(gradient(end - size, end) for size, end in zip(sizes, ends, strict=True)), strict=True)
    ]
    trainer = tl.Trainer(model, Recorded(tl.SGD()), micro_batch_size=4, run_eagerly=True)
    trainer.fit(x, y, sample_weight=weights, batch_size=10, shuffle=False, verbose=0)
    found = list(trainer._loops.made.loop.update.memory["last_gradient"].leaves)
    assert relative(found, whole) < 1e-13
    assert relative(mean, whole) > 1e-3


def tagger():
    """A label for each token; padding is masked."""
    table = keras.layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal")
    return keras.Sequential([keras.Input([None], dtype="int64"), table, keras.layers.Dense(3)])


@pytest.mark.slow
@float64
@pytest.mark.parametrize("strategy", [slow("sgd"), "accumulate_2"])
def test_padded_batches_of_different_lengths(strategy, precision):
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    case = ModelCase(tagger, None, lambda: {"loss": cross_entropy})
    rng = np.random.default_rng(0)
    rows = [(rng.integers(1, 9, size=length), rng.integers(3, size=length)) for length in (2, 9, 3, 1, 5, 2, 4)]
    spec = tf.TensorSpec([None], tf.int64)
    data = tf.data.Dataset.from_generator(lambda: rows, output_signature=(spec, spec)).padded_batch(3)
    ends = []
    for size in (None, 2):
        trainer = tl.Trainer(case.compiled(), STRATEGIES[strategy].make(), micro_batch_size=size, jit_compile=False)
        trainer.fit(data, verbose=0)
        ends.append(parameters(trainer.model))
        assert trainer.num_traces == (1 if strategy == "sgd" else 2)  # 3 + 3 + 1 examples
    assert relative(ends[1], ends[0]) < 1e-13
    start = case.compiled()
    start.build([None, None])
    assert relative(parameters(start), ends[0]) > 1e-3  # control: they have moved


@pytest.mark.parametrize(
    "kind, mode, size",
    [
        ("unknown", "graph", 5),
        slow("unknown", "eager", 100),
        slow("arrays", "graph", 5),
        slow("streamed", "graph", 5),
        slow("static", "graph", 5),
        slow("unknown", "xla", 100),
    ],
)
@pytest.mark.slow
def test_pieces_as_large_as_the_batch_change_no_bit(kind, mode, size):
    ends = []
    for micro_batch_size in (None, size):
        trainer, *_ = train(MODELS["cnn"], "sgd", micro_batch_size, mode, kind)  # statistics and masks
        ends.append([v.numpy() for v in (*trainer.model.variables, *trainer.model.optimizer.variables)])
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["arrays", slow("unknown")])
def test_masks_and_statistics_are_those_of_accumulated_batches(kind):
    """Pieces of 3 of batches of 6 are batches of 3, two to an update; with noise, whole batches are another thing."""
    case, ends = MODELS["cnn"], {}
    (x, y) = case.arrays(12)
    for strategy, size, batch_size in ((tl.SGD(), 3, 6), (tl.Accumulate(2), None, 3), (tl.SGD(), None, 6)):
        trainer = tl.Trainer(case.compiled(), strategy, micro_batch_size=size, run_eagerly=True)
        if kind == "arrays":
            trainer.fit(x, y, batch_size=batch_size, verbose=0)
        else:
            trainer.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size), verbose=0)
        ends[size, batch_size] = [v.numpy() for v in trainer.model.variables]
    pieces, batches, whole = ends.values()
    for ours, theirs in zip(pieces, batches, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert relative(whole, batches) > 1e-3


class Met(keras.layers.Layer):
    """Remembers how many examples it was called with."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def _pass(self, x):
        self.sizes.append(len(x))
        return x

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return x
        return tf.ensure_shape(tf.py_function(self._pass, [x], x.dtype), x.shape)


@pytest.mark.parametrize(
    "kind, mode",
    [
        ("arrays", "eager"),
        ("unknown", "graph"),
        *(slow(*pair) for pair in (("arrays", "graph"), ("unknown", "eager"), ("static", "graph"))),
    ],
)
def test_no_more_examples_at_once_and_everything_else_counts_as_before(kind, mode):
    found = []
    for size in (None, 4):
        met = Met()
        case = ModelCase(
            lambda met=met: keras.Sequential([keras.Input([5]), met, keras.layers.Dense(3)]),
            MODELS["mlp_with_penalties"].data,
            MODELS["mlp_with_penalties"].compile,
        )
        heard = []
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs, heard=heard: heard.append((batch, logs)))
        model = case.compiled(keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)))
        trainer = tl.Trainer(model, tl.Accumulate(2), micro_batch_size=size, **MODES[mode])
        x, y = case.arrays(28)
        data = {"x": x, "y": y, "batch_size": 7}
        if kind != "arrays":
            data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(7, drop_remainder=kind == "static")}
        trainer.fit(**data, verbose=0, callbacks=[callback])
        assert max(met.sizes) == (7 if size is None else 4)
        heard = [(batch, {name: pytest.approx(value, rel=1e-5) for name, value in logs.items()}) for batch, logs in heard]
        rate = float(model.optimizer.learning_rate)
        found.append((trainer.iterations, trainer.num_traces, rate, trainer.describe(7), heard))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind, num_traces", [slow("unknown", 1), slow("arrays", 2)])
def test_one_trace_for_all_epochs(kind, num_traces):
    trainer, *_ = train(MODELS["mlp_with_penalties"], "sgd", 2, kind=kind, num_examples=13, epochs=4)
    assert trainer.num_traces == num_traces
