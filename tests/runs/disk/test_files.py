"""Files on file systems that are not like others, and directories whose names TensorFlow does not take as they are."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from trainlab.runs.disk import files
from trainlab.runs.disk.checkpoint import Checkpoints, read


def checkpoint(directory):
    checkpoints = Checkpoints(directory)
    checkpoints.save(3, {"w": np.arange(3)}, {"step": 3})
    checkpoints.wait()
    return checkpoints.last


@pytest.mark.parametrize("has_proc", [True, False])
@pytest.mark.parametrize("place", ["t[1]", "missing"])
def test_a_pattern_in_the_name_of_both_the_run_and_the_temporary_directory(tmp_path, monkeypatch, place, has_proc):
    (tmp_path / "t[1]").mkdir()
    path = checkpoint(tmp_path / "lr[0.1]")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / place))
    if not has_proc:
        monkeypatch.setattr(files, "_DESCRIPTORS", tmp_path / "proc")
    np.testing.assert_array_equal(read(path).arrays["w"], [0, 1, 2])
    assert not list((tmp_path / "t[1]").iterdir())


def test_no_way_to_a_checkpoint_is_no_damage(tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "lr[0.1]")
    monkeypatch.setattr(files, "_DESCRIPTORS", tmp_path / "proc")

    def refused(dir):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refused)
    with pytest.raises(files.NoWay, match=r"lr\[0.1\].*: set TMPDIR to one that can be written"):
        read(path)
    assert list(Checkpoints(tmp_path / "none").readable()) == []


def test_directories_that_cannot_be_synced(tmp_path, monkeypatch):
    """Some network file systems say EINVAL for a directory; the first checkpoint ended the run by that."""
    fsync, number = os.fsync, [errno.EINVAL]

    def refusing(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").is_dir() or number[0] == errno.EIO:
            raise OSError(number[0], "refused")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    np.testing.assert_array_equal(read(checkpoint(tmp_path)).arrays["w"], [0, 1, 2])
    number[0] = errno.EIO  # the control: a disk that fails is told
    with pytest.raises(OSError, match="refused"):
        files.sync(tmp_path)


def test_what_was_being_written_aside_when_it_was_killed_is_tidied_up(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoint(folder)
    litter = [tmp_path / ".writing-0123456789abcdef-best.json", folder / ".writing-0123456789abcdef-.overwritten"]
    mine = [tmp_path / ".writing-mine-best.json", folder / ".writing-0123456789abcdef-thesis.tex"]
    for file in (*litter, *mine):
        file.write_text("{")
    Checkpoints(folder).tidy()
    assert [file.exists() for file in (*litter, *mine)] == [False, False, True, True]


def test_a_file_is_moved_to_another_file_system(tmp_path, monkeypatch):
    def refused(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    (tmp_path / "a").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        files.move(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"] and (tmp_path / "b").read_text() == "mine"
