"""Epochs of a run from what it wrote before there was a timeline: `metrics.jsonl`, or else the state of a checkpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainlab.reports.reading.timeline import lines_of, whole

_NAME = re.compile(r"(\d{8,})-step-(\d+)")


def epochs_of_metrics(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What `metrics.jsonl` says: the epochs, in the form of a timeline's, and the test metrics."""
    epochs: dict[int, dict[str, Any]] = {}
    test: dict[str, Any] = {}
    for record in lines_of(path):
        logs = {name: value for name, value in record.items() if name not in ("epoch", "step")}
        tested = {name.removeprefix("test_"): value for name, value in logs.items() if name.startswith("test_")}
        if tested and len(tested) == len(logs):
            test = tested
        elif "epoch" in record:
            number = max(whole(record["epoch"]) - 1, 0)
            epochs.pop(number, None)
            epochs[number] = {"fit": 0, "epoch": number, "update": whole(record.get("step")), "logs": logs}
    return list(epochs.values()), test


def epochs_of_state(state: dict[str, Any]) -> list[dict[str, Any]]:
    """The epochs that a checkpoint's history has, in the same form; how many updates each had is not said, and taken as equal."""
    fits = [record for record in _list(_decoded(state.get("histories"))) if isinstance(record, dict)]
    callbacks = _decoded(state.get("callbacks"))
    under_way = (
        next((s for name, s in callbacks.items() if "History" in str(name)), None) if isinstance(callbacks, dict) else None
    )
    if not state.get("finished") and isinstance(under_way, dict):
        fits.append(under_way)
    lengths = [len(_list(record.get("epoch"))) for record in fits]
    progress = state.get("progress")
    updates = whole(progress.get("updates")) if isinstance(progress, dict) else 0
    each = updates / lengths[-1] if lengths and lengths[-1] else 1
    epochs = []
    for number, record in enumerate(fits):
        history = record.get("history")
        num = lengths[number]
        columns = {str(k): aligned(_list(v), num) for k, v in history.items()} if isinstance(history, dict) else {}
        for i, epoch in enumerate(_list(record.get("epoch"))):
            logs = {name: values[i] for name, values in columns.items() if values[i] is not ...}
            epochs.append({"fit": number, "epoch": whole(epoch), "update": round(each * (i + 1)), "logs": logs})
    return epochs


def aligned(values: Sequence[Any], num: int, places: Sequence[int] = ()) -> list[Any]:
    """Of a column that is shorter than there are epochs: its values where they were measured, elsewhere `...`.

    Args:
        values: of the column.
        num: epochs.
        places: at which there was a validation, if that is known; otherwise it is taken as every so many epochs.

    Example:
        >>> aligned([0.5, 0.25], num=5)
        [Ellipsis, 0.5, Ellipsis, 0.25, Ellipsis]
        >>> aligned([0.5, 0.25], num=4, places=[0, 3])
        [0.5, Ellipsis, Ellipsis, 0.25]
    """
    if len(values) >= num:
        return list(values[:num])
    if len(places) != len(values):
        every = num // max(len(values), 1)
        places = range(every - 1, num, every)
    found = dict(zip(places, values, strict=False))
    return [found.get(i, ...) for i in range(num)]


def newest_state(directory: Path) -> dict[str, Any]:
    """What the newest checkpoint says of itself, of those that can be read; nothing if there is none."""
    try:
        names = [(int(match[1]), path) for path in directory.iterdir() if (match := _NAME.fullmatch(path.name))]
    except OSError:
        return {}
    for _, path in sorted(names, reverse=True):
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(state, dict):
            return state
    return {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _decoded(value: Any) -> Any:
    """The plain values among what a checkpoint keeps; None in place of arrays, which are in other files."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind, items = value.get("kind"), value.get("items")
    if kind == "dict":
        pairs = [pair for pair in _list(items) if isinstance(pair, list) and len(pair) == 2]
        return {name if isinstance(name := _decoded(key), str) else str(name): _decoded(item) for key, item in pairs}
    if kind == "tuple":
        return [_decoded(item) for item in _list(items)]
    return value.get("value") if kind == "number" else None
