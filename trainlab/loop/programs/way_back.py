"""The way back of a compiled call, made by the call itself: it puts the values that it finds aside before it changes them.

To read all variables in a call of their own takes as long as a small update. What a call returns is lost where it fails, so that
what it found is put where it outlives the call: in a staging area of TensorFlow's, which holds the values of the last call.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

_names = itertools.count()
# Two calls one after the other have other numbers; what failed is taken out at once, so that few numbers are enough.
NUM_NUMBERS = 64


def may_put_aside(variables: Mapping[str, tf.Variable]) -> bool:
    """Whether all these are in the host's memory: a staging area on a GPU would not take what must stay on the host."""
    return all(_is_on_host(v) for v in variables.values())


class WayBack:
    """The values of variables as the last compiled call found them; they share their buffers until those are written.

    Args:
        variables: all that calls may change, by name.

    The area is the process' and outlives this object: what is in it is let go of by `clear` alone. A finalizer would be called
    wherever the garbage collector is, in the middle of a trace even.

    Example:
        >>> variable = tf.Variable(1.0)
        >>> back = WayBack({"a": variable})
        >>> @tf.function
        ... def call(number):
        ...     with tf.control_dependencies([back.put_aside(number)]):
        ...         variable.assign(2.0)
        >>> call(tf.constant(7))
        >>> float(back.found(7)["a"]), back.found(8)
        (1.0, None)
        >>> back.clear()
        >>> back.found(7) is None
        True
    """

    def __init__(self, variables: Mapping[str, tf.Variable]):
        self._variables = dict(variables)
        dtypes = [tf.int32, *(v.dtype for v in variables.values())]
        self._area: dict[str, Any] = {"dtypes": dtypes, "shared_name": f"trainlab_way_back_{next(_names)}"}

    def put_aside(self, number: tf.Tensor) -> tf.Operation:
        """Part of a compiled call: keeps what is there, under the call's number, a scalar int32.

        Returns:
            What the call must wait for before it changes anything.
        """
        with tf.device("CPU:0"), tf.control_dependencies([_clear(self._area)]):
            values = [tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for v in self._variables.values()]
            return tf.raw_ops.Stage(values=[number, *values], shared_name=self._area["shared_name"])

    def found(self, number: int) -> dict[str, tf.Tensor] | None:
        """What the call of this number found, by name; None if it has not put it aside, and so has changed nothing."""
        with tf.device("CPU:0"):
            if int(tf.raw_ops.StageSize(**self._area)) == 0:  # otherwise looking would wait
                return None
            kept, *values = tf.raw_ops.StagePeek(index=0, **self._area)
        return dict(zip(self._variables, values, strict=True)) if int(kept) == number else None

    def clear(self) -> None:
        """Lets go of the values."""
        _clear(self._area)


def _clear(area: Mapping[str, Any]) -> Any:
    with tf.device("CPU:0"):
        return tf.raw_ops.StageClear(**area)


def _is_on_host(variable: tf.Variable) -> bool:
    return tf.DeviceSpec.from_string(variable.device).device_type == "CPU"
