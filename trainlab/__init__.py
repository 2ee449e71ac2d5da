"""trainlab: train Keras models with a step that can be swapped."""

from trainlab.loop import NonFiniteError
from trainlab.objective import Evaluation
from trainlab.parameters import Vector
from trainlab.runs import Run
from trainlab.strategies import SGD, Accumulate, Heun, State, Step, StepStrategy
from trainlab.trainer import Trainer

__all__ = [
    "SGD",
    "Accumulate",
    "Evaluation",
    "Heun",
    "NonFiniteError",
    "Run",
    "State",
    "Step",
    "StepStrategy",
    "Trainer",
    "Vector",
]
__version__ = "0.2.0"
