"""The order of a backward pass, where memory is short: a convolution's filter gradient before its input's.

Both need the same incoming gradient. TensorFlow runs them in any order, or at once, and goes on from the input's: the backward
pass then runs ahead of the filters' gradients, and what these need of several layers stays in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainlab.parameters import tensorflow_internals

_FILTER = re.compile(r"(Conv2D|Conv3D|DepthwiseConv2dNative)BackpropFilter(V2)?")
_SIZES = ("Const", "Shape", "ShapeN")
_INCOMING = 2  # the operand that both take in this place


def filters_first(operations: Sequence[Any]) -> None:
    """Makes each convolution's input gradient, among these operations of one graph, wait for its filter gradient.

    Args:
        operations: in the order in which they were made.
    """
    made = {operation: i for i, operation in enumerate(operations)}
    waiting = {(op.type, op.inputs[_INCOMING].ref()): op for op in operations if "BackpropInput" in op.type}
    for operation in operations:
        if _FILTER.fullmatch(operation.type):
            key = operation.type.replace("Filter", "Input"), operation.inputs[_INCOMING].ref()
            other = waiting.get(key)
            if other is not None and _could_be_made_before(other, operation, made):
                tensorflow_internals.run_before(operation, other)


def _could_be_made_before(other: Any, operation: Any, made: Mapping[Any, int]) -> bool:
    """Whether it needs nothing made after `other`, but for sizes: so no circle comes of it, in gradients of gradients either."""
    return all(
        made.get(tensor.op, -1) < made[other] or (tensor.op.type in _SIZES and _could_be_made_before(other, tensor.op, made))
        for tensor in operation.inputs
    )
