"""The event files of a TensorBoard hold every step once, wherever a run was killed."""

import functools
import shutil
import time

import keras
import pytest
import tensorflow as tf
from boards import assert_alike, events
from resuming import small
from small import regression

from trainlab.loop.programs import pace
from trainlab.runs.disk import boards

FIT = {"batch_size": 4, "verbose": 0, "validation_data": regression(8, seed=2)}
UPDATES = 10  # of an epoch


class Killed(keras.callbacks.Callback):
    """Copies all that is on the disk at an instant, as a kill would leave it, and lets the run go on."""

    def __init__(self, directory, at, board):
        super().__init__()
        self.directory, self.at, self.board = directory, at, board

    def _copy(self):
        for writer in self.board._writers.values():
            writer.flush()
        due, deadline = int(self.model.optimizer.iterations.numpy()) // 7 * 7, time.monotonic() + 30
        while not list(self.directory.glob(f"run/checkpoints/0*-step-{due}")) and time.monotonic() < deadline:
            time.sleep(0.01)  # it is written beside the training
        shutil.copytree(self.directory, self.directory.with_name("killed"), ignore=shutil.ignore_patterns(".*"))

    def on_train_batch_end(self, batch, logs=None):
        if self.at == ("batch", int(self.model.optimizer.iterations.numpy())):
            self._copy()

    def on_epoch_end(self, epoch, logs=None):
        if self.at == ("epoch", epoch):
            self._copy()

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def fit(directory, logs, *more, epochs=4, update_freq=1):
    board = keras.callbacks.TensorBoard(str(logs), write_graph=False, update_freq=update_freq)
    trainer = small(directory / "run", save_seconds=None, save_steps=7)
    trainer.fit(*regression(4 * UPDATES), epochs=epochs, callbacks=[board, *(make(board) for make in more)], **FIT)
    return trainer


@pytest.fixture
def another_process(monkeypatch):
    """Has the files that are there by now be those of another process, which had the same number: a container began anew."""

    def begin(directory):
        old = {path.name for path in directory.rglob("*tfevents*")}
        monkeypatch.setattr(boards, "_is_mine", lambda path: path.name not in old)

    return begin


@pytest.mark.parametrize(
    "at",
    [
        ("batch", 9),
        pytest.param(("epoch", 0), marks=pytest.mark.slow),
        ("batch", 16),
        pytest.param(("epoch", 2), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("is_inside", [True, False])
def test_every_step_is_in_them_once(at, is_inside, tmp_path, monkeypatch, another_process):
    monkeypatch.setattr(pace, "MAX_STEPS_PER_CALL", 4)
    folder = "run/tensorboard" if is_inside else "logs"
    whole = tmp_path / "whole"
    fit(whole, whole / folder, lambda board: Killed(whole, at, board))
    killed = tmp_path / "killed"
    before = events(killed / folder)["train"]
    another_process(killed)
    trainer = fit(killed, killed / folder)
    assert trainer.resumed_at is not None and trainer.resumed_at % 7 == 0
    steps = [step for tag, step, _ in before if tag == "batch_loss"]
    assert max(steps) > trainer.resumed_at  # the control: some were written that are written again
    assert_alike(events(killed / folder), events(whole / folder))


@pytest.mark.slow
def test_without_the_files_steps_would_be_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(boards, "go_back", lambda *given: None)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fit(whole, whole / "run/tensorboard", lambda board: Killed(whole, ("batch", 16), board))
    fit(killed, killed / "run/tensorboard")
    steps = [step for tag, step, _ in events(killed / "run/tensorboard")["train"] if tag == "batch_loss"]
    assert sorted(steps) != list(range(1, 4 * UPDATES + 1)) and set(steps) == set(range(1, 4 * UPDATES + 1))


@pytest.mark.slow
def test_files_of_others_in_a_shared_directory_stay(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fit(whole, whole / "logs", lambda board: Killed(whole, ("batch", 16), board))
    other = killed / "logs" / "train" / "events.out.tfevents.1.host.7.0.v2"
    other.write_bytes(b"others")
    fit(killed, killed / "logs")
    assert other.read_bytes() == b"others"


@pytest.mark.slow
def test_to_show_a_finished_run_touches_nothing(tmp_path, another_process):
    """Two runs of one script write into one directory, and somebody else into a folder of the run's board."""
    (mine := tmp_path / "a inside" / "run" / "tensorboard" / "eval" / "events.out.tfevents.1.host.999.0.v2").parent.mkdir(
        parents=True
    )
    mine.write_bytes(b"mine")
    for name in "ab":
        fit(tmp_path / name, tmp_path / "logs", epochs=1)
        fit(tmp_path / f"{name} inside", tmp_path / f"{name} inside/run/tensorboard", epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*tfevents*")}
    another_process(tmp_path)
    for name in "ab":
        assert fit(tmp_path / name, tmp_path / "logs", epochs=1).iterations == UPDATES
        assert fit(tmp_path / f"{name} inside", tmp_path / f"{name} inside/run/tensorboard", epochs=1).iterations == UPDATES
    after = {path: path.read_bytes() for path in tmp_path.rglob("*tfevents*")}
    assert {path: after.get(path) for path in before} == before
    assert not list(tmp_path.rglob("superseded*"))


@pytest.mark.slow
def test_a_longer_run_leaves_those_of_the_next_run_of_its_script_alone(tmp_path, another_process):
    for name in "ab":
        fit(tmp_path / name, tmp_path / "logs", epochs=1)
    (mine := tmp_path / "logs" / "train" / "events.out.tfevents.1.host.999.0.v2").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*tfevents*")}
    another_process(tmp_path)
    assert fit(tmp_path / "a", tmp_path / "logs", epochs=2).resumed_at == UPDATES
    after = {path: path.read_bytes() for path in tmp_path.rglob("*tfevents*")}
    assert {path: after.get(path) for path in before} == before and mine in before


@pytest.mark.slow
def test_a_board_knows_its_own_files(tmp_path):
    """Of two runs of one process, and not what a writer of the user's has written beside them."""
    logs = tmp_path / "logs"

    def names():
        return {str(path.relative_to(logs)) for path in logs.rglob("*tfevents*")}

    found = []
    for name in "ab":
        before = names()
        writer = tf.summary.create_file_writer(str(logs / "mine"))
        with writer.as_default():
            tf.summary.scalar("mine", 1.0, step=0)
        seen: list = []
        fit(tmp_path / name, logs, functools.partial(Sees, seen=seen), epochs=1)
        assert {len(place["sizes"]) for place in seen} == {1}
        found.append(set(seen[-1]["sizes"]))
        assert found[-1] == {name for name in names() - before if name.startswith("train")}
    assert not found[0] & found[1]


class Sees(keras.callbacks.Callback):
    """Looks where a board is, as a checkpoint would."""

    def __init__(self, board, seen):
        super().__init__()
        self.board, self.seen = board, seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(boards.places(self.board))
