"""What callbacks remembered at some moment, whatever they do to it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Remembered:
    """Keeps states as they are now.

    Lists of a `History` grow by an entry an epoch, and are not copied for it: how long they are is remembered.

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
        self._lengths = {name: _lengths(state) for name, state in states.items() if is_history(state)}
        self._copies = {name: _copied(state) for name, state in states.items() if name not in self._lengths}

    def states(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """The states of then, from what they are now."""
        return {name: _first(now[name], self._lengths[name]) if name in self._lengths else self._copies.get(name) for name in now}


def is_history(state: Any) -> bool:
    """Whether it is that of a `History`."""
    return isinstance(state, dict) and set(state) == {"epoch", "history"} and isinstance(state["history"], dict)


def _lengths(state: Any) -> dict[str | None, int]:
    return {None: len(state["epoch"]), **{name: len(values) for name, values in state["history"].items()}}


def _first(state: Any, lengths: Mapping[str | None, int]) -> dict[str, Any]:
    history = {name: values[: lengths[name]] for name, values in state["history"].items() if name in lengths}
    return {"epoch": state["epoch"][: lengths[None]], "history": history}


def _copied(state: Any) -> Any:
    """Containers are copied; arrays are replaced by those who keep them, never written into."""
    if isinstance(state, dict):
        return {key: _copied(item) for key, item in state.items()}
    return type(state)(map(_copied, state)) if type(state) in (list, tuple) else state
