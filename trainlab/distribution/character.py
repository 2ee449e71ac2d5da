"""What must be known of a model before it is divided, found by one trace of which nothing is run."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.distribution import means
from trainlab.distribution.left import depends, sums_of
from trainlab.objective import ModelFunction, keras_internals, traced_aside
from trainlab.parameters import Vector

_PASSED_ON = ("Cast", "EnsureShape", "Identity", "Reshape", "StopGradient")
_ADDED = ("Add", "AddN", "AddV2")
_INSIDE = ("Case", "If", "PartitionedCall", "StatefulPartitionedCall", "StatelessCase", "StatelessIf", "StatelessWhile", "While")


class Character(NamedTuple):
    """How an evaluation of a model on one shard behaves.

    Attributes:
        reaches_across: whether it asks for what other replicas find, in the middle, as a synchronized BatchNormalization does.
        no_sums: the variables of metrics that it changes otherwise than by adding to them, by id.
        no_means: the names of metrics whose function gives one number a batch that is no mean over its examples.
    """

    reaches_across: bool = False
    no_sums: frozenset[int] = frozenset()
    no_means: tuple[str, ...] = ()


_known: weakref.WeakKeyDictionary[ModelFunction, Character] = weakref.WeakKeyDictionary()


def character_of(
    function: ModelFunction, fetch: Callable[[], Any], parameters: Vector, state: Mapping[int, tf.Tensor]
) -> Character:
    """The character of a model; looked for once.

    Args:
        function: of the model.
        fetch: returns a batch.
        parameters, state: what it is evaluated at.
    """
    if function not in _known:
        try:
            found = _found(function, fetch, parameters, state)
        except Exception:
            if not tf.executing_eagerly():
                raise
            layers = keras_internals.layers_of(function.model)  # what runs eagerly need not be traceable
            found = Character(any(getattr(layer, "synchronized", None) is True for layer in layers))
        _tell(function, found)
        _known[function] = found
    return _known[function]


def check_divisible(model: Any) -> None:
    """Raises ValueError, in one line, for a model that keeps a state for each example of a batch."""
    for layer in keras_internals.layers_of(model):
        if getattr(layer, "stateful", None) is True:
            raise ValueError(
                f"layer {layer.name!r} is stateful: it keeps a state for each place in a batch, which is not cut into the shards "
                "of several replicas: train it on one device (distribute=None)"
            )


class _Noticing(tf.distribute.ReplicaContext):
    """Notices that what other replicas find is asked for."""

    def __init__(self) -> None:
        super().__init__(tf.distribute.get_strategy(), 0)
        self.is_asked = False

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """See `tf.distribute.ReplicaContext`."""
        del reduce_op, options
        self.is_asked = True
        return value


def _found(function: ModelFunction, fetch: Callable[[], Any], parameters: Vector, state: Mapping[int, tf.Tensor]) -> Character:
    context, no_sums, no_means = _Noticing(), set[int](), dict[str, None]()
    sums = {id(v) for v in sums_of(function)}

    def evaluate() -> tf.Tensor:
        marks = {key: tf.identity(value) for key, value in state.items()}
        totals = tf.ones([function.num_losses + 1])
        with context, keras_internals.masked_moments_synchronized(), means.noticed() as found:
            loss, _, after = function(parameters, marks, fetch(), totals)
        no_means.update(dict.fromkeys(found))
        no_sums.update(key for key in sums & after.keys() & marks.keys() if not _is_sum(after[key], marks[key]))
        return loss

    traced_aside(evaluate)
    return Character(context.is_asked, frozenset(no_sums), tuple(no_means))


def _is_sum(after: Any, before: tf.Tensor) -> bool:
    """Whether `after` is `before` and something added, as far as can be seen: what happens in a branch or loop cannot."""
    operation = after.op
    if after is before or operation.type in _INSIDE:
        return True
    inputs = list(operation.inputs)
    if operation.type in _PASSED_ON:
        return _is_sum(inputs[0], before)
    if operation.type in _ADDED:
        having = [tensor for tensor in inputs if depends(tensor, [before])]
        return len(having) == 1 and _is_sum(having[0], before)
    if operation.type in ("Select", "SelectV2"):
        return not depends(inputs[0], [before]) and all(_is_sum(tensor, before) for tensor in inputs[1:])
    if operation.type in ("Sub", "TensorScatterAdd", "TensorScatterSub"):
        return not any(depends(tensor, [before]) for tensor in inputs[1:]) and _is_sum(inputs[0], before)
    return False


def _tell(function: ModelFunction, found: Character) -> None:
    paths = [v.path for v in sums_of(function) if id(v) in found.no_sums]
    if paths:
        warnings.warn(
            f"several replicas: a metric does not add to {', '.join(map(repr, paths))}, but makes something else of it, such as "
            "a maximum: of the replicas' values the mean over examples is taken, which it need not be (evaluate, and validation, "
            "are not divided)",
            stacklevel=2,
        )
    if found.no_means:
        warnings.warn(
            f"several replicas: metric {', '.join(map(repr, found.no_means))} is no sum over elements (it returns one number a "
            "batch): it is averaged over the replicas' shards by their examples, which is another number than that of the whole "
            "batch (evaluate, and validation, are not divided)",
            stacklevel=2,
        )
