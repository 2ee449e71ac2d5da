"""DeepOBS' quadratic_deep, written anew: a quadratic of 100 dimensions, 90 flat and 10 steep, with noisy centres.

F. Schneider, L. Balles, P. Hennig, DeepOBS: A Deep Learning Optimizer Benchmark Suite, ICLR 2019
(https://arxiv.org/abs/1903.05499). The rotation is that of P. Diaconis and M. Shahshahani, The subgroup algorithm for generating
uniform random variables, Probability in the Engineering and Informational Sciences 1 (1987), 15.
"""

from __future__ import annotations

import functools

import numpy as np

DIMENSION, NUM_EXAMPLES, BATCH_SIZE, NUM_EVALUATED = 100, 1000, 128, 896
SEEDS = {"train": 42, "test": 43, "validation": 44}
SIGMA = 0.6


@functools.cache
def matrix() -> np.ndarray:
    """Q, `(100, 100)` float64."""
    random = np.random.RandomState(42)
    eigenvalues = np.concatenate([random.uniform(0, 1, 90), random.uniform(30, 60, 10)])
    rotation = _rotation(DIMENSION, random)
    return rotation.T @ np.diag(eigenvalues) @ rotation


def examples(part: str) -> np.ndarray:
    """The centres x of a part, `(1000, 100)` float32."""
    return np.random.RandomState(SEEDS[part]).normal(0, SIGMA, (NUM_EXAMPLES, DIMENSION)).astype(np.float32)


def loss(point: np.ndarray, part: str = "test") -> float:
    """The mean loss of the first 896 examples: what DeepOBS reports, which drops the last batch."""
    away = point.astype(np.float64) - examples(part)[:NUM_EVALUATED].astype(np.float64)
    return float(np.mean(np.sum((away @ matrix()) * away, axis=1)) / 2)


def least(part: str = "test") -> float:
    """The least loss that any point can have on a part."""
    return loss(examples(part)[:NUM_EVALUATED].astype(np.float64).mean(axis=0), part)


def _rotation(dimension: int, random: np.random.RandomState) -> np.ndarray:
    """From Haar's measure: a rotation of the plane, and a Householder reflection for each dimension more."""
    angle = 2 * np.pi * random.rand()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(2, dimension):
        direction = random.randn(size + 1, 1)
        direction /= np.linalg.norm(direction)
        axis = -direction
        axis[0] += 1
        axis /= np.linalg.norm(axis)
        larger = np.zeros([size + 1, size + 1])
        larger[0, 0], larger[1:, 1:] = 1, rotation
        rotation = larger - 2 * np.outer(axis, axis.T @ larger)
    return -rotation
