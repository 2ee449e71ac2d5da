"""The order of array data: a function of (seed, epoch, position), so that resuming needs three integers and no buffer."""

from __future__ import annotations

import tensorflow as tf


def shuffled(seed: int | tf.Tensor, epoch: tf.Tensor, positions: tf.Tensor, num_examples: tf.Tensor) -> tf.Tensor:
    """The examples at these positions of an epoch's order.

    A pseudorandom permutation of `range(num_examples)` that depends on seed and epoch alone and needs no memory: any position
    can be asked for.

    Args:
        seed: the run's; scalar int64 if a tensor.
        epoch: scalar int64.
        positions: `[k]` int64, each in `[0, num_examples)`.
        num_examples: scalar int64.

    Returns:
        `[k]` int64.
    """
    with tf.device("CPU:0"):  # where the only kernel is, and one algorithm for every machine
        # Small integers make poor keys of this cipher, and its default of 4 rounds poor permutations: hash, and take 8.
        counter = tf.stack([tf.convert_to_tensor(seed, tf.int64), epoch])
        key = tf.random.stateless_uniform([3], counter, minval=None, maxval=None, dtype=tf.int64, alg="philox")
        # One key for each index: the vector form of `tf.random.experimental.index_shuffle` pads its seed wrongly.
        keys = tf.tile(key[None], [tf.size(positions), 1])
        return tf.raw_ops.RandomIndexShuffle(index=positions, seed=keys, max_index=num_examples - 1, rounds=8)
