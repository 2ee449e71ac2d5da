"""An epoch begins: metrics and logs start anew."""

from __future__ import annotations

import keras
import tensorflow as tf

from trainlab.loop import Loop
from trainlab.objective import native


class Reset:
    """Resets a model's metrics and a loop's logs, as `model.reset_metrics` and `reset_logs` do.

    Keras converts and assigns number by number, which takes as long as several updates of a small model. So what that has left
    is kept, and put there again the next time. A metric that is not Keras' own may do anything, and is asked every time.

    Args:
        model: compiled and built.
        loop: that trains it.
    """

    def __init__(self, model: keras.Model, loop: Loop):
        self._model, self._loop = model, loop
        self._kept: list[tuple[tf.Variable, tf.Tensor]] | None = None
        self._kept_at = -1

    def __call__(self) -> None:
        """Resets them."""
        loop = self._loop
        if self._kept is not None and self._kept_at == loop.num_traces:  # tracing may have made more of them
            for variable, value in self._kept:
                tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
            return
        self._model.reset_metrics()
        loop.update.reset_logs()
        self._kept, self._kept_at = None, loop.num_traces
        if _is_of_keras(self._model):
            of_metrics = [native(v) for metric in self._model.metrics for v in metric.variables]
            self._kept = [(v, v.read_value()) for v in (*of_metrics, *loop.update.logs.values())]


def _is_of_keras(model: keras.Model) -> bool:
    """Whether resetting a model's metrics is Keras' own work throughout, and so leaves the same every time."""
    metrics = [part for metric in model.metrics for part in (metric, *getattr(metric, "metrics", ()))]
    are_own = all(_is_module_of_keras(type(m).__module__) and _is_inherited(m, "reset_state") for m in metrics)
    return are_own and _is_inherited(model, "reset_metrics")


def _is_inherited(owner: object, name: str) -> bool:
    """Whether a method is as Keras has written it."""
    return name not in vars(owner) and _is_module_of_keras(getattr(type(owner), name).__module__)


def _is_module_of_keras(name: str) -> bool:
    # Its tests, which stand beside what they test, have metrics of their own.
    return name.startswith("keras.") and name.split("_")[-1] != "test"
