"""A run as a report sees it: its epochs, its settings, its sessions, and how it ended."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.reports.reading.configs import settings_of_beginning, settings_of_text
from trainlab.reports.reading.numbers import numbers_of
from trainlab.reports.reading.older import epochs_of_metrics, epochs_of_state, newest_state
from trainlab.reports.reading.timeline import NAME, Epoch, Session, is_timeline, lines_of, put_together, whole

AXES = {"updates": "updates", "evaluations": "gradient evaluations", "seconds": "seconds of training"}


@dataclasses.dataclass
class RunRecord:
    """What is known of a run; what is not known is NaN, or not there.

    Attributes:
        name: as it is shown.
        path: its directory.
        axes: of each epoch that counts, by the names in `AXES`, where it ended.
        epochs: their numbers, from 1.
        series: of each epoch the value of each name in the logs; NaN for what is no number, or not there.
        measured: by name the numbers of the epochs that have it, from 0: some metrics are not of every epoch.
        learning_rate: of each epoch, by name: one, unless there are several.
        speed: of each epoch, updates a second.
        test: the test metrics.
        settings: by name, as text.
        has_config: whether these are those of a `config.gin`.
        directions: "up" or "down" by name, where the run says it.
        sessions: beginnings and ends.
        status: in words.
        examples: in an update, as the mean over a pass; None if nobody knows.
    """

    name: str
    path: Path
    axes: dict[str, list[float]]
    epochs: list[int]
    series: dict[str, list[float]]
    measured: dict[str, list[int]]
    learning_rate: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    speed: list[float] = dataclasses.field(default_factory=list)
    test: dict[str, float] = dataclasses.field(default_factory=dict)
    settings: dict[str, str] = dataclasses.field(default_factory=dict)
    has_config: bool = False
    directions: dict[str, str] = dataclasses.field(default_factory=dict)
    sessions: list[Session] = dataclasses.field(default_factory=list)
    status: str = ""
    examples: float | None = None

    @property
    def last(self) -> dict[str, Any]:
        """The line of its last beginning; empty for a run without a timeline."""
        return self.sessions[-1].begin if self.sessions else {}

    def total(self, axis: str) -> float:
        """How far it has come; NaN if that is not known."""
        return next((value for value in reversed(self.axes[axis]) if not math.isnan(value)), math.nan)

    @property
    def examples_a_second(self) -> float:
        """In most epochs, the median; NaN if that is not known."""
        speeds = [speed for speed in self.speed if not math.isnan(speed)]
        return float(np.median(speeds)) * self.examples if self.examples and speeds else math.nan


def read_run(path: str | os.PathLike[str]) -> RunRecord:
    """Reads what a run has left, as far as it can be read.

    Args:
        path: its directory.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such directory.
        ValueError: it holds no run.
    """
    folder = Path(path)
    _check(folder)
    records = lines_of(folder / NAME) if is_timeline(folder / NAME) else []
    sessions, epochs = put_together(records)
    older, test = epochs_of_metrics(folder / "metrics.jsonl")
    first = sessions[0].begin if sessions else {}
    is_older = not sessions or bool(first.get("resumed"))  # begun when there was no timeline yet
    state = newest_state(folder / "checkpoints") if is_older and not older else {}
    if not (sessions or older or state):
        raise ValueError(f"{folder}: holds no run (no {NAME}, no metrics.jsonl, no checkpoint); {_instead(folder)}")
    older = (older or epochs_of_state(state)) if is_older else []
    if sessions:
        fit, epoch = whole(first.get("fit")), whole(first.get("epoch"))
        older = [record for record in older if record["fit"] < fit or (record["fit"] == fit and record["epoch"] < epoch)]
    epochs = [*(Epoch(record, math.nan) for record in older), *epochs]
    result = _json(folder / "result.json").get("test")
    test = result if isinstance(result, dict) else test
    last = sessions[-1].begin if sessions else {}
    config = settings_of_text(_text(folder / "config.gin"))
    directions = last.get("directions")
    series, measured = columns_of([epoch.record["logs"] for epoch in epochs])
    return RunRecord(
        name=str(path),
        path=folder,
        axes=_axes(sessions, epochs),
        epochs=[whole(epoch.record.get("epoch")) + 1 for epoch in epochs],
        series=series,
        measured=measured,
        learning_rate=columns_of([{"learning rate": epoch.record.get("learning_rate")} for epoch in epochs])[0],
        speed=_speed(epochs),
        test=numbers_of(test),
        settings=config or settings_of_beginning(last),
        has_config=bool(config),
        directions={n: d for n, d in directions.items() if d in ("up", "down")} if isinstance(directions, dict) else {},
        sessions=sessions,
        status=_status(folder, sessions, state, is_tested=isinstance(result, dict)),
        examples=_examples(last),
    )


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[RunRecord]:
    """Reads several, each once, and gives each the shortest name that tells it from the others."""
    given = {os.path.abspath(path): path for path in reversed(paths)}
    places = list(dict.fromkeys(map(os.path.abspath, paths)))
    runs = [read_run(given[place]) for place in places]
    for run, name in zip(runs, _names(list(map(Path, places))), strict=True):
        run.name = name
    return runs


def _names(paths: Sequence[Path]) -> list[str]:
    for num in range(1, 64):
        names = ["/".join(path.parts[-num:]) for path in paths]
        if len(set(names)) == len(names):
            return [name.encode("utf-8", "replace").decode() for name in names]
    return [str(path) for path in paths]


def _check(folder: Path) -> None:
    if not os.path.lexists(folder):
        raise FileNotFoundError(f"{folder}: there is no such directory; give those of runs, such as runs/heun")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: is a file; give the directory of a run, such as runs/heun")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(f"{folder}: cannot be read by you; give the directory of a run that can")


def _instead(folder: Path) -> str:
    with suppress(OSError):
        inside = [
            path for path in sorted(folder.iterdir()) if any((path / n).exists() for n in (NAME, "metrics.jsonl", "checkpoints"))
        ]
        if inside:
            return f"there are {len(inside)} in it: give {folder}/*/, or {inside[0]}"
    return "give the directory of a run, such as runs/heun"


def _axes(sessions: Sequence[Session], epochs: Sequence[Epoch]) -> dict[str, list[float]]:
    """Where each epoch ended: updates over all fits, evaluations of the gradient on a batch, seconds."""
    begun = {whole(s.begin.get("fit")): s.begin for s in sessions}
    axes: dict[str, list[float]] = {axis: [] for axis in AXES}
    fit, before, updates, evaluations = -1, 0, 0, 0.0
    for epoch in epochs:
        number, update = whole(epoch.record.get("fit")), whole(epoch.record.get("update"))
        before = before if number == fit else 0
        fit, done = number, max(update - before, 0)
        begin, logs = begun.get(fit, {}), epoch.record.get("logs")
        logged = logs.get("gradient_evaluations") if isinstance(logs, dict) else None  # a mean: what varies is told
        each = logged if isinstance(logged, (int, float)) else whole(begin.get("evaluations")) or math.nan
        evaluations += each * (_batches(begin, before + done) - _batches(begin, before))
        before = update
        updates += done
        for axis, value in zip(AXES, (updates, evaluations, epoch.seconds), strict=True):
            axes[axis].append(value)
    return axes


def _batches(begin: Mapping[str, Any], updates: int) -> float:
    """Batches in the first updates of a fit: the last update of a pass may have fewer. NaN if nobody knows."""
    most, each, settings = whole(begin.get("batches")), whole(begin.get("examples")), begin.get("settings")
    total = whole(settings.get("examples")) if isinstance(settings, dict) else 0
    if not most or not updates:
        return 0.0 if most else math.nan
    if not total or not each:
        return float(updates * most)
    in_a_pass = -(-total * most // each)
    passes, rest = divmod(updates, -(-in_a_pass // most))
    return float(passes * in_a_pass + rest * most)


def _speed(epochs: Sequence[Epoch]) -> list[float]:
    """Updates a second in each epoch; not in the first of a session, which waits until the step is compiled."""
    speeds, last = [], None
    for epoch in epochs:
        now = epoch.record.get("fit"), whole(epoch.record.get("update")), epoch.seconds, epoch.record.get("seconds")
        speed = math.nan
        if last is not None and now[0] == last[0] and isinstance(now[3], (int, float)) and isinstance(last[3], (int, float)):
            elapsed, is_one_session = now[2] - last[2], now[3] >= last[3] and abs((now[2] - now[3]) - (last[2] - last[3])) < 1e-3
            speed = (now[1] - last[1]) / elapsed if is_one_session and elapsed > 0 else math.nan
        speeds.append(speed)
        last = now
    return speeds


def _examples(begin: Mapping[str, Any]) -> float | None:
    """Examples in an update: the last one of a pass may have fewer."""
    each, settings = whole(begin.get("examples")), begin.get("settings")
    total = whole(settings.get("examples")) if isinstance(settings, dict) else 0
    if not each:
        return None
    return total / -(-total // each) if total else float(each)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, list[float]], dict[str, list[int]]]:
    """By name the values of all rows, NaN where there is none; and the numbers of the rows that have one, be it NaN.

    Example:
        >>> columns_of([{"loss": 2, "at": [1, None]}, {"loss": None}])
        ({'loss': [2.0, nan], 'at[0]': [1.0, nan], 'at[1]': [nan, nan]}, {'loss': [0, 1], 'at[0]': [0], 'at[1]': [0]})
    """
    columns: dict[str, list[float]] = {}
    measured: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        for name, value in numbers_of(row).items():
            columns.setdefault(name, [math.nan] * len(rows))[i] = value
            measured.setdefault(name, []).append(i)
    return columns, measured


def _status(folder: Path, sessions: Sequence[Session], state: Mapping[str, Any], is_tested: bool) -> str:
    end = sessions[-1].end if sessions else None
    if end is None and _is_locked(folder / "lock"):
        return "running"
    if end is not None:
        why = str(end.get("why"))
        return why if why == "finished" or why.startswith("stopped") else f"stopped ({why})"
    if not sessions and (is_tested or state.get("finished")):
        return "finished"
    return "stopped (killed)" if sessions else "stopped"


def _is_locked(lock: Path) -> bool:
    """Whether somebody holds the lock; it is not tried, lest a run that starts now finds it held."""
    try:
        inode, holder = lock.stat().st_ino, json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    with suppress(OSError):
        return is_among_locks(inode, Path("/proc/locks").read_text())
    if not isinstance(holder, dict) or holder.get("host") != socket.gethostname() or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except OSError:
        return False
    return True


def is_among_locks(inode: int, text: str) -> bool:
    """Whether somebody holds a lock on this file, by what Linux says of all locks.

    Example:
        >>> text = "1: FLOCK  ADVISORY  WRITE 360 fe:00:2343269 0 EOF"
        >>> is_among_locks(2343269, text), is_among_locks(234326, text)
        (True, False)
    """
    held = (line.split() for line in text.splitlines() if "FLOCK" in line)
    return any(word.endswith(f":{inode}") for words in held for word in words)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return ""
