"""Who must be told of every batch: a compiled call ends where somebody listens.

Several of Keras' own callbacks define a batch hook that only counts, unless a setting asks for more. They are told of a whole
call at once, and count what they were not told of. Whatever else defines a batch hook is told of every batch.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from trainlab.objective import keras_internals

# A number of batches that is never reached: nothing that is to come needs to be told by itself.
ANY_NUMBER = sys.maxsize

_UPDATE_HOOKS = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")
_TEST_HOOKS = ("on_test_batch_begin", "on_test_batch_end")
_PREDICT_HOOKS = ("on_predict_batch_begin", "on_predict_batch_end")

_OF_CALLS: set[type] = set()


def heard_once_a_call(kind: type) -> type:
    """Marks a class of callbacks of ours: its batch hooks need be called only when a compiled call is over."""
    _OF_CALLS.add(kind)
    return kind


def hears_every_update(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback must get control at every update, whatever was counted so far.

    Example:
        >>> hears_every_update(keras.callbacks.TensorBoard(write_graph=False))
        False
        >>> hears_every_update(keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None))
        True
    """
    kind = _known(callback, _UPDATE_HOOKS, _UPDATES)
    if kind is keras.callbacks.CallbackList:
        return any(map(hears_every_update, _members(callback)))
    if kind is None:
        return True
    setting, _ = _UPDATES[kind]
    every = getattr(callback, setting) if setting else "epoch"
    return every != "epoch" and not (isinstance(every, int) and abs(every) > 1)


def updates_unheard(callback: keras.callbacks.Callback) -> int:
    """So many of the updates to come may be made before the one that a callback must be told of by itself.

    Returns:
        0 if that is the next one, `ANY_NUMBER` if there is none.

    Example:
        >>> callback = keras.callbacks.ModelCheckpoint("model.keras", save_freq=100)
        >>> updates_unheard(callback), updates_unheard(keras.callbacks.TerminateOnNaN())
        (99, 0)
    """
    kind = _known(callback, _UPDATE_HOOKS, _UPDATES)
    if kind is keras.callbacks.CallbackList:
        return min(map(updates_unheard, _members(callback)), default=ANY_NUMBER)
    if kind is None:
        return 0
    _, unheard = _UPDATES[kind]
    return unheard(callback)


def count_unheard_updates(callback: keras.callbacks.Callback, num_updates: int, last: int) -> None:
    """Leaves a callback as if it had been told of so many updates more; the last of them is number `last` of its epoch.

    To be called before the hook of the next update's end: that one is counted by the callback itself.

    Example:
        >>> callback = keras.callbacks.ModelCheckpoint("model.keras", save_freq=100)
        >>> count_unheard_updates(callback, 60, last=59)
        >>> updates_unheard(callback)
        39
    """
    for one in _flat(callback):
        keras_internals.count_batches(one, num_updates, last)


def hears_every_test_batch(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback must get control at every batch of an evaluation.

    Example:
        >>> hears_every_test_batch(keras.callbacks.TensorBoard(write_graph=False))
        False
        >>> hears_every_test_batch(keras.callbacks.LambdaCallback(on_test_batch_end=lambda batch, logs: None))
        True
    """
    return _hears(callback, _TEST_HOOKS, _TEST_BATCHES)


def takes_summaries(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback takes what a model itself writes to TensorBoard, batch by batch, in an evaluation.

    Example:
        >>> takes_summaries(keras.callbacks.TensorBoard(write_graph=False))
        False
        >>> takes_summaries(keras.callbacks.TensorBoard(write_graph=False, update_freq=10))
        True
    """
    return any(isinstance(one, keras.callbacks.TensorBoard) and one.update_freq != "epoch" for one in _flat(callback))


def count_unheard_test_batches(callback: keras.callbacks.Callback, num_batches: int) -> None:
    """Leaves a callback as if it had been told of so many batches more of an evaluation.

    To be called before the hook of the next batch's beginning, or after its end: that one is counted by the callback itself.
    """
    for one in _flat(callback):
        keras_internals.count_test_batches(one, num_batches)


def hears_every_predict_batch(callback: keras.callbacks.Callback) -> bool:
    """Whether a callback must get control at every batch of a prediction.

    Example:
        >>> hears_every_predict_batch(keras.callbacks.ProgbarLogger())
        False
        >>> hears_every_predict_batch(keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: None))
        True
    """
    return _hears(callback, _PREDICT_HOOKS, _PREDICT_BATCHES)


_NEVER: tuple[str, Callable[[Any], int]] = ("", lambda callback: ANY_NUMBER)
# By the class of Keras' that defines the hooks: the setting that says how many updates apart it must be told, and how many it
# need not be told of from here on. A progress bar draws when it can. `TerminateOnNaN` is not here: what a model of its own
# reports as its loss, nobody else looks at.
_UPDATES: Mapping[type, tuple[str, Callable[[Any], int]]] = {
    keras.callbacks.Callback: _NEVER,
    keras.callbacks.CallbackList: _NEVER,
    keras.callbacks.ProgbarLogger: _NEVER,
    keras.callbacks.TensorBoard: ("update_freq", keras_internals.batches_before_record),
    keras.callbacks.ModelCheckpoint: ("save_freq", keras_internals.batches_before_save),
    keras.callbacks.BackupAndRestore: ("save_freq", keras_internals.batches_before_save),
    keras.callbacks.OrbaxCheckpoint: ("save_freq", keras_internals.batches_before_save),
}
# `TensorBoard` counts them; of what its writer is told, a compiled evaluation sees nothing.
_TEST_BATCHES = (keras.callbacks.CallbackList, keras.callbacks.ProgbarLogger, keras.callbacks.TensorBoard)
_PREDICT_BATCHES = (keras.callbacks.CallbackList, keras.callbacks.ProgbarLogger)


def _hears(callback: Any, hooks: Iterable[str], kinds: Iterable[type]) -> bool:
    kind = _known(callback, hooks, kinds)
    if kind is keras.callbacks.CallbackList:
        return any(_hears(member, hooks, kinds) for member in _members(callback))
    return kind is None


def _known(callback: Any, hooks: Iterable[str], kinds: Iterable[type]) -> type | None:
    """The class that defines these hooks of a callback, if it is one of `kinds`; `Callback` if none is overridden.

    None if somebody else defines one of them, or something that they call.
    """
    found = base = keras.callbacks.Callback
    if type(callback) in _OF_CALLS:
        return base
    for hook in hooks:
        own = getattr(callback, hook)
        function = getattr(own, "__func__", own)
        if function is vars(base)[hook]:
            continue
        kind = next((kind for kind in kinds if vars(kind).get(hook) is function and isinstance(callback, kind)), None)
        if kind is None or found not in (base, kind) or is_changed_within(callback, kind):
            return None
        found = kind
    return found


def is_changed_within(callback: Any, kind: type) -> bool:
    """Whether a subclass, or somebody on the object, replaces what the hooks of `kind` call at every batch."""
    called = keras_internals.CALLED_EVERY_BATCH[kind]
    return any(inspect.getattr_static(callback, name) is not vars(kind)[name] for name in called)


def _members(callback: Any) -> list[keras.callbacks.Callback]:
    return list(callback.callbacks)


def _flat(callback: Any) -> list[keras.callbacks.Callback]:
    """A callback, or those of a list of them, however nested."""
    if not isinstance(callback, keras.callbacks.CallbackList):
        return [callback]
    return [one for member in _members(callback) for one in _flat(member)]
