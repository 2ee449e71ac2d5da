"""A replica's shard of every batch: a run of its examples, so that all shards in order are the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from trainlab.objective import Batches, ModelFunction, cutting
from trainlab.parameters import Rows, Vector


def bounds(size: Any, replica: int, number: int) -> tuple[Any, Any]:
    """Where the shard of a batch of `size` examples begins and ends: an int each, or a tensor where `size` is one.

    Sizes differ by one at most, and replica 0 has the most: where there are fewer examples than replicas the last have none.

    Example:
        >>> [bounds(7, replica, 3) for replica in range(3)], [bounds(1, replica, 2) for replica in range(2)]
        ([(0, 3), (3, 5), (5, 7)], [(0, 1), (1, 1)])
    """
    start, end = (-(-(r * size) // number) for r in (replica, replica + 1))
    return start, end


def shard_of(batches: Batches, replica: int, number: int, reading: Callable[[], AbstractContextManager[Any]]) -> Batches | None:
    """The shards of batches, each as `(batch, is_there)`; None if they are known to be empty.

    Where only the data tell whether a shard is empty, `is_there` is a scalar bool, and an empty one holds an example all the
    same: what convolutions, say, make of none has no gradient, and means of nothing are NaN.

    Args:
        batches: whole ones.
        replica: whose shard, from 0.
        number: of replicas.
        reading: opens the device on which batches are read and cut: only a shard is then moved to another.
    """

    def fetch(index: Any) -> Any:
        with reading():
            batch = batches.fetch(index)
            size = cutting.size_of(batch)
            start, end = bounds(size, replica, number)
            if replica == 0 or isinstance(size, int):
                return cutting.take(batch, start, end - start), None
            start, is_there = tf.minimum(start, size - 1), start < end
            return cutting.take(batch, start, tf.maximum(end - start, 1)), is_there

    with reading():
        size = cutting.size_of(batches.fetch(0))
    if isinstance(size, int):
        start, end = bounds(size, replica, number)
        if start == end:
            return None
    return batches._replace(fetch=fetch)


class ShardFunction:
    """A `ModelFunction` on what `shard_of` gives: of a shard that is not there it says nothing.

    Args:
        function: the model's loss and gradient on one batch; everything else is asked of it.
    """

    def __init__(self, function: ModelFunction):
        self._function = function

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __call__(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], shard: Any, totals: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """See `ModelFunction`."""
        batch, is_there = shard
        loss, gradient, after = self._function(parameters, state, batch, totals)
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

    def denominators(self, parameters: Vector, state: Mapping[int, tf.Tensor], shard: Any) -> tf.Tensor:
        """See `ModelFunction`."""
        batch, is_there = shard
        found = self._function.denominators(parameters, state, batch)
        return found if is_there is None else _or_zero(is_there, found)


def _or_zero(is_there: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    return tf.where(is_there, value, tf.zeros_like(value))
