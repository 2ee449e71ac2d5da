import tensorflow as tf

from trainlab.data import pipelines


def rest(iterator):
    return [batch.numpy().tolist() for batch in iterator]


def test_a_copy_begins_anew_and_leaves_the_original_alone():
    data = tf.data.Dataset.range(20).shuffle(8, seed=3, reshuffle_each_iteration=True).batch(2)
    first = rest(data)
    copies = [pipelines.copied(data), pipelines.copied(data)]
    second = rest(data)
    assert rest(copies[0]) == first != second == rest(copies[0])
    assert rest(copies[1]) == first
