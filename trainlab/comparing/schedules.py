"""A learning rate given to an optimizer: a number, or a schedule stretched to another horizon."""

from __future__ import annotations

from typing import Any

import keras

from trainlab.objective import inner_of, keras_internals
from trainlab.runs import manifest


@keras.saving.register_keras_serializable(package="trainlab")
class Stretched(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that takes another number of updates, and begins at another rate: `scale * schedule(step / stretch)`.

    Example:
        >>> cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=100)
        >>> half = Stretched(cosine, stretch=0.5, scale=2.0)  # from 0.2 to 0 in 50 updates
        >>> [round(float(half(step)), 6) for step in (0, 25, 50)]
        [0.2, 0.1, 0.0]

    Args:
        schedule: the one that is stretched.
        stretch: how many times as many updates it takes, above 0.
        scale: by which its rates are multiplied.
    """

    def __init__(self, schedule: Any, stretch: float = 1.0, scale: float = 1.0):
        self.schedule, self.stretch, self.scale = schedule, float(stretch), float(scale)

    def __call__(self, step: Any) -> Any:
        """The rate at a step, a scalar."""
        return self.scale * self.schedule(keras.ops.cast(step, keras.config.floatx()) / self.stretch)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "stretch": self.stretch, "scale": self.scale}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Stretched:
        """The schedule that `get_config` described."""
        return cls(**(config | {"schedule": keras.optimizers.schedules.deserialize(config["schedule"])}))


def optimizer_like(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Another one of the same settings, with nothing of what this one has learned.

    Raises:
        ValueError: there is no making another, its `get_config` does not say all that it does, or it has several learning rates.
    """
    if isinstance(inner_of(optimizer), keras.optimizers.MultiOptimizer):
        raise ValueError("optimizer: a MultiOptimizer has several learning rates, and a comparison sets one: give one optimizer")
    name = type(optimizer).__name__
    try:
        other = type(optimizer).from_config(optimizer.get_config())
    except Exception as error:  # somebody's own, which may raise anything
        raise ValueError(f"optimizer: {name} cannot be made again from its get_config(): {error}") from None
    was, made = (manifest.of_object(inner_of(one)) for one in (optimizer, other))
    lost = [key for key in was.keys() & made.keys() if was[key] != made[key] and key.strip("_") != "name"]
    if lost:
        raise ValueError(
            f"optimizer: {name} made again from its get_config() is another one in {', '.join(sorted(lost))}: "
            "let its get_config() return that too"
        )
    pattern = decay_exclusions(optimizer)
    if pattern is not None:
        inner_of(other).exclude_from_weight_decay(var_names=[pattern])
    return other


def decay_exclusions(optimizer: keras.Optimizer) -> str | None:
    """The pattern of the names of variables that do not decay, of which a configuration says nothing; None without one.

    Raises:
        ValueError: single variables are excluded, which another model has not.
    """
    pattern, keys = keras_internals.excluded_from_decay(inner_of(optimizer))
    if keys:
        raise ValueError(
            "optimizer: exclude_from_weight_decay(var_list=...) names variables of one model, and every run of a comparison has "
            "its own: name them by var_names"
        )
    return None if pattern is None else pattern.pattern


def schedule_of(optimizer: keras.Optimizer) -> Any:
    """The schedule of an optimizer; None where its rate is a number.

    Raises:
        ValueError: it is a function, of which nobody knows what to stretch.
    """
    held = keras_internals.held_learning_rate(inner_of(optimizer))
    if isinstance(held, keras.optimizers.schedules.LearningRateSchedule):
        return held
    if callable(held) and not isinstance(held, keras.Variable):
        name = getattr(held, "__name__", type(held).__name__)
        raise ValueError(f"optimizer: its learning rate is the function {name}: give a number, or a LearningRateSchedule")
    return None


def rate_of(schedule: Any) -> float:
    """The rate that a schedule is said to have: its own first, or where it warms up the one that it comes to.

    Raises:
        ValueError: it is not above 0.
    """
    named = getattr(schedule, "warmup_target", None)
    rate = float(named) if isinstance(named, (int, float)) else float(schedule(0))
    if not rate > 0:
        raise ValueError(
            f"optimizer: {type(schedule).__name__} begins at {rate:g}: a rate that others are multiples of is above 0"
        )
    return rate


def give_rate(optimizer: keras.Optimizer, rate: float, schedule: Any, stretch: float) -> None:
    """Sets what an optimizer trains with.

    Args:
        optimizer: built or not.
        rate: the learning rate; of a schedule the one that it begins at, or warms up to.
        schedule: of the given optimizer; None for a constant rate.
        stretch: how many times as many updates the schedule takes as it says.
    """
    inner = inner_of(optimizer)
    inner.learning_rate = rate if schedule is None else Stretched(schedule, stretch, rate / rate_of(schedule))
