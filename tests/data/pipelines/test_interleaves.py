"""Pipelines that interleave by the number of cores go on as they began, where there is another number of cores."""

import os
import subprocess
import sys
import warnings

import pytest
import tensorflow as tf
from drawing import everywhere, passes

from trainlab.data import pipelines
from trainlab.data.pipelines import graphs
from trainlab.data.pipelines.interleaves import set_sizes, sizes_in
from trainlab.data.stream_source import StreamSource

Dataset = tf.data.Dataset
AUTOTUNE = tf.data.AUTOTUNE
CAN_BE_BOUND = hasattr(os, "sched_setaffinity")
CORES = len(os.sched_getaffinity(0)) if CAN_BE_BOUND else os.cpu_count()


def sizes_of(dataset):
    return pipelines.nature_of(dataset).interleaves


def three(i):
    return Dataset.range(3).map(lambda j: 10 * i + j)


def pairs(i, **sizes):
    return Dataset.range(4).interleave(lambda j: three(10 * i + j), **sizes)


def files(count=6):
    return Dataset.range(count)


def test_an_open_cycle_length_is_the_number_of_cores():
    assert sizes_of(files().interleave(three)) == sizes_of(files().flat_map(pairs)) == [[CORES, 1]]
    assert sizes_of(files().interleave(three, cycle_length=CORES + 1, block_length=2).batch(2)) == [[CORES + 1, 2]]
    assert sizes_of(files().map(lambda i: i).batch(2)) == []


def test_in_parallel_a_function_leaves_open_what_tensorflow_decides_outside_of_one():
    outside = sizes_of(files().interleave(three, num_parallel_calls=AUTOTUNE))
    inside = sizes_of(files().flat_map(lambda i: pairs(i, num_parallel_calls=AUTOTUNE)))
    assert inside == outside and all(number > 0 for number in inside[0])
    calls = [sizes_of(files().interleave(three, cycle_length=2, num_parallel_calls=n)) for n in (1, 2)]
    assert calls[0] == calls[1], "by the number of calls no order changes"


def test_a_size_that_a_function_is_given_is_no_constant():
    data = Dataset.from_tensors(tf.constant(2, tf.int64)).flat_map(lambda n: files().interleave(three, cycle_length=n))
    assert sizes_of(data) == [[None, 1]]
    with pytest.raises(ValueError, match="cannot be"):
        set_sizes(graphs.graph_of(data), [[3, 1]])


def test_others_than_the_pipeline_has_cannot_be_set():
    for data in (files(), files().interleave(lambda i: pairs(i)), files().interleave(three, num_parallel_calls=2)):
        with pytest.raises(ValueError, match="cannot be"):
            set_sizes(graphs.graph_of(data), [[3, 1]])
    graph = graphs.graph_of(files().interleave(three))
    set_sizes(graph, [[3, 1]])
    assert sizes_in(graph) == [[3, 1]]


# Each with the sizes that a run began with, and with those that this machine would choose.
PIPELINES = {
    "saved": lambda **sizes: files().interleave(three, **sizes).batch(2),
    "shuffled": lambda **sizes: files().shuffle(6, seed=1).interleave(three, **sizes).batch(2),
    "in parallel": lambda **sizes: files().interleave(three, num_parallel_calls=AUTOTUNE, **sizes).batch(2),
    "read again": lambda **sizes: files().shuffle(6, seed=1).interleave(three, **sizes).shuffle(5, seed=2).batch(2),
    "in a function": lambda **sizes: files(2).flat_map(lambda i: pairs(i, **sizes)).batch(2),
    "in parallel in a function": lambda **sizes: (
        files(2).flat_map(lambda i: pairs(i, num_parallel_calls=AUTOTUNE, **sizes)).shuffle(3, seed=1).batch(2)
    ),
    "twice": lambda **sizes: files(2).interleave(lambda i: pairs(i, **sizes), **sizes).batch(3),
    "with weights of classes": lambda **sizes: (
        files().interleave(three, **sizes).map(lambda i: (i, i % 2)).batch(2),
        {0: 1.0, 1: 2.0},
    ),
}


def source_of(made):
    return StreamSource(*(made if isinstance(made, tuple) else (made, None)), True)


