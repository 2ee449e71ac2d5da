"""An effective batch divided among replicas: each evaluates its shards, and what they find is added up once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.distribution.left import Left
from trainlab.distribution.replicas import Replicas
from trainlab.distribution.shards import ShardFunction, shard_of
from trainlab.objective import Accumulation, Batches, ModelFunction
from trainlab.parameters import Rows, Vector


class _Tower(NamedTuple):
    """A replica that has something to evaluate.

    Attributes:
        replica: its number.
        device: its device.
        accumulation: of its shards.
    """

    replica: int
    device: str
    accumulation: Accumulation


class Division:
    """Loss and gradient of an effective batch, of which each replica evaluates its shards on its own device.

    Strategy, optimizer and commit see one sum, and run once.

    Args:
        replicas: who.
        function: the model's loss and gradient on one batch.
        batches: whole ones.
        start: the state that every evaluation starts from.
    """

    def __init__(self, replicas: Replicas, function: ModelFunction, batches: Sequence[Batches], start: Mapping[int, tf.Tensor]):
        self._function, self._replicas = function, replicas
        self._left = Left(function)
        self._start = start
        self._towers: list[_Tower] = []
        shard_function: Any = ShardFunction(function)
        for replica, device in replicas.local():
            shards = [shard_of(part, replica, replicas.number, replicas.reading) for part in batches]
            mine = [shard for shard in shards if shard is not None]
            if mine:
                begun = functools.partial(self._left.start, replica)
                with tf.device(device):
                    accumulation = Accumulation(shard_function, mine, start, begun)
                self._towers.append(_Tower(replica, device, accumulation))
        self._totals = tf.add_n([tower.accumulation.totals for tower in self._towers])

    def __call__(self, parameters: Vector) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """Loss, gradient and what is left in other variables."""
        losses, gradients, lefts, weights = [], [], [], []
        for tower in self._towers:
            with tf.device(tower.device):
                own = tower.accumulation
                loss, gradient, left = own.share(parameters, self._totals)
                weights.append(self._weight(tower))
                losses.append(loss)
                gradients.append(gradient)
                lefts.append(left)
        with self._replicas.reading():
            loss = tf.add_n(losses)
            gradient = Vector([_added(leaves) for leaves in zip(*(g.leaves for g in gradients), strict=True)])
            left = self._added_up(lefts, weights)
            return loss, gradient, {**left, **self._function.track_loss(loss, self._totals[-1], left)}

    def _weight(self, tower: _Tower) -> tf.Tensor:
        """A replica's part of the examples; where there are none at all, the first has everything, as one device has."""
        own, everything = tower.accumulation.totals[-1], self._totals[-1]
        return tf.where(everything > 0, tf.math.divide_no_nan(own, everything), tf.cast(tower.replica == 0, own.dtype))

    def _added_up(self, lefts: Sequence[Mapping[int, tf.Tensor]], weights: Sequence[tf.Tensor]) -> dict[int, tf.Tensor]:
        after = {}
        for key in lefts[0]:
            addends = [
                self._left.addend(key, left[key], tower.replica, weight)
                for tower, left, weight in zip(self._towers, lefts, weights, strict=True)
            ]
            after[key] = tf.add_n([addend for addend in addends if addend is not None])
        return after


def _added(leaves: Sequence[tf.Tensor | Rows]) -> tf.Tensor | Rows:
    first = leaves[0]
    if not isinstance(first, Rows):
        return tf.add_n(list(leaves))
    values = tf.concat([leaf.values for leaf in leaves], axis=0)
    return Rows(values, tf.concat([leaf.indices for leaf in leaves], axis=0), first.num_rows)
