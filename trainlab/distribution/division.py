"""An effective batch divided among replicas: each evaluates its shards, and what they find is added up once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.distribution.character import character_of, check_read
from trainlab.distribution.left import Left, sums_of
from trainlab.distribution.lockstep import Lockstep, NotForXla
from trainlab.distribution.replicas import Replicas
from trainlab.distribution.shards import ShardFunction, known_size, num_examples_of
from trainlab.distribution.towers import Compile, Towers
from trainlab.objective import Accumulation, Batches, Evaluate, ModelFunction, native, reports_of, traced_aside, wide
from trainlab.parameters import Rows, Vector


class _Tower(NamedTuple):
    """A replica that has something to evaluate.

    Attributes:
        replica: its number.
        device: its device.
        towers: it and those whose shards are like its own.
        totals: its shards' denominators and numbers of examples, added up.
    """

    replica: int
    device: str
    towers: Towers
    totals: tf.Tensor


def divided(
    replicas: Replicas,
    jit: Compile | None,
    function: ModelFunction,
    batches: Sequence[Batches],
    start: Mapping[int, tf.Tensor],
) -> Evaluate:
    """What evaluates an effective batch on several devices.

    Args:
        replicas: who.
        jit: None unless XLA is to compile the evaluation of a shard.
        function: the model's loss and gradient on one batch.
        batches: whole ones.
        start: the state that every evaluation starts from.

    Raises:
        ValueError, NotForXla: the model cannot be divided so; one line.
    """
    character = character_of(function, lambda: batches[0].fetch(0), function.read_parameters(), start)
    left = Left(function, character.no_sums, character.once.constants, character.read, character.sums)
    once = character.once.others
    if function.changing.keys() - start.keys():  # seen only now; nothing has been assigned since
        start = {**function.read_state(), **start}
    check_read(function, character, not character.reaches_across and (len(batches) > 1 or not batches[0].is_one))
    if not character.reaches_across:
        return Division(replicas, function, batches, start, left, jit, once)
    if replicas.collectives is not None:
        raise ValueError(
            "a layer asks in the middle of an evaluation for what other replicas find, as a synchronized BatchNormalization "
            "does: that is done for the devices of one process, not over several: write synchronized=False"
        )
    if jit is not None:
        raise NotForXla(
            "a layer asks in the middle of an evaluation for what other replicas find, as a synchronized BatchNormalization does"
        )
    lockstep: Any = Lockstep(function, replicas, left, once)
    return Accumulation(lockstep, batches, start)


class Division:
    """Loss and gradient of an effective batch, of which each replica evaluates its shards on its own device.

    Strategy, optimizer and commit see one sum, and run once.

    Args:
        replicas: who.
        function: the model's loss and gradient on one batch.
        batches: whole ones.
        start: the state that every evaluation starts from.
        left: what becomes of the state that replicas leave.
        jit: None unless XLA is to compile the evaluation of a shard.
        once: variables, by id, to which one number a batch is added.
    """

    def __init__(
        self,
        replicas: Replicas,
        function: ModelFunction,
        batches: Sequence[Batches],
        start: Mapping[int, tf.Tensor],
        left: Left,
        jit: Compile | None = None,
        once: Collection[int] = (),
    ):
        self._function, self._replicas, self._left = function, replicas, left
        self._start, self._batches = start, batches
        self._towers: list[_Tower] = []
        sizes = [known_size(part, replicas.reading) for part in batches]
        alike: dict[Any, Towers] = {}
        for replica, device in replicas.local():
            mine = [None if size is None else num_examples_of(size, replica, replicas.number) for size in sizes]
            there = [i for i, examples in enumerate(mine) if examples != 0]
            if not there:
                continue
            if tuple(mine) not in alike:
                given = [batches[i] for i in there], [(sizes[i], mine[i]) for i in there]
                shard_function = ShardFunction(function, once)
                alike[tuple(mine)] = Towers(shard_function, *given, replicas.number, replicas.reading, left, start, jit)
            towers = alike[tuple(mine)]
            with tf.device(device):
                self._towers.append(_Tower(replica, device, towers, towers.totals(replica)))
        self._totals = self._known_totals(batches)

    def _known_totals(self, batches: Sequence[Batches]) -> tf.Tensor:
        own = [tower.totals for tower in self._towers]
        if self._replicas.collectives is None:
            return tf.add_n(own)
        if not tf.executing_eagerly():
            # Where shapes alone decide no process need ask another.
            whole = traced_aside(lambda: Accumulation(self._function, batches, self._start).totals)
            if (known := tf.get_static_value(whole.outputs[0])) is not None:
                return tf.constant(known)
        zero = tf.zeros([self._function.num_losses + 1], wide(self._function.read_parameters()))
        return self._replicas.collectives.sum([tf.add_n([zero, *own])])[0]

    def __call__(self, parameters: Vector) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """Loss, gradient and what is left in other variables."""
        shares = []
        for tower in self._towers:
            with tf.device(tower.device):
                shares.append(tower.towers.share(tower.replica, parameters, self._totals))
        if not shares:  # of this process: what the others find must be known
            traced_aside(lambda: self._function(parameters, self._start, self._batches[0].fetch(0), self._totals)[0])
        with self._replicas.reading():
            loss, gradient, left = self._added_up(parameters, shares)
            left |= self._function.track_loss(loss, self._totals[-1], left)
            after, sums = {**self._start, **left}, {id(v) for v in sums_of(self._function)}
            return loss, gradient, left | reports_of(self._function, sums, parameters, after, lambda: self._batches[0].fetch(0))

    def _added_up(self, parameters: Vector, shares: Sequence[Any]) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """The sums over all replicas, here and elsewhere."""
        function = self._function
        keys = list(function.changing)
        kinds = {key: tf.convert_to_tensor(native(function.changing[key])) for key in keys}
        losses = [tf.zeros([], wide(parameters)), *(loss for loss, _, _ in shares)]
        addends: list[list[tf.Tensor]] = [losses]
        dense_leaves = [i for i in range(len(parameters.parts)) if i not in function.sparse]
        addends += [self._or_zeros(parameters.parts[i], [gradient.leaves[i] for _, gradient, _ in shares]) for i in dense_leaves]
        for key in keys:
            found = [self._addend(key, tower, left) for tower, (_, _, left) in zip(self._towers, shares, strict=True)]
            addends.append(self._or_zeros(kinds[key], [value for value in found if value is not None]))
        sums = [tf.add_n(values) if len(values) > 1 else values[0] for values in addends]
        if self._replicas.collectives is not None:
            sums = self._replicas.collectives.sum(sums)
        loss, rest = sums[0], sums[1:]
        leaves: dict[int, Any] = dict(zip(dense_leaves, rest, strict=False))
        for i in sorted(function.sparse):
            leaves[i] = self._rows(parameters.parts[i], [gradient.leaves[i] for _, gradient, _ in shares])
        left = dict(zip(keys, rest[len(dense_leaves) :], strict=True))
        return loss, Vector([leaves[i] for i in range(len(parameters.parts))]), left

    def _addend(self, key: int, tower: _Tower, left: Mapping[int, tf.Tensor]) -> tf.Tensor | None:
        state = self._start if key in self._start else self._function.read_state()
        value = left[key] if key in left else self._left.start(tower.replica, state)[key]
        return self._left.addend(key, state[key], value, tower.replica, self._weight(tower))

    def _or_zeros(self, like: Any, found: list[tf.Tensor]) -> list[tf.Tensor]:
        return found or [tf.zeros(like.shape, like.dtype)]

    def _rows(self, like: Any, found: Sequence[Rows]) -> Rows:
        values = [rows.values for rows in found] or [tf.zeros([0, *like.shape[1:]], like.dtype)]
        indices = [tf.cast(rows.indices, tf.int64) for rows in found] or [tf.zeros([0], tf.int64)]
        joined = tf.concat(values, axis=0), tf.concat(indices, axis=0)
        if self._replicas.collectives is not None:
            joined = self._replicas.collectives.concat(*joined)
        return Rows(*joined, like.shape[0])

    def _weight(self, tower: _Tower) -> tf.Tensor:
        """A replica's part of the examples; where there are none at all, the first has everything, as one device has."""
        own, everything = tower.totals[-1], self._totals[-1]
        return tf.where(everything > 0, tf.math.divide_no_nan(own, everything), tf.cast(tower.replica == 0, own.dtype))
