"""Variables that steps touch though nobody trains them, such as a teacher's weights: hooks may change what they hold."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from trainlab.objective import touched_variables

# By identity, which the variable itself keeps from being given out again: a set would compare them number by number.
_touched: weakref.WeakValueDictionary[int, tf.Variable] = weakref.WeakValueDictionary()


def note(traced: Any, declared: Iterable[Any], assigned: list[tf.Variable], read: list[tf.Variable]) -> None:
    """Adds to two lists what a traced function assigns, and what it only reads, if that is neither there nor `declared`."""
    known = {id(variable) for variable in (*declared, *assigned)}
    for found, new in zip((assigned, read), touched_variables(traced), strict=True):
        found += [variable for variable in new if id(variable) not in known]
        known |= {id(variable) for variable in (*assigned, *read)}
    _touched.update({id(variable): variable for variable in (*assigned, *read)})


def is_touched(variable: Any) -> bool:
    """Whether a step does: what it holds is part of a run's state, and no setting."""
    own = getattr(variable, "value", None) if not isinstance(variable, tf.Variable) else variable
    return _touched.get(id(own)) is own and own is not None
