"""Rows looked up where a layer takes rows: everything is as if the whole table had been read, which it is not."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluating import batches_of, build
from small import differ, weights

from trainlab import Accumulate, Heun, Step, StepStrategy, Trainer, Vector
from trainlab.objective import model_function
from trainlab.objective.evaluation import KerasObjective
from trainlab.objective.model_function import ModelFunction
from trainlab.parameters.rows import Rows
from trainlab.parameters.table import Table

layers, ops = keras.layers, keras.ops
NUM_ROWS = 3000
RNG = np.random.default_rng(0)
IDS = RNG.integers(6, size=(24, 4))  # few, so that all are named several times
LABELS = RNG.integers(3, size=24)


def table(**kwargs):
    kwargs = {"embeddings_initializer": keras.initializers.RandomUniform(-1, 1, seed=5), **kwargs}
    return layers.Embedding(NUM_ROWS, 4, **kwargs)


class Own(layers.Layer):
    """Takes rows of its own weight; of an embedding it knows nothing."""

    def __init__(self):
        super().__init__()
        self.inner = table()

    def build(self, shape):
        self.inner.build(shape)

    def call(self, ids):
        return ops.take(self.inner.embeddings, ids - 3, axis=0)  # negative ones count from the end


class Columns(Own):
    def call(self, ids):
        return self.inner(ids) + ops.sum(ops.take(self.inner.embeddings, [1, 3], axis=1)[:5])


class Unused(Own):
    def call(self, ids):
        return ops.cast(ids, "float32")


class InALoop(Own):
    def call(self, ids):
        def body(i, total):
            return i + 1, total + self.inner(ids + i)

        return tf.while_loop(lambda i, _: i < 3, body, (0, tf.zeros([24, 4, 4])), maximum_iterations=3)[1]


class InABranch(Own):
    def call(self, ids):
        return tf.cond(tf.reduce_sum(ids) > 0, lambda: self.inner(ids), lambda: 2 * self.inner(ids + 1))


class Tied(Own):
    """The table is the last layer's kernel too."""

    def call(self, ids):
        return ops.matmul(self.inner(ids), ops.transpose(self.inner.embeddings)[:, :3])


class Vectorized(Own):
    def call(self, ids):
        return tf.vectorized_map(self.inner, ids) + self.inner(ids + 1)


class Stateless(Own):
    """Calls the table's layer with other values too, as a mean teacher does."""

    def call(self, ids):
        zeros = [tf.zeros([NUM_ROWS, 4])]
        other, _ = self.inner.stateless_call(zeros, [], ids)
        return self.inner(ids) + ops.cos(other)


class Doubly(Own):
    def call(self, ids):
        return ops.take(self.inner(ids), ops.convert_to_tensor([0, 0, 3]), axis=0)[:1] + self.inner(ids)


class Cut(Own):
    def call(self, ids):
        return ops.stop_gradient(self.inner(ids)) + self.inner(ids + 1)


def shared():
    ids, embedding = keras.Input([4], dtype="int64"), table()
    joined = layers.Concatenate()([embedding(ids), embedding(ids + 2)])
    return keras.Model(ids, layers.Dense(3)(layers.Flatten()(joined)))


def of(*body):
    return lambda: keras.Sequential([keras.Input([4], dtype="int32"), *(fn() for fn in body), layers.Flatten(), layers.Dense(3)])


def adapted():
    model = of(table)()
    model.layers[0].enable_lora(2)
    model.layers[0].lora_embeddings_b.assign(np.full((2, 4), 0.1))
    return model


# The model; and whether the whole table has to be read.
MODELS = {
    "an embedding": (of(table), False),
    "shared": (shared, False),
    "masked": (of(lambda: table(mask_zero=True), lambda: layers.LSTM(3), lambda: layers.Reshape([3, 1])), False),
    "rows taken by another layer": (of(Own), False),
    "rows of rows": (of(Doubly), False),
    "cut": (of(Cut), False),
    "bfloat16": (of(lambda: table(dtype="mixed_bfloat16")), False),
    "unused": (of(Unused), False),
    "regularized": (of(lambda: table(embeddings_regularizer="l2")), True),
    "constrained": (of(lambda: table(embeddings_constraint=keras.constraints.MaxNorm(0.7))), False),
    "tied": (of(Tied), True),
    "columns": (of(Columns), True),
    "in a loop": (of(InALoop), True),
    "in a branch": (of(InABranch), True),
    "LoRA": (adapted, True),
    "in a vectorized map": (of(Vectorized), True),
    "called with other values": (of(Stateless), False),
}


