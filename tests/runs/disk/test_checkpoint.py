import errno
import os
import random
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from damaging import damage

from trainlab.runs.disk import checkpoint
from trainlab.runs.disk.checkpoint import Checkpoints, Damaged, read, write_atomically


def tensors(step):
    rng = np.random.default_rng(step)
    return {
        "variables/model.0": rng.normal(size=(30, 40)).astype("float32"),
        "b.c/d": rng.integers(9, size=5),
        "half": tf.cast(rng.normal(size=7), tf.bfloat16).numpy(),
        "scalar": np.float64(step),
        "flags": np.array([True, False]),
    }


def saved(directory, *steps, keep=3, **state):
    checkpoints = Checkpoints(Path(directory), keep)
    for step in steps:
        checkpoints.save(step, tensors(step), {"step": step, **state})
    checkpoints.wait()
    return checkpoints


def names(checkpoints):
    return [path.name for path in checkpoints.paths()]


def assert_is(loaded, step):
    assert loaded.state["step"] == step
    want = tensors(step)
    assert loaded.arrays.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(loaded.arrays[name], value)
        assert loaded.arrays[name].dtype == np.asarray(value).dtype


def test_what_was_saved_comes_back(tmp_path):
    checkpoints = saved(tmp_path / "c", 3, 7)
    assert names(checkpoints) == ["00000002-step-7", "00000001-step-3"]
    for loaded, step in zip(checkpoints.readable(), (7, 3), strict=True):
        assert_is(loaded, step)
    assert sorted(p.name for p in checkpoints.last.iterdir()) == [
        "SHA256SUMS",
        "state.json",
        "tensors.data-00000-of-00001",
        "tensors.index",
    ]


def test_others_can_verify_it(tmp_path):
    path = saved(tmp_path, 1).last
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=path, check=False, capture_output=True).returncode == 0


def test_the_last_the_best_and_the_finished_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, (metric, finished) in enumerate(
        [(3.0, False), (1.0, False), (2.0, False), (None, True), (4.0, False), (5.0, False)]
    ):
        checkpoints.save(step, tensors(step), {"metric": metric, "finished": finished})
    checkpoints.wait()
    assert [name.partition("-")[2] for name in names(checkpoints)] == ["step-5", "step-4", "step-3", "step-1"]


def test_a_new_process_counts_on(tmp_path):
    saved(tmp_path, 5)
    assert names(saved(tmp_path, 5)) == ["00000002-step-5", "00000001-step-5"]


def test_a_snapshot_is_not_what_the_variable_becomes(tmp_path):
    variable = tf.Variable(tf.zeros([100]))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"v": variable.read_value()}, {})
    variable.assign_add(tf.ones([100]))
    checkpoints.wait()
    assert not next(checkpoints.readable()).arrays["v"].any()


def test_an_iterator_is_part_of_it(tmp_path):
    iterator = iter(tf.data.Dataset.range(20).shuffle(8, seed=3).batch(2))
    next(iterator)
    serialized = tf.raw_ops.SerializeIterator(resource_handle=iterator._iterator_resource)
    rest = [e.numpy().tolist() for e in iterator]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {}, {}, {"now": serialized})
    checkpoints.wait()
    fresh = iter(tf.data.Dataset.range(20).shuffle(8, seed=3).batch(2))
    back = next(checkpoints.readable()).iterators()
    tf.raw_ops.DeserializeIterator(resource_handle=fresh._iterator_resource, serialized=back["now"])
    assert [e.numpy().tolist() for e in fresh] == rest


def test_every_byte_of_the_sums_counts(tmp_path):
    [path] = saved(tmp_path, 1).paths()
    sums = path / "SHA256SUMS"
    content = sums.read_bytes()
    for changed in (content[:-1], content.replace(b"\n", b"\x0b"), content.replace(b"\n", b"\r\n"), content + b"\n"):
        sums.write_bytes(changed)
        with pytest.raises(Damaged):
            read(path)
    sums.write_bytes(content)
    read(path)


