"""What TensorFlow keeps of a trace for as long as the process lives, and nobody needs once it is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trainlab.objective.graphs import CALLS, called_graphs
from trainlab.parameters import tensorflow_internals

_BRANCHES = frozenset(kind for kind in CALLS if "Call" not in kind)


def forget_gradients(graph: Any, is_for_xla: bool = False) -> None:
    """Lets go of what is kept of each `tf.custom_gradient` in a graph of one's own.

    A layer with `silu` has one. It is there to differentiate the graph by, as was done in the trace, and holds all of it.

    Args:
        graph: of a function that was traced, and that nobody differentiates.
        is_for_xla: whether it does nothing but call functions, of its own, that XLA compiles.
    """
    for each in _own(graph, is_for_xla):
        for operation in each.get_operations():
            if operation.type == "IdentityN":
                tensorflow_internals.forget_gradient_of(operation)


def _own(graph: Any, is_for_xla: bool) -> Iterator[Any]:
    """The graph, with its loops and branches: what nothing but its trace has made.

    A `tf.function` that is called may have been traced before, and be called, and differentiated, elsewhere.
    """
    yield graph
    for operation in graph.get_operations():
        is_branch = operation.type in _BRANCHES
        if is_branch or (is_for_xla and tensorflow_internals.is_call_for_xla(operation)):
            for inner in called_graphs(graph, operation):
                yield from _own(inner, is_for_xla and is_branch)
