"""The layouts of blocks; that their sources fill them rightly is tested with the sources."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data.blocks import ArrayLayout, TrailingLayout, loop, may_unroll


def pack(tensors):
    return tensors[0], None, None


def array_layout(**settings):
    settings = {"batch_size": 3, "full": 2, "rest": 0, "seed": None} | settings
    return ArrayLayout(pack, (tf.TensorSpec([None], tf.int64),), "x", **settings)


def test_equal_layouts_share_a_trace_and_others_do_not():
    assert array_layout() == array_layout() and hash(array_layout()) == hash(array_layout())
    others = [array_layout(**{name: 5}) for name in ("batch_size", "full", "rest", "seed")]
    assert len({array_layout(), *others}) == 5


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("full, rest", [(1, 0), (2, 0), (0, 2), (2, 2)])
def test_each_update_reads_its_own_examples(jit_compile, full, rest):
    layout = array_layout(full=full, rest=rest)
    seen = tf.Variable(tf.zeros([20], tf.int64))
    order = tf.Variable(0, dtype=tf.int64)

    def step(parts):
        for part in parts:
            for i in range(part.num_batches):
                x = part.fetch(tf.constant(i))[0]
                order.assign_add(1)
                seen.scatter_nd_update(x[:, None], tf.fill([x.shape[0]], order.read_value()))

    jit = (lambda fn: tf.function(fn, jit_compile=True, autograph=False)) if jit_compile else None
    run = tf.function(layout.program(step, jit), autograph=False)
    num_updates = 2
    done = run([tf.range(20, dtype=tf.int64)], tf.constant(0, tf.int64), tf.constant(1, tf.int64), tf.constant(num_updates))
    assert int(done) == num_updates
    want, batch, position = np.zeros(20), 0, 1
    for size in ([3] * full + [2] * bool(rest)) * num_updates:
        batch += 1
        want[position : position + size] = batch
        position += size
    np.testing.assert_array_equal(seen, want)


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("full", [1, 3])
def test_what_is_left_is_read_by_one_trace(full, is_padded):
    whole = array_layout(full=full, is_padded=is_padded)
    seen, traces = tf.Variable(tf.zeros([20], tf.int64)), []

    def step(parts):
        traces.append(parts)
        number = tf.constant(0, tf.int64)
        for part in parts:
            for i in range(1 if part.is_one else full):

                def read(number, part=part, i=i):
                    x = part.fetch(i)[0]
                    seen.scatter_nd_update(x[:, None], tf.fill(tf.shape(x), 1 + number))
                    return number + 1

                is_there = tf.constant(i) < part.num_batches
                number = tf.cond(is_there, functools.partial(read, number), functools.partial(tf.identity, number))

    run = tf.function(TrailingLayout(whole, 1).program(step, None), autograph=False)
    for left in range(1, whole.size):
        seen.assign(tf.zeros([20], tf.int64))
        given = [tf.constant(20 - left, tf.int64)] + [tf.constant(20, tf.int64)] * is_padded
        length = 20 + 4 * is_padded
        run([tf.range(length, dtype=tf.int64)], tf.constant(0, tf.int64), *given, tf.constant(1))
        np.testing.assert_array_equal(seen, [0] * (20 - left) + [1 + i // 3 for i in range(left)])
    assert len(traces) == 1


def test_layouts_of_what_is_left_are_alike_whatever_it_is():
    whole = array_layout()
    one, other = TrailingLayout(whole, 2), TrailingLayout(whole, 4)
    assert one == other and hash(one) == hash(other) and one.static != other.static
    assert (other.static.full, other.static.rest, other.static.size) == (1, 1, 4)
    assert one != TrailingLayout(array_layout(full=3), 2)  # the control
    assert (one.largest([], 1), other.largest([], 1), other.cut(1).largest([], 1)) == (2, 3, 1)
    assert other.cut(2).static == other.static.cut(2) and other.cut(3) == other
    assert one.max_updates == 1 and one.specs == whole.specs


@pytest.mark.parametrize(("full", "rest", "sizes"), [(2, 0, (2, 3, 0)), (1, 2, (2, 2, 1)), (0, 1, (2, 0, 1))])
def test_arrays_are_cut_across_batches(full, rest, sizes):
    layout = array_layout(full=full, rest=rest)
    cut = layout.cut(2)
    assert (cut.batch_size, cut.full, cut.rest) == sizes
    assert (cut.size, cut.max_updates, cut.is_cut) == (layout.size, layout.max_updates, True)
    assert cut.largest([], 1) == (2 if cut.full else 1)


def test_no_larger_batches_are_left_alone():
    layout = array_layout()
    assert layout.cut(3) is layout and layout.largest([], 1) == 3


def test_a_block_never_holds_more_updates_than_fit():
    assert array_layout().max_updates == 2**11
    assert array_layout(batch_size=2**12, full=4).max_updates == 4
    assert array_layout(batch_size=2**20).max_updates == 1


@pytest.mark.parametrize(("by_xla", "gpus", "most"), [(False, [], 16), (False, ["one"], 16), (True, [], 4), (True, ["one"], 0)])
def test_a_few_batches_may_be_written_out(by_xla, gpus, most, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert [n for n in range(1, 20) if may_unroll(n, by_xla)] == list(range(1, most + 1))


@pytest.mark.parametrize("is_cut", [False, True])
def test_batches_that_are_cut_to_save_memory_are_never_written_out(is_cut):
    layout, given = array_layout(is_cut=is_cut), []
    run = tf.function(layout.program(lambda parts: given.extend(part.may_unroll for part in parts), None), autograph=False)
    run([tf.range(20, dtype=tf.int64)], tf.constant(0, tf.int64), tf.constant(0, tf.int64), tf.constant(1))
    assert given == [not is_cut]


def test_loop_counts():
    total = tf.Variable(0, dtype=tf.int64)
    assert int(loop(tf.constant(4), lambda i: total.assign_add(tf.cast(i, tf.int64)))) == 4
    assert int(total) == 6
