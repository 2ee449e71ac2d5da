"""What belongs to somebody else stays as it is, wherever a run is told to write."""

import json
import os
import re
import shutil

import keras
import pytest
from resuming import small
from small import assert_same, compiled, everything, regression

import trainlab as tl
from trainlab.runs.disk.checkpoint import Checkpoints, write_atomically
from trainlab.runs.disk.lock import Lock

X, Y = regression()


def fit(trainer, **kwargs):
    return trainer.fit(X, Y, 8, verbose=0, **{"epochs": 2, **kwargs})


def checkpoints(directory):
    return sorted(path.name for path in (directory / "checkpoints").iterdir() if re.fullmatch(r"\d{8}-step-\d+", path.name))


@pytest.mark.parametrize("what", ["keep_best", "a state", "a hook", "a step"])
def test_a_run_is_there_until_it_is_known_that_the_one_in_its_place_can_begin(what, tmp_path):
    class Broken(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            if what == "a hook":
                raise ValueError("mine")

        def get_state(self):
            return {"state": object() if what == "a state" else 1}

        def set_state(self, state):
            pass

    class Fails(tl.SGD):
        def step(self, objective, state):
            raise ValueError("mine")

    fit(small(tmp_path, keep_best="loss"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"}
    strategy = Fails() if what == "a step" else None
    trainer = small(tmp_path, strategy, keep_best="val_los" if what == "keep_best" else None)
    with pytest.raises((ValueError, TypeError)):
        fit(trainer, resume="never", overwrite=True, callbacks=[Broken()])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"} == before
    again = small(tmp_path, keep_best="loss")
    fit(again)
    assert again.resumed_at == again.iterations > 0


@pytest.mark.slow
def test_overwriting_removes_checkpoints_and_nothing_else(tmp_path):
    fit(small(tmp_path, save_steps=1))
    folder = tmp_path / "checkpoints"
    first = folder / checkpoints(tmp_path)[0]
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden").write_text("mine")
    (folder / "plots").mkdir()
    (folder / "plots" / "a.png").write_bytes(b"mine")
    (folder / "00000099-step-7").mkdir()
    (folder / "00000099-step-7" / "thesis.tex").write_text("mine")
    (folder / ".removing-mine").mkdir()
    (first / "why.txt").write_text("mine")
    fit(small(tmp_path), resume="never", overwrite=True)
    assert {path.name for path in folder.iterdir()} == {
        "notes.txt", ".hidden", "plots", ".removing-mine", f"{first.name}.kept", *checkpoints(tmp_path)
    }  # fmt: skip
    assert (folder / f"{first.name}.kept" / "why.txt").read_text() == "mine"
    assert (folder / "00000099-step-7" / "thesis.tex").read_text() == "mine"
    assert (folder / "plots" / "a.png").read_bytes() == b"mine"
    assert len(checkpoints(tmp_path)) == 2 and "00000099-step-7" in checkpoints(tmp_path)


def test_pruning_keeps_a_file_that_somebody_put_there(tmp_path):
    trainer = small(tmp_path, save_steps=1, keep=1)

    class Writes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                trainer._keeper._checkpoints.wait()
                (tmp_path / "checkpoints" / checkpoints(tmp_path)[0] / "mine.txt").write_text("mine")
                (tmp_path / "checkpoints" / checkpoints(tmp_path)[0] / "tensors.npz").write_text("mine")

        get_state, set_state = (lambda self: None), (lambda self, state: None)

    fit(trainer, callbacks=[Writes()])
    [kept] = (tmp_path / "checkpoints").glob("*.kept")
    assert sorted(path.name for path in kept.iterdir()) == ["mine.txt", "tensors.npz"]


@pytest.mark.slow
def test_checkpoints_may_be_a_link_to_a_larger_disk(tmp_path):
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / "checkpoints").symlink_to(disk)
    for resume in ({}, {"resume": "never", "overwrite": True}, {"resume": "never", "overwrite": True}):
        fit(small(run, save_steps=1), **resume)
        assert (run / "checkpoints").is_symlink() and (run / "checkpoints").resolve() == disk
        assert checkpoints(run) and all(path.is_dir() for path in disk.glob("0*"))
    again, fresh = small(run), small(None)
    fit(again)
    fit(fresh)
    assert_same(everything(again.model), everything(fresh.model))


@pytest.mark.slow
def test_a_checkpoint_may_be_a_link(tmp_path):
    fit(small(tmp_path / "run", save_steps=1, keep=2))
    name = checkpoints(tmp_path / "run")[0]
    place = tmp_path / "run" / "checkpoints" / name
    shutil.move(place, tmp_path / name)
    place.symlink_to(tmp_path / name)
    fit(small(tmp_path / "run", save_steps=1, keep=1), epochs=4)
    assert not os.path.lexists(place) and (tmp_path / name / "state.json").exists()


@pytest.mark.parametrize("kind", ["dangling link", "file"])
def test_where_no_checkpoint_can_be_written_nothing_is_trained(kind, tmp_path):
    if kind == "file":
        (tmp_path / "checkpoints").write_text("mine")
    else:
        (tmp_path / "checkpoints").symlink_to(tmp_path / "nowhere")
    trainer = small(tmp_path)
    with pytest.raises(NotADirectoryError, match="and checkpoints go there: move it away"):
        fit(trainer)
    assert trainer.iterations == 0 and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "text", "json"])
