"""An update under a loss scale that moves: one decision, whether it is made or, its gradients having overflowed, skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from trainlab.objective import Batch, Batches, Evaluation, LossScale, ModelFunction, metric_variables, native
from trainlab.parameters import Rows
from trainlab.strategies import Step

# The scale as it is now, and how many updates were skipped since the logs were set to zero.
_LOGGED = ("loss_scale", "skipped")


class Scaling:
    """Makes an update or skips it, and moves the scale as `keras.optimizers.LossScaleOptimizer` does.

    An update is skipped where the first of its evaluations that is not finite has a gradient that is not although its loss is,
    whatever the step makes of it: then nothing changes but the scale, which is halved, and what is reported of its batches.
    Evaluations count whose gradient the update uses (eagerly all of them), and the one at the point really visited; those
    within a strategy's own loops and branches by what comes of them. After `dynamic_growth_steps` good updates in a row the
    scale is doubled, unless that were infinite, from which no halving leads back.

    A loss that is not finite is no matter of the scale, nor is what a step makes of finite evaluations: such an update is made,
    and whoever watches for it finds it. Nor are data that are not finite, which a loss need not show: the scale is NaN then,
    for whoever watches to find.

    Args:
        function: whose loss scale moves.

    Attributes:
        logs: variables `[value, 1]`, or zeros where there was no update yet, by name.
        may_be_non_finite: a bool variable, whether the data of the update that is made now need not be finite: the model was
            seen to mask them.
    """

    def __init__(self, function: ModelFunction):
        assert function.loss_scale is not None
        self._function = function
        self._scale: LossScale = function.loss_scale
        self.may_be_non_finite = tf.Variable(False, trainable=False)
        self.logs = {name: tf.Variable(tf.zeros([2]), trainable=False, name=name) for name in _LOGGED}

    @property
    def variable(self) -> Any:
        """The loss scale."""
        return self._scale.variable

    def commit(
        self, step: Step, seen: Sequence[Evaluation], batches: Sequence[Batches], make: Callable[[], None]
    ) -> Callable[[tf.Variable, tf.Tensor], tf.Tensor]:
        """Makes an update by `make`, or skips it.

        Args:
            step: whose gradient it is.
            seen: the evaluations that it was made of, in order.
            batches: its data, which are looked at if it has overflowed.
            make: makes it.

        Returns:
            Given a variable and the value that it has after the update, the one that it is to have.
        """
        is_skipped = _has_overflowed(step, seen)
        function, scale, counter = self._function, self._scale.variable, self._scale.counter
        reported = {id(native(v)) for v in (*metric_variables(function.model), *function.reports.values())}

        def good() -> tf.Tensor:
            make()
            self._count()
            return is_skipped

        def bad() -> tf.Tensor:
            counter.assign(0)
            is_bad = ~self.may_be_non_finite & _hold_non_finite(batches)
            scale.assign(tf.where(is_bad, math.nan, scale * 0.5))
            for key, value in step.at.after.items():
                if id(native(function.changing[key])) in reported:
                    function.changing[key].assign(value)
            return is_skipped

        tf.cond(is_skipped, bad, good)
        values = {"loss_scale": tf.convert_to_tensor(scale), "skipped": self.logs["skipped"][0] + tf.cast(is_skipped, tf.float32)}
        for name, value in values.items():
            if name not in step.logs:  # what a strategy logs under such a name is its own
                self.logs[name].assign(tf.stack([value, 1.0]))

        def after(variable: tf.Variable, value: tf.Tensor) -> tf.Tensor:
            return value if id(variable) in reported else tf.where(is_skipped, variable, value)

        return after

    def _count(self) -> None:
        """Counts a good update, and lets the scale grow when it is time."""
        if not self._function.variables:  # the optimizer is not asked then
            return
        scale, counter = (tf.convert_to_tensor(v) for v in (self._scale.variable, self._scale.counter))
        is_due = tf.equal(counter, self._scale.growth_steps - 1)
        self._scale.counter.assign(tf.where(is_due, tf.zeros_like(counter), counter + 1))
        self._scale.variable.assign(tf.where(is_due & tf.math.is_finite(scale * 2.0), scale * 2.0, scale))


def _has_overflowed(step: Step, seen: Sequence[Evaluation]) -> tf.Tensor:
    """A scalar bool: the first evaluation that is not finite, of those that count, has a loss that is."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    here = [evaluation for evaluation in seen if graph is None or evaluation.loss.graph is graph]
    used = _operations_behind(step) if graph is not None and step.then is None else None  # who knows what `then` closes over
    counting = [] if step.at in here else [step.at]
    counting += [each for each in here if each is step.at or used is None or used & _operations_of(each.gradient)]
    has_overflowed, are_finite = tf.constant(False), tf.constant(True)
    for evaluation in counting:
        is_gradient_finite = _are_finite(evaluation.gradient.leaves)
        has_overflowed |= are_finite & tf.math.is_finite(evaluation.loss) & ~is_gradient_finite
        # After one that is not finite others may be so for that reason alone: their points are made of its gradient.
        are_finite &= tf.math.is_finite(evaluation.loss) & is_gradient_finite
    return has_overflowed if len(here) == len(seen) else has_overflowed | (are_finite & ~_are_finite(step.gradient.leaves))


def _operations_of(values: Any) -> set[Any]:
    """Those that compute tensors of a graph."""
    return {leaf.op for leaf in tf.nest.flatten(values, expand_composites=True) if tf.is_symbolic_tensor(leaf)}


def _operations_behind(step: Step) -> set[Any]:
    """Those from which the gradient and the memory of a step are computed."""
    pending, found = _operations_of([step.gradient, step.memory or {}]), set[Any]()
    while pending:
        operation = pending.pop()
        found.add(operation)
        pending |= {tensor.op for tensor in operation.inputs} - found
    return found


def _hold_non_finite(batches: Sequence[Batches]) -> tf.Tensor:
    """A scalar bool: among an update's data is a number that is not finite."""

    def is_bad(batch: Batch) -> tf.Tensor:
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(batch, expand_composites=True) if leaf is not None]
        return ~_are_finite([leaf for leaf in leaves if leaf.dtype.is_floating])

    found = tf.constant(False)
    for part in batches:
        _, found = tf.while_loop(
            lambda i, found, part=part: (i < part.num_batches) & ~found,
            lambda i, found, part=part: (i + 1, is_bad(part.fetch(i))),
            (tf.constant(0), found),
            parallel_iterations=1,
        )
    return found


def _are_finite(leaves: Sequence[Any]) -> tf.Tensor:
    flags = [tf.reduce_all(tf.math.is_finite(leaf.values if isinstance(leaf, Rows) else leaf)) for leaf in leaves]
    return tf.reduce_all(tf.stack(flags)) if flags else tf.constant(True)
