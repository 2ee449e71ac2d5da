"""What must be known of a model before it is divided, found by one trace of which nothing is run."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.distribution import means
from trainlab.distribution.addends import CONSTANT, MIXED, OTHER, PASSED_ON, SUM, Addends, OnceABatch, addends_of, once_a_batch
from trainlab.distribution.left import is_seed, metrics_of, says_nothing, sums_of
from trainlab.objective import ModelFunction, cutting, depends, keras_internals, traced_aside
from trainlab.parameters import Rows, Vector

_EXTREMES = ("LogicalAnd", "LogicalOr", "Maximum", "Minimum")


class Character(NamedTuple):
    """How an evaluation of a model on one shard behaves.

    Attributes:
        reaches_across: whether it asks for what other replicas find, in the middle, as a synchronized BatchNormalization does.
        no_sums: the variables of metrics that it changes otherwise than by adding to them, by id.
        no_means: the names of metrics that are told, or add up, one number a batch that is no mean over its examples, and of
            reports that are none.
        once: the variables of metrics to which one number a batch is added.
        read: the sums, of metrics or layers, that the loss depends on, or of layers another of their variables, by id.
        read_after: those of them that it reads with this batch in them.
        sums: those that hold a report which is a sum over examples, by id.
        of_first: the names of reports that are whole numbers, and neither a sum over examples nor the same whatever these are.
        unsaid: the paths of variables of layers that do not say what becomes of them, and that are no means: a sum over examples
            is added, or they are a maximum or the like.
    """

    reaches_across: bool = False
    no_sums: frozenset[int] = frozenset()
    no_means: tuple[str, ...] = ()
    once: OnceABatch = OnceABatch()
    read: frozenset[int] = frozenset()
    read_after: frozenset[int] = frozenset()
    sums: frozenset[int] = frozenset()
    of_first: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


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
    """Notices that what other replicas find is asked for, and of what.

    Attributes:
        asked: what stands for it, the same at all of them.
    """

    def __init__(self) -> None:
        super().__init__(tf.distribute.get_strategy(), 0)
        self.asked: list[tf.Tensor] = []

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """See `tf.distribute.ReplicaContext`."""
        del reduce_op, options
        known = tf.nest.map_structure(tf.identity, value)
        self.asked += tf.nest.flatten(known)
        return known


def check_read(function: ModelFunction, found: Character, are_several: bool) -> None:
    """Warns, in one line, of a loss that reads what the others add in the same update, which no replica knows.

    Args:
        function: of the model.
        found: its character.
        are_several: whether an update takes several batches, one after the other.
    """
    unknown = found.read if are_several else found.read_after
    paths = [v.path for v in sums_of(function) if id(v) in unknown]
    if paths:
        warnings.warn(
            f"several replicas: the loss, or what a layer keeps, reads {', '.join(map(repr, paths))} after examples of the same "
            "update were added: each replica knows its own examples only, so that it is another than on one device: read it "
            "before it is updated, with one batch an update",
            stacklevel=2,
        )


def _found(function: ModelFunction, fetch: Callable[[], Any], parameters: Vector, state: Mapping[int, tf.Tensor]) -> Character:
    """By a trace of any number of examples: what is added for each cannot be told from what is added for as many classes."""
    if not any(_has_batch_size(layer) for layer in keras_internals.layers_of(function.model)):
        with contextlib.suppress(Exception):  # a step of one's own may want batches whose size is known
            return _traced(function, fetch, parameters, state, is_open=True)
    return _traced(function, fetch, parameters, state, is_open=False)


def _traced(
    function: ModelFunction, fetch: Callable[[], Any], parameters: Vector, state: Mapping[int, tf.Tensor], is_open: bool
) -> Character:
    context, no_sums, no_means = _Noticing(), set[int](), dict[str, None]()
    sums = {id(v): v for v in sums_of(function)}
    said = sums.keys() - {id(v) for v in metrics_of(function)}
    groups = [(metric.name, {id(v) for v in metric.variables}) for metric in _metrics_of(function.model)]
    kinds: dict[int, list[str | None]] = {}
    read, read_after = set[int](), set[int]()
    reports: dict[str, tuple[str | None, bool]] = {}
    unsaid: list[str] = []

    def evaluate() -> tf.Tensor:
        marks = {key: tf.identity(value) for key, value in state.items()}
        whole = fetch()
        size = cutting.size_of(whole)
        is_dense = all(leaf is None or isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(whole))
        batch = tf.nest.map_structure(lambda leaf: _marked(leaf, is_open and is_dense) if tf.is_tensor(leaf) else leaf, whole)
        share = tf.identity(tf.ones([], tf.float64))
        leaves = [leaf for leaf in tf.nest.flatten(batch, expand_composites=True) if tf.is_tensor(leaf)]
        totals = tf.ones([function.num_losses + 1])
        noticing = means.shared(share), means.noticed()
        with context, keras_internals.masked_moments_synchronized(), noticing[0], noticing[1] as (found, numbers):
            loss, gradient, after = function(parameters, marks, batch, totals)
        known_size = size if isinstance(size, int) and not (is_open and is_dense) else None
        added = Addends(leaves, share, context.asked, known_size, is_open and is_dense)
        found += [name for name, number in numbers if added.kind_of(number) in (OTHER, MIXED)]
        no_means.update(dict.fromkeys(found))
        for key in sums.keys() & after.keys() & marks.keys():
            addends = addends_of(after[key], marks[key])
            if addends is None and key not in said:  # metrics say so by default, a layer's variable is believed
                no_sums.add(key)
            kinds[key] = [added.kind_of(addend) for addend in addends or ()]
        kept = {key: marks[key] for key in sums.keys() & marks.keys()}
        parts = [leaf.values if isinstance(leaf, Rows) else leaf for leaf in gradient.leaves]
        for key, mark in kept.items():
            others = [after[other] for other in after.keys() & marks.keys() - sums.keys()] if key in said else []
            read.update({key} if any(depends(part, [mark]) for part in (loss, *parts, *others)) else ())
            is_new = key in after and after[key] is not mark
            read_after.update({key} if is_new and any(depends(part, [after[key]]) for part in (*parts, *others)) else ())
        reports.update(_reports(function, list(kept.values()), leaves, after, added))
        unsaid[:] = _unsaid(function, marks, after, added)
        return loss

    traced_aside(evaluate)
    once = once_a_batch([group for _, group in groups], kinds)
    no_means.update(dict.fromkeys(name for name, group in groups if group & once.no_means))
    no_means.update(
        dict.fromkeys(name for name, (kind, is_floating) in reports.items() if is_floating and kind in (OTHER, MIXED))
    )
    added_up = {name for name, (kind, _) in reports.items() if kind in (SUM, MIXED)}
    return Character(
        reaches_across=bool(context.asked),
        no_sums=frozenset(no_sums),
        no_means=tuple(no_means),
        once=once,
        sums=frozenset(id(function.reports[name]) for name in added_up),
        of_first=tuple(name for name, (kind, is_f) in reports.items() if not is_f and kind != CONSTANT and name not in added_up),
        unsaid=tuple(unsaid),
        read=frozenset(read),
        read_after=frozenset(read_after),
    )


def _reports(
    function: ModelFunction,
    kept: Sequence[tf.Tensor],
    leaves: Sequence[tf.Tensor],
    after: Mapping[int, tf.Tensor],
    added: Addends,
) -> dict[str, tuple[str | None, bool]]:
    """By name, of what is reported of the batch itself: what it is of the examples, and whether it is a floating number."""
    found = {}
    for name, variable in function.reports.items():
        value = after.get(id(variable))
        if value is not None and not depends(value, kept):  # what does is made of what all replicas have found
            kind = added.kind_of(value)
            if kind == SUM or depends(value, leaves):
                found[name] = kind, value.dtype.is_floating
    return found


def _unsaid(
    function: ModelFunction, before: Mapping[int, tf.Tensor], after: Mapping[int, tf.Tensor], added: Addends
) -> list[str]:
    """The paths of variables that are no metrics', say nothing, and to which sums over examples are added."""
    others = {id(v) for v in (*sums_of(function), *function.reports.values())}
    found = []
    for key in (before.keys() & after.keys()) - others:
        variable = function.changing[key]
        if says_nothing(variable) and not is_seed(variable):
            addends = addends_of(after[key], before[key], may_decay=True)
            if any(added.kind_of(addend) == SUM for addend in addends or ()) or _is_extreme(after[key], before[key]):
                found.append(variable.path)
    return sorted(found)


