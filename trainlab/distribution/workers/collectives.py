"""What processes do together: sums in the middle of a compiled call, and small exchanges between two calls.

Every process must trace the same in the same order: what belongs together is known by a count of what was traced.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

_GROUP = 7461  # any number: no other group of ours is in the process
_EXCHANGE, _PIECE, _MEETING, _FIRST = 1, 2, 3, 10  # instances
_POWERS, _KEYS = 40, 2**20  # of numbers of rows; more instances than are ever traced
_CHUNK = 2**14  # int32 numbers of a message, sent at once
_PART = 2**26  # bytes of variables that are shared at once
# What carries a value's bits: of half as many it takes two, in an axis more.
_OF_SAME_BITS = {
    tf.float32: tf.int32,
    tf.uint32: tf.int32,
    tf.complex64: tf.int32,
    tf.float64: tf.int64,
    tf.uint64: tf.int64,
    tf.complex128: tf.int64,
}
_OF_PAIRS = {tf.complex64: tf.float32, tf.complex128: tf.float64}


class Collectives:
    """Collective operations among `size` processes.

    Args:
        size: of the group.
        rank: this process' number.
        width: how many numbers an exchange has.
    """

    def __init__(self, size: int, rank: int, width: int):
        self.size, self.rank, self.width = size, rank, width
        self._next = _FIRST
        with tf.device("CPU:0"):
            self._token = tf.Variable(0.0, trainable=False, name="order_of_collectives")  # lest two wait for one another

    def sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Each tensor's sum over all processes; shapes are known. One operation a dtype, on all of that dtype as one vector."""
        sums: dict[int, tf.Tensor] = {}
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            members = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
            parts = [tf.reshape(_summed(tensors[i]), [-1]) for i in members]
            whole = self._reduce(tf.concat(parts, axis=0), "Add")
            pieces = tf.split(whole, [part.shape.num_elements() for part in parts])
            for i, piece in zip(members, pieces, strict=True):
                sums[i] = _unsummed(piece, dtype, tensors[i].shape)
        return [sums[i] for i in range(len(tensors))]

    def concat(self, values: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Rows of all processes, one after the other, padded with rows of zeros to as many in each, a power of two.

        An instance has one shape as long as a compiled call runs, whose updates may look up other numbers of rows: each power
        of two is an instance of its own.

        Args:
            values: `[k, ...]`; k may differ among processes.
            indices: `[k]`, int64.
        """
        number = tf.shape(values, tf.int64)[0]
        most = self._reduce(number[None], "Max")[0]
        powers = tf.constant([2**i for i in range(_POWERS)], tf.int64)
        power = tf.reduce_sum(tf.cast(powers < most, tf.int32))  # exactly, whatever a process' logarithms are
        padding = powers[power] - number
        values = tf.pad(values, [[0, padding], *[[0, 0]] * (values.shape.rank - 1)])
        indices = tf.pad(indices, [[0, padding]])
        return self._gather(values, power), self._gather(indices, power)

    def _reduce(self, vector: tf.Tensor, merge: str) -> tf.Tensor:
        self._next += 1
        return self._instance(vector, merge, self._next - 1)

    def _instance(self, vector: tf.Tensor, merge: str, key: int, seconds: float = 0.0) -> tf.Tensor:
        return tf.raw_ops.CollectiveReduceV2(
            input=vector,
            group_size=self.size,
            group_key=_GROUP,
            instance_key=key,
            ordering_token=[self._token.handle],
            merge_op=merge,
            final_op="Id",
            timeout_seconds=seconds,  # 0 for none: each is a thread that sleeps so long
        )

    def _gather(self, tensor: tf.Tensor, power: tf.Tensor) -> tf.Tensor:
        self._next += 1
        with tf.device("CPU:0"):  # where the operation reads it
            key = self._next - 1 + (power + 1) * _KEYS
        return tf.raw_ops.CollectiveGatherV2(
            input=tensor,
            group_size=self.size,
            group_key=_GROUP,
            instance_key=key,
            ordering_token=[self._token.handle],
        )

    def exchange(self, numbers: Sequence[int]) -> list[int]:
        """The maximum over all processes of each of `width` numbers."""
        if self._exchanges is None:
            self._exchanges = self._compiled(tf.int64, self.width, "Max", _EXCHANGE)
        padded = [*numbers, *[0] * (self.width - len(numbers))]
        found: list[int] = self._exchanges(tf.constant(padded, tf.int64)).numpy().tolist()
        return found

    def broadcast(self, message: bytes | None, root: int) -> bytes:
        """The message of process `root`, which is the only one that need know it."""
        if self._pieces is None:
            self._pieces = self._compiled(tf.int32, _CHUNK, "Add", _PIECE)
        mine = message if self.rank == root and message is not None else b""
        size = self.exchange([len(mine)])[0]
        padded = np.frombuffer(mine + bytes(-len(mine) % 4), np.int32)
        received = []
        for start in range(0, -(-size // 4), _CHUNK):
            piece = np.zeros([_CHUNK], np.int32)
            if self.rank == root:
                part = padded[start : start + _CHUNK]
                piece[: len(part)] = part
            received.append(self._pieces(tf.constant(piece)).numpy().tobytes())
        return b"".join(received)[:size]

    def agree_on_count(self, seconds: float) -> bool:
        """Counts on from the same number everywhere, whatever was traced before; waits for the others so long.

        Returns:
            Whether all had the same.
        """
        if self._meeting is None:
            self._meeting = self._compiled(tf.int64, 2, "Max", _MEETING, seconds)
        most, least = self._meeting(tf.constant([self._next, -self._next], tf.int64)).numpy().tolist()
        self._next = most
        self._shared = None  # one may share other variables by now, and would trace anew what the others do not
        return bool(most == -least)

    def share(self, variables: Sequence[tf.Variable]) -> None:
        """Gives the variables, everywhere, the values that they have in the first process, to the last bit."""
        key = tuple(map(id, variables))
        if self._shared is None or self._shared[0] != key:
            shares = [tf.function(functools.partial(self._share, part), autograph=False) for part in _parts(variables)]
            self._shared = key, shares, list(variables)
        for share in self._shared[1]:
            share()

    def _share(self, variables: Sequence[tf.Variable]) -> None:
        carried = [_carried(v.read_value()) for v in variables]
        carried = carried if self.rank == 0 else [tf.zeros_like(value) for value in carried]
        for variable, value in zip(variables, self.sum(carried), strict=True):
            variable.assign(_uncarried(value, variable.dtype))

    _exchanges: Any = None
    _pieces: Any = None
    _meeting: Any = None
    _shared: Any = None

    def _compiled(self, dtype: tf.DType, size: int, merge: str, key: int, seconds: float = 0.0) -> Any:
        def run(vector: tf.Tensor) -> tf.Tensor:
            with tf.device("CPU:0"):
                return self._instance(vector, merge, key, seconds)

        return tf.function(run, autograph=False).get_concrete_function(tf.TensorSpec([size], dtype))


def _parts(variables: Sequence[tf.Variable]) -> list[list[tf.Variable]]:
    """Runs of variables of few bytes each, or of a single one: while a part is shared there are several copies of it."""
    parts: list[list[tf.Variable]] = []
    num_bytes = 0
    for variable in variables:
        size = (variable.shape.num_elements() or 0) * variable.dtype.size
        if not parts or num_bytes + size > _PART:
            parts, num_bytes = [*parts, []], 0
        parts[-1].append(variable)
        num_bytes += size
    return parts


def _summed(tensor: tf.Tensor) -> tf.Tensor:
    """The same numbers, of a dtype that the operation adds: real and imaginary part in an axis more."""
    dtype = tensor.dtype
    if dtype in _OF_PAIRS:
        return tf.bitcast(tensor, _OF_PAIRS[dtype])
    return tensor if dtype.is_floating or dtype in (tf.int32, tf.int64) else tf.cast(tensor, tf.int64)


def _unsummed(vector: tf.Tensor, dtype: tf.DType, shape: tf.TensorShape) -> tf.Tensor:
    if dtype in _OF_PAIRS:
        return tf.reshape(tf.bitcast(tf.reshape(vector, [-1, 2]), dtype), shape)
    return tf.cast(tf.reshape(vector, shape), dtype)


def _carried(value: tf.Tensor) -> tf.Tensor:
    """The same bits as whole numbers, to which zeros can be added."""
    dtype = value.dtype
    if carrier := _OF_SAME_BITS.get(dtype):
        return tf.bitcast(value, carrier)
    if dtype.is_floating:  # of 16 bits and less, which float32 holds
        return tf.bitcast(tf.cast(value, tf.float32), tf.int32)
    if dtype in (tf.int32, tf.int64):
        return value
    if dtype.is_bool or dtype.is_integer:  # of 16 bits and less
        return tf.cast(value, tf.int32)
    raise TypeError(f"a variable of dtype {dtype.name} cannot be shared among workers: make it one of numbers")


def _uncarried(value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    if dtype in _OF_SAME_BITS:
        return tf.bitcast(value, dtype)
    return tf.cast(tf.bitcast(value, tf.float32), dtype) if dtype.is_floating else tf.cast(value, dtype)
