"""Runs a `tf.function` inside a layer as part of the forward pass round it.

A `tf.function` keeps what it was first traced with: the variables themselves, past the values that were swapped for them, or
another evaluation's values. Nothing is lost by inlining it, since the whole step is compiled. One that asks for XLA is
traced anew and stays compiled: some of its operations may exist nowhere else, as convolutions of some layouts on a CPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from trainlab.objective.pure.scope import Scope, current_scope, is_reachable
from trainlab.parameters import tensorflow_internals

_lock = threading.RLock()


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """While open, this thread's calls of `tf.function`s run their Python functions, converted by AutoGraph as ever."""
    thread = threading.get_ident()

    def inlining(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(function: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread or tensorflow_internals.must_stay(function):
                return original(function, *args, **kwargs)
            scope = current_scope()
            if scope is not None and tensorflow_internals.asks_for_xla(function):
                return _compiled(scope, function, args, kwargs)
            return tensorflow_internals.call_python(function, args, kwargs)

        return call

    with _lock, tensorflow_internals.function_calls_replaced(inlining):
        yield


def _compiled(scope: Scope, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a function as one that is traced here and now; inlines it if it leaves something behind, which then is inside."""
    values, updated = scope.values(), dict(scope.updated)
    outputs = tensorflow_internals.traced_anew(function)(*args, **kwargs)
    if all(is_reachable(value) for key, value in scope.state_mapping.items() if values.get(key) is not value):
        return outputs
    scope.take_back(values, updated)
    return tensorflow_internals.call_python(function, args, kwargs)
