"""Our callbacks, in Keras' own protocol, and the files of a record a line that a resumed run goes on with."""

import json
import math
import os
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np


class JsonLines(keras.callbacks.Callback):
    """Appends one JSON object an epoch to a file: `{"epoch": 1, "step": 45, "loss": 1.2, "val_loss": 0.7, ...}`.

    `epoch` counts from 1, as the progress line does; `step` is the number of updates so far. Numbers that JSON cannot
    hold (NaN, infinity) become null. The file is closed after each record: what is written survives a crash. A run that goes
    on from a checkpoint drops the records written after it, when it writes its first. Where somebody changed the file in
    between, a warning says what was done.

    Args:
        path: The file; records are added to what it holds.
        restart: Whether what it holds is dropped by the first record, unless the run goes on from a checkpoint.

    Example:
        >>> import tempfile
        >>> callback = JsonLines(tempfile.mkdtemp() + "/metrics.jsonl")
        >>> callback.write({"epoch": 3, "step": 150, "test_loss": float("nan")})
        >>> print(callback.path.read_text().strip())
        {"epoch": 3, "step": 150, "test_loss": null}
    """

    def __init__(self, path: str | os.PathLike, restart: bool = False):
        super().__init__()
        self._file = RecordFile(path, json_key)
        self._restarts = restart
        self._place: Mapping[str, Any] | None = None  # what the next record cuts the file back to

    @property
    def path(self) -> Path:
        """The file, wherever the process goes."""
        return self._file.path

    def get_state(self) -> dict[str, Any]:
        """How far the file is written."""
        if self._place is not None:
            return dict(self._place)
        return dict(_NOWHERE) if self._restarts else self._file.place()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self._place, self._restarts = dict(state), False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Writes the epoch's record."""
        step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self.write({"epoch": epoch + 1, "step": step, **(logs or {})})

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes one record.

        Args:
            record: Numbers, arrays or tensors of numbers, or text, by name; anything else is written as text.

        Raises:
            OSError: The file cannot be written.
        """
        line = json.dumps({str(name): json_value(value) for name, value in record.items()}, allow_nan=False)
        if self._restarts:
            self.path.write_bytes(b"")
            self._restarts = False
        if self._place is not None:
            said, self._place = self._file.cut(self._place), None
            if said:
                warnings.warn(said, stacklevel=2)
        with open(self.path, "a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) not in b"\r\n":  # somebody's editor took the end of the line away
                    file.write(b"\n")
            file.write(line.encode() + b"\n")


class RecordFile:
    r"""A text file of a record a line that only grows, though others may edit it.

    A *place* in it is known by the records before it: how many there are, the last of them, and a checksum over what tells one
    from another. So it is found again whatever was done to line ends, to other lines, or to anything else in a record.

    Args:
        path: Of the file; it need not exist.
        key: What tells the record in a line from others: numbers that grow while one program writes; None for another line.

    Attributes:
        path: The same, absolute: a callback may change the working directory.

    Example:
        >>> import tempfile
        >>> file = RecordFile(tempfile.mkdtemp() + "/metrics.jsonl", json_key)
        >>> _ = file.path.write_text('{"epoch": 1}\n')
        >>> place = file.place()
        >>> _ = file.path.write_bytes(b'{"epoch": 1}\r\n{"epoch": 2}\r\n')
        >>> print(file.cut(place).partition(": ")[2])
        changed since the checkpoint; 1 of its records stay, 1 written after it dropped
        >>> file.path.read_bytes()
        b'{"epoch": 1}\r\n'
    """

    def __init__(self, path: str | os.PathLike, key: Callable[[bytes], list[Any] | None]):
        self.path, self._name = Path(path).absolute(), os.fspath(path)
        self._key = key
        self._end: dict[str, Any] = dict(_NOWHERE)  # as it was when last looked at: only what has been added is read

    def place(self) -> dict[str, Any]:
        """The end of the file, as plain values."""
        if not self.path.is_file():
            self._end = dict(_NOWHERE)
            return dict(_NOWHERE)
        with open(self.path, "rb") as file:
            if file.seek(0, os.SEEK_END) < self._end["size"]:
                self._end = dict(_NOWHERE)
            file.seek(self._end["size"])
            content = file.read()
        self._end = _advanced(self._end, [self._key(line) for line in content.splitlines()], len(content))
        return dict(self._end)

    def cut(self, place: Mapping[str, Any]) -> str | None:
        """Drops the records after a place, and no other line.

        Returns:
            What had to be done besides, in a line; None if the file up to the place is what it was.
        """
        self._end = dict(_NOWHERE)
        if not self.path.is_file():
            return f"{self._name}: removed since the checkpoint; begun anew, without what it held" if place["size"] else None
        content = self.path.read_bytes()
        lines = content.splitlines(keepends=True)
        keys = [self._key(line) for line in lines]
        place = place if "records" in place else _place_by_size(keys, lines, place["size"])
        if place["records"] and not any(keys) and content.strip():
            return self._put_aside(content)
        numbers = [i for i, key in enumerate(keys) if key is not None]
        before = numbers[: place["records"]]
        is_found = _advanced(_NOWHERE, [keys[i] for i in before], 0)["check"] == place["check"]
        later = numbers[len(before) :] if is_found else _later(numbers, keys, place)
        last = (before if is_found else [i for i in numbers if i not in later])[-1:]  # the last one that stays
        first = last[0] + 1 if last else 0
        damaged = [i for i, key in enumerate(keys) if i >= first and key is None and _is_half(lines[i])]
        dropped = {*later, *damaged}
        aside = self._copied(content) if is_found and _begins_anew([place["last"], *(keys[i] for i in later)]) else None
        self._write(content, b"".join(line for i, line in enumerate(lines) if i not in dropped))
        if aside is not None:
            return (
                f"{self._name}: among {len(later)} records written after the checkpoint some begin anew, as another run's do; "
                f"all dropped, and the file as it was kept as {aside}: runs that go on each need a file of their own"
            )
        size = place["size"]
        is_same = content[size - 1 : size] in (b"\n", b"") and len(content) >= size
        if is_found and is_same and sum(self._key(line) is not None for line in content[:size].splitlines()) == len(before):
            return None
        stay = len(numbers) - len(later)
        return f"{self._name}: changed since the checkpoint; {stay} of its records stay, {len(later)} written after it dropped"

    def _put_aside(self, content: bytes) -> str:
        aside = self._copied(content)
        self._write(content, b"")
        return f"{self._name}: changed since the checkpoint, and no record can be read; kept as {aside}, and begun anew"

    def _copied(self, content: bytes) -> str:
        number = 1
        while os.path.lexists(aside := self.path.with_name(f"{self.path.name}.{number}")):
            number += 1
        aside.write_bytes(content)
        return aside.name

    def _write(self, old: bytes, new: bytes) -> None:
        """In place: whoever has the file open goes on writing at its end."""
        if new != old:
            with open(self.path, "r+b") as file:
                if not old.startswith(new):
                    file.write(new)
                file.truncate(len(new))


def _begins_anew(keys: Sequence[Any]) -> bool:
    """Whether a record does not come after the one before it: its first number, an epoch, is smaller."""
    firsts = [key[0] for key in keys if key]
    return any(isinstance(a, int) and isinstance(b, int) and b < a for a, b in zip(firsts, firsts[1:], strict=False))


_MOST_TEXT = 500  # characters of what JSON does not hold
_NOWHERE: Mapping[str, Any] = {"records": 0, "last": None, "check": 0, "size": 0}


def _advanced(place: Mapping[str, Any], keys: Sequence[list[Any] | None], size: int) -> dict[str, Any]:
    """The place after further lines, by their keys, of so many bytes."""
    num, last, check = place["records"], place["last"], place["check"]
    for key in keys:
        if key is not None:
            num, last, check = num + 1, key, zlib.crc32(json.dumps(key).encode(), check)
    return {"records": num, "last": last, "check": check, "size": place["size"] + size}


def _place_by_size(keys: Sequence[list[Any] | None], lines: Sequence[bytes], size: int) -> dict[str, Any]:
    """The place after so many bytes: all that was saved until 0.2, when every line ended in a line feed."""
    ends = np.cumsum([len(line.rstrip(b"\r\n")) + 1 for line in lines])
    return {**_advanced(_NOWHERE, keys[: int(np.searchsorted(ends, size, side="right"))], 0), "size": size}


def _later(numbers: Sequence[int], keys: Sequence[Any], place: Mapping[str, Any]) -> list[int]:
    """The numbers of the lines after a place whose records are no more those that were before it."""
    last, expected = place["last"], place["records"] - 1
    same = [n for n, i in enumerate(numbers) if keys[i] == last]
    if same:  # where it is now, if others were removed or added
        nearest = min(same, key=lambda n: abs(n - expected))
        return [i for i in numbers[nearest + 1 :] if keys[i] == last or _is_later(keys[i], last)]
    num = len(numbers)
    while num and _is_later(keys[numbers[num - 1]], last):
        num -= 1
    return list(numbers[num:])


def _is_later(key: Sequence[Any], than: Sequence[Any]) -> bool:
    """Whether a record was written after another: its numbers are higher, or are the same and it is of another kind."""
    pairs = [(a, b) for a, b in zip(key, than, strict=True) if isinstance(a, (int, float)) and isinstance(b, (int, float))]
    return any(a > b for a, b in pairs) or (key != than and all(a == b for a, b in pairs))


def _is_half(line: bytes) -> bool:
    """Whether a line may have been a JSON object: half of one that was being written, or one that a disk has damaged."""
    return line.strip().startswith(b"{") or line.strip().endswith(b"}")


def json_key(line: bytes) -> list[Any] | None:
    """Epoch and step of a JSON object, and the names in it; None for a line that holds none.

    Example:
        >>> json_key(b'{"epoch": 2, "step": 90, "loss": 0.1}'), json_key(b"# a note")
        ([2, 90, 'epoch loss step'], None)
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    values = record.get("epoch"), record.get("step")
    return [*(value if isinstance(value, (int, float, str)) else None for value in values), " ".join(sorted(record))]


def json_value(value: Any) -> Any:
    """A number, array, tensor, text, or a dictionary of them, as JSON can hold it; NaN and infinity become None.

    Anything else, a date or somebody's object, becomes text, of at most 500 characters.

    Example:
        >>> import datetime
        >>> json_value({"loss": np.float32(0.5), "when": [datetime.date(2026, 1, 2)]})
        {'loss': 0.5, 'when': ['2026-01-02']}
    """
    if isinstance(value, Mapping):
        return {str(name): json_value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    if isinstance(value, (str, type(None))):
        return value
    try:
        value = np.asarray(value).tolist()
    except Exception:  # whatever somebody's object makes of it
        return _as_text(value)
    if isinstance(value, list):
        return [json_value(item) for item in value]
    if isinstance(value, np.number):  # one that Python's numbers do not hold: a long float
        value = float(value) if isinstance(value, np.floating) else value
    if isinstance(value, (bool, int, float)):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    return value if value is None or isinstance(value, str) else _as_text(value)


def _as_text(value: Any) -> str:
    return str(value)[:_MOST_TEXT]
