"""Loss scaling: the factor that keeps small gradients from vanishing in float16, as the optimizer has it."""

from trainlab.objective.scaling.checks import check_scaling, not_inside
from trainlab.objective.scaling.loss_scale import SMALLEST_SCALE, LossScale, inner_of, loss_scale_of

__all__ = ["SMALLEST_SCALE", "LossScale", "check_scaling", "inner_of", "loss_scale_of", "not_inside"]
