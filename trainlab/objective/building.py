"""Compiles a model, and builds it with its losses, metrics and optimizer for batches of one kind, as Keras' `fit` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.objective.model_function import Batch
from trainlab.objective.requirements import check_built
from trainlab.objective.train_step import build_by_step, has_own_step

_COMPILE_ARGUMENTS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")


def compile_model(model: keras.Model, arguments: Mapping[str, Any], jit_compile: bool, run_eagerly: bool) -> None:
    """Compiles a model; of one that is compiled already, what is not among the arguments stays."""
    if model.compiled:
        before = keras_internals.compile_arguments(model)
        arguments = {name: before.get(name) for name in _COMPILE_ARGUMENTS} | dict(arguments)
    steps = model.steps_per_execution
    model.compile(**arguments, jit_compile=jit_compile, run_eagerly=run_eagerly, steps_per_execution=steps)


def build_model(model: keras.Model, specs: Batch, first_batch: Callable[[], Batch] | None) -> None:
    """Builds the model, its losses, metrics and optimizer.

    Args:
        model: compiled.
        specs: of the batches that it will be trained on.
        first_batch: returns one of them, or a part of one, for a model that is run eagerly: it may look at the numbers, and so
            cannot be built symbolically. None for any other.

    Raises:
        ValueError: they do not fit the batches, or there is nothing to train.
    """
    if has_own_step(model):
        build_by_step(model, tf.nest.map_structure(_any_size, specs))
        check_built(model)
        return
    try:
        if first_batch is not None:
            _build_eagerly(model, first_batch)
        is_built = all(layer.built for layer in keras_internals.layers_of(model))
        keras_internals.build(model, specs if is_built else tf.nest.map_structure(_any_size, specs))
    except (ValueError, TypeError, RuntimeError) as error:
        # Keras' messages run over several lines, the last of which list the arguments, and may be coloured.
        text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by")[0]
        shapes = tf.nest.map_structure(lambda spec: None if spec is None else tuple(spec.shape), specs[:2])
        raise ValueError(
            f"model, losses or metrics do not fit batches of x {shapes[0]} and y {shapes[1]}: {' '.join(text.split())}"
        ) from error
    check_built(model)


def _any_size(spec: Any) -> Any:
    """The same for batches of any size: a model must not keep the size of those that it was first trained on."""
    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype) if isinstance(spec, tf.TensorSpec) and spec.shape.rank else spec


def _build_eagerly(model: keras.Model, first_batch: Callable[[], Batch]) -> None:
    """Builds by one real pass."""
    parts = (keras_internals.compile_loss(model), keras_internals.compile_metrics(model))
    if all(layer.built for layer in keras_internals.layers_of(model)) and all(part is None or part.built for part in parts):
        return
    x, y, _ = first_batch()
    with keras.StatelessScope():  # what the pass leaves behind (states, seeds) is dropped with it
        y_pred = model(x)
        for part in parts:
            if part is not None and not part.built:
                part.build(y, y_pred)
