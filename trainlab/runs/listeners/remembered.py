"""What callbacks remembered at some moment, whatever they do to it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf


class Remembered:
    """Keeps states as they are now.

    Lists of a `History` grow by an entry an epoch, and are not copied for it: how long they are is remembered. Nor are arrays:
    Keras' own callbacks replace them, and never write into them; of others' states `get_states` takes copies.

    Args:
        states: by callback.

    Example:
        >>> states = {"History": {"epoch": [0], "history": {"loss": [0.5]}}, "Mine": {"seen": [1]}}
        >>> remembered = Remembered(states)
        >>> states["History"]["epoch"].append(1), states["Mine"]["seen"].append(2)
        (None, None)
        >>> remembered.states(states)
        {'History': {'epoch': [0], 'history': {'loss': [0.5]}}, 'Mine': {'seen': [1]}}
    """

    def __init__(self, states: Mapping[str, Any]):
        self._histories = {name: _as_history(state) for name, state in states.items() if is_history(state)}
        self._copies = {name: copied(state) for name, state in states.items() if name not in self._histories}

    def states(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """The states of then, from what they are now."""
        known = self._histories
        return {name: _first(now[name], known[name]) if name in known else self._copies.get(name) for name in now}


def is_history(state: Any) -> bool:
    """Whether it is that of a `History`."""
    return isinstance(state, dict) and set(state) == {"epoch", "history"} and isinstance(state["history"], dict)


class _Whole:
    """What is no list: somebody has put it into a history, and it may be another at the next moment."""

    def __init__(self, value: Any):
        self.value = copied(value, is_own=True)


def _as_history(state: Any) -> dict[str | None, int | _Whole]:
    """Of its lists how long they are, and of what is none a copy."""
    parts = {None: state["epoch"], **state["history"]}
    return {name: len(values) if isinstance(values, list) else _Whole(values) for name, values in parts.items()}


def _first(state: Any, then: Mapping[str | None, int | _Whole]) -> dict[str, Any]:
    parts = {None: state["epoch"], **state["history"]}
    first: dict[str | None, Any] = {}
    for name, kept in then.items():
        if isinstance(kept, _Whole):
            first[name] = kept.value
        elif isinstance(parts.get(name), list):
            first[name] = parts[name][:kept]
    return {"epoch": first.pop(None, []), "history": first}


def copied(state: Any, is_own: bool = False) -> Any:
    """Containers are copied, and of what `is_own`, somebody's who may write into them, arrays and variables too, as arrays."""
    if isinstance(state, dict):
        return {key: copied(item, is_own) for key, item in state.items()}
    if type(state) in (list, tuple):
        return type(state)(copied(item, is_own) for item in state)
    return np.array(np.asarray(state)) if is_own and isinstance(state, (np.ndarray, tf.Variable, keras.Variable)) else state
