"""Compiles a model, and builds it with its losses, metrics and optimizer for batches of one kind, as Keras' `fit` does."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.objective.model_function import Batch
from trainlab.objective.own_step import any_size, build_by_step, has_own_step
from trainlab.objective.pure import Scope, functions_inlined, opened
from trainlab.objective.requirements import check_built, tell_of_training
from trainlab.objective.scaling import inner_of, not_inside

_COMPILE_ARGUMENTS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")


def compile_model(
    model: keras.Model, arguments: Mapping[str, Any], jit_compile: bool | str | None, run_eagerly: bool | None
) -> None:
    """Compiles a model, if any of its `arguments` is not None; of one that is compiled already, what is None stays.

    Args:
        model: compiled or not.
        arguments: of `compile`, by name.
        jit_compile, run_eagerly: the same, as a Trainer was given them; "auto" is then Keras' own choice.
    """
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if not arguments or not isinstance(model, keras.Model):
        return
    if model.compiled:
        before = keras_internals.compile_arguments(model)
        kept = {name: before.get(name) for name in _COMPILE_ARGUMENTS} | _scaling_of(model, before.get("optimizer"))
        arguments = kept | dict(arguments)
        jit_compile = model.jit_compile if jit_compile is None else jit_compile
        run_eagerly = model.run_eagerly if run_eagerly is None else run_eagerly
    said = {"jit_compile": jit_compile if isinstance(jit_compile, bool) else "auto", "run_eagerly": bool(run_eagerly)}
    steps = model.steps_per_execution
    model.compile(**arguments, **said, steps_per_execution=steps)


def _scaling_of(model: keras.Model, optimizer: Any) -> dict[str, Any]:
    """What `compile` is to be told besides, lest Keras scale the loss of a model anew, or where it was told not to."""
    if not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return {"auto_scale_loss": False} if model.dtype_policy.name == "mixed_float16" and model.optimizer is not None else {}
    return {"optimizer": model.optimizer} if inner_of(model.optimizer) is optimizer else {}


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
        build_by_step(model, specs)
        check_built(model)
        return
    try:
        # A trace of this in a user's own function would serve every later call: it holds initializers, and assigns nothing.
        with functions_inlined():
            if first_batch is not None:
                _build_eagerly(model, first_batch)
            else:
                _build_symbolically(model, specs)
    except (ValueError, TypeError, RuntimeError, LookupError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(_explain(model, specs, error)) from error
    check_built(model)
    tell_of_training(model)


_SET_SHAPES = (
    " (of some the number of axes is not known: set it, by dataset.map(lambda x, y: (tf.ensure_shape(x, [None, 5]), "
    "tf.ensure_shape(y, [None]))), with your own sizes)"
)


def _explain(model: keras.Model, specs: Batch, error: Exception) -> str:
    """One line on why a model, its losses or its metrics cannot be built for batches of this kind."""
    # Keras' messages run over several lines, the last of which list the arguments, and may be coloured; TensorFlow's name nodes.
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by")[0]
    text = " ".join(re.sub(r" for '\{\{node .*?\}\} = [^']*'", "", text).split())
    if unknown := re.search(r"Could not interpret (metric|loss) identifier: (.*)", text):
        return _unknown_name(*unknown.groups())
    if "LossScaleOptimizer cannot be used inside" in text:  # which optimizer a variable has is asked only now
        return not_inside("a MultiOptimizer")
    x, y = [tf.nest.map_structure(_shape_in_words, spec) for spec in specs[:2]]
    where = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
    if "compute_metrics" in where:
        what = "metrics do"
    elif "compute_loss" in where:
        if (misfit := _misfit(model, specs[1])) is not None:
            return misfit
        what = "loss does"
    else:
        what = "model, losses or metrics do"
    remedy = _SET_SHAPES if any(map(_is_open, tf.nest.flatten(specs))) else ""
    return f"{what} not fit batches of x {x} and y {y}: {text}{remedy}"


def _unknown_name(noun: str, name: str) -> str:
    """One line on a name that Keras does not know."""
    module, short = (keras.metrics, ("accuracy",)) if noun == "metric" else (keras.losses, ("crossentropy",))
    spelled = {known.lower(): known for known in (*vars(module), *short) if not known.startswith("_")}
    spelled |= {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", known).lower(): known for known in spelled.values()}
    words = set(name.lower().split("_"))  # sparse_crossentropy is meant for what has these and one more
    close = sorted((longer for longer in spelled if words <= set(longer.split("_"))), key=len)
    close = close or difflib.get_close_matches(name.lower(), spelled, n=1) or [k for k in spelled if k.startswith(name.lower())]
    known = ", ".join(sorted({known for known in spelled.values() if known[0].isupper()} | {*short}))
    return f"Keras has no {noun} {name!r}; " + (f"did you mean {spelled[close[0]]}?" if close else f"it has {known}")


def _misfit(model: keras.Model, y: Any) -> str | None:
    """One line on a loss that takes labels of another shape than these, for a model of one output; None if that is not it."""
    if len(getattr(model, "outputs", None) or []) != 1 or not isinstance(y, tf.TensorSpec) or y.shape.rank is None:
        return None
    has, makes, loss = tuple(y.shape[1:]), tuple(model.outputs[0].shape[1:]), model.loss
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    message = f"loss {name} does not fit: y has examples of shape {has}, the model's output {makes}"
    if "sparse" in name.lower():
        if len(has) != len(makes) or not makes:
            return None
        return f"{message}: it takes the number of the class, where rows of one number a class go with CategoricalCrossentropy"
    if makes and makes[-1] != 1 and has in (makes[:-1], (*makes[:-1], 1)):
        return (
            f"{message}: the number of the class goes with SparseCategoricalCrossentropy, other losses take {makes[-1]} numbers"
        )
    return f"{message}: they must be alike" if has != makes else None


def _build_symbolically(model: keras.Model, specs: Batch) -> None:
    """Builds for batches of this kind without any: for those of any size, and for these if it needs theirs."""
    is_built = all(layer.built for layer in keras_internals.layers_of(model))
    of_any_size = specs if is_built else tf.nest.map_structure(any_size, specs)
    are_dense = not any(isinstance(spec, (tf.RaggedTensorSpec, tf.SparseTensorSpec)) for spec in tf.nest.flatten(specs))
    error: Exception | None = None
    if are_dense:  # Keras takes others for dense ones here
        try:
            keras_internals.build(model, of_any_size)
            return
        except (ValueError, TypeError, RuntimeError, LookupError) as refused:
            error = refused
    try:
        _build_by_a_trace(model, of_any_size)
    except Exception as another:  # users' code may raise anything
        # Of a RuntimeError it is Keras' advice to build it, where the reason is another.
        error = another if error is None or isinstance(error, RuntimeError) else error
        try:
            _build_by_a_trace(model, specs)
        except Exception:
            raise error from None


def _build_by_a_trace(model: keras.Model, specs: Batch) -> None:
    """Builds in the trace of a call, as Keras' `fit` does: all that TensorFlow can trace can be built so."""
    for part in _parts(model):
        with keras.StatelessScope():
            tf.function(lambda *batch, part=part: part(model, batch), autograph=False).get_concrete_function(*specs)
    _build_optimizer(model)


