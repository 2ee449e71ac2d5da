"""Data sets by name: digits and abalones are shipped; MNIST, Fashion-MNIST and CIFAR-10 are fetched once by `keras.datasets`."""

from importlib import resources

import numpy as np

from trainlab.datasets.checks import checked_seed, num_drawn
from trainlab.datasets.data import Data


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
    first = num_drawn("test_fraction", test_fraction, len(labels), "test")
    order = np.random.default_rng(checked_seed(seed)).permutation(len(labels))
    x, y = _images(images, 16)[order], _labels(labels)[order]
    return Data("digits", (x[first:], y[first:]), (x[:first], y[:first]), 10)


def abalone(test_fraction: float = 0.2, seed: int = 0) -> Data:
    """4,177 abalones, shipped with the package: the number of their rings, which is their age, from what was measured.

    Source, licence and what was done to them: `abalone.txt` beside this file.

    Args:
        test_fraction: Fraction of the examples that form the test set, in (0, 1).
        seed: Seed of the shuffle before the split; the same seed gives the same split.

    Returns:
        `x` a dictionary of `"numbers"` float32 `(n, 7)` (length, diameter, height; whole, shucked, viscera and shell weight), of
        mean 0 and standard deviation 1 in the training part, and `"sex"` int32 `(n,)`, 1 to 3 for F, I and M, as `csv` makes
        them; `y` float32 `(n,)`, the rings. The model `tabular` takes them.

    Raises:
        ValueError: `test_fraction` is outside (0, 1) or leaves no example on one side, or `seed` is no
            integer >= 0.

    Example:
        >>> data = abalone()
        >>> data.task, data.input_shape, data.described_sizes
        ('regression', {'numbers': (7,), 'sex': one of 4}, '3,342 training and 835 test examples')
    """
    with resources.files(__package__).joinpath("abalone.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as arrays:
            sexes, measures, rings = arrays["sexes"], arrays["measures"] / 2000, arrays["rings"]
    first = num_drawn("test_fraction", test_fraction, len(rings), "test")
    order = np.random.default_rng(checked_seed(seed)).permutation(len(rings))
    sexes, measures, rings = sexes[order], measures[order], rings[order].astype(np.float32)
    numbers = ((measures - measures[first:].mean(axis=0)) / measures[first:].std(axis=0)).astype(np.float32)
    x = {"numbers": numbers, "sex": (sexes + 1).astype(np.int32)}
    train, test = (
        ({name: part[which] for name, part in x.items()}, rings[which]) for which in (slice(first, None), slice(first))
    )
    return Data("abalone", train, test, 1, vocabularies={"sex": ("[unknown]", "F", "I", "M")})


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
