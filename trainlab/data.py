"""Where batches come from: arrays, addressed by (seed, epoch, position), or a stream, taken as it comes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.model_function import Batch

# Larger data stay in the host's memory when the step runs on a GPU; only each batch travels.
MAX_RESIDENT_BYTES = 2**31


def shuffled(seed: int, epoch: tf.Tensor, positions: tf.Tensor, num_examples: tf.Tensor) -> tf.Tensor:
    """The examples at these positions of an epoch's order.

    A pseudorandom permutation of `range(num_examples)` that depends on seed and epoch alone and needs no memory: any position
    can be asked for.

    Args:
        seed: the run's.
        epoch: scalar int64.
        positions: `[k]` int64, each in `[0, num_examples)`.
        num_examples: scalar int64.

    Returns:
        `[k]` int64.
    """
    with tf.device("CPU:0"):  # where the only kernel is, and one algorithm for every machine
        # Small integers make poor keys of this cipher, and its default of 4 rounds poor permutations: hash, and take 8.
        counter = tf.stack([tf.constant(seed, tf.int64), epoch])
        key = tf.random.stateless_uniform([3], counter, minval=None, maxval=None, dtype=tf.int64, alg="philox")
        # One key for each index: the vector form of `tf.random.experimental.index_shuffle` pads its seed wrongly.
        keys = tf.tile(key[None], [tf.size(positions), 1])
        return tf.raw_ops.RandomIndexShuffle(index=positions, seed=keys, max_index=num_examples - 1, rounds=8)


class ArraySource:
    """Arrays, cut into batches of `batch_size`; each pass visits every example once, the last batch being what is left.

    Args:
        arrays: `(x, y, sample_weight)`, nests of arrays with the same first axis, or None.
        batch_size: examples a batch.
        shuffle: whether each pass takes its own order; the given order otherwise.
        seed: the run's.

    Attributes:
        given: the arrays.
        epoch: passes begun before this one.
        position: examples of this pass already used.
    """

    is_endless = False

    def __init__(self, arrays: Batch, batch_size: int, shuffle: bool, seed: int):
        leaves = [leaf for leaf in tf.nest.flatten(arrays) if leaf is not None]
        self.given = arrays
        self.num_examples = int(leaves[0].shape[0])
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.position = 0
        num_bytes = sum(int(getattr(leaf, "nbytes", 0)) for leaf in leaves)
        self.device = "CPU:0" if num_bytes > MAX_RESIDENT_BYTES or not tf.config.list_physical_devices("GPU") else None
        with tf.device(self.device):
            self.tensors = [tf.convert_to_tensor(leaf) for leaf in leaves]
        self._structure = tf.nest.map_structure(lambda leaf: leaf is not None, arrays)

    def pack(self, tensors: list[tf.Tensor]) -> Batch:
        """Tensors in the order of `tensors`, as `(x, y, sample_weight)`."""
        given = iter(tensors)
        return tf.nest.map_structure(lambda is_given: next(given) if is_given else None, self._structure)

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """What `tensors` are, for any number of examples."""
        return [tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for tensor in self.tensors]

    def updates_per_pass(self, batches: int) -> int:
        """How many updates of `batches` batches a pass makes, the last perhaps smaller."""
        return -(-self.num_examples // (self.batch_size * batches))

    @property
    def at_end(self) -> bool:
        """Whether this pass is over."""
        return self.position >= self.num_examples

    def next_pass(self) -> None:
        """Starts the next pass, in its own order."""
        self.epoch, self.position = self.epoch + 1, 0

    def first_batch(self) -> Batch:
        """The first batch in the given order."""
        return self.pack([tensor[: self.batch_size] for tensor in self.tensors])

    def batch_specs(self) -> Batch:
        """What one batch is."""
        size = min(self.batch_size, self.num_examples)
        return self.pack([tf.TensorSpec([size, *tensor.shape[1:]], tensor.dtype) for tensor in self.tensors])


class StreamSource:
    """A `tf.data.Dataset`, `PyDataset`, generator or loader, taken as it comes.

    Args:
        data: any of these; its batches are `x`, `(x, y)` or `(x, y, sample_weight)`.
        class_weight: weights by class, as in Keras.
        shuffle: for a `PyDataset`, whether its order of batches changes.
    """

    def __init__(self, data: Any, class_weight: Mapping[int, float] | None, shuffle: bool):
        # Keras' adapters know every kind of loader, workers included; this is the one use of them.
        from keras.src.trainers.data_adapters import get_data_adapter

        shuffle = shuffle and isinstance(data, keras.utils.PyDataset) and data.num_batches is not None
        self._adapter = get_data_adapter(data, class_weight=class_weight, shuffle=shuffle)
        self.dataset = self._adapter.get_tf_dataset().prefetch(tf.data.AUTOTUNE)
        self._num_batches = self._adapter.num_batches
        self._is_endless = self._num_batches is None and (
            isinstance(data, keras.utils.PyDataset) or self.dataset.cardinality() == tf.data.INFINITE_CARDINALITY
        )
        self._iterator: Iterator[Any] | None = None
        self._taken = 0
        self.element_spec = _without_optionals(_unpack(self.dataset.element_spec))

    @property
    def is_endless(self) -> bool:
        """Whether a pass has no end."""
        return self._is_endless

    @property
    def at_end(self) -> bool:
        """Whether this pass is known to be over; that of data of unknown size shows only when no batch comes."""
        return self._num_batches is not None and self._taken >= self._num_batches

    def updates_per_pass(self, batches: int) -> int | None:
        """How many updates of `batches` batches a pass makes; None if unknown or endless."""
        return None if self._num_batches is None else -(-self._num_batches // batches)

    def first_batch(self) -> Batch:
        """The first batch of a pass."""
        return _without_optionals(_unpack(next(iter(self.dataset))))

    def batch_specs(self) -> Batch:
        """What one batch is; unknown sizes are None."""
        return self.element_spec

    def next_pass(self) -> None:
        """Starts from the beginning."""
        self.close()

    def close(self) -> None:
        """Ends a pass that has begun; its workers stop."""
        if self._iterator is not None:
            self._iterator = None
            self._adapter.on_epoch_end()

    def take(self, num_batches: int) -> list[Batch]:
        """The next batches; fewer at the end of a pass, none after it."""
        if self._iterator is None:
            self._adapter.on_epoch_begin()
            self._iterator, self._taken = iter(self.dataset), 0
        taken: list[Batch] = []
        while len(taken) < num_batches:
            try:
                taken.append(_without_optionals(_unpack(next(self._iterator))))
            except StopIteration:
                break
        self._taken += len(taken)
        return taken


def as_arrays(data: Any) -> Any:
    """Numbers in any of the containers that Keras takes, as NumPy arrays or tensors; floats in Keras' floatx.

    Raises:
        TypeError: something in it is no dense array.
    """
    return tf.nest.map_structure(_as_array, data) if data is not None else None


def is_stream(x: Any) -> bool:
    """Whether `x` is something that hands out batches, rather than arrays."""
    if isinstance(x, (tf.data.Dataset, keras.utils.PyDataset)) or hasattr(x, "__next__"):
        return True
    return type(x).__module__.split(".")[0] in ("torch", "grain") and not hasattr(x, "shape")


def class_weights(y: Any, class_weight: Mapping[int, float]) -> np.ndarray:
    """A weight for each example from its class: `y` holds labels `[n]` or `[n, 1]`, or one-hot rows `[n, classes]`."""
    labels = np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(axis=-1) if labels.shape[-1] != 1 else labels[..., 0]
    labels = np.round(labels).astype(np.int64)
    weights = np.ones(labels.shape, keras.config.floatx())
    for label, weight in class_weight.items():
        weights[labels == label] = weight
    return weights


class SameData:
    """Remembers, without keeping it alive, what was trained on: the position in one data set means nothing in another."""

    def __init__(self, data: Any):
        self._references = [_reference(leaf) for leaf in tf.nest.flatten(data) if leaf is not None]

    def matches(self, data: Any) -> bool:
        """Whether `data` holds the very same arrays."""
        leaves = [leaf for leaf in tf.nest.flatten(data) if leaf is not None]
        return len(leaves) == len(self._references) and all(
            reference() is leaf for reference, leaf in zip(self._references, leaves, strict=True)
        )


def _reference(leaf: Any) -> Any:
    try:
        return weakref.ref(leaf)
    except TypeError:
        return lambda: None


def _unpack(element: Any) -> Batch:
    return keras.utils.unpack_x_y_sample_weight(element)


def _without_optionals(batch: Any) -> Any:
    """None where Keras' adapters, which cannot hand out None, say `Optional`."""
    optional = (tf.experimental.Optional, tf.OptionalSpec)
    return tf.nest.map_structure(lambda leaf: None if isinstance(leaf, optional) else leaf, batch)


