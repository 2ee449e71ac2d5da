"""Pipelines of tf.data are put at every place where they can stand, and the whole rest is compared.

Of a pipeline that is not known to be restored exactly nothing is saved: it is read again. Each way must give the same.
"""

import json
import os
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from drawing import assert_goes_on_everywhere, everywhere, passes, saved, take

from trainlab.data import iterators, pipelines, stream
from trainlab.data.stream_source import StreamSource

Dataset = tf.data.Dataset


@pytest.fixture(autouse=True)
def _no_global_seed():
    """Whatever ran before."""
    tf.random.set_seed(None)
    yield
    tf.random.set_seed(None)


def plain(size=8):
    return Dataset.range(size)


def shuffled(size=8, buffer_size=4, seed=3, **settings):
    return plain(size).shuffle(buffer_size, seed=seed, **settings)


def three(i):
    return Dataset.range(i * 10, i * 10 + 3)


def always(dataset):
    return lambda _: dataset


def with_itself(dataset):
    return dataset.flat_map(always(dataset))


def is_odd(i):
    return i % 2 > 0


def twice(i):
    return i * 2


def summed(total, i):
    return total + i, total + i


SAVED = {
    "plain": lambda: plain().batch(2),
    "shuffle": lambda: shuffled().batch(2),
    "shuffle whole": lambda: shuffled(buffer_size=20).batch(3, drop_remainder=True),
    "the same order each pass": lambda: shuffled(reshuffle_each_iteration=False).batch(2),
    "parallel map, batch, prefetch": lambda: shuffled().map(twice, -1).batch(2, num_parallel_calls=2).prefetch(-1),
    "filter": lambda: shuffled().filter(is_odd).batch(2),
    "take and skip": lambda: plain(12).skip(1).take(9).shuffle(4, seed=1).skip(1).take(6).batch(2),
    "enumerate": lambda: shuffled().enumerate().batch(3),
    "unbatch and rebatch": lambda: shuffled().batch(4).unbatch().batch(3).rebatch(2),
    "padded_batch": lambda: shuffled(5).map(tf.range).padded_batch(2),
    "ragged_batch": lambda: shuffled(5).map(tf.range).ragged_batch(2),
    "cache": lambda: plain().map(twice).cache().shuffle(4, seed=3).batch(2),
    "two caches": lambda: plain().cache().map(twice).cache().shuffle(4, seed=3).batch(2),
    "cache at the end": lambda: plain().batch(2).cache(),
    "repeat, then shuffle": lambda: plain(4).repeat(2).shuffle(3, seed=3).batch(3),
    "repeat": lambda: plain(5).batch(2).repeat(2),
    "shuffle, then concatenate": lambda: shuffled(4).concatenate(plain(3)).batch(2),
    "concatenate, then shuffle": lambda: plain(4).concatenate(plain(3)).shuffle(4, seed=1).batch(2),
    "zip": lambda: Dataset.zip(shuffled(), shuffled(11, seed=8)).batch(2),
    "zip with cache": lambda: Dataset.zip(plain(5).cache(), plain().cache().shuffle(4, seed=3)).batch(2),
    "interleave": lambda: shuffled(3).interleave(three, cycle_length=2, num_parallel_calls=2).batch(2),
    "interleave, then shuffle": lambda: plain(3).interleave(three, cycle_length=2).shuffle(4, seed=3).batch(2),
    "flat_map": lambda: shuffled(3).flat_map(three).batch(2),
    "repeat in a flat_map": lambda: shuffled(2).flat_map(lambda i: three(i).repeat(2).concatenate(plain(1))).batch(3),
    "window": lambda: shuffled().window(3, shift=1, drop_remainder=True).flat_map(lambda w: w.batch(3)).batch(2),
    "group_by_window": lambda: shuffled().group_by_window(is_odd_int, lambda _, window: window.batch(3), 3),
    "bucket_by_sequence_length": lambda: shuffled().map(tf.range).bucket_by_sequence_length(tf.size, [3, 6], [2, 2, 2]),
    "scan": lambda: shuffled().scan(np.int64(0), summed).batch(2),
    "scan, then repeat": lambda: plain(5).scan(np.int64(0), summed).repeat(2).batch(3),
    "counter": lambda: Dataset.counter(3).take(7).batch(2),
    "shard": lambda: shuffled().shard(2, 1).batch(2),
    "unique": lambda: shuffled().map(lambda i: i % 5).unique().batch(2),
    "take_while": lambda: shuffled().take_while(lambda i: i < 7).batch(2),
    "ignore_errors": lambda: shuffled().map(number_of_some).ignore_errors().batch(2),
    "stateless random": lambda: shuffled().map(lambda i: tf.random.stateless_uniform([2], [i, 1])).batch(2),
    "table": lambda: shuffled().map(tf.strings.as_string).map(keras.layers.StringLookup(vocabulary=list("0246"))).batch(2),
    "strings": lambda: Dataset.from_tensor_slices(["a", "bc", "d", ""]).shuffle(3, seed=1),
    "sparse": lambda: Dataset.from_tensor_slices(tf.sparse.eye(5)).shuffle(3, seed=1).batch(2),
    "assert_cardinality": lambda: shuffled().apply(tf.data.experimental.assert_cardinality(8)).batch(2),
}


