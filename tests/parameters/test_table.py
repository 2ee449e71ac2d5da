"""A table of which rows are looked up, against the table itself."""

import numpy as np
import pytest
import tensorflow as tf

from trainlab.parameters import table
from trainlab.parameters.rows import Rows
from trainlab.parameters.table import Table
from trainlab.parameters.vector import Vector

NUM_ROWS = 100
COLUMNS = 4
START = np.random.default_rng(0).normal(size=(NUM_ROWS, COLUMNS)).astype("float32")
NAMED = [[3, 7, 3, 99, 0], [7, 50, 3]]  # some rows twice, some in both
IDS = [[3, 3, 7], [1, 99, 50]]
RUNNERS = {"graph": {}, "xla": {"jit_compile": True}}


def moves(which, dtype="float32"):
    values = np.random.default_rng(which + 1).normal(size=(len(NAMED[which]), COLUMNS))
    return values.astype(dtype)


def rows(which, index_dtype="int32"):
    return Rows(tf.constant(moves(which)), tf.constant(NAMED[which], index_dtype), NUM_ROWS)


def moved(*which):
    """The whole, by NumPy."""
    whole = START.copy()
    for i in which:
        np.add.at(whole, NAMED[i], moves(i))
    return whole


def run(fn, runner="graph"):
    """What `fn` makes of a new table, in a graph; and the types of the operations there."""
    variable = tf.Variable(START)
    function = tf.function(lambda: fn(Table(variable)), autograph=False, **RUNNERS[runner])
    types = [op.type for op in function.get_concrete_function().graph.get_operations()]
    return tf.nest.map_structure(lambda t: t.numpy(), function()), types


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("index_dtype", ["int32", "int64"])
@pytest.mark.parametrize("which", [(), (0,), (0, 1)])
def test_rows_are_those_of_the_whole(runner, index_dtype, which):
    def looked_up(start):
        for i in which:
            start = start.plus(rows(i, index_dtype))
            assert isinstance(start, Table)
        return start.lookup(tf.constant(IDS, index_dtype))

    found, types = run(looked_up, runner)
    np.testing.assert_allclose(found, moved(*which)[IDS], rtol=1e-6)
    assert "ReadVariableOp" not in types


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_whole_is_made_when_it_is_asked_for(runner):
    found, types = run(lambda start: start.plus(rows(0)).to_dense(), runner)
    np.testing.assert_allclose(found, moved(0), rtol=1e-6)
    assert types.count("ReadVariableOp") == 1


def test_the_whole_is_read_once_wherever_it_is_asked_for_first():
    def asked(start):
        def in_a_branch():
            return tf.reduce_sum(start.to_dense())

        first = tf.cond(tf.random.uniform([]) < 2, in_a_branch, lambda: 0.0)
        assert start.is_read
        return first, tf.reduce_sum(start.to_dense())

    (first, second), types = run(asked)
    assert first == second == pytest.approx(START.sum(), rel=1e-5)
    assert types.count("ReadVariableOp") == 1


