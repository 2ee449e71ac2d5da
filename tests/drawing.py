"""Draws batches from sources, and puts them back wherever they stood."""

import json

import numpy as np
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


def numbers(found):
    """All values of some updates as plain lists."""
    return [leaf.to_list() if isinstance(leaf, tf.RaggedTensor) else np.asarray(_dense(leaf)).tolist() for leaf in flat(found)]


def _dense(leaf):
    return tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf


def passes(source, last, batches=1):
    """What is left up to the end of this many passes, a list for each of them; the first may have begun."""
    found = []
    while len(found) < last:
        found.append([numbers(update) for update in rest_of_pass(source, 1, batches)])
        source.next_pass()
    return found


def saved(source):
    """Where a source stands, as a checkpoint holds it, and why `tf.data` could not be saved, if it could not."""
    state = json.loads(json.dumps(source.state()))
    try:
        return state, source.serialized(), None
    except ValueError as error:
        return state, {}, str(error)


def everywhere(source, last, batches=1):
    """Reads so many passes; returns `(pass, updates used, saved)` of every place on the way, and what was read in each pass."""
    source.is_to_be_saved = True
    places, found = [(0, 0, saved(source))], []
    for number in range(last):
        found.append([])
        while got := take(source, 1, batches):
            found[-1].append(numbers(got))
            places.append((number, len(found[-1]), saved(source)))
        source.next_pass()
        places.append((number + 1, 0, saved(source)))
    source.close()
    return places, found


def assert_goes_on_everywhere(make, last=2, batches=1, every=1):
    """A source is put at every place of its first passes, and the whole rest compared; like Grain's helper for iterators.

    Args:
        make: makes a source, of data that are made anew, as another process would.
        last: how many passes.
        batches: of an update.
        every: 2 for every other place.

    Returns:
        Why it could not be saved, None if it could, of every place after the first.
    """
    places, whole = everywhere(make(), last, batches)
    assert sum(map(len, whole)) > last, "there is nothing to compare"
    for number, used, (state, serialized, _) in places[::every]:
        source = make()
        source.is_to_be_saved = True
        source.restore(state, serialized)
        want = [whole[number][used:], *whole[number + 1 :]] if number < last else []
        assert passes(source, last - number, batches) == want, f"pass {number}, {used} updates used"
        source.close()
    return {why for _, _, (_, _, why) in places[1:]}
