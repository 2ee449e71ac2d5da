"""Models that bring a `train_step` of their own."""

from trainlab.objective.own_step.train_step import TrainStepFunction, Whole, any_size, build_by_step, has_own_step

__all__ = ["TrainStepFunction", "Whole", "any_size", "build_by_step", "has_own_step"]
