"""MNIST-1D: the published accuracies of four models, trained anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

import trainlab as tl
from reproducing.drawing import curves
from reproducing.section import Section
from trainlab.datasets import mnist_1d

UPDATES, BATCH_SIZE, RATE, NUM_SEEDS = 6000, 100, 1e-2, 3
_EVERY = 250  # updates between two looks at the test set, as in the source
SPREAD = 3.0  # per cent: what is published is a round number of one run, or of a few


def _mlp() -> keras.Model:
    """Two hidden layers of 100, the second one added to the first."""
    inputs = keras.Input([40, 1])
    first = layers.Dense(100, "relu")(layers.Flatten()(inputs))
    second = layers.Add()([first, layers.Dense(100, "relu")(first)])
    return keras.Model(inputs, layers.Dense(10)(second))


def _cnn() -> keras.Model:
    """Three convolutions of 25 channels, each of which halves the length."""
    x = inputs = keras.Input([40, 1])
    for size in (5, 3, 3):
        x = layers.Conv1D(25, size, strides=2, activation="relu")(layers.ZeroPadding1D(1)(x))
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def _gru() -> keras.Model:
    """Six units from either end, and a dense layer on all that they say."""
    inputs = keras.Input([40, 1])
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.Flatten()(x)))


def _linear() -> keras.Model:
    return keras.Sequential([keras.Input([40, 1]), layers.Flatten(), layers.Dense(10)])


# S. Greydanus, D. Kobak, Scaling Down Deep Learning with MNIST-1D, ICML 2024 (https://arxiv.org/abs/2011.14439): the models of
# its repository, https://github.com/greydanus/mnist1d, and the accuracies of its table, per cent.
MODELS: dict[str, tuple[Callable[[], keras.Model], float]] = {
    "logistic regression": (_linear, 32.0),
    "MLP": (_mlp, 68.0),
    "CNN": (_cnn, 94.0),
    "GRU": (_gru, 91.0),
}


def run(section: Section, directory: Path) -> None:
    """The part."""
    updates, num_seeds = (40, 1) if section.is_short else (UPDATES, NUM_SEEDS)
    models = dict(list(MODELS.items())[: 2 if section.is_short else None])
    section.say(
        f"4,000 training and 1,000 test examples of the published generator and seed; Adam, rate {RATE}, batch {BATCH_SIZE}, "
        f"{updates:,} updates, {num_seeds} seeds, the test set looked at every {_EVERY} updates as in the source. Published are "
        "whole per cents with no spread; these are held against the mean of the last accuracies, and the best one on the way, "
        f"which reads the test set, stands beside it. Within {SPREAD:g} points counts as met."
    )
    rows, lines = [], {}
    for name, (make, wanted) in models.items():
        found = np.array([_trained(make, seed, updates) for seed in range(num_seeds)])
        last, best = found[:, -1], found.max(axis=1)
        rows.append((name, wanted, last.mean(), last.std(), best.mean(), best.std()))
        section.numbers[name] = found.tolist()
        if not section.is_short:
            section.claim(f"{name}: test accuracy, per cent", wanted, last.mean(), SPREAD)
        lines[name] = [_EVERY * (i + 1) for i in range(found.shape[1])], found.mean(axis=0)
    section.table(["", "published", "last, mean", "deviation", "best, mean", "deviation"], rows)
    picture = curves(directory / "mnist_1d.png", lines, "update", "test accuracy, per cent", (False, False))
    section.picture(picture, "test accuracy, mean of seeds")


def _trained(make: Callable[[], keras.Model], seed: int, updates: int) -> list[float]:
    """The test accuracy, per cent, every 250 updates."""
    keras.utils.set_random_seed(seed)
    (x, y), test = mnist_1d().train, mnist_1d().test
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = make()
    model.compile(optimizer=keras.optimizers.Adam(RATE), loss=loss, metrics=["accuracy"])
    trainer: Any = tl.Trainer(model, seed=seed)
    found = []
    for _ in range(max(updates // _EVERY, 1)):
        trainer.fit(x, y, batch_size=BATCH_SIZE, steps=min(updates, _EVERY), verbose=0)
        found.append(100 * trainer.evaluate(*test, verbose=0)[1])
    print(f"seed {seed}: {found[-1]:.1f} %", flush=True)
    return found
