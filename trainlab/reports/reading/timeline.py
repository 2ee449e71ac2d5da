"""`timeline.jsonl`: what happened in a run and when, an object a line; how it is told from anybody's file, and put together.

    {"event": "begin", "time": ..., "fit": 0, "update": 0, "epoch": 0, "resumed": false, "strategy": ..., "host": ..., ...}
    {"event": "epoch", "fit": 0, "epoch": 0, "update": 23, "seconds": 1.2, "learning_rate": 0.1, "logs": {"loss": 1.2}}
    {"event": "end", "fit": 0, "update": 23, "seconds": 1.3, "why": "finished"}

Updates are those of the fit, and seconds those since the line that begins the session.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NAME = "timeline.jsonl"
_EVENTS = ("begin", "epoch", "end")


@dataclasses.dataclass
class Session:
    """From a process' beginning of a `fit` to its end.

    Attributes:
        begin: the line that begins it.
        end: the line that ends it; None where the process was killed, or goes on.
        seconds: how long it lasted, as far as is known.
        update: the last one known of it.
        skipped: updates that were left out because they were not finite.
    """

    begin: dict[str, Any]
    end: dict[str, Any] | None = None
    seconds: float = 0.0
    update: int = 0
    skipped: int = 0


@dataclasses.dataclass(frozen=True)
class Epoch:
    """An epoch that counts.

    Attributes:
        record: its line.
        seconds: of training up to its end, all sessions together.
    """

    record: dict[str, Any]
    seconds: float


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects in a file of one a line; what is no object is left out, and a file that cannot be read holds none."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [record for line in text.splitlines() if line.strip() and isinstance(record := _parsed(line), dict)]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def is_timeline(path: str | os.PathLike[str]) -> bool:
    """Whether a run has written the file of this name, or may write it: there is none, it is empty, or a line is an event.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / NAME
        >>> is_timeline(path)
        True
        >>> _ = path.write_text("my own notes")
        >>> is_timeline(path)
        False
    """
    path = Path(path)
    if not os.path.lexists(path):
        return True
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(2**20)
    return not start.strip(b"\0 \r\n") or any(map(_is_event, start.splitlines()))


def _is_event(line: bytes) -> bool:
    record = _parsed(line.decode("utf-8", errors="replace"))
    return isinstance(record, dict) and record.get("event") in _EVENTS and ("update" in record or "fit" in record)


def put_together(records: Iterable[Mapping[str, Any]]) -> tuple[list[Session], list[Epoch]]:
    """The sessions of a run, and the epochs that count: made in the last session that made them.

    Where a session goes on from a checkpoint, what an earlier one had made after it was lost, and is left out; its seconds
    count. A fit that begins afresh as the first leaves out all that was before.
    """
    sessions: list[Session] = []
    epochs: dict[tuple[int, int], Epoch] = {}
    before = 0.0  # seconds of the sessions before this one
    for given in records:
        record = dict(given)
        event, fit, update = record.get("event"), whole(record.get("fit")), whole(record.get("update"))
        if event == "begin":
            if fit == 0 and not record.get("resumed"):
                sessions, epochs = [], {}
            before = sum(session.seconds for session in sessions)
            sessions.append(Session(record, update=update))
            epochs = {key: kept for key, kept in epochs.items() if _is_kept(kept.record, fit, update)}
            continue
        if event not in _EVENTS:
            continue
        if not sessions:  # its beginning was damaged
            sessions.append(Session({"event": "begin", "fit": fit, "update": 0}))
        session, seconds = sessions[-1], _seconds(record.get("seconds"))
        session.seconds, session.update = max(session.seconds, seconds), max(session.update, update)
        session.skipped = max(session.skipped, whole(record.get("skipped")))
        if event == "end":
            session.end = record
        elif isinstance(record.get("logs"), dict):
            key = fit, whole(record.get("epoch"))
            epochs.pop(key, None)
            epochs[key] = Epoch(record, before + seconds)
    return sessions, list(epochs.values())


def _is_kept(record: Mapping[str, Any], fit: int, update: int) -> bool:
    of = whole(record.get("fit"))
    return of < fit or (of == fit and whole(record.get("update")) <= update)


def whole(value: Any) -> int:
    """A count as it is written, and 0 in place of anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else 0


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf") else 0.0
