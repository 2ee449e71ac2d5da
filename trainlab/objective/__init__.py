"""The objective: loss and gradient of an effective batch, as a pure function of the parameters."""

from trainlab.objective import cutting, graphs, keras_internals
from trainlab.objective.accumulation import Accumulation, Batches, reports_of, traced_aside
from trainlab.objective.building import build_model, compile_model, num_parameters
from trainlab.objective.evaluation import Divide, Evaluate, Evaluation, KerasObjective
from trainlab.objective.graphs import (
    CALLS,
    check_step,
    depends,
    graphs_within,
    is_mean_over_examples,
    string_operation,
    touched_variables,
)
from trainlab.objective.leftovers import forget_gradients
from trainlab.objective.model_function import Batch, ModelFunction, check_vector, flat_logs, metric_variables, native, wide
from trainlab.objective.own_step import TrainStepFunction, Whole, has_own_step
from trainlab.objective.pure import functions_inlined
from trainlab.objective.requirements import check_compiled
from trainlab.objective.scaling import SMALLEST_SCALE, LossScale, inner_of

__all__ = [
    "CALLS",
    "SMALLEST_SCALE",
    "Accumulation",
    "Batch",
    "Batches",
    "Divide",
    "Evaluate",
    "Evaluation",
    "KerasObjective",
    "LossScale",
    "ModelFunction",
    "TrainStepFunction",
    "Whole",
    "build_model",
    "check_compiled",
    "check_step",
    "check_vector",
    "compile_model",
    "cutting",
    "depends",
    "flat_logs",
    "forget_gradients",
    "functions_inlined",
    "graphs",
    "graphs_within",
    "has_own_step",
    "inner_of",
    "is_mean_over_examples",
    "keras_internals",
    "metric_variables",
    "native",
    "num_parameters",
    "reports_of",
    "string_operation",
    "touched_variables",
    "traced_aside",
    "wide",
]
