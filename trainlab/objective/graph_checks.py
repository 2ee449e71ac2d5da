"""Finds, in a traced graph, operations that a pure evaluation, or XLA, cannot contain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective.keras_internals import layers_of
from trainlab.parameters import tensorflow_internals

# Operations that draw from TensorFlow's own generators: their state is hidden, so that two evaluations of one step would see
# different noise, and no run could be repeated or resumed.
_HIDDEN_RANDOM = frozenset(
    """Multinomial NonDeterministicInts ParameterizedTruncatedNormal RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip StatefulRandomBinomial
    StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform StatefulUniformFullInt StatefulUniformInt
    TruncatedNormal""".split()
)
_ASSIGNS = frozenset(
    """AssignVariableOp AssignAddVariableOp AssignSubVariableOp ResourceScatterAdd ResourceScatterNdUpdate
    ResourceScatterSub ResourceScatterUpdate""".split()
)
_WRITES = re.compile(r"Assign|ResourceApply|ResourceSparseApply|ResourceScatter|ResourceStridedSliceAssign|Rng|StatefulRandom")
_CALLS = frozenset("Case If PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile While".split())


def check_operations(graph: Any, first: int, model: keras.Model) -> None:
    """Checks the operations of `graph` from number `first` on, and those of the functions that they call.

    Raises:
        ValueError: one of them draws from a hidden generator or assigns a variable; the line names the layer.
    """
    for operation, name in _operations(graph, graph.get_operations()[first:]):
        kind = operation.type
        if kind in _HIDDEN_RANDOM:
            raise ValueError(
                f"{_place(name, model)} draws random numbers with tf.random ({kind}), from a generator that nothing tracks, "
                "so a step could not evaluate one function twice nor a run be repeated: draw with keras.random and "
                "seed=self.seed_generator, made in __init__ by keras.random.SeedGenerator(...)"
            )
        if kind in _ASSIGNS:
            raise ValueError(
                f"{_place(name, model)} assigns a raw tf.Variable in its forward pass ({name}), which an evaluation must not: "
                "make it with self.add_weight(trainable=False) and assign that"
            )


def string_operation(graph: Any) -> str | None:
    """The name of an operation that makes a string tensor, in `graph` or in a function that it calls; None if there is none."""
    for operation, name in _operations(graph, graph.get_operations()):
        if any(output.dtype == tf.string for output in operation.outputs):
            return f"{operation.type} ({name})"
    return None


def assigned_variables(function: Any) -> list[tf.Variable]:
    """The variables that a concrete function assigns, in itself or in a function that it calls, in the order of its captures."""
    graph = function.graph
    written = {tensor.name for tensor in _written(graph, graph.get_operations())}
    variables = {id(variable.handle): variable for variable in function.variables}
    captured = [external for external, internal in graph.captures if internal.name in written]
    return [variables[id(handle)] for handle in captured if id(handle) in variables]


def _written(graph: Any, operations: list[Any]) -> Iterator[Any]:
    """The resources that some operations of a graph write to, as tensors of it."""
    for operation in operations:
        resources = [tensor for tensor in operation.inputs if tensor.dtype == tf.resource]
        if operation.type not in _CALLS:
            if _WRITES.match(operation.type):
                yield from resources[:1] if operation.type.startswith("ResourceScatter") else resources
            continue
        if not resources:
            continue
        inputs = list(operation.inputs)
        inputs = inputs[1:] if operation.type in ("If", "StatelessIf", "Case", "StatelessCase") else inputs
        for inner in _called(graph, operation):
            written = {tensor.name for tensor in _written(inner, inner.get_operations())}
            yield from (tensor for tensor, argument in zip(inputs, inner.inputs, strict=False) if argument.name in written)


def _called(graph: Any, operation: Any) -> Iterator[Any]:
    """The graphs of the functions that an operation calls."""
    for _, attribute in sorted(operation.node_def.attr.items()):
        for function in (attribute.func, *attribute.list.func):
            inner = tensorflow_internals.function_of(graph, function.name) if function.name else None
            if inner is not None and hasattr(inner, "graph"):
                yield inner.graph


def _operations(graph: Any, operations: list[Any]) -> Iterator[tuple[Any, str]]:
    for operation in operations:
        yield operation, operation.name
        if operation.type in _CALLS:
            for inner in _called(graph, operation):
                for found, name in _operations(inner, inner.get_operations()):
                    yield found, f"{operation.name}/{name}"


def _place(operation_name: str, model: keras.Model) -> str:
    """The deepest layer that the operation's name scope mentions."""
    names = {layer.name for layer in layers_of(model, include_self=False)}
    parts = operation_name.split("/")
    inside = [part if part in names else re.sub(r"_\d+$", "", part) for part in parts]  # a scope entered twice gets a number
    inside = [part for part in inside if part in names]
    return f"layer {inside[-1]!r}" if inside else f"model {model.name!r} (or a loss or metric of it)"
