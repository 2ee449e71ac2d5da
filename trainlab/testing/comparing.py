"""Trainings on a small problem, and how far two of them are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from trainlab.objective import keras_internals
from trainlab.strategies import StepStrategy
from trainlab.trainer import Trainer


class Failed(Exception):
    """A check does not hold; its text is the line."""


class NotChecked(Exception):
    """A check cannot be made here; its text says why."""


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Keras' default dtype is float64 meanwhile, so that what differs by more than rounding shows."""
    with keras_internals.dtype_by_default("float64"):
        yield


def small_model(seed: int = 0, rate: float = 0.05) -> keras.Model:
    """A smooth network with a curved loss, in Keras' default dtype, compiled; the same weights for the same seed.

    Returns:
        From `[3]` to `[2]`.
    """
    make = keras.initializers.RandomNormal
    layers = [
        keras.layers.Dense(5, "tanh", kernel_initializer=make(stddev=0.7, seed=seed + 1)),
        keras.layers.Dense(2, kernel_initializer=make(stddev=0.7, seed=seed + 2)),
    ]
    model = keras.Sequential([keras.Input([3]), *layers])
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse", jit_compile=False)
    return model


def small_data(num_examples: int = 24, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """`x` `[n, 3]` and `y` `[n, 2]`, no two alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_examples, 3)), rng.normal(size=(num_examples, 2))


def trained(strategy: StepStrategy, batch_size: int, updates: int, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """The small model's weights `[n]`, before and after so many updates."""
    model = small_model()
    x, y = small_data(updates * batch_size * strategy.batches)
    before = flat(model.trainable_variables)
    trainer = Trainer(model, strategy, **{"jit_compile": False, **settings})
    trainer.fit(x, y, batch_size=batch_size, shuffle=False, verbose=0)
    return before, flat(model.trainable_variables)


def flat(values: Sequence[Any]) -> np.ndarray:
    """Variables, tensors or arrays as one vector of float64."""
    return np.concatenate([np.zeros(0), *(np.asarray(value, "float64").ravel() for value in values)])


def distance(one: np.ndarray, other: np.ndarray, start: np.ndarray | float = 0.0) -> float:
    """How far two points are apart, against how far the second has come from a start.

    Raises:
        Failed: it has not moved: then there is nothing to compare.
    """
    way = float(np.linalg.norm(other - start))
    if not np.isfinite(way):
        raise Failed("what it trains is not finite on a small problem with the learning rate 0.05")
    if way == 0:
        raise Failed("it trains nothing: the weights are where they were")
    return float(np.linalg.norm(one - other)) / way


def require_same(
    what: Callable[[], tuple[np.ndarray, np.ndarray]], reference: tuple[np.ndarray, np.ndarray], limit: float, line: str
) -> None:
    """Compares a training with one that was made already.

    Args:
        what: makes it.
        reference: weights before and after.
        limit: the largest distance allowed.
        line: what is wrong if it is larger, with `{}` for it.

    Raises:
        Failed: it is larger, or the training raises.
    """
    try:
        _, after = what()
    except Exception as error:
        raise Failed(line.format(f"it raises {type(error).__name__}: {' '.join(str(error).split())[:300]}")) from error
    if not (apart := distance(after, reference[1], reference[0])) <= limit:
        raise Failed(line.format(f"{apart:.1e} apart"))
