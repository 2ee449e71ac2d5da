"""Everything of Keras that is not public and is used here: each with the reason, and what would replace it.

Nothing else of trainlab touches a private name of Keras. Written for Keras 3.15 and 3.16.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import lstm
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.trainers.data_adapters import get_data_adapter

try:
    from keras.src.backend.tensorflow.ops import numpy as backend_numpy  # from 3.16 on
except ImportError:
    from keras.src.backend.tensorflow import numpy as backend_numpy
backend_rnn = sys.modules[lstm.__module__]  # a function of the same name hides it

# What the hooks of Keras' own callbacks change while training; a public `get_state` of them would replace it.
CALLBACK_STATE: Mapping[type, tuple[str, ...]] = {
    keras.callbacks.History: ("epoch", "history"),
    keras.callbacks.EarlyStopping: ("wait", "stopped_epoch", "best", "best_weights", "best_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
}
# What the batch hooks of Keras' own callbacks call at every batch: a subclass that changes it does something there.
CALLED_EVERY_BATCH: Mapping[type, tuple[str, ...]] = {
    keras.callbacks.CallbackList: (
        "_async_dispatch",
        "_on_batch_end",
        "_on_train_batch_end",
        "_on_test_batch_end",
        "_on_predict_batch_end",
    ),
    keras.callbacks.ProgbarLogger: ("_update_progbar",),
    keras.callbacks.TensorBoard: ("_push_writer", "_pop_writer", "_train_writer", "_val_writer", "summary"),
    keras.callbacks.ModelCheckpoint: ("_should_save_on_batch",),
    keras.callbacks.BackupAndRestore: ("_should_save_on_batch",),
    keras.callbacks.OrbaxCheckpoint: ("_should_save_on_batch",),
}
_SAVE_BY_BATCHES = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore, keras.callbacks.OrbaxCheckpoint)
# Attributes of any callback that `fit` sets.
CALLBACK_SETTINGS = frozenset({*vars(keras.callbacks.Callback()), "_model", "params", "validation_data"})

_BOOKKEEPING = frozenset(
    """_allow_non_tensor_positional_args _auto_config _build_shapes_dict _call_context_args _call_has_context_arg
    _call_has_mask_arg _call_has_training_arg _call_signature _called _compile_config _compile_loss _compile_metrics
    _compiled_trainable_state _compute_loss_has_training_arg _convert_input_args _distribute_strategy _eval_epoch_iterator
    _functional _inbound_nodes _initial_epoch _input_spec _inputs _inputs_struct _jit_compile _lock _loss_ids _loss_tracker
    _losses _losses_override _metrics _nodes _nodes_by_depth _non_trainable_variables _operations _operations_by_depth
    _outbound_nodes _outputs _outputs_struct _parent_path _path _run_eagerly _saved_model_arg_spec _saved_model_inputs_spec
    _seed_generators _tracked _tracker _trainable_variables build built call_signature_parameters compiled history loss
    optimizer output_names predict_function quantize steps_per_execution stop_evaluating stop_predicting stop_training
    supports_jit test_function train_function unrolled_steps_per_execution""".split()
)
# What Keras' own `fit` belongs to: a model, or in Keras' tests a layer with that mixed in; a public name would replace it.
TRAINER: Any = next(kind for kind in keras.Model.__mro__ if "fit" in vars(kind))


def is_bookkeeping(name: str) -> bool:
    """Whether this attribute of a layer, model, metric or optimizer is no setting: Keras keeps count there of what it does.

    Public would be a way to ask an object for its settings.
    """
    return name in _BOOKKEEPING or name.startswith("_self_")


def layers_of(model: keras.Model, include_self: bool = True) -> list[keras.Layer]:
    """Every layer inside a model, however deep: `model.layers` holds the outermost only, and no layer lists its own."""
    return list(model._flatten_layers(include_self=include_self))


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """What `model.compile` was given, as it was: `model.get_compile_config` makes text of it, and fails for some losses."""
    return model._compile_config.config


def default_jit_compile(model: keras.Model) -> bool:
    """What `jit_compile="auto"` means to Keras for this model: it keeps only what it came to."""
    return model._resolve_auto_jit_compile()


def take_initial_epoch(model: keras.Model) -> int | None:
    """The epoch that `BackupAndRestore` tells `fit` to go on from, None for none: it says so nowhere else.

    It is told once: Keras leaves it there, and so begins every later `fit` with it.
    """
    epoch: int | None = getattr(model, "_initial_epoch", None)
    model._initial_epoch = None
    return epoch


def batches_before_record(board: keras.callbacks.TensorBoard) -> int:
    """How many of the next batches a `TensorBoard` neither records nor profiles; `sys.maxsize` if it does so with none to come.

    It counts batches privately, and its range to profile is only an argument. Public would be a way to ask a callback.
    """
    done, every = board._global_train_batch, board.update_freq
    if every == "epoch":  # it writes all the same where somebody else has opened a writer
        unheard = 0 if tf.summary.should_record_summaries() else sys.maxsize
    else:
        unheard = -(done + 1) % abs(every) if isinstance(every, int) and every else 0
    if not board._should_trace or (done >= board._stop_batch and not board._is_tracing):
        return unheard
    return min(unheard, max(board._start_batch - done - 1, 0))


def flush_board(board: keras.callbacks.TensorBoard, folder: Path) -> Mapping[str, Any]:
    """Has a `TensorBoard` write what it holds back, and begin files in a folder; its writers, "train" and "val": they are its."""
    if "_train_dir" in vars(board) and "://" not in board.log_dir:
        board._train_dir, board._val_dir = str(folder / "train"), str(folder / "validation")
    for writer in board._writers.values():
        writer.flush()
    writers: Mapping[str, Any] = board._writers
    return writers


def batches_before_save(callback: Any) -> int:
    """How many of the next batches a callback with a `save_freq` lets pass before the one it saves at; `sys.maxsize` for all.

    It counts them privately. Public would be a way to ask a callback.
    """
    if callback.save_freq == "epoch":
        return sys.maxsize
    return max(callback.save_freq - callback._batches_seen_since_last_saving - 1, 0)


def hears_in_threads(listener: keras.callbacks.CallbackList) -> bool:
    """Whether a list of callbacks tells them of the end of a training batch in a thread: public is only what makes it so."""
    return bool(listener._async_train)


def count_batches(callback: Any, num_batches: int, last: int) -> None:
    """Has one of Keras' own callbacks count training batches as its hooks would; the last is number `last` of its epoch.

    Public would be a hook that is told of several batches.
    """
    if isinstance(callback, keras.callbacks.TensorBoard):
        callback._global_train_batch += num_batches
    elif num_batches and getattr(callback, "save_freq", "epoch") != "epoch" and isinstance(callback, _SAVE_BY_BATCHES):
        callback._batches_seen_since_last_saving += num_batches
        callback._last_batch_seen = last
        if isinstance(callback, keras.callbacks.OrbaxCheckpoint):
            callback._total_batches_seen += num_batches


def count_test_batches(callback: Any, num_batches: int) -> None:
    """Has one of Keras' own callbacks count batches of an evaluation as its hooks would.

    Public would be a hook that is told of several batches.
    """
    if isinstance(callback, keras.callbacks.TensorBoard):
        callback._global_test_batch += num_batches


def build(model: keras.Model, batch: Any) -> None:
    """Builds a model, its losses, metrics and optimizer for a batch of this kind, as Keras' `fit` does, and runs nothing.

    `model.build` builds the layers only.
    """
    model._symbolic_build(data_batch=batch)


def loss_tracker(model: keras.Model) -> keras.Metric:
    """The metric that holds the mean of the losses: it is in `model.metrics`, unless a model overrides that."""
    return model._loss_tracker


def in_order_of_metrics(model: keras.Model, logs: Mapping[str, Any]) -> Any:
    """Results as `evaluate` returns them without `return_dict`: a number, or a list of them in the order of the metrics.

    `model.metrics` does not say which of them an output's losses and metrics come to.
    """
    return model._flatten_metrics_in_order(logs)


def compile_loss(model: keras.Model) -> Any:
    """The container of the compiled losses, None without one: `model.loss` is what the user wrote, unresolved."""
    return model._compile_loss


def compile_metrics(model: keras.Model) -> Any:
    """The container of the compiled metrics, None without one: `model.metrics` holds it, unless a model overrides that."""
    return model._compile_metrics


def flat_losses(model: keras.Model) -> list[Any]:
    """The compiled losses, `(path, loss, ...)` for each output that has one, in the order they are called.

    Empty where an overridden `compute_loss` calls none of them: they were never built then.
    """
    return getattr(model._compile_loss, "_flat_losses", None) or []


def loss_arguments(loss: Any) -> Mapping[str, Any]:
    """What a loss of Keras' hands to its function, such as `ignore_class`; a subclass need not say so in its configuration."""
    return getattr(loss, "_fn_kwargs", None) or {}


