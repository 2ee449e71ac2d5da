"""Draws batches from sources."""

import tensorflow as tf


def updates(block):
    """The batches of each update of a block."""
    found = []

    def step(parts):
        found.append([part.fetch(tf.constant(i)) for part in parts for i in range(part.num_batches)])

    assert int(block.layout.program(step, None)(*block.arguments)) == block.num_updates == len(found)
    return found


def take(source, max_updates, batches=1):
    """The same of a source's next block, used up."""
    block = source.block(max_updates, batches)
    if block is None:
        return []
    source.advance(block)
    return updates(block)


def flat(found):
    """All tensors of some updates."""
    return [leaf for leaf in tf.nest.flatten(found) if leaf is not None]


def rest_of_pass(source, max_updates, batches=1):
    found = []
    while got := take(source, max_updates, batches):
        found += got
    return found
