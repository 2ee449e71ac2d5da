"""Evaluation as training goes: many batches in one compiled call."""

from trainlab.loop.evaluation.evaluation_loop import CannotCompile, EvaluationLoop
from trainlab.loop.evaluation.evaluations import Evaluations
from trainlab.loop.evaluation.prediction_loop import PredictionLoop

__all__ = ["CannotCompile", "EvaluationLoop", "Evaluations", "PredictionLoop"]
