"""What callbacks remember, taken out and put back; Keras itself saves none of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from trainlab.objective import keras_internals
from trainlab.runs.encoding import encode

# What these remember, no later step depends on.
_FORGETFUL = (
    keras.callbacks.ProgbarLogger,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


def get_states(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, dict[str, Any]]:
    """What each callback remembers, by class and place; those that remember nothing are left out.

    A callback of one's own has `get_state()`, which returns None, numbers, text, arrays, and lists, tuples and dicts of them,
    and `set_state(state)`, which takes that back.

    Example:
        >>> stopping = keras.callbacks.EarlyStopping(patience=3)
        >>> stopping.wait = 2
        >>> get_states([stopping])["EarlyStopping.0"]["wait"]
        2
    """
    states = {}
    for name, callback in _named(callbacks).items():
        if _has_own(callback):
            states[name] = callback.get_state()  # type: ignore[attr-defined]
        elif names := _attributes(callback):
            states[name] = {attribute: getattr(callback, attribute) for attribute in names if hasattr(callback, attribute)}
    return states


def set_states(callbacks: Sequence[keras.callbacks.Callback], states: dict[str, Any]) -> None:
    """Puts back what `get_states` took; warns of states whose callback is not there."""
    named = _named(callbacks)
    for name, state in states.items():
        callback = named.get(name)
        if callback is None:
            warnings.warn(f"callback {name.partition('.')[0]} is in the checkpoint but not among callbacks", stacklevel=2)
        elif _has_own(callback):
            callback.set_state(state)  # type: ignore[attr-defined]
        else:
            for attribute, value in state.items():
                setattr(callback, attribute, value)


def forgotten(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """The callbacks that seem to remember something and say nothing of it, by class."""
    names = []
    for callback in callbacks:
        own = set(vars(callback)) - keras_internals.CALLBACK_SETTINGS
        is_known = _has_own(callback) or bool(_attributes(callback)) or type(callback) in _FORGETFUL
        is_appending = type(callback) is keras.callbacks.CSVLogger and callback.append
        if own and not is_known and not is_appending:
            names.append(type(callback).__name__)
    return names


def check_states(states: dict[str, Any]) -> None:
    """Raises TypeError, naming the callback, for a state that a checkpoint cannot hold."""
    for name, state in states.items():
        encode(state, {}, f"{name.partition('.')[0]}.get_state()")


def _has_own(callback: Any) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _attributes(callback: Any) -> tuple[str, ...]:
    # A subclass's own attributes are not known: only what it has from the class in the table.
    return next((names for kind, names in keras_internals.CALLBACK_STATE.items() if isinstance(callback, kind)), ())


def _named(callbacks: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        found[f"{kind}.{counts.get(kind, 0)}"] = callback
        counts[kind] = counts.get(kind, 0) + 1
    return found
