"""A loss that is linear in each weight: no gradient depends on its own weight, and yet each step uses the old ones.

An order that is left to chance may come out right. Values are compared with what is computed eagerly; and in the graph that
TensorFlow's optimizer has left nothing may be read that is assigned before or after it, as it happens.
"""

import collections
import contextlib
import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import context

import trainlab as tl
from trainlab.loop import update as update_module
from trainlab.loop.ordering import groups_bypassed, may_be_lost

A = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], "float32")
STARTS = {"x": [0.5, -2.0], "y": [1.0, 0.25, 3.0], "z": [2.0, -1.0]}


def plainly(x, y):
    return x, y


class Linear(keras.Model):
    """`x . A y + x . z`: linear in each weight; `through` is what `x` and `y` are led through."""

    def __init__(self, through=plainly):
        super().__init__()
        self.through = through
        for name, start in STARTS.items():
            setattr(self, name, self.add_weight(shape=(len(start),), name=name))
            getattr(self, name).assign(start)
        self.built = True

    def call(self, inputs):
        return inputs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        left, right = self.through(ops.convert_to_tensor(self.x), ops.convert_to_tensor(self.y))
        return ops.sum(left * ops.matmul(A, right)) + ops.sum(left * ops.convert_to_tensor(self.z))


class Product(keras.Model):
    """The sum of `x1 * x2 * ... * xk`."""

    def __init__(self, num_factors):
        super().__init__()
        self.factors = [self.add_weight(shape=(2,), name=f"x{i}") for i in range(num_factors)]
        for i, factor in enumerate(self.factors):
            factor.assign([1.0 + 0.25 * i, 1.5 - 0.25 * i])
        self.built = True

    def call(self, inputs):
        return inputs

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        product = ops.ones([2])
        for factor in self.factors:
            product *= ops.convert_to_tensor(factor)
        return ops.sum(product)


class Rows(keras.Model):
    """`e[0] . y + e[2] . y` of a table that is looked up: its gradient is row-sparse."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(4, 3, embeddings_initializer=keras.initializers.Constant(0.5))
        self.table.build()
        self.y = self.add_weight(shape=(3,), name="y")
        self.y.assign(STARTS["y"])
        self.built = True

    def call(self, inputs):
        return self.table(np.array([0, 2]))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(y_pred * ops.convert_to_tensor(self.y))


class OwnStep(Linear):
    """The same by a `train_step` of its own."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_loss()
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return {"loss": loss}


class Grouping(tl.StepStrategy):
    """The gradient, whose leaves are sent through one group."""

    evaluations = 1

    def step(self, objective, state):
        here = objective(state.parameters)
        leaves = iter(tf.identity_n(list(here.gradient.leaves)))
        return tl.Step(here.gradient.map(lambda _: next(leaves)), at=here)


class Hook(keras.callbacks.Callback):
    """It makes every update a call, which tells results besides."""

    def on_train_batch_end(self, batch, logs=None):
        pass


def sgd():
    return keras.optimizers.SGD(0.1)


OPTIMIZERS = {
    "sgd": sgd,
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.5),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.5, nesterov=True),
    "clipped": lambda: keras.optimizers.SGD(0.1, global_clipnorm=1.0),
    "clipped one by one": lambda: keras.optimizers.SGD(0.1, clipnorm=1.0),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "averaged": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=8.0),
}
STRATEGIES = {
    "sgd": tl.SGD(),
    "heun": tl.Heun(),
    "extragradient": tl.Extragradient(),
    "optimistic": tl.OptimisticGradient(),
    "lookahead": tl.Lookahead(2, 0.5),
    "accumulate 2": tl.Accumulate(2),
    "accumulate 3 heun": tl.Accumulate(3, tl.Heun()),
    "accumulate 20 in a loop": tl.Accumulate(20),
    "accumulate 2 lookahead": tl.Accumulate(2, tl.Lookahead(2, 0.5)),
    "adaptive": tl.AdaptiveStep("heun", 0.05),
    "sam": tl.Sam(0.05),
}