@pytest.mark.parametrize("name", PIPELINES)
def test_goes_on_as_it_began_elsewhere(name):
    """`cycle_length=CORES + 1` is what a machine of so many cores would have taken."""
    make = PIPELINES[name]
    places, whole = everywhere(source_of(make(cycle_length=CORES + 1)), 2)
    assert passes(source_of(make()), 1) != whole[:1], "by this many cores it is the same: there is nothing to see"
    for number, used, (state, serialized, _) in places[1:-1:4]:
        source = source_of(make())
        source.is_to_be_saved = True
        with pytest.warns(UserWarning, match=f"did by cycle_length {CORES + 1}.* goes on so.*give it one"):
            source.restore(state, serialized)
        assert passes(source, 2 - number) == [whole[number][used:], *whole[number + 1 :]], (number, used)
        assert source.describe() == source_of(make()).describe()


def test_what_was_gone_on_with_is_saved_as_it_began():
    places, whole = everywhere(source_of(PIPELINES["shuffled"](cycle_length=CORES + 1)), 2)
    number, used, (state, serialized, _) = places[4]
    with pytest.warns(UserWarning, match="interleave"):
        second = source_of(PIPELINES["shuffled"]())
        second.is_to_be_saved = True
        second.restore(state, serialized)
    assert passes(second, 1) == [whole[number][used:]]
    third = source_of(PIPELINES["shuffled"](cycle_length=CORES + 1))
    third.is_to_be_saved = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        third.restore(second.state(), second.serialized())
    assert passes(third, 1) == whole[1:]


def drawn(**sizes):
    """Of which there is no copy, for it holds a variable."""
    generator = tf.random.Generator.from_seed(3)
    return files().interleave(three, **sizes).map(lambda i: i + 0 * generator.uniform([], 0, 2, tf.int64)).batch(2)


@pytest.mark.parametrize(
    "make", [drawn, lambda **sizes: (files() if sizes else files().interleave(three)).interleave(three, **sizes)]
)
def test_what_cannot_interleave_as_it_did_is_read_again_and_said(make):
    places, _ = everywhere(source_of(make(cycle_length=CORES + 1)), 1)
    source = source_of(make())
    with pytest.warns(UserWarning, match="was read again up to batch 2 of pass 1, .*another cycle_length, .*number of cores"):
        source.restore(places[2][2][0], places[2][2][1])


def test_a_checkpoint_of_an_older_version_says_nothing_of_it():
    places, whole = everywhere(source_of(PIPELINES["saved"]()), 1)
    number, used, (state, serialized, _) = places[3]
    del state["interleaves"]
    source = source_of(PIPELINES["saved"]())
    source.restore(state, serialized)
    assert passes(source, 1) == [whole[0][used:]]


PROGRAM = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[2])])
import keras, tensorflow as tf
import trainlab as tl
keras.utils.set_random_seed(0)
read = lambda i: tf.data.Dataset.range(5).map(lambda j: tf.cast([10 * i + j], tf.float32) / 80)
data = tf.data.Dataset.range(8).interleave(read).map(lambda x: (x, 2 * x)).batch(4)
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
model.compile(keras.optimizers.SGD(0.1), loss="mse")
class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5 and "stop" in sys.argv:
            sys.exit(3)
tl.Trainer(model, run=sys.argv[1]).fit(data, epochs=2, verbose=0, callbacks=[Stop()])
print(model.get_weights())
"""


@pytest.mark.slow
@pytest.mark.skipif(not CAN_BE_BOUND or CORES < 2, reason="no process can be bound to fewer cores")
def test_a_run_goes_on_with_fewer_cores(tmp_path):
    """TensorFlow alone never returns from it: an iterator restored by another cycle_length reads for ever."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=300, cwd=tmp_path
        )

    whole, other = run("whole", "2"), run("other", "1")
    assert whole.returncode == other.returncode == 0 and whole.stdout != other.stdout, whole.stderr + other.stderr
    assert run("run", "2", "stop").returncode == 3
    rest = run("run", "1")
    assert rest.stdout == whole.stdout and "goes on so" in rest.stderr, rest.stderr
