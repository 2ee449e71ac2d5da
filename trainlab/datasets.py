"""Data sets by name: each function returns a `Data` of NumPy arrays, ready for `Trainer.fit`.

`digits()` is shipped with the package and needs no network; `mnist()`, `fashion_mnist()` and `cifar10()` are
fetched once by `keras.datasets` and kept in its cache; `npz(path)` reads a file of your own.
"""

import dataclasses
import operator
import os
import zipfile
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no single truth value, so `==` could only fail
class Data:
    """A named classification problem, split into training and test examples.

    Attributes:
        name: The name of the data set.
        train: `(x, y)`, examples `(num_train, *input_shape)` and their labels; for a model of several inputs or outputs
            dictionaries, tuples or lists of them. Or a `tf.data.Dataset` of batches `(x, y)`.
        test: The same of the test examples.
        num_classes: Number of classes; labels of type integer lie in `[0, num_classes)`.

    Raises:
        TypeError, ValueError: `train` or `test` is neither.

    Example:
        >>> data = digits()
        >>> data.input_shape, data.num_classes
        ((8, 8, 1), 10)
    """

    name: str
    train: Any
    test: Any
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            part = getattr(self, name)
            if hasattr(part, "element_spec"):
                _check_batches(f"Data.{name}", part.element_spec)
            elif not isinstance(part, (tuple, list)) or len(part) != 2:
                has = f"{len(part)} things" if isinstance(part, (tuple, list)) else f"a {type(part).__name__}"
                raise TypeError(f"Data.{name} must be a pair (x, y) of arrays, or a tf.data.Dataset of batches, not {has}")

    @property
    def is_arrays(self) -> bool:
        """Whether the training examples are arrays, of which batches are yet to be made."""
        return not hasattr(self.train, "element_spec")

    @property
    def input_shape(self) -> Any:
        """Shape of one example, without the batch axis; of several inputs in the structure that x has."""
        return _shapes(self.train[0] if self.is_arrays else _x_of(self.train.element_spec))

    @property
    def num_examples(self) -> int:
        """Number of training examples, of arrays."""
        return _length(self.train[1])

    @property
    def described_sizes(self) -> str:
        """How much there is, in words.

        Example:
            >>> digits().described_sizes
            '1,438 training and 359 test examples'
        """
        if self.is_arrays and not hasattr(self.test, "element_spec"):
            return f"{self.num_examples:,} training and {_length(self.test[1]):,} test examples"
        sizes = (_size(part) for part in (self.train, self.test))
        return "{} to train on and {} to test, examples".format(*sizes)


