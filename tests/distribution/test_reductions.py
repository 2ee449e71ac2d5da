"""Counted in the traced graph: what several devices or processes add up, they add up once an evaluation."""

import functools
from types import SimpleNamespace
from unittest import mock

import pytest
import tensorflow as tf
from evaluating import batches_of, build
from tables import MODELS, STRATEGIES

import trainlab as tl
from trainlab.distribution import Replicas, divided
from trainlab.distribution.workers import Collectives
from trainlab.distribution.workers import collectives as shared
from trainlab.objective import KerasObjective, ModelFunction
from trainlab.strategies import State

SIZE = 6
COLLECTIVE = ("CollectiveReduceV2", "CollectiveGatherV2")


def traced(name, strategy, replicas, weigh=False, num_batches=1):
    """The graph of one step of a strategy on ragged batches, and the model's function."""
    case = MODELS[name]
    (x, y), w = case.arrays(SIZE * num_batches), case.weights(SIZE * num_batches)
    data = []
    for i in range(num_batches):
        rows = slice(i * SIZE, (i + 1) * SIZE - (i == num_batches - 1 and num_batches > 1))
        data.append(
            tf.nest.map_structure(lambda leaf, rows=rows: None if leaf is None else leaf[rows], (x, y, w if weigh else None))
        )
    model = build(case.compiled(), data)
    function = ModelFunction(model)
    parameters = function.read_parameters()
    memory = strategy.init(parameters)

    def step():
        objective = KerasObjective(function, batches_of(data), functools.partial(divided, replicas, None))
        state = State(function.read_parameters(), tf.constant(0.1), tf.constant(0, tf.int64), tf.constant([0, 0]), memory)
        taken = strategy.step(objective, state)
        return taken.gradient.leaves, taken.at.loss

    return tf.function(step, autograph=False).get_concrete_function().graph, function


def workers(number=2):
    """The first of so many processes; the others are not there, for nothing is run."""
    return Replicas(("CPU:0",), number, 0, SimpleNamespace(collectives=Collectives(number, 0, 8)))


def mirrored(number):
    return Replicas(tuple(f"CPU:{i}" for i in range(number)), number)


def bodies(graph):
    """The graph, and those of all functions that it calls."""
    yield graph
    for definition in graph.as_graph_def().library.function:
        yield SimpleNamespace(get_operations=lambda nodes=definition.node_def: nodes)


def collectives(graph):
    """Collective operations by kind and dtype; none may be in a function, where a loop or a branch could repeat it."""
    found = [op for op in graph.get_operations() if op.type in COLLECTIVE]
    inside = [node for body in bodies(graph) if body is not graph for node in body.get_operations() if node.op in COLLECTIVE]
    assert not inside
    counted = {}
    for op in found:
        merge = op.get_attr("merge_op").decode() if "Reduce" in op.type else ""
        key = op.type.removeprefix("Collective").removesuffix("V2"), op.get_attr("T").name, merge
        counted[key] = counted.get(key, 0) + 1
    return counted


def expected(function, evaluations, totals=0):
    """One sum a dtype an evaluation; of a table's rows how many there are at most, and their values and indices."""
    carrier = lambda dtype: dtype if dtype.is_floating or dtype in (tf.int32, tf.int64) else tf.int64  # noqa: E731
    dense = [tf.as_dtype(v.dtype) for i, v in enumerate(function.variables) if i not in function.sparse]
    changing = [tf.as_dtype(v.dtype) for v in function.changing.values()]
    counted = {}

    def add(key, times):
        if times:
            counted[key] = counted.get(key, 0) + times

    for dtype in {tf.float32, *dense, *changing}:
        add(("Reduce", carrier(dtype).name, "Add"), evaluations)
    add(("Reduce", "float32", "Add"), totals)
    tables = len(function.sparse)
    add(("Reduce", "int64", "Max"), tables * evaluations)
    add(("Gather", "float32", ""), tables * evaluations)
    add(("Gather", "int64", ""), tables * evaluations)
    return counted