def is_odd_int(i):
    return i % 2


def number_of_some(i):
    return tf.strings.to_number(tf.gather(["1", "2", "none"], i % 3)) + tf.cast(i, tf.float32)


def generated():
    return Dataset.from_generator(lambda: iter(range(7)), output_signature=tf.TensorSpec([], tf.int64))


READ_AGAIN = {
    "shuffle twice": (lambda: shuffled().shuffle(3, seed=5).batch(2), "it shuffles twice"),
    "batch, shuffle, unbatch, shuffle": (
        lambda: plain().batch(2).shuffle(3, seed=1).unbatch().shuffle(4, seed=2).batch(2),
        "it shuffles twice",
    ),
    "shuffled files, shuffled lines": (lambda: shuffled(3).interleave(three).shuffle(4, seed=2).batch(2), "it shuffles twice"),
    "concatenate a shuffle": (lambda: plain(4).concatenate(shuffled(5)).batch(2), "comes later in a concatenate"),
    "shuffle, then repeat": (lambda: shuffled(5).repeat(2).batch(3), "it repeats what it shuffles: leave the repeat out"),
    "shuffle, take, repeat": (lambda: shuffled().take(4).repeat(2).batch(2), "it repeats what it shuffles"),
    "cache a shuffle": (lambda: shuffled().cache().batch(2), "it caches what it shuffles: shuffle after the cache"),
    "repeat a cache": (lambda: plain(5).cache().map(twice).repeat(2).batch(3), "it repeats what it caches"),
    "shuffle in a flat_map": (lambda: plain(3).flat_map(lambda i: three(i).shuffle(3, seed=1)).batch(2), "shuffle in a function"),
    "shuffle in an interleave": (lambda: plain(2).interleave(lambda i: three(i).shuffle(3, seed=1)).batch(2), "in a function"),
    "a shuffle from outside in a flat_map": (lambda: plain(2).flat_map(always(shuffled(4))).batch(2), "shuffles in a function"),
    "a shuffle from outside in an interleave": (
        lambda: plain(2).interleave(always(shuffled(4).map(twice)), cycle_length=1).batch(2),
        "it shuffles in a function",
    ),
    "a shuffle from outside in a map": (
        lambda: plain(2).map(always(shuffled(4))).flat_map(lambda inner: inner).batch(2),
        "it shuffles in a function",
    ),
    "a shuffle in a flat_map of itself": (lambda: with_itself(shuffled(3)).batch(2), "it shuffles in a function"),
    "a cache from outside in a flat_map": (
        lambda: plain(3).flat_map(always(plain(4).cache().map(twice))).batch(2),
        "it caches in a function",
    ),
    "cache in a flat_map": (lambda: plain(3).flat_map(lambda i: three(i).cache()).batch(2), "cache in a function"),
    "choose_from_datasets": (
        lambda: Dataset.choose_from_datasets([shuffled(), plain().map(twice)], plain(12).map(is_odd_int)).batch(2),
        "sample_from_datasets or choose_from_datasets",
    ),
    "random": (lambda: Dataset.random(seed=4, rerandomize_each_iteration=True).take(7).batch(2), "restore random exactly"),
    "tf.random with a seed": (
        lambda: plain().map(lambda i: tf.random.uniform([2], seed=3)).batch(2),
        "RandomUniform is stateful",
    ),
    "py_function": (lambda: shuffled().map(python).batch(2), "PyFunc is stateful"),
    "from_generator": (lambda: generated().shuffle(3, seed=2).batch(2), "from_generator"),
    "a variable": (lambda: shuffled().map(adds(tf.Variable(3, dtype=tf.int64))).batch(2), "ReadVariableOp is stateful"),
}


def python(i):
    return tf.ensure_shape(tf.numpy_function(lambda value: value + 1, [i], tf.int64), [])


def adds(variable):
    return lambda i: i + variable


PIPELINES = {name: (make, None) for name, make in SAVED.items()} | READ_AGAIN


def source_of(name):
    return StreamSource(PIPELINES[name][0](), None, True)


