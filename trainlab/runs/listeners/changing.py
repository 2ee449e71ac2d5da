"""Settings that callbacks change while a fit trains: in force are those that its programs were traced with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from trainlab.loop import Loop
from trainlab.runs.manifest import OF_TRACED, Manifest, differences, of_traced
from trainlab.runs.manifest.plain import is_installed

_MAX_LINES = 3
# Keras' own that call functions of the user's.
_BY_FUNCTIONS = (keras.callbacks.LambdaCallback, keras.callbacks.LearningRateScheduler)


class InForce:
    """Remembers the settings that a loop trains with, for those who go on in another process, where it is traced anew.

    What a callback changes in the middle of a fit counts in what is traced later, so that a resume, whose hooks of the beginning
    are those of a later epoch, may train with something else. Eagerly it counts at once, and a resume may not have it.
    """

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._seen: list[Manifest] = []
        self._num_traces = 0

    def note(self, loop: Loop, callbacks: Sequence[Any], manifest: Manifest) -> None:
        """To be called before a step may be traced; `manifest` is that of the fit, as it was called."""
        if loop is not self._loop:
            self._loop, self._seen, self._num_traces = loop, [], 0
        if not self._seen:
            is_traced = loop.num_traces > 0  # before any callback was called
            self._seen = [{} if is_traced else _changed(loop, callbacks, manifest)]
            self._num_traces = max(loop.num_traces, 1)  # the one that is about to come is with these
        self._num_traces = max(loop.num_traces, self._num_traces)

    def record(self, callbacks: Sequence[Any], manifest: Manifest) -> list[Manifest]:
        """For a checkpoint: the rows that are not those of the manifest, for each state of the settings that was traced."""
        loop = self._loop
        if loop is None:
            return []
        if loop.is_eager:
            self._seen = [_changed(loop, callbacks, manifest)]
        elif loop.num_traces > self._num_traces:
            self._num_traces = loop.num_traces
            if (rows := _changed(loop, callbacks, manifest)) not in self._seen and len(self._seen) < _MAX_LINES:
                self._seen.append(rows)
        return self._seen

    def compare(self, saved: Manifest, recorded: Sequence[Manifest], current: Manifest) -> None:
        """Warns where the settings that were just noted are not all that were recorded.

        Args:
            saved: the manifest of the fit in the checkpoint.
            recorded: what `record` returned there.
            current: the manifest of now.
        """
        for rows in recorded:
            then, now = saved | rows, current | (self._seen[0] if self._seen else {})
            # A row that is newer than the checkpoint is not compared.
            if found := differences(then, now, [row for row in OF_TRACED if row in then and row in now]):
                lines = [f"{d.row} {d.place}".strip() + f": {d.saved!r}, now {d.current!r}" for d in found[:_MAX_LINES]]
                warnings.warn(
                    "settings changed while the run trained, by a callback or by code run eagerly, and are others now: "
                    f"{'; '.join(lines)}; set them before fit or in on_train_begin, or keep what changes in a keras.Variable",
                    stacklevel=4,
                )
                return


def _changed(loop: Loop, callbacks: Sequence[Any], manifest: Manifest) -> Manifest:
    """The rows that are other now than when the fit was called, if anybody may have changed them; reading takes a while."""
    if not loop.is_eager and not any(isinstance(c, _BY_FUNCTIONS) or not is_installed(type(c)) for c in callbacks):
        return {}
    now = of_traced(loop.update.function.model, loop.update.strategy)
    return {row: now[row] for row in OF_TRACED if manifest.get(row) != now[row]}
