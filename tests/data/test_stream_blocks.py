"""The layouts of a stream's blocks; that their sources fill them rightly is tested with the sources."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from trainlab.data.blocks import Block
from trainlab.data.stream_blocks import PiecesLayout, StreamLayout, checksum_of


def pack(tensors):
    return tensors[0], None, None


def layout_of(size=None, num_batches=1, dtype=tf.int64):
    return StreamLayout(pack, (tf.TensorSpec([size], dtype),), "x", num_batches)


def lists(batches, dtype=tf.int64):
    """What a block of these holds."""

    def build():
        array = tf.TensorArray(dtype, len(batches), infer_shape=False, element_shape=[None])
        for i, batch in enumerate(batches):
            array = array.write(i, batch)
        return array.flow

    return [tf.function(build, autograph=False)()]


def test_equal_layouts_share_a_trace_and_others_do_not():
    layouts = [layout_of(size, n) for size in (None, 3) for n in (1, 2)]
    assert len({*layouts, *(layout.cut(2) for layout in layouts), *layouts, layouts[0].cut(1)}) == 9


@pytest.mark.parametrize(
    ("size", "num_batches", "traces"),
    [(3, 2, [(2, True)]), (3, 5, [(5, False)]), (None, 2, [(2, False), (2, True)]), (None, 1, [(1, False)])],
    ids=["few of one size", "many of one size", "of any size", "one of any size"],
)
def test_what_xla_is_given_of_a_stream_and_what_is_left_without(size, num_batches, traces, monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    layout = layout_of(size, num_batches)
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
    run = tf.function(layout.program(step, jit), autograph=False)
    assert int(run(lists(batches), tf.constant(1), tf.constant(2))) == 2
    assert given == traces
    assert len(compiled) == 2 - (sizes[-1] == 2)
    np.testing.assert_array_equal(seen, range(1, ends[-1]))


def test_a_batch_is_read_while_the_one_before_it_is_worked_on(monkeypatch):
    happened = []
    read = StreamLayout._read

    def spy(self, lists, index):
        happened.append(f"read {int(index)}")
        return read(self, lists, index)

    monkeypatch.setattr(StreamLayout, "_read", spy)
    run = layout_of().program(lambda parts: happened.append(f"step on {int(parts[0].fetch(0)[0][0])}"), None)
    run(lists([[10], [11], [12], [13]]), tf.constant(1), tf.constant(3))
    assert happened == ["read 1", "read 2", "step on 11", "read 3", "step on 12", "read 3", "step on 13"]


@pytest.mark.parametrize("dtype", [tf.int64, tf.float32, tf.string, tf.uint8])
def test_batches_of_any_kind_are_brought_to_a_device(dtype, monkeypatch):
    batches = [tf.cast(values, dtype) if dtype != tf.string else tf.strings.as_string(values) for values in ([1, 2], [3], [4])]
    seen = tf.Variable(tf.zeros([0], dtype) if dtype != tf.string else tf.constant([], dtype), shape=[None])
    # Where there is none, TensorFlow uses what there is.
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["one"])
    step = lambda parts: seen.assign(tf.concat([seen, parts[0].fetch(0)[0]], 0))  # noqa: E731
    run = tf.function(layout_of(dtype=dtype).program(step, None), autograph=False)
    assert int(run(lists(batches, dtype), tf.constant(0), tf.constant(3))) == 3
    np.testing.assert_array_equal(seen, tf.concat(batches, 0))


def test_no_larger_batches_are_left_alone():
    known, unknown = layout_of(3), layout_of(None)
    assert known.cut(3) is known
    assert isinstance(known.cut(2), PiecesLayout) and known.cut(2).max_examples == 2
    assert isinstance(unknown.cut(3), PiecesLayout)  # who knows


def test_the_largest_is_read():
    block = lists([tf.range(size, dtype=tf.int64) for size in (7, 2, 5, 3)])
    layout = layout_of()
    assert layout.largest([block, tf.constant(1)], 3) == 5
    assert layout.largest([block, tf.constant(0)], 4) == 7
    assert layout.cut(4).largest([block, tf.constant(0)], 4) == 4
    assert layout.cut(4).largest([block, tf.constant(3)], 1) == 3


def checksum(batches, dtype=tf.int64, first=0, num_batches=1):
    """Of a block of these, from `first` on."""
    batches = [np.asarray(batch) if dtype == tf.string else tf.cast(batch, dtype) for batch in batches]
    layout = layout_of(num_batches=num_batches, dtype=dtype)
    number = len(batches) - first
    return checksum_of(Block(layout, [lists(batches, dtype), tf.constant(first)], number // num_batches, number))


@pytest.mark.parametrize("size", [3, 5000], ids=["few bytes", "many bytes"])
@pytest.mark.parametrize(
    "dtype", [tf.int64, tf.float32, tf.bfloat16, tf.bool, tf.uint8, tf.complex64], ids=lambda dtype: dtype.name
)
def test_a_checksum_tells_blocks_apart_by_every_batch(size, dtype):
    rows = np.random.default_rng(0).integers(2, size=(4, size))
    rows[2, :3] = 0, 1, 0
    other, later, swapped = rows.copy(), rows.copy(), rows.copy()
    other[0, 0] = 1 - other[0, 0]
    later[3, -1] = 1 - later[3, -1]  # behind what is looked at one by one, of the last batch
    swapped[2, :2] = 1, 0
    blocks = [rows, other, later, swapped, rows[[0, 2, 1, 3]], rows[:3], [*rows[:3], rows[3, :-1]]]
    found = [checksum(block, dtype) for block in blocks]
    assert len(set(found)) == len(blocks) and all(0 <= number < 2**32 for number in found)
    assert checksum(rows, dtype, num_batches=2) == found[0]  # however they are divided into updates
    assert checksum([*rows[:2], *rows], dtype, first=2) == found[0]  # wherever they are in what was read


def test_a_checksum_of_text():
    found = [
        checksum(block, tf.string)
        for block in ([["a", "bc"], ["d"]], [["a", "bc"], ["e"]], [["ab", "c"], ["d"]], [["a", "bc"], []])
    ]
    assert len(set(found)) == 4
    assert checksum([np.zeros(0)]) == checksum([np.zeros(0)]) != checksum([np.zeros(0)] * 2)