@pytest.mark.parametrize("name", PIPELINES)
def test_goes_on_exactly_at_every_place(name):
    [why] = assert_goes_on_everywhere(lambda: source_of(name))
    reason = PIPELINES[name][1]
    assert why is None if reason is None else reason in why


def test_sample_from_datasets_is_not_even_tried_to_be_saved():
    """TensorFlow never returns from restoring some of them."""
    made = Dataset.sample_from_datasets([shuffled(), plain(5)], seed=3).batch(2)
    assert "sample_from_datasets" in pipelines.nature_of(made).why_not_saved
    places, whole = everywhere(StreamSource(made, None, True), 1)
    assert len(whole[0]) > 3 and all(serialized == {} for _, _, (_, serialized, _) in places)


# Of these TensorFlow says nothing.
SILENT = ["shuffle twice", "batch, shuffle, unbatch, shuffle", "shuffled files, shuffled lines", "concatenate a shuffle"]
SILENT += [
    "a shuffle from outside in a flat_map",
    "shuffle, then repeat",
    "shuffle, take, repeat",
    "cache a shuffle",
    "repeat a cache",
]


@pytest.mark.parametrize("name", SILENT)
def test_what_is_read_again_would_not_go_on_exactly_if_it_were_saved(name, monkeypatch):
    real = pipelines.nature_of
    monkeypatch.setattr(pipelines, "nature_of", lambda dataset: real(dataset)._replace(why_not_saved=""))
    with pytest.raises(AssertionError, match="pass"):
        assert_goes_on_everywhere(lambda: source_of(name), last=3)


@pytest.mark.parametrize("name", ["shuffle", "cache", "shuffle twice", "tf.random with a seed"])
def test_three_passes_and_updates_of_two_batches(name):
    assert_goes_on_everywhere(lambda: source_of(name), last=3, batches=2)


def test_a_cache_in_a_file_is_read_again(tmp_path):
    """TensorFlow ends the process where it saves one."""
    number = iter(range(1000))
    [why] = assert_goes_on_everywhere(
        lambda: StreamSource(plain().cache(str(tmp_path / f"{next(number)}")).shuffle(4, seed=3).batch(2), None, True)
    )
    assert why == "it caches in a file"


def test_a_checkpoint_that_holds_more_than_can_be_restored_exactly_is_read_again():
    """As older versions wrote them."""
    places, whole = everywhere(source_of("shuffle twice"), 2)
    dataset = PIPELINES["shuffle twice"][0]().prefetch(-1)
    serialized = {"start": iterators.serialize(iter(dataset)), "now": iterators.serialize(iter(dataset))}
    state = {key: places[6][2][0][key] for key in ("passes", "batches", "is_open")}
    source = source_of("shuffle twice")
    source.restore(state, serialized)
    assert passes(source, 1) == [whole[1][places[6][1] :]]


def unseeded():
    return plain(20).shuffle(20).batch(2)


@pytest.mark.parametrize(
    ("make", "words", "is_saved"),
    [
        (unseeded, "it shuffles without a seed: give shuffle one", True),
        (lambda: plain(20).shuffle(20, reshuffle_each_iteration=False).batch(2), "it shuffles without a seed", True),
        (lambda: unseeded().repeat(2), "it shuffles without a seed", False),
        (lambda: plain(20).flat_map(lambda i: three(i).shuffle(3)).batch(2), "it shuffles without a seed", False),
        (lambda: plain(8).map(lambda i: tf.random.normal([])).batch(2), "it draws from tf.random without a seed", False),
        (lambda: Dataset.random().take(9).batch(2), "it shuffles without a seed", False),
    ],
)
def test_chance_that_cannot_be_repeated_is_named_when_it_is_saved_and_when_it_is_restored(make, words, is_saved):
    first = StreamSource(make(), None, True)
    first.is_to_be_saved = True
    take(first, 3)
    if is_saved:
        with pytest.warns(UserWarning, match=f"x: {words}.*; a resume would end this pass as it is, and then goes on in another"):
            state, serialized, _ = saved(first)
    else:
        state, serialized, why = saved(first)
        assert words in why and "or its batches are others when it is read again" in why
    again = StreamSource(make(), None, True)
    with pytest.warns(UserWarning, match=words):
        again.restore(state, serialized)
    if is_saved:
        assert passes(again, 1) == passes(first, 1)


@pytest.mark.slow
def test_global_seed_makes_it_repeatable(recwarn):
    def make():
        tf.random.set_seed(4)
        return StreamSource(unseeded(), None, True)

    assert assert_goes_on_everywhere(make) == {None}
    assert not list(recwarn)


