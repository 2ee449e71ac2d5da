"""Data sets made by a function: MNIST-1D, and points in the plane."""

from __future__ import annotations

import numpy as np

from trainlab.datasets.checks import checked_count, checked_seed, num_drawn
from trainlab.datasets.data import Data

# A digit as a stroke of twelve points, as it would be drawn from top to bottom; from the generator named below.
_STROKES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_PADDING = 36, 60  # the fewest and the most zeros behind a stroke
_LENGTH = len(_STROKES[0]) + _PADDING[1]
_TRANSLATIONS, _SCALING, _SHEAR = 48, 0.4, 0.75
_CORRELATED_NOISE, _NOISE, _SIGMA = 0.25, 0.02, 2.0


def mnist_1d(num_examples: int = 5000, test_fraction: float = 0.2, length: int = 40, seed: int = 42) -> Data:
    """MNIST-1D: sequences of 40 numbers, each the stroke of a digit that was padded, moved, scaled, sheared and made noisy.

    Made when it is called, by a generator written anew after that of S. Greydanus and D. Kobak, "Scaling Down Deep Learning with
    MNIST-1D" (https://arxiv.org/abs/2011.14439, https://github.com/greydanus/mnist1d, Apache-2.0), whose published data the
    arguments' defaults give, to float32 rounding.

    Args:
        num_examples: Of both parts together, as many of each digit, which leaves up to nine out.
        test_fraction: The part of them, the last, that forms the test set, in (0, 1).
        length: Of a sequence.
        seed: Of NumPy's `RandomState`.

    Returns:
        `x` float32 `(n, length, 1)` of mean 0 and standard deviation 1, `y` int32 `(n,)` in 0..9.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> x, y = mnist_1d().train
        >>> x.shape, y.shape, [round(float(value), 3) for value in x[0, :3, 0]], y[:3].tolist()
        ((4000, 40, 1), (4000,), [-0.332, -0.472, -0.779], [2, 6, 4])
    """
    num_examples, length = checked_count("num_examples", num_examples, 10), checked_count("length", length, 2)
    random = np.random.RandomState(checked_seed(seed))  # the older generator, whose numbers the published data are made of
    labels = np.repeat(np.arange(10), num_examples // 10)
    templates, blur = _templates(), _blur()
    x = np.stack([_example(templates[label], blur, random) for label in labels])
    x = _resampled(x, length)
    order = random.permutation(len(labels))
    x, y = x[order], labels[order].astype(np.int32)
    x = ((x - x.mean()) / x.std()).astype(np.float32)[..., None]
    first = len(y) - num_drawn("test_fraction", test_fraction, len(y), "test")
    return Data("mnist_1d", (x[:first], y[:first]), (x[first:], y[first:]), 10)


def gaussian_grid(num_examples: int = 4096, side: int = 4, deviation: float = 0.05, seed: int = 0) -> Data:
    """Points in the plane, drawn from 16 Gaussians on a square grid: what a small GAN is tried on.

    The grid has `side` x `side` centres, evenly spaced from -1 to 1. Whether a generator found all of them, or fell on a few, is
    seen at once.

    Args:
        num_examples: Points.
        side: Centres along an edge, at least 2.
        deviation: The standard deviation of each Gaussian, above 0.
        seed: Of NumPy's generator.

    Returns:
        `x` float32 `(n, 2)`; `y` int32 `(n,)`, whose number each point is of: row by row, `side * row + column`. There is no test
        part.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> x, y = gaussian_grid(8).train
        >>> x.shape, y.tolist()
        ((8, 2), [13, 10, 8, 4, 4, 0, 1, 0])
    """
    num_examples, side = checked_count("num_examples", num_examples), checked_count("side", side, 2)
    is_number = isinstance(deviation, (int, float, np.number)) and not isinstance(deviation, bool)
    if not is_number or not 0 < deviation < np.inf:
        raise ValueError(f"deviation={deviation!r}: must be a number above 0, for example deviation=0.05")
    random = np.random.default_rng(checked_seed(seed))
    y = random.integers(side**2, size=num_examples)
    edge = np.linspace(-1, 1, side)
    centres = np.stack([edge[y % side], edge[y // side]], axis=1)
    x = centres + deviation * random.normal(size=(num_examples, 2))
    return Data("gaussian_grid", (x.astype(np.float32), y.astype(np.int32)), num_classes=side**2, task="classification")


def _templates() -> np.ndarray:
    """The strokes, whitened, and moved so that they start at zero."""
    x = np.array(_STROKES)
    x = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    return (x - x[:, :1]) / 6.0


def _example(stroke: np.ndarray, blur: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """One sequence before it is resampled; the order in which numbers are drawn is that of the published data."""
    low, high = _PADDING
    padding = low + int(random.rand() * (high - low + 1))
    x = _resampled(np.concatenate([stroke + 1e-8, np.zeros(padding)])[None], _LENGTH)[0]  # 1e-8: tells a stroke from padding
    x = x * (1 + _SCALING * (random.rand() - 0.5))
    x = np.roll(x, random.choice(_TRANSLATIONS))
    correlated = blur @ (_CORRELATED_NOISE * random.randn(_LENGTH))
    x = np.where(x != 0, x, correlated) + _NOISE * random.randn(_LENGTH)
    return x - _SHEAR * (random.rand() - 0.5) * np.linspace(-0.5, 0.5, _LENGTH)


def _resampled(x: np.ndarray, length: int) -> np.ndarray:
    """Each row at so many places, by linear interpolation."""
    old, new = np.linspace(0, 1, x.shape[1]), np.linspace(0, 1, length)
    return np.stack([np.interp(new, old, row) for row in x])


def _blur() -> np.ndarray:
    """The matrix of a Gaussian filter, cut at four standard deviations, the sequence mirrored at its ends (c b a | a b c)."""
    radius = int(4 * _SIGMA + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / _SIGMA) ** 2)
    matrix = np.zeros([_LENGTH, _LENGTH])
    for row in range(_LENGTH):
        for offset, weight in zip(range(-radius, radius + 1), weights / weights.sum(), strict=True):
            column = row + offset
            matrix[row, -1 - column if column < 0 else min(column, 2 * _LENGTH - 1 - column)] += weight
    return matrix