def test_a_lock_that_no_run_made_is_refused_and_left_alone(kind, tmp_path):
    precious = tmp_path / "precious.txt"
    run, lock = tmp_path / "run", tmp_path / "run" / "lock"
    run.mkdir()
    if kind == "link":
        precious.write_text("mine")
        lock.symlink_to(precious)
    elif kind == "dangling link":
        lock.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        lock.mkdir()
    else:
        lock.write_text({"text": "a lock of mine\n", "json": '{"pid": 3, "mine": true}\n'}[kind])
    before = lock.read_text() if lock.is_file() else None
    with pytest.raises(FileExistsError, match="lock: was not made by a run: move it away, or give another directory"):
        fit(small(run))
    assert not (tmp_path / "nowhere").exists() and sorted(path.name for path in run.iterdir()) == ["lock"]
    assert before is None or lock.read_text() == before


def test_a_lock_of_ours_or_an_empty_one_is_taken(tmp_path):
    for text in ("", "\n", json.dumps({"host": "a", "pid": 1, "start": "then"})):
        (tmp_path / "lock").write_text(text)
        with Lock(tmp_path / "lock") as lock:
            assert lock.is_held
    assert not lock.is_held


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    import errno
    import fcntl

    for code in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):

        def no_locks(*args, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(fcntl, "flock", no_locks)
        with pytest.raises(OSError, match=r"its file system has no locks \(flock: .*\).*give a directory on another"):
            fit(small(tmp_path))


PATHS = ["lr[0.1]", "a[!b]c", "back\\slash", "star*", "what?", "new\nline", "100% {x}", "ünï cödé", "-dash", "sp ace", "~"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_a_run_may_be_in_any_directory(name, tmp_path):
    fresh = small(None)
    fit(fresh, epochs=4)
    fit(small(tmp_path / name / "deep", save_steps=1))
    trainer = small(tmp_path / name / "deep")
    fit(trainer, epochs=4)
    assert trainer.resumed_at
    assert_same(everything(trainer.model), everything(fresh.model))


@pytest.mark.parametrize("name", ["x" * 300, os.fsdecode(b"not \xff utf-8"), "nul\0"])
def test_a_path_that_cannot_work_is_refused_before_training(name, tmp_path):
    trainer = small(tmp_path / name)
    with pytest.raises((OSError, ValueError)) as error:
        fit(trainer)
    assert trainer.iterations == 0 and "\n" not in str(error.value)


def test_a_relative_directory_stays_where_it_was(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    class Wanders(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            os.chdir(elsewhere)

        get_state, set_state = (lambda self: None), (lambda self, state: None)

    trainer = small("run", save_steps=1)
    fit(trainer, callbacks=[Wanders()])
    fit(trainer, callbacks=[Wanders()])
    assert list(elsewhere.iterdir()) == [] and checkpoints(tmp_path / "run")
    assert trainer.last_checkpoint.parent == tmp_path / "run" / "checkpoints"


@pytest.mark.slow
def test_a_directory_that_is_removed_meanwhile_is_not_written_into(tmp_path):
    run = tmp_path / "run"
    second = small(run, save_seconds=None)

    class Removes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                first._keeper._checkpoints.wait()  # who removes a directory must not meet one that is being renamed
                shutil.rmtree(run)
                fit(second)  # somebody else begins there
                self.left = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

        get_state, set_state = (lambda self: None), (lambda self, state: None)

    first, removes = small(run, save_steps=1), Removes()
    with pytest.raises(OSError, match="was removed, or its lock was, while this run was writing there"):
        fit(first, callbacks=[removes])
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == removes.left


def test_nobody_can_foresee_where_a_file_is_written_aside(tmp_path):
    names = []

    def write(path):
        names.append(path.name)
        path.write_text("new")

    for _ in range(2):
        write_atomically(tmp_path / "config.gin", write)
    assert len(set(names)) == 2 and all(name.endswith("config.gin") for name in names)
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "link.gin").symlink_to(precious)
    (tmp_path / ".writing-link.gin").symlink_to(precious)
    write_atomically(tmp_path / "link.gin", write)
    assert precious.read_text() == "mine" and (tmp_path / "link.gin").read_text() == "new"
    old_umask = os.umask(0o027)
    try:
        write_atomically(tmp_path / "shared", write)
    finally:
        os.umask(old_umask)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o640


@pytest.mark.slow
def test_beginning_with_the_weights_of_a_run_leaves_its_checkpoints(tmp_path):
    fit(small(tmp_path, save_steps=1, keep=3, keep_best="loss"), epochs=4)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").glob("0*/*")}
    new = small(tmp_path, seed=5, save_steps=1, keep=1, keep_best="loss", optimizer=keras.optimizers.SGD(0.5))
    fit(new, resume="weights", epochs=6)
    assert all(path.read_bytes() == content for path, content in before.items())
    new._keeper._checkpoints.wait()
    best = new._keeper._checkpoints.best
    assert best is not None and not any(best in path.parents for path in before)
    again = small(tmp_path, seed=5, save_steps=1, keep=1, keep_best="loss", optimizer=keras.optimizers.SGD(0.5))
    fit(again, epochs=6)
    assert_same(everything(again.model), everything(new.model))


@pytest.mark.slow
def test_another_run_in_the_directory_is_never_gone_on_with_for_a_damaged_one(tmp_path):
    fit(small(tmp_path, save_steps=1))
    old = set(checkpoints(tmp_path))
    fit(small(tmp_path, save_seconds=None), resume="weights")
    for name in set(checkpoints(tmp_path)) - old:
        (tmp_path / "checkpoints" / name / "tensors.index").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(ValueError, match="no checkpoint can be read"):
        fit(small(tmp_path))


def test_overwriting_that_was_killed_is_ended_by_the_next_start(tmp_path, monkeypatch):
    fit(small(tmp_path, save_steps=1))
    store = Checkpoints(tmp_path / "checkpoints")
    assert len(store.paths()) >= 2
    monkeypatch.setattr(Checkpoints, "_remove", lambda self, path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.clear()
    monkeypatch.undo()
    assert store.paths() == []  # in one stroke, though every file is still there
    assert len(checkpoints(tmp_path)) >= 2
    store.tidy()
    assert checkpoints(tmp_path) == [] and [path.name for path in store.directory.iterdir()] == []


@pytest.mark.parametrize("how", ["gone on with", "begun anew"])
def test_a_run_that_somebody_else_has_gone_on_with_is_left_to_him(how, tmp_path):
    """A notebook stays open, and wrote what it had over the work of another process."""
    x, y = regression()

    def made():
        return tl.Trainer(compiled(), run=tl.Run(tmp_path, save_seconds=None))

    ours = made()
    ours.fit(x, y, 8, epochs=2, verbose=0)
    ours.fit(x, y, 8, epochs=1, verbose=0)  # the control: alone it goes on
    others, settings = made(), {"resume": "never", "overwrite": True} if how == "begun anew" else {}
    others.fit(x, y, 8, epochs=2, verbose=0, **settings)
    others.fit(x, y, 8, epochs=1 if how == "begun anew" else 9, verbose=0)
    if how == "begun anew":
        others.fit(x, y, 8, epochs=2, verbose=0)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(
        ValueError, match="somebody else has gone on with this run, up to .*make a new one, which goes on"
    ) as error:
        ours.fit(x, y, 8, epochs=1, verbose=0)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before
    others.fit(x, y, 8, epochs=1, verbose=0)
