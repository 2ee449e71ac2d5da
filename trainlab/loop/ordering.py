"""Gradients that wait for each other, where nothing else makes a variable's assignment wait for those who read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf


def ordered(gradients: Sequence[Any], reads: Sequence[Any]) -> list[Any]:
    """The same gradients; where one does not depend on its own variable's value, none is there before all are.

    TensorFlow orders the reading and the assigning of a variable by a control dependency, which its own dependency optimizer
    (2.21, seen in Keras' `fit` as well) may lose. What is computed from the old value, another variable's gradient for example,
    may then read the new one. A loss that bends makes every gradient depend on every weight, and that is order enough; in a game
    `x * y`, or under any loss that is linear in each of its weights, nothing is left. XLA is not concerned. Inside a loop
    (`Accumulate`) the order may be lost as well, and this does not mend it.

    Args:
        gradients: a tensor or `tf.IndexedSlices` for each variable.
        reads: the tensor that each variable's value is; anything else where it was not read as a whole.

    Returns:
        The gradients themselves in all but such cases.
    """
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    numbers = {read.op.name: i for i, read in enumerate(reads) if graph is not None and getattr(read, "graph", None) is graph}
    values = [gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient for gradient in gradients]
    if (
        graph is None or not numbers or any(value.graph is not graph for value in values)
    ):  # in a branch all inputs are there before it begins
        return list(gradients)
    depends_on: dict[str, int] = {}  # by operation, a bit for each variable
    for operation in graph.get_operations():
        found = 1 << numbers[operation.name] if operation.name in numbers else 0
        for tensor in operation.inputs:
            found |= depends_on.get(tensor.op.name, 0)
        depends_on[operation.name] = found
    own = [1 << numbers[read.op.name] if getattr(read, "graph", None) is graph else 0 for read in reads]
    if all(depends_on[value.op.name] & bit == bit for value, bit in zip(values, own, strict=True)):
        return list(gradients)
    with tf.control_dependencies(values):
        return [_again(gradient) for gradient in gradients]


def _again(gradient: Any) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(tf.identity(gradient.values), tf.identity(gradient.indices), gradient.dense_shape)
    return tf.identity(gradient)
