"""Runs a `tf.function` inside a layer as part of the forward pass round it.

A `tf.function` keeps what it was first traced with: the variables themselves, past the values that were swapped for them, or
another evaluation's values. Nothing is lost by inlining it, since the whole step is compiled.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trainlab.parameters import tensorflow_internals

_lock = threading.RLock()


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """While open, this thread's calls of `tf.function`s run their Python functions, converted by AutoGraph as ever."""
    thread = threading.get_ident()

    def inlining(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return original(function, *args, **kwargs)
            return tensorflow_internals.call_python(function, args, kwargs)

        return call

    with _lock, tensorflow_internals.function_calls_replaced(inlining):
        yield
