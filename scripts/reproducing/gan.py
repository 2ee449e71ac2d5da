"""A small GAN on 16 Gaussians: how many of them each strategy finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

import trainlab as tl
from reproducing.drawing import clouds
from reproducing.section import Section
from trainlab.datasets import gaussian_grid
from trainlab.models import Gan

DEVIATION, EVALUATIONS = 0.05, 12_000
CASES = {
    "SGD()": tl.SGD(),
    "Heun()": tl.Heun(),
    'RungeKutta("kutta_4")': tl.RungeKutta("kutta_4"),
    "Extragradient()": tl.Extragradient(),
    "OptimisticGradient()": tl.OptimisticGradient(),
}
OPTIMIZERS = {
    "SGD(0.2)": lambda: keras.optimizers.SGD(0.2),
    "Adam(1e-3, beta_1=0.5)": lambda: keras.optimizers.Adam(1e-3, beta_1=0.5),
}


def found(points: np.ndarray, side: int = 4) -> tuple[int, float]:
    """How many centres have at least 1 % of the points within three standard deviations, and the share of points at any."""
    edge = np.linspace(-1, 1, side)
    centres = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    distances = np.linalg.norm(points[:, None] - centres, axis=-1)
    is_near = distances.min(axis=1) < 3 * DEVIATION
    counts = np.bincount(distances.argmin(axis=1)[is_near], minlength=side**2)
    return int((counts >= 0.01 * len(points)).sum()), float(is_near.mean())


def run(section: Section, directory: Path) -> None:
    """The part."""
    evaluations = 40 if section.is_short else EVALUATIONS
    section.say(
        f"Both players with two hidden layers of 64, batch 256, the same initial weights, and {evaluations:,} evaluations of the "
        "field for each strategy, however many updates that makes. One seed, and rates that nobody tuned: an illustration of "
        "games as models, no comparison. A Gaussian counts as found with 1 % of 4,096 generated points within three standard "
        "deviations. Where the optimizer is Adam, what a strategy's theory says of the field is not what is followed."
    )
    x = gaussian_grid(deviation=DEVIATION).train[0]
    rows, pictures = [], {}
    for title, make in list(OPTIMIZERS.items())[: 1 if section.is_short else None]:
        for name, strategy in list(CASES.items())[: 2 if section.is_short else None]:
            points = _trained(x, make, strategy, evaluations)
            number, share = found(points)
            print(f"{title}, {name}: {number} of 16, {share:.3f}", flush=True)
            rows.append((f"{title}, `{name}`", number, f"{share:.0%}", evaluations // strategy.evaluations))
            pictures[title, name] = points
    section.numbers = {"rows": rows}
    section.table(["", "found, of 16", "points near a centre", "updates"], rows)
    last = list(OPTIMIZERS)[0 if section.is_short else -1]
    drawn = {name: points for (title, name), points in pictures.items() if title == last}
    section.picture(clouds(directory / "gan.png", drawn, 1.5), f"generated points, {last}")


def _trained(x: np.ndarray, make: Any, strategy: tl.StepStrategy, evaluations: int) -> np.ndarray:
    keras.utils.set_random_seed(0)
    gan = Gan(2)
    gan.compile(optimizer=make())
    updates = evaluations // strategy.evaluations
    tl.Trainer(gan, strategy, seed=0).fit(x, batch_size=256, steps=updates, verbose=0)
    return gan.sample(4096)