class InItsOwnLoop(StepStrategy):
    """Half a step, twice, the second looking ahead of the first."""

    evaluations = 2

    def step(self, objective, state):
        here = objective(state.parameters)

        def body(i, point):
            return i + 1, point - 0.5 * state.learning_rate * objective(point).gradient

        _, point = tf.while_loop(lambda i, _: i < 2, body, (0, state.parameters))
        return Step((state.parameters - point) / state.learning_rate, at=here)


class Curved(StepStrategy):
    """A gradient and a product with the Hessian: a tape of the strategy's own round an evaluation."""

    def step(self, objective, state):
        with tf.GradientTape() as tape:
            tape.watch(state.parameters.leaves)
            here = objective(state.parameters)
            squared = here.gradient.dot(here.gradient)
        product = tape.gradient(squared, list(state.parameters.leaves))
        return Step(here.gradient + 0.01 * Vector(tf.convert_to_tensor(p) for p in product), at=here)


class Slow(StepStrategy):
    """Keeps where it was."""

    def init(self, parameters):
        return {"before": parameters}

    def step(self, objective, state):
        here = objective(state.parameters)
        back = state.memory["before"] - state.parameters
        return Step(here.gradient + 0.1 * back, at=here, memory={"before": state.parameters})


class FromRows(StepStrategy):
    """Evaluates where only some rows of the table are not zero."""

    evaluations = 2

    def step(self, objective, state):
        here = objective(state.parameters)
        return Step(objective(0.5 * here.gradient).gradient + here.gradient, at=here)


class LearnsItsRate(StepStrategy):
    """A derivative with respect to the length of a step, by a tape of its own round a point that moved."""

    evaluations = 3

    def step(self, objective, state):
        here = objective(state.parameters)
        length = tf.constant(0.5)
        with tf.GradientTape() as tape:
            tape.watch(length)
            point = state.parameters - length * here.gradient
            with tape.stop_recording():
                point.norm()
            there = objective(point)
        inner = tape.gradient(list(point.leaves), length, output_gradients=list(there.gradient.map(tf.identity).leaves))
        return Step(here.gradient * (1.0 + inner), at=here)


STRATEGIES = {
    "from rows": FromRows,
    "learns its rate": LearnsItsRate,
    "heun": Heun,
    "accumulate": lambda: Accumulate(2),
    "accumulate_heun": lambda: Accumulate(3, Heun()),
    "in its own loop": InItsOwnLoop,
    "curved": Curved,
    "slow": Slow,
}


def trained(make, strategy=None, optimizer=None, jit_compile=False, batch_size=8, **kwargs):
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer or keras.optimizers.SGD(0.2), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs)
    trainer = Trainer(model, strategy, jit_compile=jit_compile)
    size = 24 if make is MODELS["in a loop"][0] else batch_size
    trainer.fit(IDS, LABELS, batch_size=size, epochs=2, verbose=0)
    return weights(model)


def whole_tables(monkeypatch):
    monkeypatch.setattr(model_function, "_tables", lambda model: set())


def assert_close(a, b):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


