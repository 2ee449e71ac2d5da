"""Towers: replicas whose shards have the same shapes, traced once for all of them; by XLA, if it is to compile them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from trainlab.data import may_unroll
from trainlab.distribution.left import Left
from trainlab.distribution.lockstep import NotForXla
from trainlab.distribution.shards import ShardFunction, shards_of
from trainlab.objective import Accumulation, Batches
from trainlab.parameters import Vector

Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


class Towers:
    """Evaluates the shards of any one of some replicas.

    Args:
        function: of a shard.
        batches: whole ones.
        sizes: of each of them, their examples and those of a shard: both None where only the data tell.
        number: of replicas.
        reading: opens the device on which batches are read and cut.
        left: what a replica begins with.
        start: the state that is there.
        jit: None unless XLA is to compile what it can.
    """

    def __init__(
        self,
        function: ShardFunction,
        batches: Sequence[Batches],
        sizes: Sequence[tuple[int | None, int | None]],
        number: int,
        reading: Callable[[], AbstractContextManager[Any]],
        left: Left,
        start: Mapping[int, tf.Tensor],
        jit: Compile | None,
    ):
        self._function: Any = function
        self._batches, self._sizes, self._number, self._reading = batches, sizes, number, reading
        self._left, self._start = left, start
        self._jit = jit if jit is not None and self._is_for_xla() else None
        self._written_out: list[bool] | None = None
        self._counting: Any = None
        self._latest: tuple[Vector, tf.Tensor, Callable[[int], Any]] | None = None

    def totals(self, replica: int) -> tf.Tensor:
        """Denominators and examples of a replica's shards, `[num_losses + 1]`."""
        if tf.executing_eagerly():
            return self._accumulation(replica, self._shards(replica), None).totals
        if self._counting is None:
            count = tf.function(self._survey, autograph=False)
            self._counting = count.get_concrete_function(tf.TensorSpec([], tf.int32))
        known = tf.get_static_value(self._counting.outputs[0])
        return self._counting(tf.constant(replica)) if known is None else tf.constant(known)

    def share(self, replica: int, parameters: Vector, totals: tf.Tensor) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """A replica's share of loss and gradient, and what it leaves; see `Accumulation.share`."""
        if tf.executing_eagerly():
            shards = self._shards(replica)
            return self._accumulation(replica, shards, [False] * len(shards)).share(parameters, totals)
        if self._latest is None or self._latest[0] is not parameters or self._latest[1] is not totals:
            self._latest = parameters, totals, self._traced(parameters, totals)
        return self._latest[2](replica)

    def _accumulation(self, replica: Any, shards: list[Batches], written_out: Sequence[bool] | None) -> Accumulation:
        begun = functools.partial(self._left.start, replica)
        return Accumulation(self._function, shards, self._start, begun, written_out)

    def _survey(self, replica: tf.Tensor) -> tf.Tensor:
        made = self._accumulation(replica, self._shards(replica), None)
        self._written_out = made.written_out
        return made.totals

    def _shards(self, replica: Any) -> list[Batches]:
        pairs = zip(self._batches, self._sizes, strict=True)
        shards = [shards_of(part, *sizes, replica, self._number, self._reading) for part, sizes in pairs]
        if self._jit is None:
            return shards
        return [part._replace(may_unroll=part.may_unroll and may_unroll(part.num_batches, by_xla=True)) for part in shards]

    def _traced(self, parameters: Vector, totals: tf.Tensor) -> Callable[[int], Any]:
        keys: list[int] = []
        point = parameters if self._jit is None else Vector(parameters.leaves)  # XLA looks nothing up in another device's

        def evaluate(replica: tf.Tensor, data: Any) -> Any:
            shards = self._shards(replica) if data is None else self._given(data)
            loss, gradient, left = self._accumulation(replica, shards, self._written_out).share(point, totals)
            keys[:] = left
            return loss, gradient, list(left.values())

        function: Any = tf.function(evaluate, autograph=False) if self._jit is None else self._jit(evaluate)

        def call(replica: int) -> Any:
            data = None if self._jit is None else self._data(replica)
            given = tf.constant(replica), data
            loss, gradient, values = function(*given)
            if self._jit is not None:
                _check_captured(function.get_concrete_function(*given))
            return loss, gradient, dict(zip(keys, values, strict=True))

        return call

    def _is_for_xla(self) -> bool:
        """Whether shards can be handed to XLA, which reads no stream: one of any size, or several of one size, stacked."""
        if not all(isinstance(part.num_batches, int) for part in self._batches):
            return False
        if len(self._batches) == 1 and self._batches[0].is_one:
            return True
        return all(size is not None for size, _ in self._sizes)

    def _data(self, replica: int) -> list[Any]:
        """For each part its shards, read outside of what XLA compiles: one as it is, several as a stack."""
        data = []
        for shards in self._shards(replica):
            assert isinstance(shards.num_batches, int)
            fetched = [shards.fetch(i) for i in range(shards.num_batches)]
            data.append(fetched[0] if len(fetched) == 1 else tf.nest.map_structure(_stacked, *fetched))
        return data

    def _given(self, data: Sequence[Any]) -> list[Batches]:
        shards = []
        for part, given in zip(self._batches, data, strict=True):
            shards.append(Batches(part.num_batches, functools.partial(_picked, given, part.is_one)))
        return shards


def _check_captured(function: Any) -> None:
    """Raises NotForXla for what reads variables itself: XLA reads none of another device's."""
    if any(tensor.dtype == tf.resource for tensor in function.captured_inputs):
        names = ", ".join(sorted(repr(variable.name) for variable in function.variables)[:3]) or "a table"
        raise NotForXla(f"the model or its loss reads {names}, which is not the model's, on another device than the first")


def _picked(data: Any, is_one: bool, index: Any) -> Any:
    if is_one:
        return data
    return tf.nest.map_structure(lambda leaf: None if leaf is None else leaf[index], data)


def _stacked(*leaves: Any) -> Any:
    return None if leaves[0] is None else tf.stack(leaves)
