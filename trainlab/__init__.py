"""trainlab: train Keras models with a step that can be swapped.

Its names are imported when they are first used: `import trainlab` does not wait for TensorFlow, and the command answers a typo
at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainlab.comparing import Comparison, compare
    from trainlab.distribution import WorkerLost, join_workers
    from trainlab.loop import NonFiniteError
    from trainlab.objective import Evaluation
    from trainlab.parameters import Vector
    from trainlab.reports import report
    from trainlab.runs import Run
    from trainlab.strategies import (
        SGD,
        Accumulate,
        AdaptiveStep,
        Asam,
        Extragradient,
        Heun,
        Lookahead,
        Noise,
        OptimisticGradient,
        RungeKutta,
        Sam,
        State,
        Step,
        StepStrategy,
        Tableau,
    )
    from trainlab.trainer import Trainer

__all__ = [
    "SGD",
    "Accumulate",
    "AdaptiveStep",
    "Asam",
    "Comparison",
    "Evaluation",
    "Extragradient",
    "Heun",
    "Lookahead",
    "Noise",
    "NonFiniteError",
    "OptimisticGradient",
    "Run",
    "RungeKutta",
    "Sam",
    "State",
    "Step",
    "StepStrategy",
    "Tableau",
    "Trainer",
    "Vector",
    "WorkerLost",
    "compare",
    "join_workers",
    "report",
]
__version__ = "0.3.0"

_HOMES: dict[str, tuple[str, ...]] = {
    "comparing": ("Comparison", "compare"),
    "distribution": ("WorkerLost", "join_workers"),
    "loop": ("NonFiniteError",),
    "objective": ("Evaluation",),
    "parameters": ("Vector",),
    "reports": ("report",),
    "runs": ("Run",),
    "strategies": (
        "SGD",
        "Accumulate",
        "AdaptiveStep",
        "Asam",
        "Extragradient",
        "Heun",
        "Lookahead",
        "Noise",
        "OptimisticGradient",
        "RungeKutta",
        "Sam",
        "State",
        "Step",
        "StepStrategy",
        "Tableau",
    ),
    "trainer": ("Trainer",),
    "callbacks": (),
    "data": (),
    "datasets": (),
    "models": (),
    "testing": (),
}


def __getattr__(name: str) -> Any:
    """A public name, or a module, at its first use (PEP 562)."""
    if name in _HOMES:
        return importlib.import_module(f"{__name__}.{name}")  # which sets the attribute
    for module, names in _HOMES.items():
        if name in names:
            globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
