"""Functions with a gradient of their own, `keras.remat` and `tf.recompute_grad` among them, inside a scope.

What these compute again is computed from what it was computed from before: the same values in place of the variables, the same
seeds, so that a mask is the same mask. TensorFlow's own would read what was left since.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from trainlab.objective.pure.scope import Scope, current_scope
from trainlab.parameters import tensorflow_internals

_lock = threading.RLock()

Opening = Callable[[Scope], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def custom_gradients_followed(opened: Opening) -> Iterator[None]:
    """While open, this thread's functions with a gradient of their own see what is swapped.

    Args:
        opened: opens a scope.
    """
    thread = threading.get_ident()

    def following(original: Callable[..., Any]) -> Callable[..., Any]:
        def decorated(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            scope = current_scope()
            if scope is None or threading.get_ident() != thread:
                return original(function, args, kwargs)
            recomputed = tensorflow_internals.recomputed_function(function)
            with scope.lookups.whole():  # rows that are looked up inside are no variable that it would find
                if recomputed is None:
                    return original(function, args, kwargs)
                return _recompute(scope, recomputed, args, kwargs, opened)

        return decorated

    with _lock, tensorflow_internals.custom_gradients_replaced(following):
        yield


def _recompute(scope: Scope, function: Callable[..., Any], args: Any, kwargs: Any, opened: Opening) -> Any:
    """Calls a function; its gradient calls it again, and until then nothing of it is kept.

    As `tf.recompute_grad` (T. Chen et al. 2016, Training deep nets with sublinear memory cost, https://arxiv.org/abs/1604.06174).
    """
    before = scope.values()
    with tensorflow_internals.recording_stopped(), scope.reading() as read:
        result = function(*args, **kwargs)
    stand_ins = list(read.values())
    for stand_in in stand_ins:  # no tape could see it
        tensorflow_internals.variable_accessed(stand_in)
    flat = tf.nest.flatten((args, kwargs), expand_composites=True)
    tensors = [leaf for leaf in flat if isinstance(leaf, tf.Tensor)]
    outputs = tf.nest.flatten(result, expand_composites=True)

    @tf.custom_gradient
    def attached(*inputs: Any) -> Any:
        del inputs  # they are what it was computed from, and are named to be differentiated with respect to

        def gradient(*upstream: Any) -> list[Any]:
            inputs = _after([*tensors, *(stand_in.handle for stand_in in stand_ins)], upstream)
            given = iter(inputs)
            again = [next(given) if isinstance(leaf, tf.Tensor) else leaf for leaf in flat]
            more_args, more_kwargs = tf.nest.pack_sequence_as((args, kwargs), again, expand_composites=True)
            swapped = [(stand_in.variable, value) for stand_in, value in zip(stand_ins, given, strict=True)]
            with tf.GradientTape() as tape, opened(scope.again(before, swapped)):
                tape.watch(inputs)
                more = tf.nest.flatten(function(*more_args, **more_kwargs), expand_composites=True)
            pairs = [(y, dy) for y, dy in zip(more, upstream, strict=True) if dy is not None and y.dtype.is_floating]
            with opened(scope.again(before, swapped)):
                return tape.gradient([y for y, _ in pairs], inputs, output_gradients=[dy for _, dy in pairs])

        return outputs, gradient

    attached_outputs = attached(*tensors, *(stand_in.handle for stand_in in stand_ins))
    return tf.nest.pack_sequence_as(result, tf.nest.flatten(attached_outputs), expand_composites=True)


def _after(tensors: list[tf.Tensor], upstream: Any) -> list[tf.Tensor]:
    """The same, but that in a graph what is computed of them cannot be taken for what was computed before, nor begin earlier.

    XLA does not look at control dependencies: a zero that depends on the gradient is added, as TensorFlow does.
    """
    there = [dy for dy in upstream if dy is not None and dy.dtype.is_floating]
    if tf.executing_eagerly() or not there:
        return [tf.identity(tensor) for tensor in tensors]
    some = tf.cast(tf.reduce_max(tf.reshape(there[0], [-1])[:1]), tf.bool)
    zero = tf.where(tf.equal(some, some), 0.0, float("nan"))
    return [tensor + tf.cast(zero, tensor.dtype) if tensor.dtype.is_floating else tf.identity(tensor) for tensor in tensors]
