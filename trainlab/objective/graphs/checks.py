"""Finds, in a traced graph, operations that a pure evaluation, or XLA, cannot contain."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective.keras_internals import layers_of
from trainlab.parameters import tensorflow_internals

# Operations that draw from TensorFlow's own generators: their state is hidden, so that two evaluations of one step would see
# different noise, and no run could be repeated or resumed.
_HIDDEN_RANDOM = frozenset(
    """AllCandidateSampler FixedUnigramCandidateSampler LearnedUnigramCandidateSampler LogUniformCandidateSampler Multinomial
    NonDeterministicInts ParameterizedTruncatedNormal RandomCrop RandomGamma RandomPoisson RandomPoissonV2 RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt RiscRandomUniform RngReadAndSkip RngSkip SampleDistortedBoundingBox
    SampleDistortedBoundingBoxV2 StatefulRandomBinomial StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform
    StatefulUniformFullInt StatefulUniformInt ThreadUnsafeUnigramCandidateSampler TruncatedNormal
    UniformCandidateSampler""".split()
)
# Operations that change what nobody can put back, nor save: it is no variable.
_CHANGES_TABLE = frozenset(["LookupTableInsert", "LookupTableInsertV2", "LookupTableRemoveV2"])
_ASSIGNS = frozenset(
    """AssignVariableOp AssignAddVariableOp AssignSubVariableOp ResourceScatterAdd ResourceScatterNdUpdate
    ResourceScatterSub ResourceScatterUpdate""".split()
)
_WRITES = re.compile(r"Assign|ResourceApply|ResourceSparseApply|ResourceScatter|ResourceStridedSliceAssign|Rng|StatefulRandom")
_UNSAVED = "which is neither in checkpoints nor taken back with an update: keep numbers in variables, add_weight(trainable=False)"
# Operations that call functions.
CALLS = frozenset("Case If PartitionedCall StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile While".split())


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
                + (" (tf.nn.nce_loss and sampled_softmax_loss take them as sampled_values)" if "Candidate" in kind else "")
            )
        if kind in _CHANGES_TABLE:
            raise ValueError(f"{_place(name, model)} changes a lookup table in its forward pass, {_UNSAVED}")
        if kind in _ASSIGNS:
            raise ValueError(
                f"{_place(name, model)} assigns a raw tf.Variable in its forward pass ({name}), which an evaluation must not: "
                "make it with self.add_weight(trainable=False) and assign that"
            )


def check_step(graph: Any) -> None:
    """Checks what a step does beside its evaluations: what the strategy, the optimizer, a constraint add.

    Raises:
        ValueError: something draws from a hidden generator, or changes what is no variable.
    """
    for operation, name in _operations(graph, graph.get_operations()):
        kind = operation.type
        if kind in _HIDDEN_RANDOM and all(tensor.dtype != tf.resource for tensor in operation.inputs):
            raise ValueError(
                f"the step draws random numbers with tf.random ({kind}, {name}) outside the model, from a generator that nothing "
                "tracks, so that no run could be repeated or resumed: a strategy draws by "
                "tf.random.stateless_normal(shape, seed=state.seed) and its like, an optimizer by keras.random and a seed "
                "generator of its own"
            )
        if kind in _CHANGES_TABLE:
            raise ValueError(f"the step changes a lookup table outside the model ({name}), {_UNSAVED}")


def string_operation(graph: Any) -> str | None:
    """The name of an operation that makes a string tensor, in `graph` or in a function that it calls; None if there is none."""
    for operation, name in _operations(graph, graph.get_operations()):
        if any(output.dtype == tf.string for output in operation.outputs):
            return f"{operation.type} ({name})"
    return None


def touched_variables(function: Any) -> tuple[list[tf.Variable], list[tf.Variable]]:
    """The variables that a concrete function assigns, in itself or in a function that it calls, and those that it only reads.

    Both in the order of its captures.
    """
    graph = function.graph
    written = {tensor.name for tensor in _written(graph, graph.get_operations())}
    variables = {id(variable.handle): variable for variable in function.variables}
    assigned: list[tf.Variable] = []
    read: list[tf.Variable] = []
    for external, internal in graph.captures:
        if id(external) in variables:
            (assigned if internal.name in written else read).append(variables[id(external)])
    return assigned, read


def graphs_within(graph: Any) -> Iterator[Any]:
    """A graph, and those of the functions that it calls, but for those that XLA compiles."""
    yield graph
    for operation in graph.get_operations():
        if operation.type in CALLS and not tensorflow_internals.is_call_for_xla(operation):
            for inner in called_graphs(graph, operation):
                yield from graphs_within(inner)


def depends(tensor: Any, sources: Iterable[Any]) -> bool:
    """Whether a tensor of a graph is computed from one of others, or is one."""
    wanted, pending, seen = set(map(id, sources)), [tensor], set()
    while pending:
        found = pending.pop()
        if id(found) in wanted:
            return True
        if found.op not in seen:
            seen.add(found.op)
            pending += found.op.inputs
    return False


def computed_from(marks: Iterable[tf.Tensor]) -> set[Any]:
    """The operations of the graph being built that make one of the marks, use one, or use what was computed from one."""
    pending = list(marks)
    found = {mark.op for mark in pending}
    while pending:
        for operation in pending.pop().consumers():
            if operation not in found:
                found.add(operation)
                pending += operation.outputs
    return found


def _written(graph: Any, operations: list[Any]) -> Iterator[Any]:
    """The resources that some operations of a graph write to, as tensors of it."""
    for operation in operations:
        resources = [tensor for tensor in operation.inputs if tensor.dtype == tf.resource]
        if operation.type not in CALLS:
            if _WRITES.match(operation.type):
                yield from resources[:1] if operation.type.startswith("ResourceScatter") else resources
            continue
        if not resources:
            continue
        inputs = list(operation.inputs)
        inputs = inputs[1:] if operation.type in ("If", "StatelessIf", "Case", "StatelessCase") else inputs
        for inner in called_graphs(graph, operation):
            written = {tensor.name for tensor in _written(inner, inner.get_operations())}
            yield from (tensor for tensor, argument in zip(inputs, inner.inputs, strict=False) if argument.name in written)


def called_graphs(graph: Any, operation: Any) -> Iterator[Any]:
    """The graphs of the functions that an operation calls."""
    for _, attribute in sorted(operation.node_def.attr.items()):
        for function in (attribute.func, *attribute.list.func):
            inner = tensorflow_internals.function_of(graph, function.name) if function.name else None
            if inner is not None and hasattr(inner, "graph"):
                yield inner.graph


def _operations(graph: Any, operations: list[Any]) -> Iterator[tuple[Any, str]]:
    for operation in operations:
        yield operation, operation.name
        if operation.type in CALLS:
            for inner in called_graphs(graph, operation):
                for found, name in _operations(inner, inner.get_operations()):
                    yield found, f"{operation.name}/{name}"


def _place(operation_name: str, model: keras.Model) -> str:
    """The deepest layer that the operation's name scope mentions."""
    names = {layer.name for layer in layers_of(model, include_self=False)}
    parts = operation_name.split("/")
    inside = [part if part in names else re.sub(r"_\d+$", "", part) for part in parts]  # a scope entered twice gets a number
    inside = [part for part in inside if part in names]
    return f"layer {inside[-1]!r}" if inside else f"model {model.name!r} (or a loss or metric of it)"
