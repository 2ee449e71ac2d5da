"""Explicit Runge–Kutta methods on the gradient flow: of a fixed step, and of one that finds its length."""

from trainlab.strategies.runge_kutta.adaptive_step import AdaptiveStep
from trainlab.strategies.runge_kutta.runge_kutta import RungeKutta
from trainlab.strategies.runge_kutta.tableau import TABLEAUS, Tableau

__all__ = ["TABLEAUS", "AdaptiveStep", "RungeKutta", "Tableau"]
