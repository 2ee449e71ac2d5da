"""Runs a `tf.function` inside a layer as part of the forward pass round it.

A `tf.function` keeps what it was first traced with: the variables themselves, past the values that were swapped for them, or
another evaluation's values. Nothing is lost by inlining it, since the whole step is compiled.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx
from tensorflow.python.eager.polymorphic_function import autograph_util  # what tf.function itself converts with

_Function = type(tf.function(lambda: None))
_lock = threading.RLock()


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """While open, this thread's calls of `tf.function`s run their Python functions, converted by AutoGraph as ever.

    `tf.config.run_functions_eagerly` would do so for all threads, and without AutoGraph.
    """
    with _lock:
        original = _Function.__call__
        thread = threading.get_ident()

        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(function, *args, **kwargs)
            return _call_inlined(function, args, kwargs)

        _Function.__call__ = call
        try:
            yield
        finally:
            _Function.__call__ = original


def _call_inlined(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not function._autograph or tf.executing_eagerly():
        return function.python_function(*args, **kwargs)
    converted = autograph_util.py_func_from_autograph(function.python_function, function._experimental_autograph_options)
    with ag_ctx.ControlStatusCtx(status=ag_ctx.Status.UNSPECIFIED):  # the trace round it has switched AutoGraph off
        return converted(*args, **kwargs)
