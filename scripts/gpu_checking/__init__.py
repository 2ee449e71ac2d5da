"""The parts of gpu_check.py, each run in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Part(NamedTuple):
    """A part.

    Attributes:
      run: what it does; the argument is whether it is to be short. Imports TensorFlow only then.
      seconds: how long it may take.
    """

    run: Callable[[bool], None]
    seconds: float


def _device(is_short: bool) -> None:
    from gpu_checking import device

    device.check()


def _laws(precision: str, tensor_float_32: bool) -> Callable[[bool], None]:
    def run(is_short: bool) -> None:
        from gpu_checking import laws

        laws.check(precision, tensor_float_32, is_short)

    return run


def _scaled(is_short: bool) -> None:
    from gpu_checking import scaled

    scaled.check(is_short)


def _replicas(is_short: bool) -> None:
    from gpu_checking import replicas

    replicas.check(is_short)


def _going_on(name: str) -> Callable[[bool], None]:
    def run(is_short: bool) -> None:
        from gpu_checking import going_on

        getattr(going_on, name)(is_short)

    return run


def _speed(name: str) -> Callable[[bool], None]:
    def run(is_short: bool) -> None:
        from gpu_checking import speed

        speed.compare(name, is_short)

    return run


PARTS = {
    "device": Part(_device, 60),
    "laws-float32": Part(_laws("float32", False), 170),
    "laws-float64": Part(_laws("float64", False), 170),
    "laws-tf32": Part(_laws("float32", True), 170),
    "laws-float16": Part(_scaled, 150),
    "replicas": Part(_replicas, 150),
    "resume": Part(_going_on("resume"), 170),
    "kill": Part(_going_on("kill"), 170),
    "signals": Part(_going_on("signals"), 90),
    "memory": Part(_going_on("memory"), 120),
    "speed-mlp": Part(_speed("mlp_32"), 90),
    "speed-cnn": Part(_speed("cnn_256"), 90),
    "speed-transformer": Part(_speed("transformer"), 120),
    "speed-embedding": Part(_speed("embedding"), 90),
}
# Where time is not measured.
TOGETHER = ("laws-float32", "laws-float64", "laws-tf32", "laws-float16", "replicas", "resume", "kill", "signals", "memory")
