"""What metrics add to their variables for a batch: something of each example, or one number a batch, as far as can be seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainlab.objective import depends

PASSED_ON = ("Cast", "EnsureShape", "Identity", "Reshape", "StopGradient")
_ADDED = ("Add", "AddN", "AddV2")
_INSIDE = ("Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile", "While")
# What is added: the sum over the batch's examples of something; a mean over them; the same whatever they are; something else that
# is made of all of them, such as the root of a mean; None for what is not seen.
SUM, MEAN, CONSTANT, OTHER = "sum", "mean", "constant", "other"


def addends_of(after: Any, before: tf.Tensor) -> list[tf.Tensor] | None:
    """What is added to `before` to make `after`; None for another change. What happens in a branch or a loop is not seen."""
    operation = after.op
    if after is before or operation.type in _INSIDE:
        return []
    inputs = list(operation.inputs)
    if operation.type in PASSED_ON:
        return addends_of(inputs[0], before)
    if operation.type in _ADDED:
        having = [tensor for tensor in inputs if depends(tensor, [before])]
        rest = addends_of(having[0], before) if len(having) == 1 else None
        return None if rest is None else [*rest, *(tensor for tensor in inputs if tensor is not having[0])]
    if operation.type in ("Select", "SelectV2"):
        is_sum = not depends(inputs[0], [before]) and all(addends_of(tensor, before) is not None for tensor in inputs[1:])
        return [] if is_sum else None
    if operation.type in ("Sub", "TensorScatterAdd", "TensorScatterSub"):
        rest = None if any(depends(tensor, [before]) for tensor in inputs[1:]) else addends_of(inputs[0], before)
        return rest if rest is None or operation.type != "Sub" else [*rest, *inputs[1:]]
    return None


def kind_of(addend: tf.Tensor, batch: Collection[Any], size: int | None) -> str | None:
    """What an addend is of a batch.

    Args:
        addend: of a graph.
        batch: the tensors in it that the batch is made of.
        size: examples in the batch; None where only the data tell.
    """
    if not depends(addend, batch):
        if tf.get_static_value(addend) is None:  # it may be a number of examples all the same, by their shapes
            return None
        return SUM if _is_multiple(addend, size) else CONSTANT
    operation, inputs = addend.op, list(addend.op.inputs)
    kind = operation.type
    if kind in (*PASSED_ON, "Neg"):
        return kind_of(inputs[0], batch, size)
    if kind in ("Sum", "Mean", "Max", "Min", "Prod"):
        axes, rank = tf.get_static_value(inputs[1]), inputs[0].shape.rank
        if axes is None or rank is None:
            return None
        if rank == 0:
            return kind_of(inputs[0], batch, size)
        if 0 not in {int(axis) % rank for axis in np.reshape(axes, -1)}:
            return None
        return {"Sum": SUM, "Mean": MEAN}.get(kind, OTHER)
    if kind in ("Mul", "RealDiv", "DivNoNan"):
        having = [tensor for tensor in inputs if depends(tensor, batch)]
        if len(having) > 1 or (kind != "Mul" and having[0] is not inputs[0]):
            return None
        found = kind_of(having[0], batch, size)
        factor = next((tensor for tensor in inputs if tensor is not having[0]), having[0])
        if found in (SUM, MEAN) and _is_multiple(factor, size):
            return SUM if kind == "Mul" else MEAN
        return found
    if kind in ("Sqrt", "Rsqrt", "Square", "Exp", "Log", "Log1p") and addend.shape.rank == 0:
        return OTHER
    return None


class OnceABatch(NamedTuple):
    """The variables of metrics to which one number a batch is added, by id.

    Attributes:
        constants: those to which it is the same whatever the batch is, as to a count of them: of all shards the first adds it.
        others: all others: a shard adds its part of it.
        no_means: those of them for which it is no mean over the examples.
    """

    constants: frozenset[int] = frozenset()
    others: frozenset[int] = frozenset()
    no_means: frozenset[int] = frozenset()


def once_a_batch(groups: Collection[Collection[int]], kinds: Mapping[int, Collection[str | None]]) -> OnceABatch:
    """Sorts variables.

    Args:
        groups: the variables of each metric, by id.
        kinds: of what is added to each variable, by id.
    """
    constants, others, no_means = set[int](), set[int](), set[int]()
    for group in groups:
        counts_batches = any(CONSTANT in kinds.get(key, ()) for key in group)
        for key in group:
            told = set(kinds.get(key, ()))
            is_unclear = OTHER in told or (counts_batches and None in told)
            if told == {CONSTANT}:
                constants.add(key)
            elif told and SUM not in told and (is_unclear or told <= {MEAN, CONSTANT}):
                others.add(key)
                no_means |= {key} if is_unclear else set()
    return OnceABatch(frozenset(constants), frozenset(others), frozenset(no_means))


def _is_multiple(tensor: tf.Tensor, size: int | None) -> bool:
    """Whether a constant is the number of examples of this batch, or of what they hold."""
    value = tf.get_static_value(tensor)
    if value is None or size is None or size < 2:
        return False
    return bool(np.any(value != 0) and np.all(np.mod(value, size) == 0))
