"""How long a `fit` is."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import keras

from trainlab.data import check_count


class Plan(NamedTuple):
    """How long a `fit` is.

    Attributes:
        initial_epoch: the number of the first epoch, from 0.
        epochs: the number to stop before, or None.
        steps: updates in all, or None.
        steps_per_epoch: as given, or as `keras.config.set_max_steps_per_epoch` limits it.
        updates_per_epoch: that, or those of a pass; None where nobody knows.
        is_capped: whether that limit is all that there is: data may have fewer.
        validate_every: updates between two validations, in place of passes over the data; None for passes. An epoch of callbacks
          then has so many, whatever passes begin and end in it.
    """

    initial_epoch: int
    epochs: int | None
    steps: int | None
    steps_per_epoch: int | None
    updates_per_epoch: int | None = None
    is_capped: bool = False
    validate_every: int | None = None

    @property
    def last_epoch(self) -> int:
        """The number of epochs at the end, as far as can be told."""
        if self.epochs is not None or self.steps is None:
            return self.epochs or 0
        return self.initial_epoch + -(-self.steps // (self.updates_per_epoch or max(self.steps, 1)))

    @property
    def updates(self) -> int:
        """Updates ahead; 0 where nobody knows."""
        if self.epochs is None:
            return self.steps or 0
        updates = max(self.epochs - self.initial_epoch, 0) * (self.updates_per_epoch or 0)
        return updates if self.steps is None else min(updates, self.steps)

    def on(self, updates_per_pass: int | None, is_endless: bool) -> Plan:
        """The same on data whose passes make so many updates, None if nobody knows; no longer than Keras' configuration allows.

        Raises:
            ValueError: nothing ends it.
        """
        if self.validate_every is not None:
            return self._in_updates(self.validate_every, updates_per_pass)
        most = keras.config.max_steps_per_epoch()
        if most and most < (self.steps_per_epoch or updates_per_pass or math.inf):
            _warn_of_limit("steps_per_epoch", most)
            is_capped = self.steps_per_epoch is None
            return self._replace(steps_per_epoch=most, updates_per_epoch=most, is_capped=is_capped)
        updates_per_epoch = self.steps_per_epoch or updates_per_pass
        if updates_per_epoch is None and self.steps is None and is_endless:
            raise ValueError("x never ends: give steps_per_epoch, or steps")
        return self._replace(updates_per_epoch=updates_per_epoch)

    def _in_updates(self, every: int, updates_per_pass: int | None) -> Plan:
        """Its epochs are then passes, which Keras' configuration may cut short; where nobody knows these, so many updates."""
        steps, most, number = self.steps, keras.config.max_steps_per_epoch(), updates_per_pass
        if self.epochs is not None and most and (number is None or most < number):
            _warn_of_limit("steps_per_epoch", most, stacklevel=5)
            number = most
        if steps is None and number is None:
            raise ValueError(
                f"validate_every={every}: how many updates a pass over x has is not known: give steps in place of epochs"
            )
        if self.epochs is not None:
            longest = self.epochs * (every if number is None else number)
            steps = longest if steps is None else min(steps, longest)
        return self._replace(epochs=None, steps=steps, steps_per_epoch=every, updates_per_epoch=every)


def plan_of(
    initial_epoch: int, epochs: int, steps: int | None, steps_per_epoch: int | None, validate_every: int | None = None
) -> Plan:
    """A plan of what `fit` was given, where `epochs` is 1 unless somebody says otherwise.

    Raises:
        TypeError, ValueError: a number is wrong, or both `epochs` and `steps` were given.

    Example:
        >>> plan_of(initial_epoch=2, epochs=5, steps=None, steps_per_epoch=None).on(updates_per_pass=10, is_endless=False).updates
        30
    """
    check_count("epochs", epochs, 0)
    check_count("initial_epoch", initial_epoch, 0)
    if steps is not None:
        check_count("steps", steps, 0)
    if steps_per_epoch is not None:
        check_count("steps_per_epoch", steps_per_epoch, 1)
    if validate_every is not None:
        check_count("validate_every", validate_every, 1)
        for name, value in (("steps_per_epoch", steps_per_epoch), ("initial_epoch", initial_epoch or None)):
            if value is not None:
                raise ValueError(f"give validate_every or {name}, not both: an epoch then has {validate_every} updates")
    if steps is not None and epochs != 1:
        raise ValueError(f"give epochs or steps, not both: epochs={epochs}, steps={steps}")
    # NumPy's own integers would overflow.
    steps, steps_per_epoch = (None if n is None else int(n) for n in (steps, steps_per_epoch))
    last = int(epochs) if steps is None else None
    most = keras.config.max_epochs()
    if most and (last is None or most < last):
        if last is not None:
            _warn_of_limit("epochs", most)
        last = most
    return Plan(
        int(initial_epoch), last, steps, steps_per_epoch, validate_every=None if validate_every is None else int(validate_every)
    )


def _warn_of_limit(name: str, most: int, stacklevel: int = 4) -> None:
    warnings.warn(f"{name} is limited to {most} by keras.config.set_max_{name}", stacklevel=stacklevel)
