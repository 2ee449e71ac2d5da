"""What can be said of a pipeline without running it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.data.iterators import reason
from trainlab.data.pipelines import graphs
from trainlab.data.pipelines.interleaves import Sizes, sizes_in
from trainlab.parameters import tensorflow_internals

# What TensorFlow was seen to restore exactly wherever it stood, in that pass and in those after it: a table of them is tested.
# Of an operation that is not here nothing is promised: some that it saves without a word go on with other elements, and saving
# a cache in a file, or restoring `sample_from_datasets`, ended the process or never returned.
_SOURCES = frozenset(
    {"FixedLengthRecordDatasetV2", "RangeDataset", "TensorDataset", "TensorSliceDataset", "TextLineDataset"}
    | {"SparseTensorSliceDataset", "TFRecordDataset", "TFRecordDatasetV2"}
)
_OPEN_AT_ONCE = frozenset(  # their inputs, when they are opened themselves
    {"AssertCardinalityDataset", "BatchDatasetV2", "FilterDataset", "FlatMapDataset", "GroupByWindowDataset"}
    | {"IgnoreErrorsDataset", "InterleaveDataset", "MapDataset", "OptionsDataset", "PaddedBatchDatasetV2"}
    | {"ParallelBatchDataset", "ParallelFilterDataset", "ParallelInterleaveDatasetV4", "ParallelMapDatasetV2"}
    | {"PrefetchDataset", "RebatchDatasetV2", "ScanDataset", "ShardDataset", "SkipDataset", "TakeDataset"}
    | {"TakeWhileDataset", "UnbatchDataset", "UniqueDataset", "WindowDataset", "ZipDataset"}
)
_IN_FUNCTIONS = _SOURCES | _OPEN_AT_ONCE | {"ConcatenateDataset", "RepeatDataset"}
_SHUFFLED_BEFORE = {
    "cache": "it caches what it shuffles: shuffle after the cache",
    "function": "it shuffles in a function, as of a flat_map, what is from outside of it: shuffle after that",
    "concatenate": "it shuffles a part that comes later in a concatenate: shuffle the whole",
    "repeat": "it repeats what it shuffles: leave the repeat out, and epochs will",
    "shuffle": "it shuffles twice: let one shuffle do",
}
_METHODS = {
    "DirectedInterleaveDataset": "sample_from_datasets or choose_from_datasets",
    "GeneratorDataset": "from_generator",
    "RandomDatasetV2": "random",
}
_SEEDS_AT = {"ShuffleDatasetV3": 2, "ShuffleDatasetV2": 2, "ShuffleDataset": 2, "RandomDataset": 0, "RandomDatasetV2": 0}
_NO_ORDER = "it leaves its order open by deterministic=False"
_UNSEEDED_SHUFFLE = "it shuffles without a seed: give shuffle one, or call keras.utils.set_random_seed before"


class Nature(NamedTuple):
    """What can be said of a pipeline without running it.

    Attributes:
        why_not_saved: why an iterator that was saved might not go on exactly; "" where it is known to.
        chance: what in it comes out otherwise when it is read again in another process, each in words.
        seeds: of its shuffles, in their order; None where one is computed in a function.
        is_copyable: whether a copy begins as this one did when it was made.
        interleaves: the sizes by which it interleaves.
    """

    why_not_saved: str
    chance: tuple[str, ...]
    seeds: tuple[tuple[int, int] | None, ...]
    is_copyable: bool
    interleaves: Sizes

    @property
    def chance_in_words(self) -> str:
        """All of it."""
        return "; ".join(self.chance)

    @property
    def is_unseeded(self) -> bool:
        """Whether each process has its own order."""
        return _UNSEEDED_SHUFFLE in self.chance

    @property
    def is_unordered(self) -> bool:
        """Whether each pass may come in another order, read again or not."""
        return _NO_ORDER in self.chance


def nature_of(dataset: tf.data.Dataset) -> Nature:
    """Looks into a pipeline.

    Example:
        >>> nature_of(tf.data.Dataset.range(9).shuffle(4, seed=1).repeat().batch(2)).why_not_saved
        'it repeats what it shuffles: leave the repeat out, and epochs will'
    """
    try:
        graph = graphs.graph_of(dataset)
        groups = [graph.node, *(function.node_def for function in graph.library.function)]
        found = {word for nodes in groups for word in _chance_in(nodes)}
        if dataset.options().deterministic is False:
            found.add(_NO_ORDER)
        is_copyable = all(node.op != "VarHandleOp" for node in graph.node)  # a copy of a variable would begin where that is now
        seeds = tuple(_seeds_in(graph.node))
        return Nature(_why_not_saved(graph), tuple(sorted(found)), seeds, is_copyable, sizes_in(graph))
    except Exception as error:  # there are many ways not to be described, above all by being too large
        return Nature(f"TensorFlow cannot describe it: {reason(error)}", (), (), False, [])


def moves_on(dataset: tf.data.Dataset) -> bool:
    """Whether a pass over it comes otherwise than the one before it, so that it counts who has read it.

    Example:
        >>> numbers = tf.data.Dataset.range(9)
        >>> moves_on(numbers.shuffle(9, seed=1)), moves_on(numbers.shuffle(9, seed=1, reshuffle_each_iteration=False))
        (True, False)
    """
    try:
        graph = graphs.graph_of(dataset)
    except Exception:  # it is too large, or a variable of it is on a GPU
        return tensorflow_internals.any_of_dataset(dataset, _counts)
    return _counts(graph)


def _counts(graph: Any) -> bool:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    shuffles = [node for node in nodes if node.op == "ShuffleDatasetV3"]
    has_state = any(node.op in ("VarHandleOp", "PyFunc", "EagerPyFunc") for node in nodes)
    return has_state or any(node.attr["reshuffle_each_iteration"].b for node in shuffles)


def _why_not_saved(graph: Any) -> str:
    nodes = {node.name: node for node in graph.node}
    inside = {node.op for function in graph.library.function for node in function.node_def if "Dataset" in node.op}
    if unknown := sorted(inside - _IN_FUNCTIONS):
        return _unknown(unknown[0], " in a function")
    datasets = [node for node in graph.node if "Dataset" in node.op]
    inputs = {name.partition(":")[0] for node in datasets for name in node.input}
    [last] = [node.name for node in datasets if node.name not in inputs]
    return _trouble(nodes, last, "")


def _trouble(nodes: Mapping[str, Any], name: str, opened_by: str) -> str:
    """What is wrong with saving this node and those before it.

    A shuffle takes the order of a pass from a counter of its data set when it is opened. An iterator holds that counter from
    its beginning on if everything after the shuffle opens its input at once; `opened_by` is what does not. What a function
    takes from outside is opened when that is called, and let go of when it is over.
    """
    node = nodes[name.partition(":")[0]]
    inputs = [name for name in node.input if not name.startswith("^") and "Dataset" in nodes[name.partition(":")[0]].op]
    if "Dataset" not in node.op or node.op in _SOURCES:
        return ""
    if node.op == "ShuffleDatasetV3":
        if opened_by:
            return _SHUFFLED_BEFORE[opened_by]
        opened_by = "shuffle"
    elif node.op == "CacheDatasetV2":
        if graphs.constant(nodes, node.input[1]) != b"":
            return "it caches in a file"
        if opened_by == "repeat":
            return "it repeats what it caches: leave the repeat out, and epochs will"
        if opened_by == "function":
            return "it caches in a function, as of a flat_map, what is from outside of it: cache after that"
        opened_by = "cache"
    elif node.op == "RepeatDataset":
        opened_by = "repeat"
    elif node.op == "ConcatenateDataset":
        return _trouble(nodes, inputs[0], opened_by) or _trouble(nodes, inputs[1], opened_by or "concatenate")
    elif node.op not in _OPEN_AT_ONCE:
        return _unknown(node.op)
    has_function = any(attribute.HasField("func") for attribute in node.attr.values())
    late = opened_by or ("function" if has_function else "")
    return next(filter(None, (_trouble(nodes, before, late if k else opened_by) for k, before in enumerate(inputs))), "")


def _unknown(op: str, where: str = "") -> str:
    words = re.sub(r"^(Experimental|Parallel)+|Dataset(V\d+)?$", "", op)
    method = _METHODS.get(op) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words).lower()
    return f"TensorFlow is not known to restore {method}{where} exactly"


def _chance_in(nodes: Sequence[Any]) -> Iterator[str]:
    """What in these nodes cannot be repeated."""
    if (0, 0) in _seeds_in(nodes):
        yield _UNSEEDED_SHUFFLE
    for node in nodes:
        has_seed = "Dataset" not in node.op and "seed" in node.attr and "seed2" in node.attr
        if has_seed and node.attr["seed"].i == node.attr["seed2"].i == 0:
            yield "it draws from tf.random without a seed: call tf.random.stateless_*, or keras.utils.set_random_seed before"
        if node.op == "Timestamp":
            yield "it reads the clock"
        if node.attr["deterministic"].s == b"false":
            yield _NO_ORDER


def _seeds_in(nodes: Sequence[Any]) -> list[tuple[int, int] | None]:
    """The seeds of shuffles and random numbers; 0 and 0 stand for none."""
    by_name = {node.name: node for node in nodes}
    found = []
    for node in nodes:
        if (at := _SEEDS_AT.get(node.op)) is not None:
            first, second = (graphs.constant(by_name, name) for name in node.input[at : at + 2])
            found.append(None if first is None or second is None else (int(first), int(second)))
    return found
