"""A replica's shard of every batch: a run of its examples, so that all shards in order are the batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.distribution import means
from trainlab.objective import Batch, Batches, ModelFunction, cutting, traced_aside
from trainlab.parameters import Rows, Vector


class Shard(NamedTuple):
    """A shard of a batch.

    Attributes:
        batch: `(x, y, sample_weight)`, of its examples.
        is_there: scalar bool, whether it has any, where only the data tell; otherwise None. An empty one holds an example all the
            same: what convolutions, say, make of none has no gradient, and means of nothing are NaN.
        share: its part of the batch's examples, scalar float64; None for all of them.
    """

    batch: Batch
    is_there: tf.Tensor | None = None
    share: tf.Tensor | None = None


def bounds(size: Any, replica: Any, number: int) -> tuple[Any, Any]:
    """Where the shard of a batch of `size` examples begins and ends: an int each, or a tensor where either is one.

    Sizes differ by one at most, and replica 0 has the most: where there are fewer examples than replicas the last have none.

    Example:
        >>> [bounds(7, replica, 3) for replica in range(3)], [bounds(1, replica, 2) for replica in range(2)]
        ([(0, 3), (3, 5), (5, 7)], [(0, 1), (1, 1)])
    """
    start, end = (-(-(r * size) // number) for r in (replica, replica + 1))
    return start, end


def num_examples_of(size: int, replica: int, number: int) -> int:
    """Examples in a shard of a batch of `size`."""
    start, end = bounds(size, replica, number)
    return int(end - start)


def known_size(batches: Batches, reading: Callable[[], AbstractContextManager[Any]]) -> int | None:
    """Examples in each batch; None where only the data tell."""
    if isinstance(batches.size, int):
        return batches.size
    if batches.size is not None or tf.executing_eagerly():  # eagerly each batch knows, and no two need be alike
        return None
    with reading():
        size = cutting.size_of(batches.fetch(0))
    return size if isinstance(size, int) else None


def shards_of(
    batches: Batches,
    size: int | None,
    num_examples: int | None,
    replica: Any,
    number: int,
    reading: Callable[[], AbstractContextManager[Any]],
) -> Batches:
    """The shards of batches, each a `Shard`.

    Args:
        batches: whole ones.
        size: examples in each, None where only the data tell.
        num_examples: then examples in each shard.
        replica: whose shard, from 0; an int, or a scalar int32 tensor.
        number: of replicas.
        reading: opens the device on which batches are read and cut: only a shard is then moved to another.
    """

    def fetch(index: Any) -> Any:
        with reading():
            if size is not None:
                part = _sized(_part(batches, index, bounds(size, replica, number)[0], num_examples), num_examples)
                return Shard(part, None, tf.constant((num_examples or 0) / max(size, 1), tf.float64))
            whole = batches.size() if callable(batches.size) else cutting.size_of(batches.fetch(index))
            whole = tf.cast(whole, tf.int64)
            start, end = bounds(whole, tf.cast(replica, tf.int64), number)
            share = tf.math.divide_no_nan(tf.cast(end - start, tf.float64), tf.cast(whole, tf.float64))
            is_there = (start < end) | tf.equal(replica, 0)  # what comes of an empty batch is the loss's business
            start = tf.maximum(tf.minimum(start, whole - 1), 0)
            return Shard(_part(batches, index, start, tf.minimum(tf.maximum(end - start, 1), whole)), is_there, share)

    return Batches(batches.num_batches, fetch, batches.may_unroll and size is not None)


def _part(batches: Batches, index: Any, start: Any, count: Any) -> Batch:
    if batches.part is None:
        batch = batches.fetch(index)
        cutting.check(batch, "distribute")
        return cutting.take(batch, start, count)
    return batches.part(index, tf.cast(start, tf.int32), tf.cast(count, tf.int32))


def _sized(batch: Batch, size: int | None) -> Batch:
    """The same, its shapes telling how many examples it has, which a cut at a place that only the data tell hides."""
    for leaf in tf.nest.flatten(batch):
        if isinstance(leaf, tf.Tensor):
            leaf.set_shape([size, *leaf.shape[1:]])
    return batch


class ShardFunction:
    """A `ModelFunction` on what `shards_of` gives: of a shard that is not there it says nothing.

    Args:
        function: the model's loss and gradient on one batch; everything else is asked of it.
        once: variables, by id, to which one number a batch is added: a shard adds its part of it.
    """

    def __init__(self, function: ModelFunction, once: Collection[int] = ()):
        self._function, self._once = function, once
        self._lines: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __call__(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], shard: Shard, totals: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """See `ModelFunction`."""
        batch, is_there, share = shard
        with means.shared(share):
            loss, gradient, after = self._function(parameters, state, batch, totals)
        if share is not None:
            for key in self._once:
                if key in after and key in state and after[key].dtype.is_floating:
                    added = tf.math.multiply_no_nan(after[key] - state[key], tf.cast(share, after[key].dtype))
                    after = {**after, key: state[key] + added}
        if is_there is None:
            return loss, gradient, after
        leaves = [
            Rows(_or_zero(is_there, leaf.values), leaf.indices, leaf.num_rows)
            if isinstance(leaf, Rows)
            else _or_zero(is_there, leaf)
            for leaf in gradient.leaves
        ]
        kept = {key: tf.where(is_there, value, state.get(key, tf.zeros_like(value))) for key, value in after.items()}
        return _or_zero(is_there, loss), Vector(leaves), kept

    def denominators(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], shard: Shard, left: dict[int, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """See `ModelFunction`; without a forward pass where shapes tell, for any number of examples."""
        batch, is_there, _ = shard
        if is_there is None:
            return self._function.denominators(parameters, state, batch, left)
        line = None if tf.executing_eagerly() else self._line_of(batch)
        if line is None:
            found = self._function.denominators(parameters, state, batch, left)
            if left is not None:
                left |= {key: tf.where(is_there, value, state[key]) for key, value in left.items()}
        else:
            found = line[0] + line[1] * tf.cast(cutting.size_of(batch), line[1].dtype)
        return _or_zero(is_there, found)

    def _line_of(self, batch: Batch) -> Any:
        """`a, b` if `n` examples have the denominators `a + b * n`, whatever they hold; None if not."""
        specs = tf.nest.map_structure(lambda leaf: None if leaf is None else tf.type_spec_from_value(leaf), batch)
        key = str(specs)
        if key not in self._lines:
            self._lines[key] = None
            with contextlib.suppress(Exception):  # a model may want batches of another size than these
                two, three, five = (self._known(specs, size) for size in (2, 3, 5))
                slope = three - two
                if (five == three + 2 * slope).all():
                    self._lines[key] = two - 2 * slope, slope
        return self._lines[key]

    def _known(self, specs: Batch, size: int) -> Any:
        """The denominators of so many examples, if shapes alone decide."""
        specs = tf.nest.map_structure(lambda spec: None if spec is None else cutting.sized(spec, size), specs)

        def count() -> tf.Tensor:
            batch = tf.nest.map_structure(lambda spec: None if spec is None else _any_value(spec), specs)
            return self._function.denominators(self._function.read_parameters(), self._function.read_state(), batch)

        return tf.get_static_value(traced_aside(count).outputs[0])


def _any_value(spec: Any) -> tf.Tensor:
    """A value of which nothing is known but its shape; only dense tensors."""
    return tf.raw_ops.Placeholder(dtype=spec.dtype, shape=spec.shape)


def _or_zero(is_there: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    return tf.where(is_there, value, tf.zeros_like(value))
