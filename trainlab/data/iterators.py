"""Iterators of `tf.data`: many batches taken in one call, where one stands, and what is known of going on from there."""

from __future__ import annotations

import functools
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from trainlab.parameters import tensorflow_internals

Flatten = Callable[[Any], list[tf.Tensor]]


def serialize(iterator: Any) -> tf.Tensor:
    """Where it stands.

    Raises:
        tf.errors.OpError: that depends on something outside of it, such as Python.
    """
    policy = 2  # fail where the state of something outside matters, rather than forget it
    handle = tensorflow_internals.iterator_handle(iterator)
    return tf.raw_ops.SerializeIterator(resource_handle=handle, external_state_policy=policy)


def deserialize(iterator: Any, serialized: tf.Tensor) -> None:
    """Puts it there."""
    tf.raw_ops.DeserializeIterator(resource_handle=tensorflow_internals.iterator_handle(iterator), serialized=serialized)


def reason(error: Exception) -> str:
    """Why an iterator cannot be saved, in a line."""
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", str(error).splitlines()[0]) if str(error) else type(error).__name__


@contextmanager
def explained() -> Iterator[None]:
    """While open, the lock of a cache file that a killed process left behind is told in one line.

    Raises:
        FileExistsError: there is one.
    """
    try:
        yield
    except tf.errors.AlreadyExistsError as error:
        if (lock := re.search(r"lockfile already exists \('(.*?)'\)", str(error))) is None:
            raise
        raise FileExistsError(
            f"x: {lock[1]!r} says that its cache is being written, by another process or by a pass that is not over, or else by "
            "one that was killed: if nobody writes it any more, delete that file, and the same call makes the cache anew"
        ) from error


def bare(error: tf.errors.OpError) -> tf.errors.OpError:
    """The same error without the frames it came through, and without those of what it was made of.

    They hold the iterator, in cycles that last until Python collects them; and an iterator over a cache file that is let go so
    late deletes the file that somebody else has begun by then.
    """
    one: BaseException | None = error
    while one is not None:
        earlier = one.__cause__ or one.__context__
        one.__traceback__, one.__cause__, one.__context__ = None, None, None
        one = earlier
    return error


def next_of(iterator: Any, *default: Any) -> Any:
    """The iterator's next element, as Python's `next` gives it; its errors hold no iterator longer than they are looked at."""
    try:
        return next(iterator, *default)
    except tf.errors.OpError as error:
        del iterator  # so that the frame of the error holds it no longer
        raise bare(error) from None


def first_of(dataset: tf.data.Dataset, is_copyable: bool) -> Any:
    """Its first element; of a copy, if there can be one, since the shuffles of this one would move on."""
    return next_of(iter(copied(dataset) if is_copyable else dataset))


class Pulled(NamedTuple):
    """Batches, as lists of the tensors that they are made of.

    Attributes:
        lists: one variant tensor for each leaf, a list of that leaf of every batch.
        num_batches: how many.
        has_more: whether there may be more: the data are not known to end here.
        problem: the error that ended it, if any.
    """

    lists: list[tf.Tensor]
    num_batches: int
    has_more: bool
    problem: tf.errors.OpError | None


NOTHING = Pulled([], 0, True, None)


class Puller:
    """Takes batches from iterators of one kind of data set.

    They go through a queue, which outlives a call: a batch that cannot be read costs none of those before it.

    Args:
        specs: of the tensors of a batch.
        flatten: from an element of the data set to these tensors; a function of a module, since traces are kept by it.
        max_bytes: when it has taken so many it takes no more.
    """

    def __init__(self, specs: Sequence[tf.TensorSpec], flatten: Flatten, max_bytes: int):
        with tf.device("CPU:0"):
            self._queue = tf.queue.FIFOQueue(2**30, [spec.dtype for spec in specs])
        self._fill, self._drain = _fill(flatten), _drain(tuple(specs))
        self._max_bytes = tf.constant(max_bytes, tf.int64)

    def __call__(self, iterator: Any, max_updates: int, batches: int) -> Pulled:
        """Takes up to `max_updates` times so many batches, fewer where the data end; not from two threads at once."""
        queue = self._queue.queue_ref
        has_more, problem = True, None
        try:
            has_more = bool(
                self._fill(queue, iterator, tf.constant(max_updates * batches), tf.constant(batches), self._max_bytes)
            )
        except tf.errors.OpError as error:
            problem = bare(error)
        num_batches = int(self._queue.size())
        return Pulled(self._drain(queue, tf.constant(num_batches)), num_batches, has_more, problem)


@functools.cache
def _fill(flatten: Flatten) -> Callable[..., tf.Tensor]:
    """A function that puts batches of an iterator into a queue, and returns whether there may be more."""

    def fill(queue: tf.Tensor, iterator: Any, max_batches: tf.Tensor, multiple_of: tf.Tensor, max_bytes: tf.Tensor) -> tf.Tensor:
        def may_go_on(i: tf.Tensor, has_more: tf.Tensor, num_bytes: tf.Tensor) -> tf.Tensor:
            return has_more & (i < max_batches) & ((num_bytes < max_bytes) | (i % multiple_of != 0))

        def take(i: tf.Tensor, _: tf.Tensor, num_bytes: tf.Tensor) -> list[tf.Tensor]:
            batch = iterator.get_next_as_optional()

            def put() -> list[tf.Tensor]:
                leaves = flatten(batch.get_value())
                sizes = [tf.size(leaf, tf.int64) * max(leaf.dtype.size, 1) for leaf in leaves]
                with tf.control_dependencies([tf.raw_ops.QueueEnqueueV2(handle=queue, components=leaves)]):
                    return [tf.constant(True), num_bytes + tf.add_n(sizes)]

            return [i + 1, *tf.cond(batch.has_value(), put, lambda: [tf.constant(False), num_bytes])]

        with tf.device("CPU:0"):
            start = [tf.constant(0), tf.constant(True), tf.zeros([], tf.int64)]
            return tf.while_loop(may_go_on, take, start, parallel_iterations=1)[1]

    return tf.function(fill, autograph=False)


