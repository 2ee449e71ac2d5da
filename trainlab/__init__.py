"""trainlab: train Keras models with a step that can be swapped."""

from trainlab.nonfinite import NonFiniteError
from trainlab.objective import Evaluation
from trainlab.strategies import SGD, Accumulate, Heun, State, Step, StepStrategy
from trainlab.trainer import Trainer
from trainlab.vector import Vector

__all__ = [
    "SGD",
    "Accumulate",
    "Evaluation",
    "Heun",
    "NonFiniteError",
    "State",
    "Step",
    "StepStrategy",
    "Trainer",
    "Vector",
]
__version__ = "0.1.0"