def test_other_seeds_are_named():
    places, _ = everywhere(StreamSource(shuffled().batch(2), None, True), 1)
    with pytest.warns(UserWarning, match="its shuffles have other seeds than before"):
        StreamSource(shuffled(seed=4).batch(2), None, True).restore(*places[2][2][:2])
    places, _ = everywhere(StreamSource(shuffled().repeat(2).batch(2), None, True), 1)
    with pytest.warns(UserWarning, match="gives other batches than before: its shuffles have other seeds"):
        StreamSource(shuffled(seed=4).repeat(2).batch(2), None, True).restore(*places[2][2][:2])


def test_other_data_are_noticed_where_they_are_read_again():
    places, _ = everywhere(StreamSource(generated().batch(2), None, True), 1)
    other = StreamSource(generated().map(twice).batch(2), None, True)
    with pytest.warns(UserWarning, match="read again up to batch 2 of pass 1, and gives other batches than before: it is not"):
        other.restore(*places[2][2][:2])


ELSEWHERE = """
import json, sys
sys.path[:0] = {path!r}
from test_pipelines import *
found = {{}}
for name, state in json.load(open({states!r})).items():
    source = source_of(name)
    source.restore(state, {{}})
    found[name] = passes(source, 2)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_another_process_reads_the_same_again(tmp_path):
    found = {name: everywhere(source_of(name), 3) for name in [*READ_AGAIN, "shuffle", "cache", "interleave"]}
    states = {name: places[len(whole[0]) + 2][2][0] for name, (places, whole) in found.items()}
    (tmp_path / "states").write_text(json.dumps(states))
    path = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
    code = ELSEWHERE.format(path=path, states=str(tmp_path / "states"))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    again = json.loads(result.stdout.splitlines()[-1])
    for name, (_, whole) in found.items():
        assert again[name] == [whole[1][1:], whole[2]], name


def slowly(i):
    time.sleep(0.05)
    return i


@pytest.mark.slow
def test_the_order_of_the_next_pass_is_no_matter_of_speed():
    """TensorFlow reads ahead as far as it has the time, and a repeat behind a shuffle that sees its end moves that on."""

    def source():
        slow = shuffled().take(5).repeat(2).map(lambda i: tf.ensure_shape(tf.numpy_function(slowly, [i], tf.int64), []))
        return StreamSource(slow.batch(3, drop_remainder=True), None, True)

    def second_pass(source, pause):
        assert len([take(source, 1) for _ in range(3)]) == 3 and source.at_end
        time.sleep(pause)
        source.next_pass()
        return passes(source, 1)

    assert second_pass(source(), 0.0) == second_pass(source(), 0.3)


def test_a_pass_ends_though_nothing_comes_after_its_last_batch(monkeypatch):
    monkeypatch.setattr(stream, "_SECONDS_TO_END", 0.2)
    is_free = threading.Event()

    def batches():
        yield from range(3)
        is_free.wait(60)

    made = Dataset.from_generator(batches, output_signature=tf.TensorSpec([], tf.int64))
    source = StreamSource(made.batch(1).apply(tf.data.experimental.assert_cardinality(3)), None, True)
    assert [len(take(source, 1)) for _ in range(3)] == [1, 1, 1] and source.at_end
    source.next_pass()
    assert len(take(source, 1)) == 1
    is_free.set()
    source.close()


def test_a_pass_ends_as_its_asserted_size_says(recwarn):
    """As in Keras, which never looks whether there is more."""
    source = StreamSource(plain(9).batch(2).apply(tf.data.experimental.assert_cardinality(3)), None, True)
    for _ in range(2):
        assert [len(take(source, 1)) for _ in range(3)] == [1, 1, 1] and source.at_end
        source.next_pass()
    assert not list(recwarn)


@pytest.mark.parametrize("used", [1, 4])
def test_a_pass_after_one_that_was_cut_short_is_not_promised(used):
    """How many times the first fit's had repeated its shuffle by then depends on how far TensorFlow had read ahead."""
    made = shuffled(4).repeat().batch(2)
    first = StreamSource(made, None, True)
    for _ in range(3):
        take(first, 1)
    first.close()
    second = StreamSource(made, None, True)
    for _ in range(used):
        take(second, 1)
    state = saved(second)[0] | {"last_batch": 0}
    with pytest.warns(UserWarning, match="gives other batches .* a pass before this one ended within the data"):
        StreamSource(shuffled(4).repeat().batch(2), None, True).restore(state, {})
    second.close()


def test_a_look_at_the_first_batch_moves_no_shuffle_on():
    one, other = source_of("shuffle"), source_of("shuffle")
    one.first_batch()
    assert passes(one, 2) == passes(other, 2)