def trained(strategy, optimizer, make=Linear, size=1, **mode):
    """The weights, one after the other, after three updates of batches of `size` examples."""
    model = make()
    model.compile(optimizer=optimizer(), jit_compile=False)
    trainer = tl.Trainer(model, strategy, **mode)
    trainer.fit(np.zeros([3 * size * strategy.batches, 1]), batch_size=size, verbose=0)
    return np.concatenate([weight.numpy().ravel() for weight in model.trainable_variables])


def assert_old_weights(strategy, optimizer, make=Linear, size=1, tries=3, **mode):
    # One device, eagerly and in whole batches, is the truth.
    assert_same(trained(strategy, optimizer, make, size, run_eagerly=True), strategy, optimizer, make, size, tries, **mode)


def assert_same(expected, strategy, optimizer, make=Linear, size=1, tries=3, **mode):
    for _ in range(tries):
        np.testing.assert_allclose(trained(strategy, optimizer, make, size, **mode), expected, rtol=1e-5)


def unordered(graph):
    """Reads and assignments of one variable in the loop over updates: the number of pairs, and those without an order."""
    nodes = {node.name: node for node in graph.node}

    def inputs(name):
        found = (re.sub(r"^\^|:\d+$", "", each) for each in nodes[name].input)
        return [each for each in found if not each.startswith("while/next_iteration")]  # which is the next update

    def before(name):
        waiting, seen = inputs(name), set()
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                waiting += inputs(each)
        return seen

    def resource(name):
        while nodes[name].op != "_Arg":
            name = inputs(name)[0]
        return name

    reads = [name for name, node in nodes.items() if node.op in ("ReadVariableOp", "ResourceGather") and "/body/" in name]
    kinds = r"Assign.*VariableOp|ResourceScatter\w+"
    assigns = [name for name, node in nodes.items() if re.fullmatch(kinds, node.op) and "/body/" in name]
    pairs = [pair for pair in itertools.product(reads, assigns) if len({resource(inputs(name)[0]) for name in pair}) == 1]
    earlier = {name: before(name) for pair in pairs for name in pair}
    # A loop over batches inside has a frame of its own: what is in it waits for what goes into it.
    return len(pairs), [(a, b) for a, b in pairs if a not in earlier[b] and b not in earlier[a]]


def found_unordered(strategy, optimizer, make=Linear, **mode):
    with context.collect_graphs() as graphs:  # of the functions that are called, as TensorFlow's optimizer left them
        trained(strategy, optimizer, make, **mode)
    found = [unordered(graph) for graph in graphs]
    assert max(num_pairs for num_pairs, _ in found) >= 3
    return [pair for _, pairs in found for pair in pairs]


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name):
    assert_old_weights(STRATEGIES[name], sgd)
    assert found_unordered(STRATEGIES[name], sgd) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
def test_optimizers(name, strategy):
    assert_old_weights(STRATEGIES[strategy], OPTIMIZERS[name], tries=2)
    if name not in ("averaged", "scaled"):  # with branches, of which only one is taken
        assert found_unordered(STRATEGIES[strategy], OPTIMIZERS[name]) == []


