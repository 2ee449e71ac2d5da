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


def _laws(precision: str, tensor_float_32: bool, *names: str) -> Callable[[bool], None]:
    def run(is_short: bool) -> None:
        from gpu_checking import laws

        if names:
            laws.check(precision, tensor_float_32, names, is_short)
        else:
            laws.check_rest(precision, tensor_float_32, is_short)

    return run


def _strategies(is_short: bool) -> None:
    from gpu_checking import strategies

    strategies.check(is_short)


def _workers(is_short: bool) -> None:
    from gpu_checking import workers

    workers.check(is_short)


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


def _speed_of_strategies(is_short: bool) -> None:
    from gpu_checking import speed

    speed.compare_strategies(is_short)


_PRECISIONS = {"float32": ("float32", False), "float64": ("float64", False), "tf32": ("float32", True)}

PARTS = {
    "device": Part(_device, 60),
    **{f"laws-{name}": Part(_laws(*precision, "mlp", "cnn"), 170) for name, precision in _PRECISIONS.items()},
    **{f"laws-{name}-text": Part(_laws(*precision, "lstm", "transformer"), 170) for name, precision in _PRECISIONS.items()},
    **{f"laws-{name}-rest": Part(_laws(*precision), 170) for name, precision in _PRECISIONS.items()},
    "laws-float16": Part(_scaled, 170),
    "strategies": Part(_strategies, 170),
    "replicas": Part(_replicas, 170),
    "workers": Part(_workers, 120),
    "resume": Part(_going_on("resume"), 170),
    "kill": Part(_going_on("kill"), 170),
    "signals": Part(_going_on("signals"), 90),
    "memory": Part(_going_on("memory"), 120),
    "speed-mlp": Part(_speed("mlp_32"), 90),
    "speed-cnn": Part(_speed("cnn_256"), 180),
    "speed-transformer": Part(_speed("transformer"), 240),
    "speed-embedding": Part(_speed("embedding"), 90),
    "speed-strategies": Part(_speed_of_strategies, 180),
}
# Where time is not measured.
TOGETHER = tuple(name for name in PARTS if name != "device" and not name.startswith("speed"))
