"""A power cut at any moment: whatever of the unsynced writes is lost, a committed state is restored.

What the writer of checkpoints does to the disk is recorded: every file written, brought to the disk (fsync), renamed, removed.
The disks that a cut may leave are made from that: every prefix of the record; in each, a file that was not brought to the disk
may be empty, cut short or whole, and a rename that was not may have happened or not.
"""

import itertools
import os
import shutil
import sys

import numpy as np
import pytest

from trainlab.runs.disk import checkpoint
from trainlab.runs.disk.checkpoint import Checkpoints


class Record:
    """Everything done below a directory, in order: `(what, path, contents of files)`."""

    def __init__(self, root, monkeypatch):
        self.root, self.events = root, []
        self._patch(monkeypatch, checkpoint, "sync", "sync")
        self._patch(monkeypatch, checkpoint.os, "rename", "rename")
        self._patch(monkeypatch, checkpoint.os, "replace", "rename")

    def _patch(self, monkeypatch, owner, name, what):
        real = getattr(owner, name)

        def recorded(*paths):
            self.note()  # what was written until now
            result = real(*paths)
            self.events.append((what, tuple(os.path.relpath(path, self.root) for path in paths), {}))
            self.note()
            return result

        monkeypatch.setattr(owner, name, recorded)

    def note(self):
        """Files whose content is new or other, and those that are gone, since the last time."""
        now = {
            os.path.relpath(os.path.join(folder, name), self.root): open(os.path.join(folder, name), "rb").read()
            for folder, _, names in os.walk(self.root)
            for name in names
        }
        if self.events and self.events[-1][0] == "files" and self.events[-1][2] == now:
            return
        self.events.append(("files", (), now))


def disks(events, rng, limit):
    """Disks that a cut after any of the events may leave: the worst ones, and `limit` drawn ones for each."""
    for end in range(1, len(events) + 1):
        synced, renames, files = set(), [], {}
        for what, paths, now in events[:end]:
            if what == "files":
                synced = {name for name in synced if files.get(name) == now.get(name)}
                files = now
            elif what == "sync":
                synced.add(paths[0])
                renames = [pair for pair in renames if os.path.dirname(pair[1]) != paths[0]]
            else:
                synced = {_moved(name, *paths) for name in synced}
                files = {_moved(name, *paths): content for name, content in files.items()}
                renames.append(paths)
        loose = sorted(set(files) - synced)
        choices = [dict.fromkeys(loose, fate) for fate in ("empty", "half", "whole", "gone")]
        choices += [{name: rng.choice(["empty", "half", "whole", "gone"]) for name in loose} for _ in range(limit)]
        for fates, undone in itertools.product(choices, [[], renames]):
            disk = {name: _after(content, fates.get(name, "whole")) for name, content in files.items()}
            disk = {name: content for name, content in disk.items() if content is not None}
            for old, new in reversed(undone):
                disk = {_moved(name, new, old): content for name, content in disk.items()}
            yield end, disk


def _moved(name, old, new):
    """A path after `old` was renamed `new`."""
    return new + name[len(old) :] if name == old or name.startswith(f"{old}/") else name


def _after(content, fate):
    return {"empty": b"", "half": content[: len(content) // 2], "whole": content, "gone": None}[fate]


def lay_out(disk, root):
    shutil.rmtree(root, ignore_errors=True)
    for name, content in disk.items():
        os.makedirs(os.path.dirname(root / name), exist_ok=True)
        (root / name).write_bytes(content)
    os.makedirs(root, exist_ok=True)


def values(step):
    return {"variables/model.0": np.full([20], step, "float32"), "variables/model.1": np.arange(step, step + 3)}


def recorded(tmp_path, monkeypatch, num, keep=2):
    root = tmp_path / "disk"
    store = Checkpoints(root / "checkpoints", keep)
    record = Record(root, monkeypatch)
    published = []  # how far the record was when each one was there for good
    for step in range(1, num + 1):
        store.save(step, values(step), {"step": step})
        store.wait()
        record.note()
        published.append(len(record.events))
    monkeypatch.undo()
    return record.events, published


@pytest.mark.skipif(sys.platform == "win32", reason="paths")
def test_a_committed_state_is_restored(tmp_path, monkeypatch):
    events, published = recorded(tmp_path, monkeypatch, 4)
    rng, count, restored = np.random.default_rng(0), 0, set()
    for end, disk in disks(events, rng, 3):
        lay_out(disk, tmp_path / "left")
        store = Checkpoints(tmp_path / "left" / "checkpoints")
        store.tidy()
        loaded = next(store.readable(), None)
        safe = sum(place <= end for place in published)  # the last that was there for good
        step = loaded.state["step"] if loaded else 0
        assert step >= safe, (end, sorted(disk))
        if loaded:
            for name, value in values(step).items():
                np.testing.assert_array_equal(loaded.arrays[name], value)
        restored.add(step)
        count += 1
    assert restored == {0, 1, 2, 3, 4} and count > 300


@pytest.mark.skipif(sys.platform == "win32", reason="paths")
def test_a_writer_that_does_not_sync_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "fsync", lambda descriptor: None)
    events, published = recorded(tmp_path, monkeypatch, 3)
    events = [event for event in events if event[0] != "sync"]
    lost = 0
    for _, disk in disks(events, np.random.default_rng(0), 1):
        lay_out(disk, tmp_path / "left")
        store = Checkpoints(tmp_path / "left" / "checkpoints")
        lost += next(store.readable(), None) is None
    assert lost > 10 and published