def _is_extreme(after: tf.Tensor, before: tf.Tensor) -> bool:
    """Whether it is the larger or the smaller of what it was and of something else, or one or both of two truths."""
    while after.op.type in PASSED_ON:
        after = after.op.inputs[0]
    return after.op.type in _EXTREMES and any(depends(each, [before]) for each in after.op.inputs)


def _marked(leaf: tf.Tensor, is_open: bool) -> tf.Tensor:
    """A tensor of a batch as one of its own, with an open axis of examples where that is asked for."""
    marked = tf.identity(leaf)
    return tf.compat.v1.placeholder_with_default(marked, [None, *leaf.shape[1:]]) if is_open and leaf.shape.rank else marked


def _has_batch_size(layer: Any) -> bool:
    shape = getattr(layer, "batch_shape", None)  # of a keras.layers.InputLayer
    return isinstance(shape, tuple) and bool(shape) and shape[0] is not None


def _metrics_of(model: Any) -> list[Any]:
    """The metrics that have variables of their own; not that of the losses, which is told of all shards."""
    compiled, tracker = keras_internals.compile_metrics(model), keras_internals.loss_tracker(model)
    inner = [] if compiled is None else compiled.metrics
    return [*inner, *(metric for metric in model.metrics if metric is not compiled and metric is not tracker)]


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
    if found.of_first:
        warnings.warn(
            f"several replicas: {', '.join(map(repr, found.of_first))} is reported as a whole number that is no sum over "
            "examples: it is that of the first replica's shard, which need not be that of the whole batch",
            stacklevel=2,
        )
    if found.unsaid:
        warnings.warn(
            f"several replicas: a layer adds something of each example to {', '.join(map(repr, found.unsaid))}, or makes a "
            "maximum or the like of it, of which the replicas' values are averaged by examples (of whole numbers the first is "
            "taken): where it is a sum, write add_weight(..., aggregation='sum'), and where it is not 'mean'",
            stacklevel=2,
        )
