"""Compiles a model, and builds it with its losses, metrics and optimizer for batches of one kind, as Keras' `fit` does."""

from __future__ import annotations

import inspect
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
        specs: of the batches that it will be trained on; ragged and sparse ones too.
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
        else:
            _build_symbolically(model, specs)
    except (ValueError, TypeError, RuntimeError, LookupError, tf.errors.InvalidArgumentError) as error:
        # Keras' messages run over several lines, the last of which list the arguments, and may be coloured.
        text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by")[0].split())
        remedy = _SET_SHAPES if any(map(_is_open, tf.nest.flatten(specs))) else ""
        shapes = [tf.nest.map_structure(_shape_in_words, spec) for spec in specs[:2]]
        raise ValueError(
            f"model, losses or metrics do not fit batches of x {shapes[0]} and y {shapes[1]}: {text}{remedy}"
        ) from error
    check_built(model)


_SET_SHAPES = (
    " (of some the number of axes is not known: set it, by dataset.map(lambda x, y: (tf.ensure_shape(x, [None, 5]), "
    "tf.ensure_shape(y, [None]))), with your own sizes)"
)


def _build_symbolically(model: keras.Model, specs: Batch) -> None:
    """Builds for batches of this kind without any."""
    is_built = all(layer.built for layer in keras_internals.layers_of(model))
    specs = specs if is_built else tf.nest.map_structure(_any_size, specs)
    if any(isinstance(spec, (tf.RaggedTensorSpec, tf.SparseTensorSpec)) for spec in tf.nest.flatten(specs)):
        _build_by_a_trace(model, specs)  # which Keras takes for dense ones here
        return
    try:
        keras_internals.build(model, specs)
    except (ValueError, TypeError, RuntimeError, LookupError) as error:
        try:
            _build_by_a_trace(model, specs)
        except Exception as another:
            if isinstance(error, RuntimeError):  # Keras' advice to build it, where the reason is another
                raise another from error
            raise error from None


def _build_by_a_trace(model: keras.Model, specs: Batch) -> None:
    """Builds in the trace of a call, as Keras' `fit` does: all that TensorFlow can trace can be built so."""
    with keras.StatelessScope():
        tf.function(lambda *batch: _evaluate(model, batch), autograph=False).get_concrete_function(*specs)
    keras_internals.finish_build(model)


def _build_eagerly(model: keras.Model, first_batch: Callable[[], Batch]) -> None:
    """Builds by one real pass."""
    parts = (keras_internals.compile_loss(model), keras_internals.compile_metrics(model))
    built = [*(layer.built for layer in keras_internals.layers_of(model)), *(part is None or part.built for part in parts)]
    if not all(built):
        batch = first_batch()
        with keras.StatelessScope():  # what the pass leaves behind (states, seeds, metrics) is dropped with it
            _evaluate(model, batch)
    keras_internals.finish_build(model)


def _evaluate(model: keras.Model, batch: Batch) -> None:
    """Calls all that a training step calls, so that whatever builds itself when it is called is built."""
    x, y, sample_weight = batch
    y_pred = model(x, training=True)
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    kwargs = {"training": True} if "training" in inspect.signature(model.compute_loss).parameters else {}
    model.compute_loss(x, y, y_pred, sample_weight, **kwargs)


def _any_size(spec: Any) -> Any:
    """The same for batches of any size: a model must not keep the size of those that it was first trained on."""
    if spec is None or not spec.shape.rank:
        return spec
    shape = [None, *spec.shape[1:]]
    if isinstance(spec, tf.RaggedTensorSpec):
        return tf.RaggedTensorSpec(shape, spec.dtype, spec.ragged_rank, spec.row_splits_dtype, spec.flat_values_spec)
    return type(spec)(shape, spec.dtype)


def _is_open(spec: Any) -> bool:
    return spec is not None and spec.shape.rank is None


def _shape_in_words(spec: Any) -> Any:
    return None if spec is None else "of an unknown shape" if _is_open(spec) else tuple(spec.shape)
