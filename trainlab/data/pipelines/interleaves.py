"""The sizes by which pipelines interleave: where none is given, TensorFlow takes the number of cores, and an order by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainlab.data.pipelines import graphs

Sizes = list[list[int | None]]

# How many numbers the last inputs are: lengths of cycle and block; in parallel two buffers, and at last the number of calls,
# by which no order changes.
_NUMBERS = {"InterleaveDataset": 2, "ParallelInterleaveDatasetV4": 5}
_ORDERED_BY = 4
_OPEN = -1


def sizes_in(graph: Any) -> Sizes:
    """The sizes of each interleave of a pipeline, in its functions too, always in one order; None for one that is computed.

    Example:
        >>> numbers = tf.data.Dataset.range(9)
        >>> sizes_in(graphs.graph_of(numbers.interleave(lambda i: numbers, cycle_length=3, block_length=2)))
        [[3, 2]]
    """
    return [_known(node.op, _numbers(nodes, node))[:_ORDERED_BY] for nodes, node in _interleaves(graph)]


def set_sizes(graph: Any, sizes: Sequence[Sequence[int | None]]) -> None:
    """Gives the interleaves of a pipeline these sizes.

    Raises:
        ValueError: it has others, or they are computed.
    """
    found = list(_interleaves(graph))
    for (nodes, node), wanted in zip(found, sizes, strict=False):
        _set_numbers(nodes, node, wanted)
    if sizes_in(graph) != sizes:
        raise ValueError(f"interleaves of {sizes_in(graph)} cannot be of {sizes}")


def _interleaves(graph: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Each interleave, and by name the nodes among which it stands."""
    library = {function.signature.name: function.node_def for function in graph.library.function}

    def walk(nodes: Sequence[Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in _NUMBERS:
                yield by_name, node
            for _, attribute in sorted(node.attr.items()):
                for function in (attribute.func, *attribute.list.func):
                    yield from walk(library.get(function.name, ()))

    return walk(graph.node)


def _inputs(node: Any) -> list[str]:
    return [name for name in node.input if not name.startswith("^")][-_NUMBERS[node.op] :]


def _numbers(nodes: Mapping[str, Any], node: Any) -> list[int | None]:
    return [graphs.constant(nodes, name) for name in _inputs(node)]


def _set_numbers(nodes: Mapping[str, Any], node: Any, numbers: Sequence[int | None]) -> None:
    """Sets those that are constants; others are computed, or arguments of a function."""
    for name, number in zip(_inputs(node), numbers, strict=False):
        constant = nodes.get(name.partition(":")[0])
        if constant is not None and constant.op == "Const" and number is not None:
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(number, tf.int64))


def _known(op: str, numbers: list[int | None]) -> list[int | None]:
    """Numbers as TensorFlow understands them here: what is left open in a function, it decides when that is called."""
    if _OPEN not in numbers[:_ORDERED_BY] or None in numbers:
        return numbers
    calls = {} if op == "InterleaveDataset" else {"num_parallel_calls": tf.data.AUTOTUNE}
    graph = graphs.graph_of(tf.data.Dataset.range(1).interleave(tf.data.Dataset.range, **calls))
    [(nodes, node)] = _interleaves(graph)
    _set_numbers(nodes, node, numbers)
    decided = graphs.graph_of(graphs.dataset_of(graph, tf.TensorSpec([], tf.int64)))
    return next(_numbers(nodes, node) for nodes, node in _interleaves(decided))
