"""The two hooks of a batch of training, which come in pairs, and who has heard them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from trainlab.loop import Progress
from trainlab.objective import keras_internals
from trainlab.runs.listeners.hearing import is_changed_within

_FIRST, _BEGUN, _ENDED = range(3)  # in `Progress.pair`
_NOT_YET = -1  # its end is not told before its updates are made


class Pairs:
    """Tells callbacks of the beginnings and ends of batches, and notes in `progress` how many have heard.

    What a hook does is not taken back, as it is at the end of an epoch: copying states and variables at every update would
    take as long as a small update. So, where a callback raises, it and those behind it hear at a resume what they have not
    heard; and where the updates between the hooks fail, nobody hears of their beginning twice.

    Args:
        listener: the callbacks.
        progress: of the fit.
    """

    def __init__(self, listener: keras.callbacks.CallbackList, progress: Progress):
        self._listener, self._progress = listener, progress
        hooks = (listener.on_train_batch_begin, listener.on_train_batch_end)
        own = (keras.callbacks.CallbackList.on_train_batch_begin, keras.callbacks.CallbackList.on_train_batch_end)
        is_plain = all(getattr(hook, "__func__", None) is function for hook, function in zip(hooks, own, strict=True))
        is_plain = is_plain and not is_changed_within(listener, keras.callbacks.CallbackList)
        # What does otherwise than to tell one after the other is told as a whole.
        self._is_whole = not is_plain or keras_internals.hears_in_threads(listener)
        self._numbers = _Numbers()

    @property
    def first(self) -> int:
        """The number, in its epoch, of the first update of the pair under way, or of the next one."""
        return self._progress.pair[_FIRST] if self._progress.pair else self._progress.done

    @property
    def is_ending(self) -> bool:
        """Whether the updates of the pair under way are made, and its end is to be told."""
        return bool(self._progress.pair) and self._progress.pair[_ENDED] != _NOT_YET

    def begin(self) -> None:
        """Tells of the beginning whoever has not heard of it."""
        first = self.first
        pair = self._progress.pair = self._progress.pair or [first, 0, _NOT_YET]
        logs: dict[str, Any] = {}
        for callback in self._left(pair[_BEGUN]):
            callback.on_train_batch_begin(first, logs=logs)
            pair[_BEGUN] += 1

    def end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Tells of the end whoever has not heard of it; Keras' own list looks at every value anew, whether it is a tensor."""
        pair = self._progress.pair
        pair[_ENDED] = max(pair[_ENDED], 0)
        if not self._is_whole:
            is_plain = all(type(value) is float for value in logs.values())
            logs = dict(sorted(logs.items())) if is_plain else self._numbers(logs)
        for callback in self._left(pair[_ENDED]):
            callback.on_train_batch_end(batch, logs=logs)
            pair[_ENDED] += 1
        self._progress.pair = []

    def _left(self, num_told: int) -> Sequence[keras.callbacks.Callback]:
        callbacks = [self._listener] if self._is_whole else self._listener.callbacks
        return callbacks[num_told:]


class _Numbers:
    """Makes of logs what Keras' list of callbacks makes of them."""

    def __init__(self) -> None:
        self._heard = keras.callbacks.LambdaCallback(on_train_batch_end=self._hear)
        self._list = keras.callbacks.CallbackList([self._heard])
        self._logs: Mapping[str, Any] = {}

    def _hear(self, batch: int, logs: Mapping[str, Any]) -> None:
        del batch
        self._logs = logs

    def __call__(self, logs: Mapping[str, Any]) -> Mapping[str, Any]:
        self._list.on_train_batch_end(0, logs)
        return self._logs