@contextmanager
def losses_replaced(model: keras.Model, wrap: Callable[[int, Any], Any], wrap_tracker: Callable[[Any], Any]) -> Iterator[None]:
    """While open, the compiled losses are `wrap(number, loss)` of them, and their trackers `wrap_tracker(tracker)`.

    Public would be to compile again, which makes new metrics and loses what they hold.
    """
    container = model._compile_loss
    losses, trackers = container._flat_losses, container._metrics
    container._flat_losses = [entry._replace(loss=wrap(number, entry.loss)) for number, entry in enumerate(losses)]
    container._metrics = [wrap_tracker(tracker) for tracker in trackers]
    try:
        yield
    finally:
        container._flat_losses, container._metrics = losses, trackers


def metric_function(metric: keras.metrics.MeanMetricWrapper) -> Callable[..., Any]:
    """What such a metric takes the mean of, `(y_true, y_pred) -> values`; public is only its configuration."""
    return functools.partial(metric._fn, **metric._fn_kwargs)


@contextmanager
def masked_moments_synchronized() -> Iterator[None]:
    """While open, a synchronized BatchNormalization is so under a mask too, where Keras leaves it out.

    The formula is Keras' own, its sums taken over all replicas. Public would be that Keras did it.
    """
    kind, original = keras.layers.BatchNormalization, keras.layers.BatchNormalization._moments

    def moments(layer: Any, inputs: tf.Tensor, mask: Any) -> tuple[tf.Tensor, tf.Tensor]:
        if mask is None or not layer.synchronized:
            return original(layer, inputs, mask)
        context, axes = tf.distribute.get_replica_context(), layer._reduction_axes
        is_there = tf.broadcast_to(tf.cast(mask, tf.bool)[..., None], tf.shape(inputs))

        def summed(values: tf.Tensor) -> tf.Tensor:
            return context.all_reduce("SUM", tf.reduce_sum(tf.where(is_there, values, 0), axes, keepdims=True))

        number = summed(tf.ones_like(inputs)) + keras.config.epsilon()
        mean = summed(inputs) / number
        variance = summed(tf.square(tf.where(is_there, inputs - mean, 0))) / number
        return tf.squeeze(mean, axes), tf.squeeze(variance, axes)

    kind._moments = moments
    try:
        yield
    finally:
        kind._moments = original


