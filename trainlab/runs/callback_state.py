"""What callbacks remember, taken out and put back; Keras itself saves none of it."""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
import weakref
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainlab.callbacks import RecordFile
from trainlab.objective import keras_internals
from trainlab.runs.disk import boards
from trainlab.runs.disk.encoding import Otherwise, encode
from trainlab.runs.listeners.forgetting import remembers, remembers_in_methods
from trainlab.runs.listeners.remembered import copied
from trainlab.runs.manifest.plain import digest, plain

# What these remember, no later step depends on.
_FORGETFUL = (
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)
# These remember as much as the functions that they are given.
_BY_FUNCTIONS = (keras.callbacks.LambdaCallback, keras.callbacks.LearningRateScheduler)
_OF_CSV = tuple(vars(keras.callbacks.CSVLogger("")))
# Beside the states, by name: what their callbacks were made with.
_SETTINGS = "settings"
# In the state of a TensorBoard: how far it has written them.
_FILES = "files"
# In place of a state that could not be had, by this name alone: why.
_UNSAVED = "not saved"
# By attribute: what was looked at, and what it was; a callback may write into its arrays later.
_DIGESTS: weakref.WeakKeyDictionary[keras.callbacks.Callback, dict[str, tuple[Any, str]]] = weakref.WeakKeyDictionary()
_NAMES: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()  # of the arguments of constructors
_CSV_FILES: weakref.WeakKeyDictionary[keras.callbacks.CSVLogger, RecordFile] = weakref.WeakKeyDictionary()


def get_states(callbacks: Sequence[keras.callbacks.Callback], has_files: bool = False) -> dict[str, dict[str, Any]]:
    """What each callback remembers, by class and place, and under "settings" what tells those of one class apart.

    With `has_files` also how far a `TensorBoard` has written its files.

    A callback of one's own has `get_state()`, which returns None, numbers, text, dates, arrays, and lists, tuples and dicts of
    them, and `set_state(state)`, which takes that back. Those that remember nothing are left out.

    Example:
        >>> stopping = keras.callbacks.EarlyStopping(patience=3)
        >>> stopping.wait = 2
        >>> states = get_states([stopping])
        >>> states["EarlyStopping.0"]["wait"], states["settings"]["EarlyStopping.0"]["patience"]
        (2, 3)
    """
    states: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for name, callback in _named(callbacks).items():
        if _has_own(callback):
            states[name] = _own_state(callback)
        elif isinstance(callback, keras.callbacks.CSVLogger):
            if callback.append:
                states[name] = _csv_file(callback).place()
        elif names := _attributes(callback):
            states[name] = {attribute: getattr(callback, attribute) for attribute in names if hasattr(callback, attribute)}
            if has_files and isinstance(callback, keras.callbacks.TensorBoard):
                states[name][_FILES] = boards.places(callback)
        if name in states and (found := _settings(callback, states[name])):
            settings[name] = found
    return {**states, _SETTINGS: settings} if settings else states


def _own_state(callback: Any) -> Any:
    try:
        return copied(callback.get_state(), is_own=True)
    except Exception as error:  # whatever somebody's code raises, the rest of a run is to be saved
        return {_UNSAVED: f"get_state() raised {type(error).__name__}: {str(error) or 'no message'}".splitlines()[0]}


def encoded(name: str, state: Any, arrays: MutableMapping[str, np.ndarray], otherwise: Otherwise, told: set[str]) -> Any:
    """A state as a checkpoint holds it; where it cannot be, that and why, lest everything else be lost: a warning says so.

    Args:
        name: the callback's, as `get_states` gives it.
        state: its.
        arrays, otherwise: as of `encode`.
        told: names of whom it was said, and is not again.
    """
    own: dict[str, np.ndarray] = {}
    reason = _unsaved(state)
    if reason is None:
        try:
            found = encode(state, own, f"callbacks.{name}", otherwise)
            arrays.update(own)
            return found
        except (TypeError, ValueError) as error:
            reason = str(error).replace(f"callbacks.{name}", "its state")
    if name not in told:
        told.add(name)
        warnings.warn(
            f"callback {name.rpartition('.')[0]} is not in checkpoints any more, and as new after a resume: {reason}",
            stacklevel=2,
        )
    return encode({_UNSAVED: reason}, arrays, name)


def _unsaved(state: Any) -> str | None:
    return state[_UNSAVED] if isinstance(state, Mapping) and set(state) == {_UNSAVED} else None