@pytest.mark.parametrize(
    "name, strategy, num_batches, weigh",
    [
        ("mlp_with_penalties", "sgd", 1, False),
        ("mlp_with_penalties", "accumulate_3_heun", 3, True),
        ("two_outputs", "sam", 1, True),
        ("embedding", "heun", 1, False),
        pytest.param("cnn", "midpoint", 1, False, marks=pytest.mark.slow),
        pytest.param("lstm", "accumulate_2_heavy_ball", 2, True, marks=pytest.mark.slow),
        pytest.param("transformer", "accumulate_3_heun", 3, False, marks=pytest.mark.slow),
    ],
)
def test_workers_reduce_once_an_evaluation_and_dtype(name, strategy, num_batches, weigh):
    made = STRATEGIES[strategy].make()
    graph, function = traced(name, made, workers(), weigh, num_batches)
    found = collectives(graph)
    # Denominators that no shape tells are added up before, once an update.
    by_weights = found.get(("Reduce", "float32", "Add"), 0) - made.evaluations
    assert by_weights in (0, 1)
    assert found == expected(function, made.evaluations, by_weights)


@pytest.mark.slow
def test_a_sum_for_each_leaf_would_be_counted():
    """Control."""
    own = Collectives.sum

    def one_by_one(self, tensors):
        return [own(self, [tensor])[0] for tensor in tensors]

    with mock.patch.object(Collectives, "sum", one_by_one):
        graph, function = traced("mlp_with_penalties", tl.Heun(), workers())
    assert sum(collectives(graph).values()) >= 2 * len(function.variables) > sum(expected(function, 2).values())


def additions(graph, replicas):
    """Sums over replicas in the graph itself: how many, and on which devices."""
    found = [op for op in graph.get_operations() if op.type == "AddN" and len(op.inputs) >= replicas]
    return len(found), {op.device.rpartition("/")[2].removeprefix("device:") or "CPU:0" for op in found}  # the default one


@pytest.mark.parametrize(
    "name, replicas",
    [("mlp_with_penalties", 2), ("two_outputs", 4), pytest.param("transformer", 2, marks=pytest.mark.slow)],
)
def test_replicas_add_up_once_an_evaluation_on_one_device(name, replicas):
    """Each of the loss, the gradient's leaves and the state; and the denominators, once an update."""
    for strategy, num_batches in ((tl.SGD(), 1), (tl.Heun(), 1), (tl.Accumulate(3, tl.Heun()), 3)):
        graph, function = traced(name, strategy, mirrored(replicas), num_batches=num_batches)
        number, devices = additions(graph, replicas)
        once = 1 + len(function.variables) + len(function.changing)
        assert number == strategy.evaluations * once + 1, strategy
        assert devices == {"CPU:0"}


@pytest.mark.slow
def test_sums_batch_by_batch_would_be_counted():
    """Control: what asks the replicas for each batch by itself adds three times as often."""

    class Apart(tl.StepStrategy):
        evaluations = 3

        def step(self, objective, state):
            found = [objective(state.parameters * (1.0 + i)) for i in range(3)]
            return tl.Step((found[0].gradient + found[1].gradient + found[2].gradient) / 3, at=found[0])

    graph, function = traced("mlp_with_penalties", Apart(), mirrored(2))
    assert additions(graph, 2)[0] == 3 * (1 + len(function.variables) + len(function.changing)) + 1


def test_values_are_shared_in_parts_of_few_bytes(monkeypatch):
    """In order; one that is larger by itself."""
    monkeypatch.setattr(shared, "_PART", 40)
    variables = [tf.Variable(tf.zeros([size]), trainable=False) for size in (4, 6, 1, 20, 3)]
    parts = shared._parts(variables)
    assert [[v.shape[0] for v in part] for part in parts] == [[4, 6], [1], [20], [3]]
    assert [v for part in parts for v in map(id, part)] == list(map(id, variables)) and shared._parts([]) == []
