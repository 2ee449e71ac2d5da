"""What a model and its optimizer must be for a step to be swapped; each refusal is one line."""

from __future__ import annotations

import inspect
import math
import re
import warnings
import weakref
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective.keras_internals import TRAINER, layers_of, trained_by
from trainlab.objective.own_step import has_own_step
from trainlab.objective.scaling import check_scaling, inner_of

# Of a layer of Keras': what makes its forward pass another one in training if it is not 0, and the names of those that are random
_RATES = ("rate", "dropout", "recurrent_dropout", "stddev")
_RANDOM = re.compile(r"Random\w+|RandAugment|AugMix|CutMix|MixUp")
_told: weakref.WeakSet[keras.Model] = weakref.WeakSet()


def check_compiled(model: Any) -> None:
    """Checks a compiled model before anything is built.

    Raises:
        TypeError: it is not a Keras model.
        ValueError: it is one that cannot be trained here; the line says why and what to do.
    """
    if not isinstance(model, TRAINER):
        raise TypeError(f"model must be a keras.Model, not {type(model).__name__}")
    _check_loop(model)
    if not model.compiled:
        raise ValueError(
            f"model {model.name!r} is not compiled: call model.compile(optimizer=..., loss=...), "
            "or give the Trainer a loss and an optimizer"
        )
    if tf.distribute.has_strategy() or model.distribute_strategy is not tf.distribute.get_strategy():
        raise ValueError(
            "a tf.distribute strategy's scope is open, or was where the model was made: make the model and the Trainer, and call "
            "fit, outside it; Trainer(..., distribute=strategy) divides the batches among its devices"
        )
    _check_optimizer(model.optimizer)


def _check_loop(model: Any) -> None:
    """Raises ValueError for a model that brings a loop of its own, which nothing here would call."""
    own = type(model).make_train_function is not keras.Model.make_train_function or "make_train_function" in vars(model)
    if own:
        raise ValueError(
            f"{type(model).__name__} defines its own make_train_function, which a Trainer would silently ignore: what an update "
            "does goes into a StepStrategy, what happens between updates into a callback"
        )


def _check_optimizer(optimizer: Any) -> None:
    if optimizer is None:
        raise ValueError("the model is compiled without an optimizer: give model.compile or the Trainer one")
    check_scaling(optimizer)
    optimizer = inner_of(optimizer)
    for each in (optimizer, *_inside(optimizer)):
        _check_settings(each)


def _inside(optimizer: Any) -> list[Any]:
    """The optimizers that a `MultiOptimizer` is of; those that a function of a variable makes only once it is built."""
    return list(optimizer.optimizers) if isinstance(optimizer, keras.optimizers.MultiOptimizer) else []


def _check_settings(optimizer: Any) -> None:
    if getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            f"optimizer gradient_accumulation_steps={optimizer.gradient_accumulation_steps} would accumulate a second time: "
            f"leave it None and use strategy=Accumulate({optimizer.gradient_accumulation_steps})"
        )
    try:
        rate = optimizer.get_config().get("learning_rate")
    except Exception:  # of a schedule, or an optimizer, of the user's: it may have none, and need not
        return
    if isinstance(rate, (int, float)):  # a schedule's configuration is a dictionary
        rate = float(optimizer.learning_rate)
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(f"the learning rate must be finite and at least 0, not {rate:g}")


def check_built(model: Any) -> None:
    """Checks what is known once the model and its optimizer are built.

    Without trainable variables there is a warning, as in Keras: losses and metrics are computed, and state is kept up to date.

    Raises:
        ValueError: the optimizer was built for other variables, or one of those in it cannot be used here.
    """
    variables = model.trainable_variables
    if not variables:
        warnings.warn(
            f"model {model.name!r} has no trainable variables, so fit only computes its metrics: set layer.trainable=True "
            "somewhere, or add a layer with weights",
            stacklevel=2,
        )
        return
    for variable in variables:
        if getattr(variable, "overwrite_with_gradient", False):
            raise ValueError(
                f"variable {variable.path!r} takes its gradient for its value (float8 layers do), which no step can average: "
                "train without float8"
            )
    for optimizer in _inside(inner_of(model.optimizer)):
        _check_settings(optimizer)
    trained = trained_by(inner_of(model.optimizer))
    known = {id(v) for v in (variables if trained is None else trained)}
    if not known & {id(v) for v in variables}:
        raise ValueError("the optimizer was built for another model's variables: give this model a new one")
    for variable in () if has_own_step(model) else variables:  # such a step may leave some alone
        if id(variable) not in known:
            raise ValueError(
                f"variable {variable.path!r} became trainable after the optimizer was built: call model.compile again"
            )


def tell_of_training(model: keras.Model) -> None:
    """Warns, once a model, where its forward pass is another than under Keras' `fit`.

    Keras' `fit` says `training=True` only to a model whose own `call` takes `training`: inside one that does not, Dropout and
    BatchNorm are in inference mode.
    """
    if "training" in inspect.signature(model.call).parameters or model in _told:
        return
    if type(model).train_step is not keras.Model.train_step:  # which itself says what it is called with
        return
    found = [layer.name for layer in layers_of(model, include_self=False) if _differs_in_training(layer)]
    if not found:
        return
    _told.add(model)
    names = ", ".join(map(repr, found[:3])) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    warnings.warn(
        f"model {model.name!r}: {type(model).__name__}.call takes no `training`: here its layers {names} are in training mode, "
        "where Keras' fit leaves them in inference mode; write call(self, inputs, training=None) to have training mode in both, "
        "or call these layers with training=False to have inference mode in both",
        stacklevel=2,
    )


def _differs_in_training(layer: keras.Layer) -> bool:
    """Whether a layer itself (layers inside it are asked by themselves) does something else in training."""
    takes = layer.function if isinstance(layer, keras.layers.Lambda) else layer.call
    if "training" not in inspect.signature(takes).parameters:
        return False
    if isinstance(layer, keras.layers.BatchNormalization):
        return bool(layer.trainable)
    if isinstance(layer, (keras.Model, keras.layers.Wrapper)):
        return False
    if not type(layer).__module__.startswith("keras.") or isinstance(layer, keras.layers.Lambda):
        return True
    rates = (getattr(layer, name, None) for name in _RATES)
    return any(isinstance(rate, (int, float)) and rate > 0 for rate in rates) or bool(_RANDOM.fullmatch(type(layer).__name__))
