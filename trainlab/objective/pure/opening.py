"""Opens a scope for everybody: layers and losses, and the functions of TensorFlow's that look for variables themselves."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from trainlab.objective import keras_internals
from trainlab.objective.pure.inlining import functions_inlined
from trainlab.objective.pure.recomputing import custom_gradients_followed
from trainlab.objective.pure.scope import Scope, current_scope


@contextlib.contextmanager
def opened(scope: Scope) -> Iterator[None]:
    """While open, this thread reads and assigns values in place of variables, in whatever way."""
    with (
        functions_inlined(),
        scope.lookups.open(),
        keras_internals.handles_replaced(_answering),
        keras_internals.fused_rnns_replaced(_padding_kept_out),
        custom_gradients_followed(opened),
        scope,
    ):
        yield


def _answering(handle: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What stands for a variable's handle is its value, where it has one."""

    def answered(variable: Any) -> Any:
        scope = current_scope()
        value = None if scope is None else scope.get_current_value(variable)
        return handle(variable) if value is None else value

    return answered


def _padding_kept_out(fused: Callable[..., Any]) -> Callable[..., Any]:
    """Of padding, cuDNN's RNNs read nothing and leave the gradient as the memory was: here it is zero.

    Seen on an H200 with TensorFlow 2.21: 1e102 in the row of an embedding that stands for padding.
    """
    signature = inspect.signature(fused)

    def called(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        mask, inputs = given.arguments["mask"], given.arguments["inputs"]
        if mask is not None:
            given.arguments["inputs"] = tf.where(tf.cast(mask, tf.bool)[..., None], inputs, tf.zeros_like(inputs))
        return fused(*given.args, **given.kwargs)

    return called