def test_what_moved_is_found_in_a_loop_too():
    def looked_up(start):
        probe = start.plus(rows(0))
        body = lambda i, total: (i + 1, total + tf.reduce_sum(probe.lookup(tf.constant(IDS)), [0, 1]))  # noqa: E731
        _, total = tf.while_loop(lambda i, _: i < 3, body, (0, tf.zeros([COLUMNS])))
        return total, tf.reduce_sum(probe.lookup(tf.constant(IDS)), [0, 1])

    (thrice, once), types = run(looked_up)
    np.testing.assert_allclose(once, moved(0)[IDS].sum((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(thrice, 3 * once, rtol=1e-5)
    assert types.count("TensorScatterUpdate") == 1  # not once a turn


def test_a_small_table_is_copied(monkeypatch):
    seen = []
    run(lambda start: seen.append(start.plus(rows(0))) or seen[-1].lookup(tf.constant(IDS)))
    assert isinstance(seen[-1], Table)
    monkeypatch.setattr(table, "_WORTH_IT", NUM_ROWS)
    found, _ = run(lambda start: seen.append(start.plus(rows(0))) or seen[-1])
    assert isinstance(seen[-1], tf.Tensor)
    np.testing.assert_allclose(found, moved(0), rtol=1e-6)


def test_a_narrow_table_is_copied():
    seen = []
    variable = tf.Variable(tf.zeros([NUM_ROWS, 3]))
    move = Rows(tf.ones([1, 3]), tf.constant([5]), NUM_ROWS)
    tf.function(lambda: seen.append(Table(variable).plus(move)), autograph=False)()
    assert isinstance(seen[-1], tf.Tensor)


def test_a_tape_sees_a_moved_table_made():
    def kind(start):
        with tf.GradientTape():
            return isinstance(start.plus(rows(0)), Table)

    seen = []
    run(lambda start: seen.append((kind(start), isinstance(start.plus(rows(0)), Table))) or tf.zeros([]))
    assert seen[-1][0] is False
    run(lambda start: seen.append(isinstance(start.plus(rows(0)), Table)) or tf.zeros([]))
    assert seen[-1] is True


def test_under_xla_an_index_that_is_none_of_the_tables_moves_nothing():
    def looked_up(start):
        beyond = Rows(tf.constant([[1.0] * COLUMNS, [5.0] * COLUMNS, [7.0] * COLUMNS]), tf.constant([3, NUM_ROWS, -1]), NUM_ROWS)
        return start.plus(beyond).lookup(tf.constant([3, 50, NUM_ROWS - 2, NUM_ROWS - 1]))

    found, _ = run(looked_up, "xla")
    np.testing.assert_allclose(found - START[[3, 50, -2, -1]], np.outer([1, 0, 0, 0], np.ones(COLUMNS)), atol=1e-6)


def test_where_only_the_data_tell_how_many_move_a_number_is_supposed(monkeypatch):
    def kind(start):
        number = tf.cast(tf.random.uniform([]) * 0, tf.int32) + 2
        return isinstance(start.plus(Rows(tf.zeros([number, COLUMNS]), tf.zeros([number], tf.int32), NUM_ROWS)), Table)

    seen = []
    run(lambda start: seen.append(kind(start)) or tf.zeros([]))
    monkeypatch.setattr(table, "_OPEN_SIZE", NUM_ROWS // table._WORTH_IT)
    run(lambda start: seen.append(kind(start)) or tf.zeros([]))
    assert seen == [False, True]


def test_it_waits():
    def looked_up(start):
        first = tf.random.uniform([])
        waiting = start.plus(rows(0)).waiting_for([first])
        gathered = waiting.lookup(tf.constant(IDS))
        graph = gathered.graph
        (op,) = [op for op in graph.get_operations() if op.type == "ResourceGather"]
        assert first.op in op.control_inputs
        start.to_dense()
        whole = start.waiting_for([first])
        assert isinstance(whole, tf.Tensor) and first.op in whole.op.control_inputs
        return gathered

    found, _ = run(looked_up)
    np.testing.assert_allclose(found, moved(0)[IDS], rtol=1e-6)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(
    ("fn", "expected", "stays"),
    [
        (lambda a, b, s: a + b, moved(0), True),
        (lambda a, b, s: b + a, moved(0), True),
        (lambda a, b, s: a - b, 2 * START - moved(0), True),
        (lambda a, b, s: b - a, moved(0) - 2 * START, False),
        (lambda a, b, s: -a, -START, False),
        (lambda a, b, s: a * s, 3 * START, False),
        (lambda a, b, s: s / a, 3 / START, False),
        (lambda a, b, s: a / s, START / 3, False),
        (lambda a, b, s: a + s, START + 3, False),
        (lambda a, b, s: a - a / 4, 0.75 * START, False),
        (lambda a, b, s: a * b, START * (moved(0) - START), False),
        (lambda a, b, s: a.map(tf.square), START**2, False),
    ],
)
def test_in_a_vector_it_is_a_leaf_like_others(runner, fn, expected, stays):
    seen = []

    def calculated(start):
        seen.append(fn(Vector([start]), Vector([rows(0)]), tf.constant(3.0)))
        (leaf,) = seen[-1].leaves
        return leaf.to_dense() if isinstance(leaf, Rows) else leaf

    found, _ = run(calculated, runner)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(seen[-1].parts[0], Table) == stays


def test_norms_and_loops_take_the_whole():
    def calculated(start):
        vector = Vector([start])
        _, looped = tf.while_loop(lambda i, _: i < 2, lambda i, v: (i + 1, v + Vector([rows(0)])), (0, vector))
        return vector.norm(), looped.leaves[0]

    (norm, looped), _ = run(calculated)
    assert norm == pytest.approx(np.linalg.norm(START), rel=1e-5)
    np.testing.assert_allclose(looped, 2 * moved(0) - START, rtol=1e-5, atol=1e-6)
