"""Closed forms: the largest stable rate, SAM's cycle, Lookahead's factor, and orders on the gradient flow of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

import trainlab as tl
from reproducing.drawing import curves
from reproducing.flows import Weights, in_float64, trainer_of, updated
from reproducing.section import Section

LIMITS = {
    "Euler": (tl.SGD(), 2.0),
    "second order (Heun)": (tl.Heun(), 2.0),
    "extragradient": (tl.Extragradient(), 1.0),
    "third order": (tl.RungeKutta("kutta_3"), 2.512745),
    "classic fourth": (tl.RungeKutta("kutta_4"), 2.785293),
}
# A tableau, its order, and numbers of steps at which the error is neither rounding nor too large for a line.
ORDERS = {
    "euler": (1, (64, 128, 256)),
    "heun": (2, (32, 64, 128)),
    "midpoint": (2, (32, 64, 128)),
    "ralston": (2, (32, 64, 128)),
    "kutta_3": (3, (32, 64, 128)),
    "bogacki_shampine": (3, (32, 64, 128)),
    "kutta_4": (4, (16, 32, 64)),
    "three_eighths": (4, (16, 32, 64)),
    "dormand_prince": (5, (48, 72, 96)),
}
_TIME = 0.25


def run(section: Section, directory: Path) -> None:
    """The part."""
    with in_float64():
        _limits(section)
        _cycle(section)
        _lookahead(section)
        _orders(section, directory)


def _half_square(w: Any) -> Any:
    return ops.sum(w * w) / 2


def _limits(section: Section) -> None:
    section.say(
        "**The largest stable rate.** On w²/2 an update multiplies by R(h); the least h at which |R(h)| exceeds 1 is found by "
        "halving, the strategy itself making each update."
    )
    for name, (strategy, wanted) in LIMITS.items():
        trainer = trainer_of(Weights([1.0], _half_square), strategy, 1.0)

        def is_stable(rate: float, trainer: tl.Trainer = trainer) -> bool:
            trainer.model.w.assign([1.0])
            trainer.model.optimizer.learning_rate = rate
            updated(trainer, 1)
            return bool(abs(trainer.model.w.numpy()[0]) <= 1)

        low, high = 0.5, 4.0
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if is_stable(middle) else (low, middle)
        section.claim(f"{name}: largest stable rate times λ", wanted, (low + high) / 2, 1e-6)


def _cycle(section: Section) -> None:
    rate, curvature, rho = 0.3, 2.0, 0.05
    wanted = rate * curvature * rho / (2 - rate * curvature)
    section.say(
        f"**SAM's cycle.** In one dimension SAM never comes to rest: on λw²/2 it ends by jumping between ±hλρ/(2 − hλ), here "
        f"h = {rate}, λ = {curvature:g}, ρ = {rho}; to reach the minimum ρ, or the rate, must shrink."
    )
    trainer = trainer_of(Weights([1.0], lambda w: curvature * _half_square(w)), tl.Sam(rho), rate)
    updated(trainer, 300)
    one = float(trainer.model.w.numpy()[0])
    updated(trainer, 1)
    other = float(trainer.model.w.numpy()[0])
    section.claim("Sam: one end of the cycle", wanted, abs(one), 1e-9)
    section.claim("Sam: the other, turned round", wanted, -other if one > 0 else other, 1e-9)


def _lookahead(section: Section) -> None:
    section.say("**Lookahead.** A cycle of k steps multiplies by 1 − α + α(1 − hλ)^k.")
    for k, alpha, z in ((5, 0.5, 0.3), (5, 0.5, 1.9), (10, 0.8, 0.1)):
        trainer = trainer_of(Weights([1.0], _half_square), tl.Lookahead(k, alpha), z)
        updated(trainer, 3 * k)
        seen = float(trainer.model.w.numpy()[0]) ** (1 / 3)
        section.claim(f"Lookahead({k}, {alpha}), hλ = {z}: factor of a cycle", 1 - alpha + alpha * (1 - z) ** k, seen, 1e-9)


class _Network(keras.Model):
    """A network 2-8-1 whose loss is that of 16 fixed examples."""

    def __init__(self) -> None:
        super().__init__()
        random = np.random.RandomState(0)
        self.inputs_, self.wanted = random.randn(16, 2), random.randn(16, 1)
        self.net = keras.Sequential([keras.Input([2]), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
        for weight in self.net.weights:
            weight.assign(random.randn(*weight.shape) * 0.7)
        self.start = [weight.numpy() for weight in self.net.weights]
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The inputs."""
        return inputs

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True):
        """The mean of squares over the fixed examples."""
        return ops.mean((self.net(self.inputs_) - self.wanted) ** 2)


def _followed(name: str, numbers: Any, time: float) -> list[np.ndarray]:
    """Where the flow is after a time, by so many steps of a method."""
    model, points = _Network(), []
    trainer = trainer_of(model, tl.SGD() if name == "euler" else tl.RungeKutta(name), 1.0)
    for number in numbers:
        for weight, value in zip(model.net.weights, model.start, strict=True):
            weight.assign(value)
        model.optimizer.learning_rate = time / number
        updated(trainer, number)
        points.append(np.concatenate([weight.numpy().ravel() for weight in model.net.weights]))
    return points


def _orders(section: Section, directory: Path) -> None:
    section.say(
        "**Orders.** The flow w' = −∇L(w) of a network 2-8-1 with tanh, 16 fixed examples, over a time of 1/4: the slope of the "
        "logarithm of the error against that of the number of steps, measured from many steps of Dormand and Prince's method."
    )
    cases = {name: ORDERS[name] for name in ("euler", "heun", "kutta_4")} if section.is_short else ORDERS
    (exact,) = _followed("dormand_prince", (512,) if section.is_short else (2048,), _TIME)
    lines, rows = {}, []
    for name, (order, numbers) in cases.items():
        errors = [float(np.linalg.norm(point - exact)) for point in _followed(name, numbers, _TIME)]
        slope = -np.polyfit(np.log(numbers), np.log(errors), 1)[0]
        section.claim(f"{name}: fitted order", order, slope, 0.1)
        lines[name] = list(numbers), errors
        rows.append((name, ", ".join(map(str, numbers)), ", ".join(f"{error:.1e}" for error in errors)))
    section.table(["", "steps", "error"], rows)
    section.numbers = {name: errors for name, (_, errors) in lines.items()}
    section.picture(curves(directory / "orders.png", lines, "steps", "error", (True, True)), "error against steps")
