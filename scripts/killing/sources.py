"""Kinds of data that a run is trained on, made anew in each of its processes."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

NUM_EXAMPLES, BATCH_SIZE, BATCHES = 94, 4, 2  # of an update; the last batch is smaller
EPOCHS = 10
UPDATES = 12  # of an epoch


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        fit: the arguments of `fit` that are the data, by a folder and, in a process that goes on with a run, a number that no
            other process has; None in one that begins.
        can_be_equal: whether it goes on as it was: if it cannot, a resume must say so.
        is_streamed: whether arrays are to be brought batch by batch.
        needs: a package that must be installed.
    """

    fit: Callable[[Path, int | None], dict[str, Any]]
    can_be_equal: bool = True
    is_streamed: bool = False
    needs: str = "keras"

    @property
    def is_there(self) -> bool:
        """Whether what it needs is installed."""
        return importlib.util.find_spec(self.needs) is not None


def examples(num_examples: int = NUM_EXAMPLES, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`x` `[n, 8]` float32 and labels `[n]` int32, no two examples alike."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_examples, 8)).astype("float32")
    return x, (x[:, 0] * x[:, 1] > 0).astype("int32") + (x[:, 2] > 0)


def _arrays(folder: Path, chance: int | None) -> dict[str, Any]:
    x, y = examples()
    return {"x": x, "y": y, "batch_size": BATCH_SIZE}


def _memmap(folder: Path, chance: int | None) -> dict[str, Any]:
    found = []
    for name, array in zip(("x", "y"), examples(), strict=True):
        path = folder / f"{name}.npy"
        if not path.exists():
            np.save(path, array)
        found.append(np.load(path, mmap_mode="r"))
    return {"x": found[0], "y": found[1], "batch_size": BATCH_SIZE}


def _slices(part: slice = slice(None)) -> tf.data.Dataset:
    x, y = examples()
    return tf.data.Dataset.from_tensor_slices((x[part], y[part]))


def _shuffled(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": _slices().shuffle(30, seed=1).batch(BATCH_SIZE)}


def _shuffled_twice(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": _slices().shuffle(20, seed=1).shuffle(30, seed=2).batch(BATCH_SIZE).prefetch(2)}


def _rebatched(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": _slices().batch(5).shuffle(7, seed=1).unbatch().shuffle(16, seed=2).batch(BATCH_SIZE)}


def _concatenated(folder: Path, chance: int | None) -> dict[str, Any]:
    first, x, y = NUM_EXAMPLES // 2, *(tf.constant(array) for array in examples())

    def part(i: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices((x[:first], y[:first])).shard(3, i)

    interleaved = tf.data.Dataset.range(3).interleave(part, cycle_length=2, block_length=3)
    return {"x": interleaved.concatenate(_slices(slice(first, None)).shuffle(20, seed=1)).batch(BATCH_SIZE)}


def _repeated(folder: Path, chance: int | None) -> dict[str, Any]:
    def noisy(i: tf.Tensor, example: Any) -> Any:
        x, y = example
        return x + 0.1 * tf.random.stateless_normal(x.shape, [7, tf.cast(i, tf.int32)]), y

    data = tf.data.Dataset.zip((tf.data.Dataset.range(2**40), _slices().shuffle(30, seed=1).repeat()))
    return {"x": data.map(noisy, num_parallel_calls=2).batch(BATCH_SIZE), "steps_per_epoch": UPDATES}


def _reseeded(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": _slices().shuffle(30, seed=chance or 1).batch(BATCH_SIZE)}


class Augmented(keras.utils.PyDataset):
    """Batches with noise: a function of the batch and the pass, and of a number.

    Args:
        seed: the number.
        settings: Keras' own.
    """

    def __init__(self, seed: int = 0, **settings: Any):
        super().__init__(**settings)
        self._x, self._y = examples()
        self._seed = seed
        self._order, self._pass = np.arange(len(self._x)), 0

    def __len__(self) -> int:
        return -(-len(self._x) // BATCH_SIZE)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """One of them."""
        rows = self._order[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]
        noise = np.random.default_rng([self._seed, self._pass, index]).normal(size=(len(rows), 8))
        return (self._x[rows] + 0.1 * noise).astype("float32"), self._y[rows]

    def on_epoch_end(self) -> None:
        """Takes another order."""
        self._pass += 1
        random.Random(self._pass).shuffle(self._order)


def _pydataset(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": Augmented(workers=2, max_queue_size=4)}


def _processes(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": Augmented(workers=2, use_multiprocessing=True, max_queue_size=4)}


def _noisy(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": Augmented(chance or 0, workers=2, max_queue_size=4)}


def _batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    x, y = examples()
    rng = np.random.default_rng(3)
    while True:
        rows = rng.permutation(len(x))[:BATCH_SIZE]
        yield x[rows], y[rows]


def _generator(folder: Path, chance: int | None) -> dict[str, Any]:
    return {"x": _batches(), "steps_per_epoch": UPDATES}


def _grain(folder: Path, chance: int | None) -> dict[str, Any]:
    import grain

    x, y = examples()
    data = grain.MapDataset.source(list(zip(x, y, strict=True))).seed(1).shuffle()
    return {"x": data.batch(BATCH_SIZE).to_iter_dataset()}


KINDS = {
    "arrays": Kind(_arrays),
    "memmap": Kind(_memmap, is_streamed=True),
    "tfdata-shuffled": Kind(_shuffled),
    "tfdata-shuffled-twice": Kind(_shuffled_twice),
    "tfdata-rebatched": Kind(_rebatched),
    "tfdata-concatenated": Kind(_concatenated),
    "tfdata-repeated": Kind(_repeated),
    "tfdata-reseeded": Kind(_reseeded, can_be_equal=False),
    "pydataset": Kind(_pydataset),
    "pydataset-processes": Kind(_processes),
    "pydataset-noisy": Kind(_noisy, can_be_equal=False),
    "generator": Kind(_generator),
    "grain": Kind(_grain, needs="grain"),
}
