"""The objective: loss and gradient of an effective batch, as a pure function of the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainlab.objective.accumulation import Accumulation, Batches
from trainlab.objective.model_function import ModelFunction
from trainlab.parameters import Table, Vector, dense

# Loss and gradient at a point, and what is left in other variables, by id.
Evaluate = Callable[[Vector], tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]]
Divide = Callable[[ModelFunction, Sequence[Batches], Mapping[int, tf.Tensor]], Evaluate]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What the objective knows at one point.

    Attributes:
        loss: scalar, float.
        gradient: `Vector`, the loss's gradient with respect to the parameters.
        after: the values that the forward pass left in other variables (BatchNorm statistics, dropout seeds, metrics), by the
          variable's id; the Trainer's business.

    Example:
        >>> here = Evaluation(tf.constant(0.5), Vector([tf.constant([3.0, 4.0])]))
        >>> float(here.loss), float(here.gradient.norm())
        (0.5, 5.0)
    """

    loss: tf.Tensor
    gradient: Vector
    after: Mapping[int, tf.Tensor] = dataclasses.field(default_factory=dict)

    def __tf_flatten__(self) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        return tuple(self.after), (self.loss, self.gradient, *self.after.values())

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[int, ...], components: tuple[Any, ...]) -> Evaluation:
        loss, gradient, *after = components
        return cls(loss, gradient, dict(zip(metadata, after, strict=True)))


class KerasObjective:
    """The objective of a Keras model on an effective batch: one batch, or several evaluated one after the other.

    One batch differentiates the loss's own mean: bit for bit what a bare tape gives. Several are weighted by the
    denominators that their losses use (see `denominators`), which a pass that computes nothing else finds first.

    Attributes:
        seen: what it has given, in order, if it is a list; None keeps none.
    """

    def __init__(self, function: ModelFunction, batches: Sequence[Batches], divided: Divide | None = None):
        """Reads, by `function`, the state that every evaluation starts from.

        Args:
            function: the model's loss and gradient on one batch.
            batches: what the effective batch is made of, in order.
            divided: how it is divided among several devices; None for one.
        """
        self._function = function
        self._batches = list(batches)
        function.look_at(lambda: batches[0].fetch(0))
        self._start = function.read_state()
        self._evaluate: Evaluate = self._evaluate_one
        if divided is not None:
            self._evaluate = divided(function, batches, self._start)
        elif len(batches) > 1 or not batches[0].is_one:
            self._evaluate = accumulation = Accumulation(function, batches, self._start)
            self._batches = accumulation.batches
        self._last: list[tf.Tensor] = []
        self.seen: list[Evaluation] | None = None

    def __call__(self, parameters: Vector) -> Evaluation:
        """Evaluates loss and gradient at `parameters`.

        Raises:
            TypeError, ValueError: `parameters` is not a Vector of this model.
        """
        self._function.check_parameters(parameters)
        # A point may be some rows, the rest zero: made whole once, so that what is watched is what is used.
        point = Vector([part if isinstance(part, Table) else dense(part) for part in parameters.parts])
        evaluation = Evaluation(*self._evaluate(self._after_the_last(point)))
        self._last = [evaluation.loss, *tf.nest.flatten(evaluation.gradient, expand_composites=True)]
        if self.seen is not None:
            self.seen.append(evaluation)
        return evaluation

    def late(self, parameters: Vector) -> list[tuple[tf.Variable, tf.Tensor]]:
        """What is known only once the optimizer has changed the weights: variables and their values (see `ModelFunction.late`).

        Args:
            parameters: where the update began.
        """
        last = self._batches[-1]
        return self._function.late(parameters, self._start, lambda: last.fetch(last.num_batches - 1))

    def _after_the_last(self, parameters: Vector) -> Vector:
        """The same, for an evaluation that waits for the one before it, lest the activations of two are in memory at once.

        Where the point does not depend on the gradient before, nothing else would keep them apart; where it does, one part of
        a model that is done early would begin anew while others are not done. XLA does not look at it.
        """
        if tf.executing_eagerly():
            return parameters
        graph = tf.compat.v1.get_default_graph()
        before = [tensor for tensor in self._last if tensor.graph is graph]  # others are a loop's own
        if not before:
            return parameters
        with tf.control_dependencies(before):
            parts = [p.waiting_for(before) if isinstance(p, Table) else tf.identity(p) for p in parameters.parts]
        return Vector(parts)

    def _evaluate_one(self, parameters: Vector) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        return self._function(parameters, self._start, self._batches[0].fetch(0))
