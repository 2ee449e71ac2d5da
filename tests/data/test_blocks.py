"""The layouts of blocks; that their sources fill them rightly is tested with the sources."""

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data.blocks import ArrayLayout, loop, may_unroll


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
