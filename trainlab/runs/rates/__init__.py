"""The learning rate: swept over updates that are taken back, and what the losses say of it."""

from trainlab.runs.rates.learning_rates import LearningRates
from trainlab.runs.rates.sweep import Sweep, find
from trainlab.runs.rates.swept_rate import SweptRate

__all__ = ["LearningRates", "Sweep", "SweptRate", "find"]
