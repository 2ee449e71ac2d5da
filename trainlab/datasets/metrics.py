"""The accuracy over the positions of sequences that have a class."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("trainlab")
class PositionAccuracy(keras.metrics.SparseCategoricalAccuracy):
    """How often the largest of the logits is that of the position's class, over the positions that have one.

    Args:
        ignore_class: What stands for no class.
        name, dtype: As Keras has them.

    Example:
        >>> import numpy as np
        >>> metric = PositionAccuracy()
        >>> metric.update_state(np.array([[0, 1, -1]]), np.array([[[2.0, 1.0], [3.0, 0.0], [1.0, 0.0]]]))
        >>> float(metric.result())
        0.5
    """

    def __init__(self, ignore_class: int = -1, name: str = "accuracy", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignore_class

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: Integers `(batch, length)`.
            y_pred: Logits or probabilities `(batch, length, classes)`.
            sample_weight: `(batch, length)`, or None.
        """
        weight = ops.cast(ops.not_equal(y_true, self.ignore_class), self.dtype)
        if sample_weight is not None:
            weight = weight * ops.cast(sample_weight, self.dtype)
        super().update_state(y_true, y_pred, weight)

    def get_config(self) -> dict[str, Any]:
        """Its arguments."""
        return {"ignore_class": self.ignore_class, **super().get_config()}