def digits(test_fraction: float = 0.2, seed: int = 0) -> Data:
    """1,797 images of handwritten digits, shipped with the package.

    Source, licence and what was done to them: `digits.txt` beside this file.

    Args:
        test_fraction: Fraction of the examples that form the test set, in (0, 1).
        seed: Seed of the shuffle before the split; the same seed gives the same split.

    Returns:
        `x` float32 `(n, 8, 8, 1)` in [0, 1], `y` int32 `(n,)` in 0..9.

    Raises:
        ValueError: `test_fraction` is outside (0, 1) or leaves no example on one side, or `seed` is no
            integer >= 0.

    Example:
        >>> x, y = digits(test_fraction=0.2).train
        >>> x.shape, x.dtype.name, y.shape, y.dtype.name
        ((1438, 8, 8, 1), 'float32', (1438,), 'int32')
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    num_test = _num_test(test_fraction, len(labels))
    order = np.random.default_rng(_seed(seed)).permutation(len(labels))
    x, y = _images(images, 16)[order], _labels(labels)[order]
    return Data("digits", (x[num_test:], y[num_test:]), (x[:num_test], y[:num_test]), 10)


def mnist() -> Data:
    """MNIST: 60,000 + 10,000 gray images of handwritten digits (http://yann.lecun.com/exdb/mnist/).

    Returns:
        `x` float32 `(n, 28, 28, 1)` in [0, 1], `y` int32 `(n,)` in 0..9.

    Raises:
        ConnectionError: The download failed.

    Example:
        >>> mnist().input_shape  # doctest: +SKIP
        (28, 28, 1)
    """
    return _keras_data_set("mnist")


def fashion_mnist() -> Data:
    """Fashion-MNIST: 60,000 + 10,000 gray images of clothes in 10 classes (https://arxiv.org/abs/1708.07747).

    Returns:
        `x` float32 `(n, 28, 28, 1)` in [0, 1], `y` int32 `(n,)` in 0..9.

    Raises:
        ConnectionError: The download failed.

    Example:
        >>> fashion_mnist().input_shape  # doctest: +SKIP
        (28, 28, 1)
    """
    return _keras_data_set("fashion_mnist")


def cifar10() -> Data:
    """CIFAR-10: 50,000 + 10,000 color images in 10 classes (https://www.cs.toronto.edu/~kriz/cifar.html).

    Returns:
        `x` float32 `(n, 32, 32, 3)` in [0, 1], `y` int32 `(n,)` in 0..9.

    Raises:
        ConnectionError: The download failed.

    Example:
        >>> cifar10().input_shape  # doctest: +SKIP
        (32, 32, 3)
    """
    return _keras_data_set("cifar10")


def npz(path: str | os.PathLike, num_classes: int | None = None) -> Data:
    """A file of your own, written by `np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)`.

    Args:
        path: The file; a leading `~` is expanded. Object arrays are refused: reading one can run code.
        num_classes: Number of classes; None takes the largest label + 1 of integer labels, one per example.

    Returns:
        The arrays with their stored shapes and dtypes, named after the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, an array is missing, the arrays do not fit together, or
            `num_classes` is not a positive integer, too small for the labels, or missing where it cannot be
            read off the labels.

    Example:
        >>> data = npz("my_data.npz")  # doctest: +SKIP
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    for split in ("train", "test"):
        _check_split(file, split, arrays[f"x_{split}"], arrays[f"y_{split}"])
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        raise ValueError(
            f"{file}: x_train has examples of shape {arrays['x_train'].shape[1:]} and x_test of "
            f"{arrays['x_test'].shape[1:]}; both must be alike, pad or crop one of them"
        )
    return Data(
        file.stem,
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        _num_classes(file, (arrays["y_train"], arrays["y_test"]), num_classes),
    )


def _x_of(element: Any) -> Any:
    return element[0] if isinstance(element, (tuple, list)) else element


def _check_batches(name: str, element: Any) -> None:
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        raise TypeError(f"{name}: each element of the data set must be a batch (x, y), or (x, y, sample_weight), not {element}")
    for spec in _leaves(tuple(element)):
        if getattr(getattr(spec, "shape", None), "rank", None) == 0:
            raise ValueError(f"{name}: each element of the data set is one example and no batch: did you forget .batch(32)?")


def _leaves(structure: Any) -> list[Any]:
    if isinstance(structure, dict):
        structure = tuple(structure.values())
    return [leaf for part in structure for leaf in _leaves(part)] if isinstance(structure, (tuple, list)) else [structure]


def _shapes(x: Any) -> Any:
    """The shape of an example, of arrays or of their specs, however they are nested."""
    if isinstance(x, dict):
        return {name: _shapes(part) for name, part in x.items()}
    if isinstance(x, (tuple, list)) and any(hasattr(part, "shape") or isinstance(part, dict) for part in x):
        return tuple(map(_shapes, x))
    shape: Any = getattr(x, "shape", None)
    if hasattr(shape, "rank") and shape.rank is None:
        raise ValueError("Data.train: the shape of x is not known, not even its rank: give the data set one with tf.ensure_shape")
    return tuple(np.shape(x) if shape is None else shape)[1:]


def _length(structure: Any) -> int:
    is_nest = isinstance(structure, dict) or any(hasattr(part, "shape") for part in structure[:1])
    first = _leaves(structure)[0] if is_nest and not hasattr(structure, "shape") else structure
    return len(first)


def _size(part: Any) -> str:
    if not hasattr(part, "element_spec"):
        return f"{_length(part[1]):,} examples"
    number = int(part.cardinality())  # negative where it is infinite or not known
    return "a data set" if number < 0 else f"a data set of {number:,} batch{'' if number == 1 else 'es'}"


def _keras_data_set(name: str) -> Data:
    import keras  # here, not above: reading a file of arrays should not take seconds to import TensorFlow

    try:
        (x, y), (x_test, y_test) = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"{name}() could not be loaded ({reason}): its first use downloads it and needs a network; "
            "digits() is shipped with the package and does not"
        ) from error
    train, test = (_images(x, 255), _labels(y)), (_images(x_test, 255), _labels(y_test))
    return Data(name, train, test, 10)


def _images(pixels: np.ndarray, largest: int) -> np.ndarray:
    x = pixels.astype(np.float32) / np.float32(largest)
    return x[..., None] if x.ndim == 3 else x


def _labels(labels: np.ndarray) -> np.ndarray:
    return labels.reshape(-1).astype(np.int32)  # CIFAR-10's come as (n, 1)


def _num_test(test_fraction: float, num_examples: int) -> int:
    number = isinstance(test_fraction, (int, float, np.number)) and not isinstance(test_fraction, bool)
    if not number or not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction!r}: must be a number in (0, 1), for example 0.2")
    num_test = round(num_examples * float(test_fraction))
    if not 0 < num_test < num_examples:
        raise ValueError(
            f"test_fraction={test_fraction!r}: puts {num_test} of {num_examples} examples into the test set, "
            "and both sides need at least one; use for example 0.2"
        )
    return num_test


def _seed(seed: int) -> int:
    if not _is_integer(seed) or seed < 0:
        raise ValueError(f"seed={seed!r}: must be an integer >= 0, for example seed=0")
    return seed


def _is_integer(value) -> bool:
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def _read(file: Path) -> dict[str, np.ndarray]:
    names = ("x_train", "y_train", "x_test", "y_test")
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file; write one with np.savez(path, {', '.join(f'{n}=...' for n in names)})")
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(file, error)) from error
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError(f"{file}: holds one array without a name (.npy); write it with np.savez")
    with loaded:
        missing = [name for name in names if name not in loaded.files]
        if missing:
            raise ValueError(
                f"{file}: has no array {', '.join(missing)} (it has: {', '.join(loaded.files) or 'none'}); "
                f"write all of {', '.join(names)} with np.savez"
            )
        return {name: _array(file, loaded, name) for name in names}


