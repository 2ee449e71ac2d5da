"""The step strategies, one file each."""

from trainlab.strategies.accumulate import Accumulate
from trainlab.strategies.base import State, Step, StepStrategy
from trainlab.strategies.heun import Heun
from trainlab.strategies.sgd import SGD

__all__ = ["SGD", "Accumulate", "Heun", "State", "Step", "StepStrategy"]
