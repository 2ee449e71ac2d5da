"""What a model's own `train_step` does with its optimizer, written down instead of done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.objective.scaling import loss_scale_of

_lock = threading.RLock()
_as_it_is = tf.autograph.experimental.do_not_convert  # a step may be a `tf.function`, which converts what it calls


def _by_id(variables: Sequence[Any]) -> dict[int, Any]:
    """Variables by their ids, and by those of their values, which stand for them inside."""
    return {id(v): v for v in variables} | {id(v.value): v for v in variables}


class Recorder:
    """Stands in for the optimizer of a model while its `train_step` runs.

    Args:
        model: the model.
        applied: called where the optimizer would have changed its variables.

    Attributes:
        gradients: those that were to be applied, tensors, `tf.IndexedSlices` or None, by their variable's id.
        variables: the variables that they were to be applied to, in their order.
        by: the name of the optimizer's method that was called; None if none was.
        loss: scalar, what the step's tapes differentiated with respect to weights, each loss once and not scaled; None if no
            tape did.
        has_scaled: whether the step asked the optimizer to scale a loss.
    """

    def __init__(self, model: keras.Model, applied: Callable[[], None] = lambda: None):
        self._model, self._applied = model, applied
        self.gradients: dict[int, Any] = {}
        self.variables: list[Any] = []
        self.by: str | None = None
        self.has_scaled = False
        self._losses: dict[int, Any] = {}
        self._loss_scale = loss_scale_of(model.optimizer)
        self._scaled: dict[int, tuple[Any, Any]] = {}  # losses as they were and as they came of it, by the latter's id
        self._graph = tf.compat.v1.get_default_graph()

    @property
    def loss(self) -> tf.Tensor | None:
        """See the class."""
        leaves = [tf.convert_to_tensor(leaf) for leaf in self._losses.values()]
        return tf.add_n([tf.cast(tf.reduce_sum(leaf), leaves[0].dtype) for leaf in leaves]) if leaves else None

    @property
    def _name(self) -> str:
        return f"{type(self._model).__name__}.train_step"

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """While open, this thread's `apply` and `apply_gradients` of the model's optimizer are written down.

        Raises:
            ValueError: something is applied twice, or by another optimizer.
        """
        optimizer = self._model.optimizer
        methods: dict[str, Any] = {"apply": self._apply, "apply_gradients": self._apply_gradients}
        if self._loss_scale is not None:
            methods["scale_loss"] = self._scale_loss
        kept = {name: vars(optimizer)[name] for name in methods if name in vars(optimizer)}
        with _lock, keras_internals.applying_replaced(self._refusing), self._losses_noticed():
            vars(optimizer).update(methods)  # past Keras' tracking of attributes
            try:
                yield
            finally:
                for name in methods:
                    del vars(optimizer)[name]
                vars(optimizer).update(kept)

    @_as_it_is
    def _apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if trainable_variables is None:
            trainable_variables = keras_internals.trained_by(self._model.optimizer)
        if not trainable_variables:
            raise ValueError(
                f"{self._name} calls apply without variables of an optimizer that is not built: name them, "
                "or call model.optimizer.build(variables) before"
            )
        self._record("apply", list(grads), list(trainable_variables))

    @_as_it_is
    def _apply_gradients(self, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
        pairs = list(grads_and_vars)
        self._record("apply_gradients", [gradient for gradient, _ in pairs], [variable for _, variable in pairs])
        return self._model.optimizer.iterations

    @_as_it_is
    def _scale_loss(self, loss: Any) -> Any:
        optimizer = self._model.optimizer
        scaled = type(optimizer).scale_loss(optimizer, loss)
        self.has_scaled = True
        self._scaled[id(scaled)] = scaled, loss
        return scaled

    def _true(self, leaf: Any) -> Any:
        """What is differentiated, as it was before it was scaled."""
        if id(leaf) in self._scaled:
            return self._scaled[id(leaf)][1]
        return leaf if self._loss_scale is None else self._loss_scale.unscaled([tf.convert_to_tensor(leaf)])[0]

    def _record(self, by: str, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        if self.by is not None:
            raise self._several()
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise ValueError(
                f"{self._name} applies its gradients inside a tf.cond, a loop or a function of its own that XLA compiles, where "
                "a pure evaluation cannot follow: apply them outside"
            )
        if len(gradients) != len(variables):
            raise ValueError(f"{self._name} applies {len(gradients)} gradients to {len(variables)} variables")
        known = _by_id(self._model.variables)
        for gradient, variable in zip(gradients, variables, strict=True):
            found = known.get(id(variable))
            if found is None:
                named = getattr(variable, "path", getattr(variable, "name", variable))
                raise ValueError(
                    f"{self._name} applies a gradient to {named!r}, which the model does not track: "
                    "keep its layer as an attribute of the model"
                )
            if id(found) in self.gradients:
                raise ValueError(f"{self._name} applies several gradients to {found.path!r}: add them first")
            self.gradients[id(found)] = gradient
            self.variables.append(found)
        self.by = by
        self._applied()

    def _several(self) -> ValueError:
        return ValueError(
            f"{self._name} applies gradients more than once, or by several optimizers, and a step is one update: "
            "train each part by itself, in turns (the README shows it for a GAN)"
        )

    def _refusing(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        thread = threading.get_ident()

        @_as_it_is
        def refuse(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return apply(optimizer, *args, **kwargs)
            if self.by is None:
                raise ValueError(
                    f"{self._name} applies gradients by an optimizer that is not model.optimizer: hand it to super().compile, "
                    "and of several train each part by itself, in turns (the README shows it for a GAN)"
                )
            raise self._several()

        return refuse

    @contextlib.contextmanager
    def _losses_noticed(self) -> Iterator[None]:
        original, thread = tf.GradientTape.gradient, threading.get_ident()

        @_as_it_is
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            is_here = threading.get_ident() == thread and tf.compat.v1.get_default_graph() is self._graph
            if is_here and self.by is None:
                trained = _by_id(self._model.trainable_variables)
                if any(id(source) in trained for source in tf.nest.flatten(sources)):
                    self._losses |= {id(leaf): self._true(leaf) for leaf in tf.nest.flatten(target)}
            return original(tape, target, sources, *args, **kwargs)

        tf.GradientTape.gradient = gradient
        try:
            yield
        finally:
            tf.GradientTape.gradient = original
