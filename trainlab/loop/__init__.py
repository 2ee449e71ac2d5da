"""The loop: many updates in one compiled call, and every call a transaction."""

from trainlab.loop import jit
from trainlab.loop.evaluation import CannotCompile, EvaluationLoop, Evaluations, PredictionLoop
from trainlab.loop.leading import announce
from trainlab.loop.loop import Loop
from trainlab.loop.making import Findings, Made, check_given, check_strategy, made_by, recipe_of
from trainlab.loop.nonfinite import NonFiniteError
from trainlab.loop.plan import Plan, plan_of
from trainlab.loop.progress import Progress
from trainlab.loop.settings import code
from trainlab.loop.update import Update

__all__ = [
    "CannotCompile",
    "EvaluationLoop",
    "Evaluations",
    "Findings",
    "Loop",
    "Made",
    "NonFiniteError",
    "Plan",
    "PredictionLoop",
    "Progress",
    "Update",
    "announce",
    "check_given",
    "check_strategy",
    "code",
    "jit",
    "made_by",
    "plan_of",
    "recipe_of",
]