def set_states(callbacks: Sequence[keras.callbacks.Callback], states: Mapping[str, Any], directory: Path | None = None) -> None:
    """Puts back what `get_states` took, each state into the callback that it came from.

    Of several callbacks of one class that is the one of the same settings, and among equal ones the one at the same place.
    Warns of states whose callback is not there, or not to be told from others. With the directory of a run that is gone on with,
    the files of a `TensorBoard` go back too.
    """
    named = _named(callbacks)
    settings = states.get(_SETTINGS)
    for kind in dict.fromkeys(name.rpartition(".")[0] for name in states if name != _SETTINGS):
        saved = [name for name in states if name.rpartition(".")[0] == kind]
        there = [name for name in named if name.rpartition(".")[0] == kind]
        for name, callback in _matched(kind, saved, [named[name] for name in there], settings).items():
            if callback is None and any(kind == one.__name__ for one in _FORGETFUL):
                continue
            if callback is None:
                what = _described(kind, (settings or {}).get(name, {}))
                warnings.warn(f"callback {what} is in the checkpoint but not among callbacks", stacklevel=2)
            elif (reason := _unsaved(states[name])) is not None:
                warnings.warn(f"callback {kind} begins as new, since the checkpoint has no state of it: {reason}", stacklevel=2)
            else:
                _set_state(callback, states[name], directory)


def _set_state(callback: Any, state: Any, directory: Path | None) -> None:
    if _has_own(callback):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        _rewind_csv(callback, state)
    else:
        for attribute, value in state.items():
            if attribute != _FILES:
                setattr(callback, attribute, value)
            elif directory is not None:
                boards.go_back(callback, value, directory)
            else:
                boards.know(callback, value)


def forgotten(callbacks: Sequence[keras.callbacks.Callback]) -> list[str]:
    """The callbacks that seem to remember something and say nothing of it, by class.

    Warns besides of a `CSVLogger` that a resume would let begin its file anew, with what to do.
    """
    names = []
    for callback in callbacks:
        if _has_own(callback) or type(callback) in _FORGETFUL:
            continue
        if isinstance(callback, keras.callbacks.CSVLogger):
            if not callback.append:
                warnings.warn(
                    f"CSVLogger({callback.filename!r}) begins its file anew at every resume, without the epochs before: give it "
                    "append=True",
                    stacklevel=4,
                )
            if remembers_in_methods(callback, _OF_CSV):
                names.append(type(callback).__name__)
            continue
        own = {name: value for name, value in vars(callback).items() if name not in keras_internals.CALLBACK_SETTINGS}
        kept = _attributes(callback)
        is_forgetful = any(remembers(value) for value in own.values() if callable(value))
        if type(callback) not in _BY_FUNCTIONS:
            is_plain = any(not inspect.isroutine(value) for value in own.values())
            is_forgetful |= (is_plain and not kept) or remembers_in_methods(callback, kept)
        if is_forgetful:
            names.append(type(callback).__name__)
    return names