@functools.cache
def _drain(specs: tuple[tf.TensorSpec, ...]) -> Callable[..., list[tf.Tensor]]:
    """A function that takes so many batches out of a queue, and returns the lists."""

    def drain(queue: tf.Tensor, num_batches: tf.Tensor) -> list[tf.Tensor]:
        def move(i: tf.Tensor, lists: list[tf.TensorArray]) -> list[Any]:
            leaves = tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[spec.dtype for spec in specs])
            return [i + 1, [a.write(i, leaf) for a, leaf in zip(lists, leaves, strict=True)]]

        with tf.device("CPU:0"):
            lists = [tf.TensorArray(spec.dtype, num_batches, infer_shape=False, element_shape=spec.shape) for spec in specs]
            _, lists = tf.while_loop(lambda i, _: i < num_batches, move, [tf.constant(0), lists], parallel_iterations=1)
            return [a.flow for a in lists]

    return tf.function(drain, autograph=False)


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
_RESOURCE_AT = {"ShuffleDatasetV3": 4, "CacheDatasetV2": 2}
_NO_ORDER = "it leaves its order open by deterministic=False"
_UNSEEDED_SHUFFLE = "it shuffles without a seed: give shuffle one, or call keras.utils.set_random_seed before"


class Nature(NamedTuple):
    """What can be said of a pipeline without running it.

    Attributes:
        why_not_saved: why an iterator that was saved might not go on exactly; "" where it is known to.
        chance: what in it comes out otherwise when it is read again in another process, each in words.
        seeds: of its shuffles, in their order; None where one is computed in a function.
        is_copyable: whether a copy begins as this one did when it was made.
    """

    why_not_saved: str
    chance: tuple[str, ...]
    seeds: tuple[tuple[int, int] | None, ...]
    is_copyable: bool

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
        graph = tf.compat.v1.GraphDef.FromString(_graph_of(dataset).numpy())
        groups = [graph.node, *(function.node_def for function in graph.library.function)]
        found = {word for nodes in groups for word in _chance_in(nodes)}
        if dataset.options().deterministic is False:
            found.add(_NO_ORDER)
        is_copyable = all(node.op != "VarHandleOp" for node in graph.node)  # a copy of a variable would begin where that is now
        return Nature(_why_not_saved(graph), tuple(sorted(found)), tuple(_seeds_in(graph.node)), is_copyable)
    except Exception as error:  # there are many ways not to be described, above all by being too large
        return Nature(f"TensorFlow cannot describe it: {reason(error)}", (), (), False)


def moves_on(dataset: tf.data.Dataset) -> bool:
    """Whether a pass over it comes otherwise than the one before it, so that it counts who has read it.

    Example:
        >>> numbers = tf.data.Dataset.range(9)
        >>> moves_on(numbers.shuffle(9, seed=1)), moves_on(numbers.shuffle(9, seed=1, reshuffle_each_iteration=False))
        (True, False)
    """
    try:
        graph = tf.compat.v1.GraphDef.FromString(_graph_of(dataset).numpy())
    except Exception:  # it is too large, or a variable of it is on a GPU
        return tensorflow_internals.any_of_dataset(dataset, _counts)
    return _counts(graph)


def _counts(graph: Any) -> bool:
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    shuffles = [node for node in nodes if node.op == "ShuffleDatasetV3"]
    has_state = any(node.op in ("VarHandleOp", "PyFunc", "EagerPyFunc") for node in nodes)
    return has_state or any(node.attr["reshuffle_each_iteration"].b for node in shuffles)


def copied(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same pipeline, of which no pass was begun: orders and caches that have moved on in `dataset` itself begin anew."""
    graph = tf.compat.v1.GraphDef.FromString(_graph_of(dataset).numpy())
    nodes = {node.name: node for node in graph.node}
    for number, node in enumerate(graph.node):
        if (at := _RESOURCE_AT.get(node.op)) is not None and nodes[node.input[at]].op == "Const":
            # TensorFlow makes one where it finds none of this name.
            [handle] = nodes[node.input[at]].attr["value"].tensor.resource_handle_val
            handle.name = f"trainlab {uuid.uuid4()} {number}"
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tf.data.experimental.from_variant(variant, dataset.element_spec)


def _graph_of(dataset: tf.data.Dataset) -> tf.Tensor:
    variant = tensorflow_internals.dataset_variant(dataset)
    return tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)  # 1: whatever state it depends on


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
        if _constant(nodes, node.input[1]) != b"":
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
            first, second = (_constant(by_name, name) for name in node.input[at : at + 2])
            found.append(None if first is None or second is None else (int(first), int(second)))
    return found


def _constant(nodes: Mapping[str, Any], name: str) -> Any:
    """The value of a scalar input, None if it is no constant."""
    node = nodes.get(name.partition(":")[0])
    return tf.make_ndarray(node.attr["value"].tensor).item() if node is not None and node.op == "Const" else None


def checksum(tensors: Sequence[tf.Tensor]) -> int:
    """Of the values of tensors on the host, text among them."""
    total = 0
    for tensor in tensors:
        array = tensor.numpy()
        data = b"\0".join(np.ravel(array)) if tensor.dtype == tf.string else np.ascontiguousarray(array).tobytes()
        total = zlib.crc32(data, zlib.crc32(str(tensor.shape).encode(), total))
    return total
