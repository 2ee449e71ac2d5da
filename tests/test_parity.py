"""A plain Trainer is `keras.Model.fit`: same losses, metrics and weights, for the same data in the same order."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import groups, parameters, plain_step, relative
from keras import layers
from tables import MODELS, take

import trainlab as tl

# Of the way gone. Adam divides by the gradient's size: where the gradient is zero but for rounding (a bias before a
# normalization), so large an epsilon keeps that from moving a weight as far as any.
TOLERANCE = {"sgd": 1e-5, "adam": 1e-5}
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01, epsilon=1e-3),
}
N, FIT = 10, {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}


def compare(make, fit, tolerance, **trainer):
    """Trains two equal models, by Keras and by a Trainer; `fit` makes the arguments anew for each."""
    ours, theirs = make(), make()
    start = None
    if theirs.built:
        start = parameters(theirs)
    history = tl.Trainer(ours, **trainer).fit(**fit()).history
    expected = theirs.fit(**fit()).history
    assert set(history) == set(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=20 * tolerance, abs=1e-6), name
    moved = parameters(theirs) - start if start is not None else parameters(theirs)
    assert relative(parameters(ours), parameters(theirs), of=moved) < tolerance
    for a, b in zip(ours.non_trainable_variables, theirs.non_trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=20 * tolerance, atol=1e-6)
    assert ours.optimizer.iterations.numpy() == theirs.optimizer.iterations.numpy()
    return ours, history, moved


# Not Adam on the embedding: Keras' squares duplicate rows one by one, see below.
PAIRS = [(name, "sgd") for name in MODELS] + [(name, "adam") for name in MODELS if not MODELS[name].is_sparse]
SLOW = {("lstm", "adam"), ("transformer", "adam"), ("cnn", "adam")}


@pytest.mark.parametrize("name, optimizer", [pytest.param(*p, marks=pytest.mark.slow if p in SLOW else ()) for p in PAIRS])
def test_every_model(name, optimizer):
    case = MODELS[name]
    # In Keras' graphs, each batch weighs the same in the losses of several outputs: let them be of one size there.
    n = 8 if name == "two_outputs" else N
    weights = case.weights(n)

    def fit():
        x, y = case.arrays(n)
        held_out = (*case.arrays(6, seed=8), case.weights(6)) if y is not None else (case.arrays(6, seed=8)[0],)
        return {"x": x, "y": y, "sample_weight": weights, "validation_data": held_out, **FIT}

    _, history, _ = compare(lambda: case.compiled(OPTIMIZERS[optimizer]()), fit, TOLERANCE[optimizer])
    assert "val_loss" in history and len(history["loss"]) == FIT["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_the_tolerance_tells_apart(optimizer):
    """Control: a learning rate higher by a thousandth; and training without the weights."""
    case, ends = MODELS["mlp_with_penalties"], []
    (x, y), weights = case.arrays(N), case.weights(N)
    for factor, sample_weight in ((1.0, weights), (1.001, weights), (1.0, None)):
        model = case.compiled(OPTIMIZERS[optimizer](), run_eagerly=True)
        model.optimizer.learning_rate = float(model.optimizer.learning_rate) * factor
        model.build([None, 5])
        start = parameters(model)
        model.fit(x, y, sample_weight=sample_weight, **FIT)
        ends.append(parameters(model) - start)
    assert relative(ends[1], ends[0]) > 30 * TOLERANCE[optimizer]
    assert relative(ends[2], ends[0]) > 1000 * TOLERANCE[optimizer]


@pytest.mark.slow
@pytest.mark.parametrize("name, jit_compile", [("Adam", False), ("Adam", True), ("RMSprop", False), ("Adagrad", False)])
def test_adaptive_optimizers_on_an_embedding_see_duplicate_rows_summed(name, jit_compile):
    """Against a loop by hand that sums them; Keras squares them one by one."""
    case = MODELS["embedding"]
    data = (*case.arrays(N), None)
    x, y, _ = data
    make = lambda: case.compiled(getattr(keras.optimizers, name)(0.01))  # noqa: E731
    ours, theirs, by_keras = make(), make(), make()
    start = parameters(ours)
    tl.Trainer(ours, jit_compile=jit_compile).fit(x, y, **FIT)
    step = plain_step(theirs)
    for _ in range(FIT["epochs"]):
        for [batch] in groups(data, FIT["batch_size"], 1):
            step(batch)
    by_keras.fit(x, y, **FIT)
    moved = parameters(theirs) - start
    assert relative(parameters(ours), parameters(theirs), of=moved) < TOLERANCE["adam"]
    assert relative(parameters(by_keras), parameters(theirs), of=moved) > 1e-2  # control


def dense(optimizer, **kwargs):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input([4]), layers.Dense(5, activation="tanh"), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False, **kwargs)
    return model


def labelled(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 4)).astype("float32"), rng.integers(3, size=n)


def keras_optimizers():
    """All that Keras exports and that are optimizers by themselves."""
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap"}
    found = {name: getattr(keras.optimizers, name) for name in dir(keras.optimizers) if name not in wrappers}
    return {name: cls for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, keras.Optimizer)}


@pytest.mark.slow
@pytest.mark.parametrize("name", keras_optimizers())
def test_every_optimizer_of_keras(name):
    def fit():
        x, y = labelled()
        return {"x": x, "y": y, **FIT}

    # Eagerly both, for the time it takes; compiled is eager, says test_compiled.
    make = lambda: dense(keras_optimizers()[name](0.01), run_eagerly=True)  # noqa: E731
    _, history, moved = compare(make, fit, TOLERANCE["adam"])
    assert history["loss"][-1] != history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.1, nesterov=True, momentum=0.5, clipnorm=0.5),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.3),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=4),
        lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.8),
        lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.0, 9, warmup_target=0.2, warmup_steps=3)),
    ],
    ids=["clipnorm", "decay", "overwriting average", "average", "schedule from 0"],
)
def test_what_optimizers_do_besides(optimizer):
    def fit():
        x, y = labelled()
        return {"x": x, "y": y, **FIT}

    compare(lambda: dense(optimizer(), run_eagerly=True), fit, TOLERANCE["adam"])


VARIANTS = {
    "class weights": {"class_weight": {0: 0.5, 1: 2.0, 2: 1.25}},
    "sample weights": {"sample_weight": np.linspace(0.1, 2, N)},
    "validation split": {"validation_split": 0.3},
    "validation frequency": {"validation_data": labelled(6, 1), "validation_freq": 2, "validation_batch_size": 4},
    "validation steps": {"validation_data": labelled(8, 1), "validation_steps": 1, "validation_batch_size": 3},
    "weighted validation": {"validation_data": (*labelled(6, 1), np.linspace(1, 3, 6))},
    "initial epoch": {"initial_epoch": 1},
    "one batch": {"batch_size": N},
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)
def test_arguments_of_fit(arguments):
    def fit():
        x, y = labelled()
        return {"x": x, "y": y, **FIT, **arguments}

    def make():
        weighted = [keras.metrics.SparseCategoricalAccuracy(name="weighted")]
        return dense(OPTIMIZERS["adam"](), weighted_metrics=weighted, run_eagerly=True)

    compare(make, fit, TOLERANCE["adam"])


@pytest.mark.slow
def test_weighted_metrics_are_weighted():
    """Control: the weights of the comparison above matter to the metric."""
    (x, y), logs = labelled(), []
    for weights in (None, np.linspace(0.1, 2, N)):
        model = dense(keras.optimizers.SGD(0.0), weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")])
        logs.append(tl.Trainer(model).fit(x, y, sample_weight=weights, **FIT).history)
    assert logs[0]["accuracy"] == logs[1]["accuracy"]
    assert logs[0]["weighted"] != pytest.approx(logs[1]["weighted"], rel=1e-3)


class Pieces(keras.utils.PyDataset):
    """Batches of the arrays, the last one smaller."""

    def __init__(self, arrays, batch_size):
        super().__init__()
        self.arrays, self.batch_size = arrays, batch_size

    def __len__(self):
        return math.ceil(len(self.arrays[0]) / self.batch_size)

    def __getitem__(self, index):
        return take(self.arrays, slice(index * self.batch_size, (index + 1) * self.batch_size))


SOURCES = {
    "tf.data": lambda arrays: tf.data.Dataset.from_tensor_slices(arrays).batch(4),
    "PyDataset": lambda arrays: Pieces(arrays, 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_other_sources(source, weighted):
    arrays = (*labelled(), *([np.linspace(0.1, 2, N, dtype="float32")] if weighted else []))

    def fit():
        return {"x": source(arrays), "validation_data": source(arrays), "epochs": 3, "shuffle": False, "verbose": 0}

    compare(lambda: dense(OPTIMIZERS["adam"]()), fit, TOLERANCE["adam"])


@pytest.mark.slow
def test_a_pipeline_of_unknown_size_is_one_of_known_size():
    """Keras itself takes a step too many there at each epoch's end: its iterations count it, and Adam and momentum go on."""
    ours, theirs = dense(OPTIMIZERS["adam"]()), dense(OPTIMIZERS["adam"]())
    fit = {"epochs": 3, "shuffle": False, "verbose": 0}
    unknown = SOURCES["tf.data"](labelled()).filter(lambda x, y: True)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    history = tl.Trainer(ours).fit(unknown, **fit).history
    expected = theirs.fit(SOURCES["tf.data"](labelled()), **fit).history
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert relative(parameters(ours), parameters(theirs)) < TOLERANCE["adam"]
    assert ours.optimizer.iterations.numpy() == theirs.optimizer.iterations.numpy() == 9


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_other_sources_give_what_arrays_give(source):
    (x, y), ends = labelled(), []
    for strategy in (tl.SGD(), tl.Accumulate(2, tl.Heun())):
        for data in ({"x": x, "y": y, "batch_size": 4}, {"x": source((x, y))}):
            model = dense(OPTIMIZERS["sgd"]())
            tl.Trainer(model, strategy, run_eagerly=True).fit(**data, epochs=2, shuffle=False, verbose=0)
            ends.append(parameters(model))
    assert relative(ends[0], ends[1]) < 1e-6 and relative(ends[2], ends[3]) < 1e-6
    assert relative(ends[0], ends[2]) > 1e-3  # control


@pytest.mark.slow
def test_class_weights_of_a_pipeline():
    def fit():
        return {"x": SOURCES["tf.data"](labelled()), "class_weight": {0: 0.5, 2: 3.0}, "shuffle": False, "verbose": 0}

    compare(lambda: dense(OPTIMIZERS["sgd"]()), fit, TOLERANCE["sgd"])


@pytest.mark.slow
def test_shuffled_training_is_another_order():
    """Control: with shuffle=True the two take their own orders, and the comparison sees it."""
    x, y = labelled()
    ends = []
    for shuffle in (False, True):
        model = dense(OPTIMIZERS["sgd"]())
        tl.Trainer(model).fit(x, y, **{**FIT, "shuffle": shuffle})
        ends.append(parameters(model))
    assert relative(*ends) > 1e-3
