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


def _operations(graph: Any, operations: list[Any]) -> Iterator[tuple[Any, str]]:
    for operation in operations:
        yield operation, operation.name
        if operation.type in _CALLS:
            for attribute in operation.node_def.attr.values():
                for function in (attribute.func, *attribute.list.func):
                    inner = tensorflow_internals.function_of(graph, function.name) if function.name else None
                    if inner is not None and hasattr(inner, "graph"):
                        for found, name in _operations(inner.graph, inner.graph.get_operations()):
                            yield found, f"{operation.name}/{name}"


def _place(operation_name: str, model: keras.Model) -> str:
    """The deepest layer that the operation's name scope mentions."""
    names = {layer.name for layer in layers_of(model, include_self=False)}
    parts = operation_name.split("/")
    inside = [part if part in names else re.sub(r"_\d+$", "", part) for part in parts]  # a scope entered twice gets a number
    inside = [part for part in inside if part in names]
    return f"layer {inside[-1]!r}" if inside else f"model {model.name!r} (or a loss or metric of it)"