def _array(file: Path, loaded: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        return loaded[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):  # NumPy has no error type of its own for object arrays
            raise ValueError(_unreadable(file, error)) from error
        raise ValueError(
            f"{file}: {name} is an object array, and reading one would run code from the file; "
            "write plain numbers or strings of one common shape, for example np.stack(list_of_examples)"
        ) from None
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(file, error)) from error


def _unreadable(file: Path, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{file}: cannot be read as a .npz file ({reason}); write it again with np.savez"


def _check_split(file: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    for name, array in ((f"x_{split}", x), (f"y_{split}", y)):
        if array.ndim == 0 or len(array) == 0:
            raise ValueError(f"{file}: {name} has shape {array.shape}; its first axis must hold at least one example")
    if len(x) != len(y):
        raise ValueError(f"{file}: x_{split} has {len(x)} examples, y_{split} {len(y)}; write as many of each")


def _num_classes(file: Path, labels: tuple[np.ndarray, ...], num_classes: int | None) -> int:
    if num_classes is not None and (not _is_integer(num_classes) or num_classes < 1):
        raise ValueError(f"num_classes={num_classes!r}: must be a positive integer, or None to infer it from labels")
    # Others (one-hot rows, token labels with a padding value, regression targets) have no largest class.
    others = [y for y in labels if y.dtype.kind not in "iu" or y.size != len(y)]
    if others:
        if num_classes is None:
            raise ValueError(
                f"{file}: num_classes=None takes the largest label + 1 and needs integer labels, one per "
                f"example, but they are {others[0].dtype} of shape {others[0].shape}; pass num_classes"
            )
        return int(num_classes)
    smallest, largest = min(int(y.min()) for y in labels), max(int(y.max()) for y in labels)
    if smallest < 0:
        raise ValueError(f"{file}: label {smallest}: integer labels must be >= 0; number the classes from 0")
    if num_classes is None:
        return largest + 1
    if largest >= num_classes:
        raise ValueError(f"{file}: label {largest}: must be < num_classes; pass num_classes={largest + 1}")
    return int(num_classes)