def _as_array(leaf: Any) -> Any:
    if leaf is None:
        return None
    if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)) or type(leaf).__module__.startswith("scipy.sparse"):
        raise TypeError(
            f"{type(leaf).__name__} is no dense array: convert it (toarray, to_tensor), or pass a tf.data.Dataset of batches"
        )
    if isinstance(leaf, (tf.Variable, keras.Variable)):
        leaf = tf.convert_to_tensor(leaf)
    if not isinstance(leaf, tf.Tensor):
        leaf = np.asarray(leaf)
        if leaf.dtype.kind not in "biufUS" and leaf.dtype != tf.bfloat16.as_numpy_dtype:
            raise TypeError(f"an array of dtype {leaf.dtype} holds no batch of numbers or strings; convert it with astype")
    if len(leaf.shape) == 0:
        value = leaf.item() if isinstance(leaf, np.ndarray) else leaf
        raise TypeError(f"{value!r} is a single value, not an array of examples; a list of numbers needs np.array")
    floatx = tf.as_dtype(keras.config.floatx())
    if isinstance(leaf, tf.Tensor):
        return tf.cast(leaf, floatx) if leaf.dtype.is_floating else leaf
    is_floating = leaf.dtype.kind == "f" or leaf.dtype == tf.bfloat16.as_numpy_dtype
    return leaf.astype(floatx.as_numpy_dtype, copy=False) if is_floating else leaf