@pytest.fixture
def made(monkeypatch):
    """The tables that are made as a whole."""
    found = []
    original = Table.to_dense

    def to_dense(self):
        found.append(self)
        return original(self)

    monkeypatch.setattr(Table, "to_dense", to_dense)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_training_is_as_if_the_whole_had_been_read(name, monkeypatch, made):
    make, is_made = MODELS[name]
    ours = trained(make)
    assert (len(made) > 0) == is_made
    whole_tables(monkeypatch)
    theirs = trained(make)
    assert_close(ours, theirs)
    keras.utils.set_random_seed(1)
    assert differ(ours, weights(make()))  # something was learnt


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["an embedding", "shared", "regularized", "tied"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.slow
def test_strategies_are_as_if_the_whole_had_been_read(strategy, name, jit_compile, monkeypatch):
    ours = trained(MODELS[name][0], STRATEGIES[strategy](), jit_compile=jit_compile)
    whole_tables(monkeypatch)
    theirs = trained(MODELS[name][0], STRATEGIES[strategy](), jit_compile=jit_compile)
    assert_close(ours, theirs)
    assert differ(ours, trained(MODELS[name][0], jit_compile=jit_compile))  # from those of a plain step


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies_of_an_embedding(strategy, monkeypatch):
    ours = trained(MODELS["shared"][0], STRATEGIES[strategy]())
    whole_tables(monkeypatch)
    assert_close(ours, trained(MODELS["shared"][0], STRATEGIES[strategy]()))


@pytest.mark.parametrize("strategy", ["heun", "accumulate", "accumulate_heun"])
def test_neither_evaluation_reads_the_whole(strategy, made):
    trained(MODELS["an embedding"][0], STRATEGIES[strategy]())
    assert not made


@pytest.mark.slow
def test_an_optimizer_with_state_of_the_tables_size(monkeypatch):
    ours = trained(MODELS["shared"][0], Heun(), keras.optimizers.Adam(0.01))
    whole_tables(monkeypatch)
    assert_close(ours, trained(MODELS["shared"][0], Heun(), keras.optimizers.Adam(0.01)))


def test_two_evaluations_of_the_same_rows_are_as_many_rows_as_one():
    shapes = []

    class Seen(Heun):
        def step(self, objective, state):
            step = super().step(objective, state)
            shapes.append(step.gradient.leaves[0].indices.shape)
            assert isinstance(step.gradient.leaves[0], Rows)
            return step

    trained(MODELS["an embedding"][0], Seen())
    assert set(map(tuple, shapes)) == {(8 * 4,)}


def test_an_id_that_is_none_of_the_tables_is_an_error():
    ids = IDS.copy()
    ids[5, 2] = NUM_ROWS
    model = MODELS["an embedding"][0]()
    model.compile("sgd", "mse")
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=rf"{NUM_ROWS}\]? (is not in|does not index into)"):
        Trainer(model, Heun(), jit_compile=False).fit(ids, np.ones((24, 3)), verbose=0)


def test_a_loop_that_discovers_what_it_carries_does_not_run_for_nothing():
    """Without XLA a loop that looks up rows is not pruned, even if nobody needs what it finds."""
    model = MODELS["an embedding"][0]()
    model.compile("sgd", "mse", metrics=["mae"])
    data = [(tf.constant(IDS[:8]), tf.ones([8, 3]), None)] * 3
    function = ModelFunction(build(model, data))

    def call():
        evaluation = KerasObjective(function, batches_of(data))(function.read_parameters())
        return evaluation.loss, evaluation.gradient.leaves[0].values

    graph = tf.function(call, autograph=False).get_concrete_function().graph
    assert sum(op.type in ("While", "StatelessWhile") for op in graph.get_operations()) == 1
    assert function.sparse == {0} and len(function.changing) > 2  # there was something to discover


def test_to_print_a_vector_reads_nothing(made):
    class Prints(Heun):
        def step(self, objective, state):
            assert repr(state.parameters).startswith("Vector(3 leaves")
            return super().step(objective, state)

    trained(MODELS["an embedding"][0], Prints())
    assert not made


def test_other_threads_take_as_ever(monkeypatch):
    """While one traces, another takes rows of the same variable."""
    keras.utils.set_random_seed(1)
    seen = []

    class Calls(Own):
        def call(self, ids):
            def elsewhere():
                seen.append(np.asarray(ops.take(self.inner.embeddings, np.array([1, 2]), axis=0)))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            return self.inner(ids)

    model = of(Calls)()
    model.compile("sgd", "mse")
    start = weights(model)[0]
    Trainer(model).fit(IDS, np.ones((24, 3)), batch_size=24, verbose=0)
    assert len(seen) > 0
    np.testing.assert_array_equal(seen[0], start[[1, 2]])