def check(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Warns of callbacks that forget what they seem to remember.

    Raises:
        ValueError: there is one that resumes by itself.
    """
    if names := forgotten(callbacks):
        warnings.warn(
            f"{', '.join(names)}: not in checkpoints, and so as new after a resume; if that matters, write a class of your own "
            "with get_state() and set_state(state)",
            stacklevel=4,
        )
    if any(isinstance(callback, keras.callbacks.BackupAndRestore) for callback in callbacks):
        raise ValueError("BackupAndRestore and a run both resume: leave the callback out")


def check_states(states: Mapping[str, Any]) -> None:
    """Raises TypeError, naming the callback, for a state that a checkpoint cannot hold."""
    for name, state in states.items():
        if (reason := _unsaved(state)) is not None:
            raise TypeError(f"{name.rpartition('.')[0]}.{reason}")
        encode(state, {}, f"{name.rpartition('.')[0]}.get_state()")


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


def _settings(callback: Any, state: Any) -> dict[str, Any]:
    """Attributes that are no state: what a callback was made with, private ones by a name of its constructor's, perhaps more."""
    own = {str(name) for name in state} if isinstance(state, Mapping) else set()
    known = {*keras_internals.CALLBACK_SETTINGS, *_attributes(callback)}
    given = _names_given(type(callback))
    names = [name for name in vars(callback) if name not in known and name.strip("_") not in own]
    names = [name for name in names if not name.startswith("_") or name.strip("_") in given]
    found = {name: _setting(callback, name) for name in names}
    return {name: value for name, value in found.items() if value is not ...}


def _setting(callback: Any, name: str) -> Any:
    """A setting as a checkpoint holds it: of arrays, and of functions without a name of their own, a hash of the first look."""
    value = getattr(callback, name)
    is_named = "<" not in getattr(value, "__qualname__", "")
    if is_named and not isinstance(value, (np.ndarray, functools.partial)):
        return _plain(name, value)
    kept = _DIGESTS.setdefault(callback, {})
    if name not in kept or kept[name][0] is not value:
        kept[name] = value, digest(json.dumps(plain(value), sort_keys=True))
    return kept[name][1]


def _plain(name: str, value: Any) -> Any:
    """A setting as a checkpoint holds it; Ellipsis for what it cannot hold."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic):
        value = value.item()
    if name == "min_delta" and isinstance(value, (int, float)):
        return abs(value)  # Keras turns its sign round when training begins
    if isinstance(value, (list, tuple)):
        items = [_plain(name, item) for item in value]
        return ... if ... in items else items
    if value is None or type(value) in (bool, int, float, str):
        return value
    return getattr(value, "__qualname__", ...)


def _matched(kind: str, saved: Sequence[str], callbacks: Sequence[Any], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The callback that each of the saved states of one class belongs to; None for none."""
    found = dict.fromkeys(saved)
    if settings is None:  # until 0.2 nothing was kept that tells them apart
        found.update(zip(saved, callbacks, strict=False))
        if len(saved) > 1 and len({repr(_constructor_settings(callback)) for callback in callbacks}) > 1:
            _warn_of_places(kind)
        return found
    is_doubtful = False
    pairs = [(name, callback) for name in saved for callback in callbacks]
    scores = {(name, id(callback)): _likeness(settings.get(name, {}), callback) for name, callback in pairs}
    for name, callback in sorted(pairs, key=lambda pair: -scores[pair[0], id(pair[1])]):  # stable: equal ones by place
        score = scores[name, id(callback)]
        free = [other for other in callbacks if all(other is not taken for taken in found.values())]
        if found[name] is not None or all(callback is not other for other in free) or score < 0:
            continue
        rivals = [other for other in free if scores[name, id(other)] == score]
        names = [other for other in saved if found[other] is None and scores[other, id(callback)] == score]
        own, made = map(_constructor_settings, rivals), [settings.get(other, {}) for other in names]
        is_doubtful |= _differ(own, made[0]) or _differ(made, _constructor_settings(callback))
        found[name] = callback
    if is_doubtful:
        _warn_of_places(kind)
    return found


def _differ(several: Iterable[Mapping[str, Any]], names: Mapping[str, Any]) -> bool:
    """Whether some of these settings, under these names, are not the same for all."""
    return len({repr({name: one.get(name) for name in names}) for one in several}) > 1


def _warn_of_places(kind: str) -> None:
    warnings.warn(
        f"the checkpoint does not tell which {kind} is which: each goes on with the state of the one at its place; if their "
        "order has changed, change it back",
        stacklevel=4,
    )


def _likeness(saved: Mapping[str, Any], callback: Any) -> int:
    """How many settings are what they were; -1 for a callback that cannot be the one."""
    now = _settings(callback, None)
    if saved.get("monitor") != now.get("monitor"):  # what it remembers is of another quantity
        return -1
    return sum(name in now and now[name] == value for name, value in saved.items())


def _constructor_settings(callback: Any) -> dict[str, Any]:
    """Those that are arguments of its constructor, under their names: of these it is known that they are no state."""
    given = _names_given(type(callback))
    return {name: value for name, value in _settings(callback, None).items() if name.strip("_") in given}


def _names_given(cls: type) -> frozenset[str]:
    """Asked at every hook; a class may close over data, and is not kept alive."""
    if cls not in _NAMES:
        _NAMES[cls] = frozenset(name for base in cls.__mro__ for name in _parameters(vars(base).get("__init__")))
    return _NAMES[cls]


def _parameters(function: Any) -> Sequence[str]:
    return list(inspect.signature(function).parameters) if inspect.isfunction(function) else []


def _described(kind: str, settings: Mapping[str, Any]) -> str:
    telling = [name for name in ("monitor", "filepath", "name") if name in settings]
    return kind + (f"({', '.join(f'{name}={settings[name]!r}' for name in telling)})" if telling else "")


def _csv_file(logger: keras.callbacks.CSVLogger) -> RecordFile:
    separator = logger.sep.encode()

    def epoch(row: bytes) -> list[Any] | None:
        number = row.partition(separator)[0]
        return [int(number)] if number.isdigit() else None

    if logger not in _CSV_FILES or (_opened(logger, logger.filename) and not _opened(logger, _CSV_FILES[logger].path)):
        _CSV_FILES[logger] = RecordFile(logger.filename, epoch)
    return _CSV_FILES[logger]


def _opened(logger: keras.callbacks.CSVLogger, path: str | os.PathLike) -> bool:
    """Whether this is the file that a logger has open; a relative name is looked up where the process is now."""
    try:
        return os.path.samestat(os.fstat(logger.csv_file.fileno()), os.stat(path))
    except (AttributeError, OSError, ValueError):  # none is open, or it is on no file system
        return False


def _rewind_csv(logger: keras.callbacks.CSVLogger, state: Mapping[str, Any]) -> None:
    """Drops the rows that will be written again; in the file of a run that is finished, when it is written to again."""

    def rewind(logs: Any = None) -> None:
        vars(logger).pop("on_train_begin", None)
        if logger.csv_file is None or logger.csv_file.closed:
            _CSV_FILES.pop(logger, None)  # it is opened where the process is now
        if logger.append and (said := _csv_file(logger).cut(state)):
            warnings.warn(said, stacklevel=3)
        if logger.csv_file is None or logger.csv_file.closed:
            logger.on_train_begin(logs)

    if logger.csv_file is not None and not logger.csv_file.closed:
        rewind()
        path = _csv_file(logger).path
        logger.append_header = not path.exists() or path.stat().st_size == 0
    else:
        logger.on_train_begin = rewind
