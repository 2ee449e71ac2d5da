"""Whether two tensors of a graph surely hold the same, though they were computed twice."""

from __future__ import annotations

from typing import Any

from trainlab.parameters.tensorflow_internals import is_stateful


def surely_same(a: Any, b: Any) -> bool:
    """Whether two tensors come of the same operations on the same tensors; False where that cannot be told, as of eager ones."""
    if a is b:
        return True
    if not hasattr(a, "graph") or not hasattr(b, "graph") or a.graph is not b.graph:
        return False
    seen: set[tuple[str, str]] = set()
    waiting = [(a, b)]
    while waiting:
        a, b = waiting.pop()
        names = a.name, b.name  # which say all within a graph
        if a.name == b.name or names in seen:
            continue
        seen.add(names)
        if a.value_index != b.value_index or not _do_the_same(a.op, b.op):
            return False
        waiting += zip(a.op.inputs, b.op.inputs, strict=True)
    return True


def _do_the_same(a: Any, b: Any) -> bool:
    if a.type != b.type or is_stateful(a) or len(a.inputs) != len(b.inputs):
        return False
    if a.type.startswith("Placeholder"):  # each is an argument of its own
        return False
    return _attributes(a) == _attributes(b)


def _attributes(operation: Any) -> dict[str, bytes]:
    """Those that its value depends on; others are TensorFlow's own notes."""
    attributes = operation.node_def.attr
    return {key: attributes[key].SerializeToString(deterministic=True) for key in attributes if not key.startswith("_")}
