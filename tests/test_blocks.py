"""The layouts of blocks; that their sources fill them rightly is tested with the sources."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainlab.blocks import ArrayLayout, StreamLayout, loop


def pack(tensors):
    return tensors[0], None, None


def array_layout(**settings):
    settings = {"batch_size": 3, "full": 2, "rest": 0, "seed": None} | settings
    return ArrayLayout(pack, (tf.TensorSpec([None], tf.int64),), "x", **settings)


def test_equal_layouts_share_a_trace_and_others_do_not():
    assert array_layout() == array_layout() and hash(array_layout()) == hash(array_layout())
    others = [array_layout(**{name: 5}) for name in ("batch_size", "full", "rest", "seed")]
    assert len({array_layout(), *others}) == 5
    streams = [StreamLayout(pack, (tf.TensorSpec([size], tf.int64),), "x", n) for size in (None, 3) for n in (1, 2)]
    assert len(set(streams + streams)) == 4


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
    done = run(
        [tf.range(20, dtype=tf.int64)], tf.constant(0, tf.int64), tf.constant(1, tf.int64), tf.constant(num_updates, tf.int64)
    )
    assert int(done) == num_updates
    want, batch, position = np.zeros(20), 0, 1
    for size in ([3] * full + [2] * bool(rest)) * num_updates:
        batch += 1
        want[position : position + size] = batch
        position += size
    np.testing.assert_array_equal(seen, want)


@pytest.mark.parametrize(
    ("size", "num_batches", "traces"),
    [(3, 2, [(2, True)]), (3, 5, [(5, False)]), (None, 2, [(2, True), (2, False)]), (None, 1, [(1, True)])],
    ids=["few of one size", "many of one size", "of any size", "one of any size"],
)
def test_what_xla_is_given_of_a_stream(size, num_batches, traces, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    layout = StreamLayout(pack, (tf.TensorSpec([size], tf.int64),), "x", num_batches)
    given, compiled, seen = [], [], tf.Variable(tf.zeros([0], tf.int64), shape=[None])

    def step(batches):
        (part,) = batches  # no copies of the model, however many batches an update takes
        given.append((part.num_batches, part.may_unroll))
        seen.assign(tf.concat([seen, *(part.fetch(tf.constant(i))[0] for i in range(part.num_batches))], 0))

    def jit(fn):
        def counted(batches):
            tf.py_function(lambda: compiled.append(True), [], [])
            fn(batches)

        return tf.function(counted, autograph=False)

    sizes = [3] * 2 * num_batches
    if size is None and num_batches > 1:
        sizes[-1] = 2  # the last batch of a pass
    ends = np.cumsum([1, *sizes])
    batches = [tf.range(start, end, dtype=tf.int64) for start, end in itertools.pairwise([0, *ends])]
    flow = tf.function(lambda: variants(batches), autograph=False)()
    run = tf.function(layout.program(step, jit), autograph=False)
    assert int(run([flow], tf.constant(1, tf.int64), tf.constant(2, tf.int64))) == 2
    assert given == traces
    assert len(compiled) == 2 - (sizes[-1] == 2)
    np.testing.assert_array_equal(seen, range(1, ends[-1]))


class TestCutting:
    @pytest.mark.parametrize(("full", "rest", "sizes"), [(2, 0, (2, 3, 0)), (1, 2, (2, 2, 1)), (0, 1, (2, 0, 1))])
    def test_arrays_are_cut_across_batches(self, full, rest, sizes):
        layout = array_layout(full=full, rest=rest)
        cut = layout.cut(2)
        assert (cut.batch_size, cut.full, cut.rest) == sizes
        assert (cut.size, cut.max_updates, cut.is_cut) == (layout.size, layout.max_updates, True)
        assert cut.largest([], 1) == (2 if cut.full else 1)

    def test_no_larger_batches_are_left_alone(self):
        layout = array_layout()
        assert layout.cut(3) is layout and layout.largest([], 1) == 3
        known, unknown = (StreamLayout(pack, (tf.TensorSpec([size], tf.int64),), "x", 1) for size in (3, None))
        assert known.cut(3) == known != known.cut(2)
        assert unknown.cut(3) != unknown  # who knows

    def test_the_largest_of_a_stream_is_read(self):
        batches = [tf.range(size, dtype=tf.int64) for size in (7, 2, 5, 3)]
        flow = tf.function(lambda: variants(batches), autograph=False)()
        layout = StreamLayout(pack, (tf.TensorSpec([None], tf.int64),), "x", 1)
        assert layout.largest([[flow], tf.constant(1, tf.int64)], 3) == 5
        assert layout.largest([[flow], tf.constant(0, tf.int64)], 4) == 7
        assert layout.cut(4).largest([[flow], tf.constant(0, tf.int64)], 4) == 4
        assert layout.cut(4).largest([[flow], tf.constant(3, tf.int64)], 1) == 3


def variants(batches):
    array = tf.TensorArray(tf.int64, len(batches), infer_shape=False, element_shape=[None])
    for i, batch in enumerate(batches):
        array = array.write(i, batch)
    return array.flow


def test_a_block_never_holds_more_updates_than_fit():
    assert array_layout().max_updates == 2**11
    assert array_layout(batch_size=2**12, full=4).max_updates == 4
    assert array_layout(batch_size=2**20).max_updates == 1


def test_loop_counts():
    total = tf.Variable(0, dtype=tf.int64)
    assert int(loop(tf.constant(4, tf.int64), total.assign_add)) == 4
    assert int(total) == 6