@pytest.mark.slow
def test_damage_is_found_wherever_it_is(tmp_path):
    good = saved(tmp_path / "good", 1, 2, 3).directory
    files = sorted(p.relative_to(good) for p in good.rglob("*") if p.is_file())
    rng = random.Random(0)
    restored = {3: 0, 2: 0, 1: 0, None: 0}
    for i in range(200):
        copy = tmp_path / "copy"
        shutil.copytree(good, copy)
        # One file, or several; every file in its turn.
        hit = {files[i % len(files)], *rng.sample(files, rng.choice([0, 0, 1, 5]))}
        what = {str(name): damage(rng, copy / name) for name in sorted(hit)}
        told = []
        loaded = next(Checkpoints(copy).readable(lambda path, reason, told=told: told.append((path.name, reason))), None)
        whole = [step for step in (3, 2, 1) if not any(name.parts[0].endswith(f"-{step}") for name in hit)]
        step = loaded.state["step"] if loaded else None
        assert step == (whole[0] if whole else None), what
        if loaded:
            assert_is(loaded, step)
        assert len(told) == sum(step is None or s > step for s in (3, 2, 1))  # each that was passed over is told of
        restored[step] += 1
        shutil.rmtree(copy)
    assert restored[3] > 50 and restored[2] > 20 and restored[1] > 0


def test_a_file_that_does_not_belong_there_is_damage(tmp_path):
    path = saved(tmp_path, 1).last
    (path / "extra").write_text("")
    with pytest.raises(Damaged, match="do not belong there"):
        read(path)


def test_what_a_killed_run_left_is_tidied_away(tmp_path):
    checkpoints = saved(tmp_path, 1)
    for name in (".writing-00000002-step-9", ".removing-00000000-step-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{")
    (tmp_path / "notes.txt").write_text("mine")
    assert names(checkpoints) == ["00000001-step-1"]
    checkpoints.tidy()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000001-step-1", "notes.txt"]


def test_files_of_others_in_a_checkpoint_stay_however_often_it_goes(tmp_path):
    def contents():
        return {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}

    for number, name in enumerate(["note", "note", "tensors.x/note"]):
        checkpoints = saved(tmp_path, 1, keep=1)
        (mine := checkpoints.last / name).parent.mkdir(exist_ok=True)
        mine.write_text(str(number))
        checkpoints.clear()  # a removal in the middle of which nobody is killed
    kept = "00000001-step-1.kept"
    expected = {f"{kept}/note": "0", f"{kept}.2/note": "1", f"{kept}.3/tensors.x/note": "2"}
    assert contents() == expected
    for kind in ("removing", "writing"):  # what a kill leaves: a half of it is gone, and it has another name
        checkpoints = saved(tmp_path, 1)
        (checkpoints.last / "note").write_text(kind)
        checkpoints.last.rename(tmp_path / f".{kind}-00000001-step-1")
        checkpoints.tidy()
    expected |= {f"{kept}.4/note": "removing", f"{kept}.5/note": "writing"}
    assert contents() == expected
    assert saved(tmp_path, 1).paths() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("where", ["sync", "_write"])
def test_a_full_disk_is_one_line_and_costs_nothing_before_it(tmp_path, monkeypatch, where):
    checkpoints = saved(tmp_path / "c", 1)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, where, full)
    checkpoints.save(2, tensors(2), {"step": 2})
    with pytest.raises(
        OSError, match=r"c: a checkpoint could not be written \(the disk is full.*the last good one is .*0001-step-1"
    ):
        checkpoints.wait()
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["00000001-step-1"]
    assert_is(next(checkpoints.readable()), 1)
    checkpoints.save(3, tensors(3), {"step": 3})  # there is room again
    checkpoints.wait()
    assert_is(next(checkpoints.readable()), 3)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs a file system of its own")
def test_a_disk_that_really_is_full(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        checkpoints = saved(tmp_path / "c", 1)
        large = {"large": np.random.default_rng(0).normal(size=20_000)}
        checkpoints.save(2, large, {"step": 2})
        with pytest.raises(OSError, match="could not be written"):
            checkpoints.wait()
        assert [p.name for p in (tmp_path / "c").iterdir()] == ["00000001-step-1"]
        assert_is(next(checkpoints.readable()), 1)
        checkpoints.save(3, tensors(3), {"step": 3})
        checkpoints.wait()
        assert_is(next(checkpoints.readable()), 3)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_it_is_written_off_the_training_path(tmp_path, monkeypatch):
    gate = threading.Event()
    real = checkpoint._write

    def slow(*args):
        gate.wait(10)
        real(*args)

    monkeypatch.setattr(checkpoint, "_write", slow)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tensors(1), {"step": 1})
    assert checkpoints.is_busy and names(checkpoints) == []
    gate.set()
    checkpoints.wait()
    assert not checkpoints.is_busy and names(checkpoints) == ["00000001-step-1"]


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "model.keras"
    write_atomically(path, lambda p: p.write_text("one"))

    def fails(p):
        p.write_text("tw")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(path, fails)
    assert path.read_text() == "one" and [p.name for p in tmp_path.iterdir()] == ["model.keras"]
