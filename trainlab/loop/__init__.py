"""The loop: many updates in one compiled call, and every call a transaction."""

from trainlab.loop import jit
from trainlab.loop.evaluation import CannotCompile, EvaluationLoop, Evaluations, PredictionLoop
from trainlab.loop.leading import announce, begin, prepare
from trainlab.loop.loop import Loop
from trainlab.loop.making import Findings, Loops, check_given, check_strategy
from trainlab.loop.nonfinite import NonFiniteError
from trainlab.loop.plan import Plan, plan_of
from trainlab.loop.progress import Progress
from trainlab.loop.settings import code, is_touched
from trainlab.loop.update import Update

__all__ = [
    "CannotCompile",
    "EvaluationLoop",
    "Evaluations",
    "Findings",
    "Loop",
    "Loops",
    "NonFiniteError",
    "Plan",
    "PredictionLoop",
    "Progress",
    "Update",
    "announce",
    "begin",
    "check_given",
    "check_strategy",
    "code",
    "is_touched",
    "jit",
    "plan_of",
    "prepare",
]