def mask_of(tensor: Any) -> Any:
    """The mask that layers left on a tensor, None without one; public would be `keras.ops.get_mask`."""
    return getattr(tensor, "_keras_mask", None)


def autocast(variable: keras.Variable, value: tf.Tensor) -> tf.Tensor:
    """A value as reading it from the variable would give it, in the dtype that a layer computes in."""
    return variable._maybe_autocast(value)


def current_scope() -> Any:
    """The `keras.StatelessScope` that is open in this thread, None if none is: the class has no public way to ask."""
    return get_stateless_scope()


@contextmanager
def dtype_by_default(dtype: str) -> Iterator[None]:
    """Keras' floatx and its default policy are this one meanwhile.

    The policy is set beside floatx since Keras keeps the one of the first layer that a process makes. Its getter makes one where
    there is none yet, and so would leave this one, or fix another, for whatever is made later: hence the private attribute.
    """
    floatx, policy = keras.config.floatx(), global_state.get_global_attribute("dtype_policy")
    keras.config.set_floatx(dtype)
    global_state.set_global_attribute("dtype_policy", keras.DTypePolicy(dtype))
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        global_state.set_global_attribute("dtype_policy", policy)


@contextmanager
def handles_replaced(make: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> Iterator[None]:
    """While open, `make` of what `keras.Variable.handle` does is done in its place.

    By it a gradient tape knows a variable; a stateless scope, which public code opens, leaves it as it is.
    """
    owner = next(cls for cls in keras.Variable.__mro__ if "handle" in vars(cls))  # that of TensorFlow's variables
    original = vars(owner)["handle"]
    owner.handle = property(make(original.fget))
    try:
        yield
    finally:
        owner.handle = original


@contextmanager
def take_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of the function in which `keras.ops.take`, and so `keras.layers.Embedding`, ends is called instead.

    A stateless scope swaps a variable for a whole tensor; public would be a scope that answers for rows.
    """
    original = backend_numpy.take
    backend_numpy.take = make(original)
    try:
        yield
    finally:
        backend_numpy.take = original


@contextmanager
def fused_rnns_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of the functions in which LSTM and GRU end on a GPU, in one operation of cuDNN's, is called instead.

    Both take `inputs` and `mask`. A layer lets nobody in between its mask and the operation.
    """
    originals = {name: getattr(backend_rnn, name) for name in ("_cudnn_lstm", "_cudnn_gru")}
    for name, original in originals.items():
        setattr(backend_rnn, name, make(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(backend_rnn, name, original)


def trained_by(optimizer: keras.Optimizer) -> Sequence[Any] | None:
    """The variables that an optimizer was built for, None if it does not say: `optimizer.variables` holds only its own."""
    return getattr(optimizer, "_trainable_variables", None)


def inner_optimizers(optimizer: keras.Optimizer) -> dict[int, keras.Optimizer] | None:
    """By a variable's id, the optimizer that a `MultiOptimizer` hands it to, which is not public; None of any other optimizer."""
    if not isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return None
    return {id(v): inner for inner in optimizer.optimizers for v in trained_by(inner) or ()}


def held_learning_rate(optimizer: keras.Optimizer) -> Any:
    """A variable, a schedule or a function, as it was given: `optimizer.learning_rate` is what that comes to now."""
    return optimizer._learning_rate


def excluded_from_decay(optimizer: keras.Optimizer) -> tuple[Any, Any]:
    """Which variables do not decay: the pattern of their names, if there is one, and the keys of others."""
    return getattr(optimizer, "_exclude_from_weight_decay_pattern", None), getattr(optimizer, "_exclude_from_weight_decay", None)


@contextmanager
def applying_replaced(make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """While open, `make` of what every optimizer's `apply` ends in is done in its place.

    Public would be a way to know the optimizers that a model holds.
    """
    owner = next(cls for cls in keras.optimizers.Optimizer.__mro__ if "apply" in vars(cls))
    original = vars(owner)["apply"]
    owner.apply = make(original)
    try:
        yield
    finally:
        owner.apply = original


def data_adapter(data: Any, class_weight: Mapping[int, float] | None, shuffle: bool) -> Any:
    """Keras' own reader of any kind of data set, generator or loader, workers included: only `fit` uses it publicly."""
    return get_data_adapter(data, class_weight=class_weight, shuffle=shuffle)


def metric_directions(model: keras.Model) -> dict[str, str | None]:
    """By the name that it has in the logs, "up" or "down" for every loss and metric of a built model; None where none is said.

    Public would be `keras.Metric.direction`; the name in the logs is not always that of the metric.
    """
    container = model._compile_metrics
    found: dict[str, Any] = {}
    if container is not None and container.built:
        metrics = container.metrics
        for metric in metrics:  # the container knows under which name it shows a metric's result: it shows the metric
            metric.result = lambda metric=metric: metric
        try:
            found = container.result()
        finally:
            for metric in metrics:
                del metric.result
    own = [metric for metric in model.metrics if metric not in (container, model._compile_loss)]
    found |= {metric.name: metric for metric in own if metric.name not in found}
    trackers = model._compile_loss.metrics if model._compile_loss is not None else []
    down = {tracker.name: "down" for tracker in (model._loss_tracker, *trackers)}
    return {**{name: getattr(metric, "_direction", None) for name, metric in found.items()}, **down}
