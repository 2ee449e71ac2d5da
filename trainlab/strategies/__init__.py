"""The step strategies, one file each."""

from trainlab.strategies.accumulate import Accumulate
from trainlab.strategies.asam import Asam
from trainlab.strategies.base import State, Step, StepStrategy
from trainlab.strategies.extragradient import Extragradient
from trainlab.strategies.heun import Heun
from trainlab.strategies.optimistic_gradient import OptimisticGradient
from trainlab.strategies.runge_kutta.adaptive_step import AdaptiveStep
from trainlab.strategies.runge_kutta.runge_kutta import RungeKutta
from trainlab.strategies.runge_kutta.tableau import TABLEAUS, Tableau
from trainlab.strategies.sam import Sam
from trainlab.strategies.sgd import SGD
from trainlab.strategies.wrapping.lookahead import Lookahead
from trainlab.strategies.wrapping.noise import Noise

__all__ = [
    "SGD",
    "TABLEAUS",
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
]
