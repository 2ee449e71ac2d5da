"""Shards evaluated side by side, for models that ask in the middle for what others find: synchronized BatchNormalization.

Each shard is traced by itself. Where it asks for a sum over replicas, forwards or backwards, the trace goes on with what stands
for it, and the sum is put there once all shards are traced: then it is known what is added.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from trainlab.distribution.left import Left, sums_of
from trainlab.distribution.replicas import Replicas
from trainlab.distribution.shards import ShardFunction, known_size, num_examples_of, shards_of
from trainlab.objective import Batch, Batches, ModelFunction, keras_internals, traced_aside
from trainlab.parameters import Rows, Vector, tensorflow_internals


class NotForXla(ValueError):
    """XLA cannot compile the evaluation of a shard; the line says why."""


class Lockstep:
    """A `ModelFunction` on whole batches: each is cut into shards, which are evaluated side by side on their devices.

    Args:
        function: the model's loss and gradient on one batch; everything else is asked of it.
        replicas: who.
        left: what becomes of the state that they leave.
        once: variables, by id, to which one number a batch is added.
    """

    def __init__(self, function: ModelFunction, replicas: Replicas, left: Left, once: Collection[int] = ()):
        self._function, self._replicas, self._left = function, replicas, left
        self._shard_function = ShardFunction(function, once)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    @property
    def known_last(self) -> set[int]:
        """See `ModelFunction`; each replica could only report of its own metrics, too."""
        return {id(v) for v in sums_of(self._function)}

    def __call__(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, totals: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """See `ModelFunction`."""
        if tf.executing_eagerly():  # sums that are not known yet can stand in a graph only
            return traced_aside(lambda: self._evaluate(parameters, state, batch, totals))()
        return self._evaluate(parameters, state, batch, totals)

    def denominators(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, left: dict[int, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """See `ModelFunction`."""
        found = []
        for replica, device, shard in self._shards(batch):
            with tf.device(device):
                begun, own = self._left.start(replica, state), left if replica == 0 else None  # the first one's seeds go on
                found.append(self._shard_function.denominators(parameters, begun, shard, own))
        return tf.add_n(found)

    def _evaluate(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, totals: tf.Tensor | None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        contexts, found = [], []
        shards = self._shards(batch)
        there = [1 if shard.is_there is None else tf.cast(shard.is_there, tf.int32) for _, _, shard in shards]
        for replica, device, shard in shards:
            contexts.append(_Meeting(replica, self._replicas.number, shard.is_there, sum(there)))
            begun = self._left.start(replica, state)
            with tf.device(device), contexts[-1], keras_internals.masked_moments_synchronized():
                loss, gradient, after = self._shard_function(parameters, begun, shard, totals)
            found.append((replica, shard.share, loss, gradient, after))
        with self._replicas.reading():
            _meet(contexts)
            loss = tf.add_n([loss for _, _, loss, _, _ in found])
            gradient = Vector([_added(leaves) for leaves in zip(*(gradient.leaves for *_, gradient, _ in found), strict=True)])
            left: dict[int, tf.Tensor] = {}
            for key in found[0][-1]:
                pairs = ((replica, share, after[key]) for replica, share, _, _, after in found)
                addends = [self._left.addend(key, state[key], value, replica, share) for replica, share, value in pairs]
                left[key] = tf.add_n([addend for addend in addends if addend is not None])
            return loss, gradient, left

    def _shards(self, batch: Batch) -> list[tuple[int, str, Any]]:
        """The replicas that have a shard of a batch, their devices, and their shards."""
        whole, number, reading = Batches(1, lambda _: batch), self._replicas.number, self._replicas.reading
        size = known_size(whole, reading)
        shards = []
        for replica, device in self._replicas.local():
            examples = None if size is None else num_examples_of(size, replica, number)
            if examples != 0:
                shards.append((replica, device, shards_of(whole, size, examples, replica, number, reading).fetch(0)))
        return shards


class _Meeting(tf.distribute.ReplicaContext):
    """What layers ask for sums over replicas, while one's shard is traced.

    Args:
        replica: whose.
        number: of replicas.
        is_there: whether its shard is; None if that is known.
        present: of how many replicas the shard is there, an int or a scalar int32: a mean is over these.

    Attributes:
        places: what it gives to each sum, and what stands for that, in their order.
    """

    def __init__(self, replica: int, number: int, is_there: tf.Tensor | None, present: int | tf.Tensor):
        super().__init__(tf.distribute.get_strategy(), replica)
        self._number, self._is_there, self._present = number, is_there, present
        self._graph = tf.compat.v1.get_default_graph()
        self.places: list[tuple[tf.Tensor, tf.Tensor]] = []

    @property
    def num_replicas_in_sync(self) -> int:
        """See `tf.distribute.ReplicaContext`."""
        return self._number

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """See `tf.distribute.ReplicaContext`; forwards and, as its gradient, backwards."""
        del options
        is_mean = "MEAN" in str(reduce_op).upper()  # TensorFlow knows two
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise ValueError(
                "a layer asks for a sum over all replicas (as a synchronized BatchNormalization does) inside a tf.cond, a loop, "
                "a map or a function of its own, where the others cannot be met: ask for it outside"
            )

        @tf.custom_gradient
        def met(*values: tf.Tensor) -> Any:
            return [self._place(v, is_mean) for v in values], lambda *upstream: [self._place(dy, is_mean) for dy in upstream]

        flat = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(value)]
        return tf.nest.pack_sequence_as(value, tf.nest.flatten(met(*flat)))

    def _place(self, value: tf.Tensor, is_mean: bool) -> tf.Tensor:
        given = value if self._is_there is None else tf.where(self._is_there, value, tf.zeros_like(value))
        stand_in = tf.identity(given)
        self.places.append((given, stand_in))
        return stand_in / tf.cast(self._present, stand_in.dtype) if is_mean else stand_in


def _meet(contexts: list[_Meeting]) -> None:
    """Puts the sums in their places.

    Raises:
        ValueError: replicas ask for different things.
    """
    numbers = [len(context.places) for context in contexts]
    if len(set(numbers)) > 1:
        raise ValueError(f"replicas must ask for the same sums over all of them, but they ask for {numbers}")
    for places in zip(*(context.places for context in contexts), strict=True):
        total = tf.add_n([given for given, _ in places])
        for _, stand_in in places:
            tensorflow_internals.set_input(stand_in.op, total)


def _added(leaves: tuple[tf.Tensor | Rows, ...]) -> tf.Tensor | Rows:
    first = leaves[0]
    if not isinstance(first, Rows):
        return tf.add_n(list(leaves))
    values = tf.concat([leaf.values for leaf in leaves], axis=0)
    return Rows(values, tf.concat([tf.cast(leaf.indices, tf.int64) for leaf in leaves], axis=0), first.num_rows)