@pytest.mark.parametrize("num_factors", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
def test_products_of_several(num_factors, strategy):
    assert_old_weights(STRATEGIES[strategy], sgd, lambda: Product(num_factors), tries=2)


@pytest.mark.parametrize("strategy", ["sgd", "heun", "accumulate 2"])
def test_rows_of_a_table(strategy):
    assert_old_weights(STRATEGIES[strategy], sgd, Rows)
    assert found_unordered(STRATEGIES[strategy], sgd, Rows) == []


@pytest.mark.parametrize("strategy", ["sgd", "heun", "accumulate 2"])
def test_batches_in_pieces(strategy):
    assert_old_weights(STRATEGIES[strategy], sgd, size=4, micro_batch_size=2)


@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
def test_several_replicas(strategy):
    distribute = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert_old_weights(STRATEGIES[strategy], sgd, size=2, distribute=distribute)


@pytest.mark.parametrize("strategy", ["sgd", "heun", "accumulate 2"])
def test_a_train_step_of_ones_own(strategy):  # which is not run eagerly
    assert_same(trained(STRATEGIES[strategy], sgd, run_eagerly=True), STRATEGIES[strategy], sgd, OwnStep, tries=2)


@pytest.mark.parametrize("strategy", [Grouping(), tl.Accumulate(2, Grouping())])
def test_a_strategy_with_a_group(strategy):
    assert_old_weights(strategy, sgd)


@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
@pytest.mark.parametrize("how", ["stream", "hook"])
def test_streams_and_batch_hooks(how, strategy):
    def fit(**mode):
        model, strategy_ = Linear(), STRATEGIES[strategy]
        model.compile(optimizer=sgd(), jit_compile=False)
        x = np.zeros([3 * strategy_.batches, 1])
        given = {"x": tf.data.Dataset.from_tensor_slices(x).batch(1)} if how == "stream" else {"x": x, "batch_size": 1}
        trainer = tl.Trainer(model, strategy_, **mode)
        losses = trainer.fit(**given, verbose=0, callbacks=[Hook()] if how == "hook" else []).history["loss"]
        return np.concatenate([losses, *(weight.numpy() for weight in model.trainable_variables)])

    expected = fit(run_eagerly=True)
    for _ in range(3):
        np.testing.assert_allclose(fit(), expected, rtol=1e-5)


def in_a_group(x, y):
    return tf.identity_n([x, y])


def in_a_function(x, y):
    return tf.function(in_a_group)(x, y)


def in_a_branch(x, y):
    return tf.cond(tf.reduce_sum(y) < 1e6, lambda: tuple(tf.identity_n([x, y])), lambda: (x, y))


def in_a_loop(x, y):
    return tf.while_loop(lambda i, *_: i < 2, lambda i, *xy: (i + 1, *tf.identity_n(xy)), (tf.constant(0), x, y))[1:]


@tf.custom_gradient
def _passed_on(x, y):
    def gradient(*upstream, variables=()):
        return list(upstream), [None] * len(variables)

    return (tf.identity(x), tf.identity(y)), gradient


def by_a_gradient_of_its_own(x, y):
    return _passed_on(x, y)


@pytest.mark.parametrize("through", [in_a_group, in_a_function, in_a_branch, in_a_loop, by_a_gradient_of_its_own])
@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
def test_groups_of_the_models_own(through, strategy):
    assert_old_weights(STRATEGIES[strategy], sgd, lambda: Linear(through))


@pytest.mark.parametrize("strategy", ["sgd", "accumulate 2"])
class TestControls:
    def test_without_the_bypass_the_order_is_lost(self, strategy, monkeypatch):
        monkeypatch.setattr(update_module, "groups_bypassed", contextlib.nullcontext)
        monkeypatch.setattr(update_module, "may_be_lost", lambda graph: False)
        assert found_unordered(STRATEGIES[strategy], sgd) != []
        expected = trained(STRATEGIES[strategy], sgd, run_eagerly=True)
        tries = (trained(STRATEGIES[strategy], sgd) for _ in range(20))
        assert tf.config.list_physical_devices("GPU") or any(not np.allclose(weights, expected, rtol=1e-5) for weights in tries)

    def test_without_it_the_optimizer_is_kept_from_losing_it(self, strategy, monkeypatch):
        monkeypatch.setattr(update_module, "groups_bypassed", contextlib.nullcontext)
        assert_old_weights(STRATEGIES[strategy], sgd)
        assert found_unordered(STRATEGIES[strategy], sgd) == []


def test_without_looking_for_them_a_group_of_the_models_own_is_not_harmless(monkeypatch):
    monkeypatch.setattr(update_module, "may_be_lost", lambda graph: False)
    assert found_unordered(tl.Accumulate(2), sgd, lambda: Linear(in_a_group)) != []


def traced(fn, *args):
    return tf.function(fn, autograph=False).get_concrete_function(*args)


class TestGroupsBypassed:
    def test_values_stay_and_nothing_goes_through(self):
        @tf.function(autograph=False)
        def step(x, y):
            before = tf.identity_n([x, y])
            with groups_bypassed():
                inside = tf.identity_n([before[0], before[1] * 2.0])
                sums = inside[0] + inside[0] * inside[1]
            assert [tensor.op.type for tensor in sums.op.inputs] == ["IdentityN", "Mul"]
            assert sums.op.inputs[0] is before[0]
            assert not any(output.consumers() for output in inside)
            return sums

        assert float(step(3.0, 4.0)) == 27.0

    def test_eagerly_there_is_nothing_to_do(self):
        with groups_bypassed():
            x, y = tf.identity_n([tf.constant(3.0), tf.constant(4.0)])
        assert float(x * y) == 12.0


class TestMayBeLost:
    def test_only_what_goes_in_here_and_comes_out_there(self):
        x, y = tf.Variable(2.0), tf.Variable(3.0)
        cases = {
            "both": (lambda: sum(tf.identity_n([x, y])), True),
            "one": (lambda: tf.identity_n([x])[0], False),
            "unused": (lambda: [tf.identity_n([x, y]), x * y][1], False),
            "returned": (lambda: tf.identity_n([x, y])[1], True),
            "waited for": (lambda: _after(tf.identity_n([x, y])[0], x * y), True),
            "a result and its argument": (lambda: tf.nn.silu(x) + tf.nn.silu(y), False),
            "with a constant": (lambda: tf.identity_n([x.read_value(), tf.constant(2.0)])[0], False),
            "of a function": (lambda: sum(tf.identity_n(tf.function(lambda: (x + 1.0, y + 1.0))())), True),
            "one in the other": (lambda: tf.identity_n([tf.identity_n([x, y])[0], x.read_value()])[0], True),
            "in a branch": (lambda: tf.cond(x > 0, lambda: sum(tf.identity_n([x, y])), lambda: 0.0), True),
            "in a function": (lambda: tf.function(lambda: sum(tf.identity_n([x, y])))(), True),
            "under XLA": (lambda: tf.function(lambda: sum(tf.identity_n([x, y])), jit_compile=True)(), False),
        }
        for name, (fn, expected) in cases.items():
            assert may_be_lost(traced(fn).graph) is expected, name

    @pytest.mark.slow
    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_ordinary_models_have_nothing_to_lose(self, jit_compile):
        layers = [keras.layers.Dense(4, "silu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
        layers += [keras.layers.Reshape([2, 2]), keras.layers.LSTM(3, activation="silu"), keras.layers.Dense(2, "softmax")]
        model = keras.Sequential([keras.Input([3]), *layers])
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", jit_compile=jit_compile)
        trainer = tl.Trainer(model, tl.Accumulate(2, tl.Heun()))
        trainer.fit(np.ones([8, 3]), np.zeros([8]), batch_size=2, verbose=0)
        assert not trainer._loop().update.orders_may_be_lost


@pytest.mark.slow
def test_of_an_ordinary_model_it_is_the_same_program(monkeypatch):
    def program():
        model = keras.Sequential([keras.Input([3]), keras.layers.Dense(4, "silu"), keras.layers.Dense(1)])
        model.compile(optimizer="adam", loss="mse", jit_compile=False)
        with context.collect_graphs() as graphs:
            tl.Trainer(model).fit(np.ones([4, 3]), np.ones([4]), batch_size=2, verbose=0)
        updates = [graph for graph in graphs if unordered(graph)[0]]
        return [collections.Counter(node.op for node in graph.node) for graph in updates]

    bypassed = program()
    monkeypatch.setattr(update_module, "groups_bypassed", contextlib.nullcontext)
    monkeypatch.setattr(update_module, "may_be_lost", lambda graph: False)
    assert len(bypassed) == 1 and bypassed == program()


def _after(tensor, other):
    with tf.control_dependencies([tensor]):
        return tf.identity(other)
