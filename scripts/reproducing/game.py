"""min over x, max over y of x y: who spirals outwards."""

from __future__ import annotations

from pathlib import Path

import trainlab as tl
from reproducing.drawing import curves
from reproducing.flows import in_float64, trainer_of, updated
from reproducing.section import Section
from trainlab.models import BilinearGame

UPDATES, RATE = 1000, 0.1
# A strategy, and the factor of the norm in 1,000 updates: |R(0.1 i)|^1000 of its stability polynomial R.
WANTED = {
    "Euler": (tl.SGD(), 144.7728),
    "Heun": (tl.Heun(), 1.0125783),
    "midpoint": (tl.RungeKutta("midpoint"), 1.0125783),
    "extragradient": (tl.Extragradient(), 0.00691083),
    "third order": (tl.RungeKutta("kutta_3"), 0.99585582),
    "classic fourth": (tl.RungeKutta("kutta_4"), 0.99999306),
}


def run(section: Section, directory: Path) -> None:
    """The part."""
    section.say(
        f"h = {RATE}, {UPDATES:,} updates, in double precision: by what factor the distance of both players from the balance has "
        "changed. The field (y, -x) is no gradient of a loss: plain descent spirals outwards at any rate, Heun and midpoint "
        "hardly do, and extragradient, whose first order does worst on a loss, is the one that arrives."
    )
    lines = {}
    num_places = 2 if section.is_short else 20
    with in_float64():
        for name, (strategy, wanted) in WANTED.items():
            game = BilinearGame()
            trainer, values = trainer_of(game, strategy, RATE), [1.0]
            for _ in range(num_places):
                updated(trainer, UPDATES // num_places)
                values.append(game.distance())
            section.claim(f"{name}: factor of the norm", wanted, values[-1], 5e-7 * max(wanted, 1))
            lines[name] = [UPDATES // num_places * i for i in range(num_places + 1)], values
        lines["optimistic gradient"] = _optimistic(num_places)
    section.numbers = {name: values for name, (_, values) in lines.items()}
    section.say(f"The optimistic gradient, one evaluation an update, comes to {lines['optimistic gradient'][1][-1]:.6g}.")
    section.picture(curves(directory / "game.png", lines, "update", "distance from the balance"), "the distance from the balance")


def _optimistic(num_places: int) -> tuple[list[int], list[float]]:
    game, values = BilinearGame(), [1.0]
    trainer = trainer_of(game, tl.OptimisticGradient(), RATE)
    for _ in range(num_places):
        updated(trainer, UPDATES // num_places)
        values.append(game.distance())
    return [UPDATES // num_places * i for i in range(num_places + 1)], values
