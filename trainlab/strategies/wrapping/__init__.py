"""Strategies round another one: the step is the inner one's, what is made of it theirs."""

from trainlab.strategies.wrapping.lookahead import Lookahead
from trainlab.strategies.wrapping.noise import Noise

__all__ = ["Lookahead", "Noise"]
