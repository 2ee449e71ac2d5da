"""Opens a scope for everybody: layers and losses, and the functions of TensorFlow's that look for variables themselves."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

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
