"""Variables that steps touch though nobody trains them, such as a teacher's weights: hooks may change what they hold."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import tensorflow as tf

from trainlab.objective import touched_variables
from trainlab.parameters import tensorflow_internals

# By identity, which the variable itself keeps from being given out again: a set would compare them number by number.
_touched: weakref.WeakValueDictionary[int, tf.Variable] = weakref.WeakValueDictionary()
# Operations that change no variable, whatever they are given.
_READS = frozenset("ReadVariableOp ResourceGather ResourceGatherNd VariableShape VarIsInitializedOp".split())


def note(traced: Any, declared: Iterable[Any], assigned: list[tf.Variable], read: list[tf.Variable]) -> None:
    """Adds to two lists what a traced function assigns, and what it only reads, if that is neither there nor `declared`."""
    _note(touched_variables(traced), declared, assigned, read)


@contextmanager
def noting(declared: Callable[[], Iterable[Any]], assigned: list[tf.Variable], read: list[tf.Variable]) -> Iterator[None]:
    """The same of what runs eagerly while this is open; if that ends in an error, what was not `declared` before is put back.

    What a function that is called is given counts as assigned: nobody looks into it. A variable that an operation is given as it
    is, and only reads, is not seen: TensorFlow reads it in C.
    """
    at_first, living = _handles(declared()), list(_living())
    values = {id(variable.handle): value for variable, value in living}
    met: dict[int, tuple[tf.Tensor, bool]] = {}  # in their order; whether it is assigned

    def tell(kind: str, inputs: Sequence[tf.Tensor]) -> None:
        for tensor in inputs:
            if tensor.dtype == tf.resource:
                key = id(tensor)
                if kind == "AssignVariableOp":  # of one that is made meanwhile, its first value
                    values.setdefault(key, inputs[1])
                met[key] = tensor, kind not in _READS or met.get(key, (None, False))[1]

    is_whole = False
    try:
        with tensorflow_internals.eager_operations_told(tell):
            yield
        is_whole = True
    finally:
        if met.keys() - at_first:
            variables = {id(variable.handle): variable for variable, _ in _living()}
            touched: tuple[list[tf.Variable], list[tf.Variable]] = [], []
            for key, (_, is_assigned) in met.items():
                if key in variables:
                    touched[not is_assigned].append(variables[key])
                if key in variables and is_assigned and not is_whole and key not in at_first and key in values:
                    variables[key].assign(values[key])
            _note(touched, declared(), assigned, read)


def _handles(variables: Iterable[Any]) -> set[int]:
    return {id(variable.handle) for variable in variables if isinstance(variable, tf.Variable)}


def _living() -> Iterator[tuple[tf.Variable, tf.Tensor]]:
    """All variables that there are, with their values, which share their buffers until those are written."""
    for thing in gc.get_objects():
        if issubclass(type(thing), tf.Variable):  # what `isinstance` asks may import things
            with suppress(Exception):  # of a graph, deleted, or without a value
                yield thing, tf.raw_ops.ReadVariableOp(resource=thing.handle, dtype=thing.dtype)


def _note(
    touched: Iterable[list[tf.Variable]], declared: Iterable[Any], assigned: list[tf.Variable], read: list[tf.Variable]
) -> None:
    known = {id(variable) for variable in (*declared, *assigned)}
    for found, new in zip((assigned, read), touched, strict=True):
        found += [variable for variable in new if id(variable) not in known]
        known |= {id(variable) for variable in (*assigned, *read)}
    _touched.update({id(variable): variable for variable in (*assigned, *read)})


def is_touched(variable: Any) -> bool:
    """Whether a step does: what it holds is part of a run's state, and no setting."""
    own = getattr(variable, "value", None) if not isinstance(variable, tf.Variable) else variable
    return _touched.get(id(own)) is own and own is not None
