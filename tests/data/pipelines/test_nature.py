import numpy as np
import pytest
import tensorflow as tf

from trainlab.data import pipelines
from trainlab.data.pipelines import graphs


def shuffled(**settings):
    return tf.data.Dataset.range(20).shuffle(8, seed=3, **settings).batch(2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (shuffled(), ""),
        (shuffled().repeat(), "it repeats what it shuffles"),
        (tf.data.Dataset.range(20).repeat().shuffle(8), ""),
        (tf.data.Dataset.range(2).flat_map(lambda _: shuffled()), "TensorFlow is not known to restore shuffle in a function"),
        (tf.data.Dataset.range(20).repeat(), ""),
        (tf.data.Dataset.range(20).snapshot("/nowhere"), "TensorFlow is not known to restore snapshot exactly"),
        (tf.data.Dataset.range(20).map(lambda i: i).prefetch(2).with_options(tf.data.Options()), ""),
    ],
)
def test_why_an_iterator_is_not_saved(data, why):
    assert pipelines.nature_of(data).why_not_saved.startswith(why) and bool(why) == bool(pipelines.nature_of(data).why_not_saved)


def test_what_cannot_be_described_is_not_saved(monkeypatch):
    def too_large(dataset):
        raise tf.errors.InvalidArgumentError(None, None, "exceeds 2GB")

    monkeypatch.setattr(graphs, "graph_of", too_large)
    nature = pipelines.nature_of(shuffled())
    assert nature == ("TensorFlow cannot describe it: exceeds 2GB", (), (), False, [])


@pytest.mark.parametrize(
    ("data", "chance"),
    [
        (tf.data.Dataset.range(9).map(lambda _: tf.timestamp()), ["it reads the clock"]),
        (
            tf.data.Dataset.range(9).map(lambda i: i, num_parallel_calls=2, deterministic=False),
            ["it leaves its order open by deterministic=False"],
        ),
        (tf.data.Dataset.range(9).map(lambda i: tf.random.stateless_normal([], [i, 1])), []),
        (tf.data.Dataset.range(9).map(lambda _: tf.random.normal([], seed=1)), []),
    ],
)
def test_chance_is_named(data, chance):
    assert list(pipelines.nature_of(data).chance) == chance


def test_an_option_that_leaves_the_order_open_is_chance_too():
    options = tf.data.Options()
    options.deterministic = False
    assert pipelines.nature_of(shuffled().with_options(options)).chance == ("it leaves its order open by deterministic=False",)


def _generate():
    yield 1


def moving():
    """Data sets, and whether a pass over them comes otherwise than the one before."""
    numbers, drawn = tf.data.Dataset.range(8), tf.random.Generator.from_seed(0)
    yes = [
        numbers.shuffle(8),
        tf.data.Dataset.zip((numbers, numbers.shuffle(4))).prefetch(1),
        numbers.shuffle(3).with_options(tf.data.Options()),
        numbers.interleave(lambda i: tf.data.Dataset.range(i).shuffle(2)),
        numbers.map(lambda i: i + drawn.uniform([], 0, 9, tf.int64)).batch(2),
        numbers.map(lambda i: tf.numpy_function(abs, [i], tf.int64)),
        tf.data.Dataset.from_generator(_generate, output_signature=tf.TensorSpec([], tf.int32)),
    ]
    no = [
        numbers,
        numbers.shuffle(8, seed=1, reshuffle_each_iteration=False).batch(2),
        tf.data.Dataset.from_tensor_slices(np.zeros(3)).cache().repeat(2),
        numbers.filter(lambda i: i > 2).window(2).flat_map(lambda window: window.batch(2)),
        tf.data.Dataset.random(seed=4),
    ]
    return [*((data, True) for data in yes), *((data, False) for data in no)]


@pytest.mark.parametrize("is_described", [True, False])
def test_what_moves_on_is_known_also_where_tensorflow_cannot_describe_it(is_described, monkeypatch):
    if not is_described:
        monkeypatch.setattr(graphs, "graph_of", lambda dataset: 1 / 0)
    for i, (data, expected) in enumerate(moving()):
        assert pipelines.moves_on(data) is expected, i