def _build_eagerly(model: keras.Model, first_batch: Callable[[], Batch]) -> None:
    """Builds by one real pass."""
    parts = (keras_internals.compile_loss(model), keras_internals.compile_metrics(model))
    built = [*(layer.built for layer in keras_internals.layers_of(model)), *(part is None or part.built for part in parts)]
    if not all(built):
        batch = first_batch()
        for part in _parts(model):
            with keras.StatelessScope():  # what the pass leaves behind (states, seeds, metrics) is dropped with it
                part(model, batch)
    _build_optimizer(model)


def _parts(model: keras.Model) -> list[Callable[[keras.Model, Batch], Any]]:
    """What builds what is not built: layers, whose variables have values only when that is over, then losses and metrics."""
    is_built = all(layer.built for layer in keras_internals.layers_of(model))
    return [_evaluate] if is_built else [_call, _evaluate]


def _call(model: keras.Model, batch: Batch) -> Any:
    return model(batch[0], training=True)


def _build_optimizer(model: keras.Model) -> None:
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _evaluate(model: keras.Model, batch: Batch) -> None:
    """Calls all that a training step calls, so that whatever builds itself when it is called is built."""
    x, y, sample_weight = batch
    kwargs = {"training": True} if "training" in inspect.signature(model.compute_loss).parameters else {}
    values = [(v, tf.convert_to_tensor(v.value)) for v in model.variables]  # without these Keras' penalties are of None
    with opened(Scope(values, {id(v): v for v in model.trainable_variables})):
        y_pred = model(x, training=True)
        model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        model.compute_loss(x, y, y_pred, sample_weight, **kwargs)


def _is_open(spec: Any) -> bool:
    return spec is not None and spec.shape.rank is None


def _shape_in_words(spec: Any) -> Any:
    return None if spec is None else "of an unknown shape" if _is_open(spec) else tuple(spec.shape)


def num_parameters(model: keras.Model) -> int:
    """How many numbers a model's weights are: what `count_params` says, and of a model that Keras has not built by a call too.

    Example:
        >>> num_parameters(keras.Sequential([keras.Input([3]), keras.layers.Dense(2)]))
        8
    """
    return sum(math.prod(weight.shape) for weight in model.weights)
