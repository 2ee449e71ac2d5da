"""What TensorFlow's graph optimizer must not take apart: tensors in groups, on which it lets the order of operations rest.

A variable is read before it is assigned because of a control dependency. TensorFlow's dependency optimizer (2.21, in Keras' `fit`
as well) drops the ones that another path implies, and then, in the same pass, bypasses every `IdentityN`: of a path that led in
by one of its inputs and out by the output of another, nothing is left, nor of the order. What is computed from the old value,
another variable's gradient for example, may then read the new one.

Such a path is that from all gradients to all assignments: Keras' optimizers send the gradients through one `IdentityN`, the sum
over replicas, which are never several here. Networks do not suffer, since each gradient depends on its own weight; in a game
`x * y`, and under any loss that is linear in each of its weights, the order is lost. XLA is not concerned.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from trainlab.objective import CALLS, graphs_within
from trainlab.parameters import tensorflow_internals

_GROUP = "IdentityN"
_TAKEN_APART = CALLS | {_GROUP}  # before anything is ordered anew, functions are written out where they are called


@contextlib.contextmanager
def groups_bypassed() -> Iterator[None]:
    """What is made in the default graph while it is open takes tensors themselves, where it took them out of groups made in it.

    The optimizer then finds no path through a group. The gradient that a `tf.custom_gradient` has of its own is held by its
    group: nobody may differentiate what is made in here.
    """
    if tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    first = len(graph.get_operations())
    yield
    for operation in graph.get_operations()[first:]:
        if operation.type == _GROUP:
            tensorflow_internals.forget_gradient_of(operation)
            for tensor, output in zip(operation.inputs, operation.outputs, strict=True):
                for consumer in output.consumers():
                    for index in [i for i, taken in enumerate(consumer.inputs) if taken is output]:
                        tensorflow_internals.set_input(consumer, tensor, index)


def may_be_lost(graph: Any) -> bool:
    """Whether, in a graph or a function that it calls, a group is left through which an order may be lost.

    A layer with a `tf.custom_gradient` of its own, or `tf.identity_n`, may leave one. Through one whose outputs depend on all
    that was put into it, as of most, nothing is lost.
    """
    return any(_loses(each) for each in graphs_within(graph))


def _loses(graph: Any) -> bool:
    operations = graph.get_operations()
    groups = [operation for operation in operations if operation.type == _GROUP and len(operation.inputs) > 1]
    if not groups:
        return False
    awaited = {before.name for operation in operations for before in operation.control_inputs}
    returned = {output.name for output in getattr(graph, "outputs", ())}
    for group in groups:
        is_used = [bool(output.consumers()) or output.name in returned for output in group.outputs]
        is_used[0] |= group.name in awaited  # who waits for the group is left waiting for its first input
        inputs = list(group.inputs)
        if any(used and _leaves_behind(tensor, inputs) for tensor, used in zip(inputs, is_used, strict=True)):
            return True
    return False


def _leaves_behind(tensor: tf.Tensor, others: Iterable[tf.Tensor]) -> bool:
    """Whether something whose order matters comes before one of `others`, and not surely before `tensor`."""
    missing = {_place(other.op, other.value_index): other for other in others}
    before: set[str] = set()
    for place, _ in _all_before(tensor, is_sure=True):
        missing.pop(place, None)
        if not missing:  # as a rule soon: what is returned was computed from what was given
            return False
        before.add(place)
    left = (pair for other in missing.values() for pair in _all_before(other, is_sure=False) if pair[0] not in before)
    # An argument of a function stands for whatever is given.
    return any(operation.type == "Placeholder" or tensorflow_internals.is_stateful(operation) for _, operation in left)


def _place(operation: Any, output: int) -> str:
    """What is computed at once: an operation, by name, but of one that is taken apart an output."""
    return f"{operation.name}:{output}" if operation.type in _TAKEN_APART else operation.name


def _all_before(tensor: tf.Tensor, is_sure: bool) -> Iterator[tuple[str, Any]]:
    """The places that a tensor is computed from, or that wait before it, and their operations, the nearest first.

    What one output of a function is computed from only the function knows: if it must be sure, it is nothing.
    """
    waiting = collections.deque([(tensor.op, tensor.value_index)])
    seen: set[str] = set()
    while waiting:
        operation, output = waiting.popleft()
        place = _place(operation, output)
        if place in seen:
            continue
        seen.add(place)
        yield place, operation
        inputs = list(operation.inputs)
        if operation.type in _TAKEN_APART:
            inputs = inputs[output : output + 1] if operation.type == _GROUP else [] if is_sure else inputs
        waiting.extend((before.op, before.value_index) for before in inputs)
        waiting.extend((before, 0) for before in operation.control_inputs)
