"""Iterators of `tf.data`: where one stands, as a tensor; and how to let go of one."""

from __future__ import annotations

import re
import threading
from typing import Any

import tensorflow as tf


def serialize(iterator: Any) -> tf.Tensor:
    """Where it stands.

    Raises:
        tf.errors.OpError: that depends on something outside of it, such as Python.
    """
    policy = 2  # fail where the state of something outside matters, rather than forget it
    return tf.raw_ops.SerializeIterator(resource_handle=iterator._iterator_resource, external_state_policy=policy)


def deserialize(iterator: Any, serialized: tf.Tensor) -> None:
    """Puts it there."""
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=serialized)


def reason(error: Exception) -> str:
    """Why an iterator cannot be saved, in a line."""
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error).splitlines()[0]) if str(error) else type(error).__name__


def repeats_a_shuffle(dataset: tf.data.Dataset) -> bool:
    """Whether passes over a shuffle begin out of sight: where TensorFlow does not restore their order."""
    serialized = tf.raw_ops.DatasetToGraphV2(input_dataset=dataset._variant_tensor, external_state_policy=1)
    graph = tf.compat.v1.GraphDef.FromString(serialized.numpy())
    ops = [node.op for node in graph.node]  # inputs come first
    shuffles = [i for i, op in enumerate(ops) if "Shuffle" in op]
    inner = [node.op for function in graph.library.function for node in function.node_def]
    return any("Shuffle" in op for op in inner) or any("Repeat" in op for op in ops[min(shuffles, default=len(ops)) :])


def let_go(held: list[Any]) -> None:
    """Empties a list that holds an iterator, in a thread: TensorFlow may take a third of a second to delete one.

    The process waits for that at its end: it must not end in the middle of TensorFlow's destructors.
    """
    if held != [None]:
        threading.Thread(target=held.clear, name="trainlab letting go of an iterator").start()
