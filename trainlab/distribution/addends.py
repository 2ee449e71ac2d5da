"""What metrics add to their variables for a batch: something of each example, or one number a batch, as far as can be seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainlab.objective import depends, graphs

PASSED_ON = ("Cast", "EnsureShape", "Identity", "Reshape", "StopGradient")
CONSTANT, MEAN, NUMBER, ROWS, SHAPE, SUM = graphs.CONSTANT, graphs.MEAN, graphs.NUMBER, graphs.ROWS, graphs.SHAPE, graphs.SUM
_ADDED = ("Add", "AddN", "AddV2", "BiasAdd")  # the last is what Keras makes of a sum with a row
_INSIDE = ("Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile", "While")
# Operations that leave what each number is of the examples, and move it about.
_MOVED = frozenset(
    """BroadcastTo CheckNumerics ConcatV2 EnsureShape ExpandDims Fill GatherV2 Identity Pack Reshape Slice Squeeze StopGradient
    StridedSlice Tile Transpose""".split()
)
_NONLINEAR = ("Exp", "L2Loss", "Log", "Log1p", "Rsqrt", "Sqrt", "Square")
# Of what is made by these of rows, and of nothing but rows, each row is made of the same row.
_LOOKED_THROUGH = graphs.UNARY | graphs.BINARY | graphs.BY_ROW | graphs.REDUCTIONS | _MOVED
_MOST_OPERATIONS, _DEEPEST = 300, 50
# What is added: the sum over the batch's examples of something; a mean over them; the same whatever they are; OTHER, something
# else that is made of all of them, such as the root of a mean; MIXED, a sum of rows that are each made of several of them, as
# distances from a mean are; None for what is not seen.
OTHER, MIXED = "other", "mixed"


def addends_of(after: Any, before: tf.Tensor, may_decay: bool = False) -> list[tf.Tensor] | None:
    """What is added to `before` to make `after`; None for another change. What happens in a branch or a loop is not seen.

    With `may_decay` also what is added to a multiple of `before`.
    """
    operation = after.op
    if after is before or operation.type in _INSIDE:
        return []
    inputs = list(operation.inputs)
    if operation.type in PASSED_ON:
        return addends_of(inputs[0], before, may_decay)
    if operation.type in _ADDED:
        having = [tensor for tensor in inputs if depends(tensor, [before])]
        rest = addends_of(having[0], before, may_decay) if len(having) == 1 else None
        return None if rest is None else [*rest, *(tensor for tensor in inputs if tensor is not having[0])]
    if operation.type == "Mul" and may_decay:
        having = [tensor for tensor in inputs if depends(tensor, [before])]
        is_alone = len(having) == 1 and addends_of(having[0], before, may_decay) == []
        return [] if is_alone else None
    if operation.type in ("Select", "SelectV2"):
        is_sum = not depends(inputs[0], [before]) and all(addends_of(tensor, before) is not None for tensor in inputs[1:])
        return [] if is_sum else None
    if operation.type in ("Sub", "TensorScatterAdd", "TensorScatterSub"):
        rest = None if any(depends(tensor, [before]) for tensor in inputs[1:]) else addends_of(inputs[0], before)
        return rest if rest is None or operation.type != "Sub" else [*rest, *inputs[1:]]
    return None


class Addends(graphs.Kinds):
    """What tensors of a traced graph are of a batch, where what has a row for each example is known by its shape.

    Of the forward pass nothing need be understood so: what is asked about begins behind it.

    Args:
        batch: the tensors in the graph that the batch is made of.
        share: scalar, what stands there for a shard's part of the examples.
        same: tensors that are the same on all replicas.
        size: examples in the batch, if its shapes tell; None if the axis of the examples is open in them.
        is_open: whether that is so for all tensors, and the model: then what does not depend on the batch is the same for all.
    """

    def __init__(self, batch: Sequence[tf.Tensor], share: tf.Tensor, same: Sequence[tf.Tensor], size: int | None, is_open: bool):
        super().__init__(batch)
        self._size, self._is_open = size, is_open
        self._reached = graphs.computed_from([*batch, share])
        self._are_alike = all(tensor.shape[1:].is_fully_defined() for tensor in batch)
        self._known |= {id(share): NUMBER, **{id(tensor): CONSTANT for tensor in same}}
        self._kept += [share, *same]
        self._depth = 0

    def kind_of(self, addend: tf.Tensor) -> str | None:
        """SUM, MEAN, CONSTANT, OTHER, MIXED or None."""
        self._most = len(self._known) + _MOST_OPERATIONS
        kind = self.of(addend)
        return None if kind in (ROWS, SHAPE) else SUM if kind == NUMBER else kind

    def of(self, tensor: tf.Tensor) -> str | None:
        """See `Kinds`; of rows that are made of several examples each it is MIXED."""
        if id(tensor) not in self._known and tensor.op not in self._reached:
            self._keep(tensor, self._without_batch(tensor))
        elif id(tensor) not in self._known and self._is_by_example(tensor):
            self._keep(tensor, None)
            self._keep(tensor, MIXED if self._is_mixed(tensor) else ROWS)
        if self._depth == _DEEPEST:
            return None
        self._depth += 1
        try:
            return super().of(tensor)
        finally:
            self._depth -= 1

    def _keep(self, tensor: tf.Tensor, kind: str | None) -> None:
        self._known[id(tensor)] = kind
        self._kept.append(tensor)

    def _without_batch(self, tensor: tf.Tensor) -> str | None:
        value = tf.get_static_value(tensor)
        if self._is_open or self._size is None:
            # It may be a number of examples all the same, by their shapes, where these are not open.
            return CONSTANT if self._is_open or value is not None else None
        if value is None or self._size < 2:  # every number is a multiple of one
            return None
        is_multiple = value.dtype.kind in "iuf" and np.any(value != 0) and np.all(np.mod(value, self._size) == 0)
        return NUMBER if is_multiple else CONSTANT

    def _is_by_example(self, tensor: tf.Tensor) -> bool:
        return bool(tensor.shape.rank) and tensor.shape[0] in (None, self._size)

    def _is_mixed(self, tensor: tf.Tensor) -> bool:
        """Whether something that is made of all examples is in each row, as far as is seen: looked for behind the model."""
        pending, seen = [tensor], set[int]()
        while pending and len(seen) < _MOST_OPERATIONS:
            found = pending.pop()
            if id(found) in seen or found.op not in self._reached:
                continue
            seen.add(id(found))
            rows = found.op.inputs[0] if found.op.inputs else None
            if (
                rows is not None and self._is_by_example(rows) and found.op.type not in graphs.REDUCTIONS
            ):  # what these make is known
                if graphs.goes_along_examples(found.op):
                    return True
            if not self._is_by_example(found):
                if self.of(found) in (SUM, MEAN, OTHER, MIXED):
                    return True
            elif self._known.get(id(found)) == MIXED or (self._are_alike and None in found.shape[1:].as_list()):
                return True  # the second: an axis as long as there are examples
            elif id(found) not in self._known or found is tensor:
                pending += found.op.inputs if found.op.type in _LOOKED_THROUGH else ()
        return False

    def _found(self, operation: Any, tensor: tf.Tensor) -> str | None:
        """See `Kinds`; of a tensor that has no rows."""
        kind, inputs = operation.type, list(operation.inputs)
        if kind in graphs.REDUCTIONS and inputs[0].shape.rank == 0:
            return self.of(inputs[0])
        if kind in _NONLINEAR and tensor.shape.rank == 0:
            return OTHER
        if kind in ("Shape", "Size") and self.of(inputs[0]) == MIXED:
            return SHAPE if kind == "Shape" else NUMBER
        found = super()._found(operation, tensor)
        if found is not None:
            return found
        kinds = [self.of(each) for each in inputs]
        has = set(kinds) - {CONSTANT}
        if None in has or not has:
            return None
        if has == {ROWS} or (has == {MIXED} and self._is_by_example(inputs[0])):
            found = _over_examples(operation, inputs)
            return found if has == {ROWS} or found is None else MIXED if found == SUM else OTHER
        if kind in ("Mul", "MulNoNan", "RealDiv", "Div", "DivNoNan") and NUMBER in has:
            return _numbered(kind, kinds)
        if has & {ROWS, NUMBER, SHAPE} and has != {SUM, NUMBER}:
            return None
        if kind in _MOVED:
            return next(iter(has)) if len(has) == 1 else None
        if kind in graphs.LINEAR or kind in ("Max", "Min"):
            return None if has == {SUM} else SUM if has == {SUM, NUMBER} else MIXED if has <= {MIXED, SUM} else OTHER
        return OTHER


def _over_examples(operation: Any, inputs: Sequence[tf.Tensor]) -> str | None:
    """Of an operation on rows that keeps none, where shards have inner axes as long as those of the batch."""
    if operation.type not in graphs.REDUCTIONS or (axes := tf.get_static_value(inputs[1])) is None:
        return None
    if inputs[0].shape.rank is None or 0 not in {int(axis) % inputs[0].shape.rank for axis in np.reshape(axes, -1)}:
        return None
    return {"Mean": MEAN, "Sum": SUM}.get(operation.type, OTHER)


def _numbered(kind: str, kinds: Sequence[str | None]) -> str | None:
    """Of a product with a number of examples, or a quotient."""
    if kind in ("Mul", "MulNoNan"):
        return SUM if sorted(map(str, kinds)) == [MEAN, NUMBER] else None
    return {(NUMBER, NUMBER): CONSTANT, (NUMBER, CONSTANT): NUMBER, (SUM, NUMBER): MEAN}.get(tuple(kinds))  # type: ignore[arg-type]


class OnceABatch(NamedTuple):
    """The variables of metrics to which one number a batch is added, by id.

    Attributes:
        constants: those to which it is the same whatever the batch is, as to a count of them: of all shards the first adds it.
        others: all others: a shard adds its part of it.
        no_means: those to which something is added that is neither a mean nor a sum over the examples.
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
            is_unclear = OTHER in told or (counts_batches and bool(told & {None, MIXED}))
            if told == {CONSTANT}:
                constants.add(key)
            elif told and SUM not in told and (is_unclear or told <= {MEAN, CONSTANT}):
                others.add(key)
            no_means |= {key} if MIXED in told or (is_unclear and key in others) else set()
    return OnceABatch(frozenset(constants), frozenset(others), frozenset(no_means))
