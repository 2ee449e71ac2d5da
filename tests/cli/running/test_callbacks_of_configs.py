"""Callbacks of a config: who is told what the run is judged by; and a run of them that is killed ends as one that is not."""

import shutil
import time

import keras
import pytest
from boards import events
from commands import HEUN, everything_in, ours, records

from trainlab import Trainer
from trainlab.runs.disk import boards

OWN = """
import csv, keras

class Rows(keras.callbacks.Callback):
    "A CSV of one's own, which goes on after a resume."
    def __init__(self, path="rows.csv"):
        super().__init__()
        self.path, self.rows = path, []
    def on_epoch_end(self, epoch, logs=None):
        self.rows.append([epoch, float(logs["loss"]), float(logs["val_loss"])])
        with open(self.path, "w", newline="") as file:
            csv.writer(file).writerows(self.rows)
    def get_state(self):
        return {"rows": self.rows}
    def set_state(self, state):
        self.rows = state["rows"]

class Mine(keras.callbacks.EarlyStopping):
    def __init__(self, monitor="loss", patience=1):
        super().__init__(monitor=monitor, patience=patience)

class Forgets(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []
    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)
"""


@pytest.fixture
def callbacks(command, tmp_path, monkeypatch):
    """The callbacks that `fit` was given by a run with these bindings, which trains nothing."""
    (tmp_path / "own_callbacks.py").write_text(OWN)
    seen = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, callbacks, **kwargs: seen.append((self, callbacks)) or Stopped.stop())

    class Stopped:
        @staticmethod
        def stop():
            raise KeyboardInterrupt

    def made(*bindings):
        given = [part for binding in ("import own_callbacks as own", *bindings) for part in ("--set", binding)]
        status, _, err = command(*HEUN, *given)
        assert status == 130, err
        return seen[-1][1], seen[-1][0]

    return made


EARLY, PLATEAU = "run.callbacks = [@EarlyStopping()]", "run.callbacks = [@ReduceLROnPlateau(), @ModelCheckpoint()]"


@pytest.mark.parametrize(
    ("bindings", "watched"),
    [
        ([EARLY], [("EarlyStopping", "val_loss")]),
        ([EARLY, "run.monitor = 'val_accuracy'"], [("EarlyStopping", "val_accuracy")]),
        ([EARLY, "run.monitor = 'val_accuracy'", "EarlyStopping.monitor = 'loss'"], [("EarlyStopping", "loss")]),
        ([EARLY, "run.monitor = %m", "m = 'accuracy'"], [("EarlyStopping", "accuracy")]),
        (
            [PLATEAU, "run.monitor = 'val_accuracy'", "ModelCheckpoint.filepath = 'a.keras'"],
            [("ReduceLROnPlateau", "val_accuracy"), ("ModelCheckpoint", "val_accuracy")],
        ),
        (["run.callbacks = [@own.Mine(), @own.Rows()]", "run.monitor = 'val_loss'"], [("Mine", "val_loss"), ("Rows", None)]),
        (
            ["run.callbacks = [@a/EarlyStopping(), @b/EarlyStopping()]", "run.monitor = 'loss'", "b/EarlyStopping.monitor = 'x'"],
            [("EarlyStopping", "loss"), ("EarlyStopping", "x")],
        ),
        (["run.callbacks = %list", "list = [@EarlyStopping()]", "run.monitor = 'loss'"], [("EarlyStopping", "loss")]),
    ],
)
def test_what_the_run_is_judged_by_is_what_its_callbacks_watch(callbacks, bindings, watched):
    made, _ = callbacks(*bindings)
    own = [callback for callback in made if type(callback).__name__ not in ("_Begin", "JsonLines")]
    assert [(type(callback).__name__, getattr(callback, "monitor", None)) for callback in own] == watched


def test_a_direction_goes_along(callbacks):
    made, trainer = callbacks(EARLY, "run.monitor = ('max', 'val_mine')", "run.keep_best = True")
    [stopping] = [callback for callback in made if isinstance(callback, keras.callbacks.EarlyStopping)]
    assert (stopping.monitor, stopping.mode) == ("val_mine", "max")
    assert trainer._keeper.run.keep_best == ("max", "val_mine")
    made, trainer = callbacks(EARLY, "run.monitor = ('max', 'val_mine')", "EarlyStopping.monitor = 'loss'")
    [stopping] = [callback for callback in made if isinstance(callback, keras.callbacks.EarlyStopping)]
    assert (stopping.monitor, stopping.mode) == ("loss", "auto")  # the direction is that of another name
    assert trainer._keeper.run.keep_best is None
    _, trainer = callbacks("run.keep_best = True")
    assert trainer._keeper.run.keep_best == "val_loss"


@pytest.mark.parametrize(("given", "kind"), [(20, int), ("'epoch'", str), ("'batch'", str)])
def test_a_word_or_a_number(callbacks, given, kind):
    made, _ = callbacks("run.callbacks = [@TensorBoard()]", f"TensorBoard.update_freq = {given}")
    [board] = [callback for callback in made if isinstance(callback, keras.callbacks.TensorBoard)]
    assert isinstance(board.update_freq, (kind, int))


def test_the_runs_own_board_and_records_stand_round_those_of_the_config(callbacks):
    made, _ = callbacks("run.tensorboard = True", EARLY)
    names = [type(callback).__name__ for callback in made]
    assert names == ["_Begin", "TensorBoard", "EarlyStopping", "JsonLines"] and made[1].log_dir == "runs/heun/tensorboard"


@pytest.mark.slow
def test_who_forgets_is_warned_of_as_in_python(command, tmp_path):
    (tmp_path / "own_callbacks.py").write_text(OWN)
    more = ["--set", "import own_callbacks as own", "--set", "run.callbacks = [@own.Forgets()]", "--set", "run.steps = 2"]
    status, _, err = command(*HEUN, *more)
    [line] = ours(err)
    assert status == 0 and line.startswith("trainlab: warning: Forgets: not in checkpoints, and so as new after a resume")


class Killed(keras.callbacks.Callback):
    """Copies what a kill at this instant would leave, and lets the run go on."""

    def __init__(self, directory, at):
        super().__init__()
        self.directory, self.at = directory, at

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.at:
            deadline = time.monotonic() + 60
            while not list(self.directory.glob("run/checkpoints/0*-step-84")) and time.monotonic() < deadline:
                time.sleep(0.01)  # it is written beside the training
            shutil.copytree(self.directory, self.directory.with_name("killed"), ignore=shutil.ignore_patterns(".*"))

    def get_state(self):
        return None

    def set_state(self, state):
        pass


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_is_not(command, tmp_path, monkeypatch):
    """With EarlyStopping, the run's TensorBoard and a CSV of one's own; stopped by EarlyStopping, after the kill."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    (whole / "own_callbacks.py").write_text(OWN)
    bindings = ["import own_callbacks as own", "run.callbacks = [@EarlyStopping(), @own.Rows()]", "run.tensorboard = True"]
    bindings += ["EarlyStopping.patience = 1", "EarlyStopping.min_delta = 0.02", "run.monitor = 'val_loss'"]
    bindings += ["run.save_steps = 42", "run.save_seconds = None", "run.epochs = 60", "run.deterministic = False"]
    given = [*HEUN, "--run_dir", "run", *(part for binding in bindings for part in ("--set", binding))]
    fit = Trainer.fit
    kill = Killed(whole, at=4)

    def killing(self, *args, callbacks, **kwargs):
        return fit(self, *args, callbacks=[*callbacks[:-1], kill, callbacks[-1]], **kwargs)

    monkeypatch.setattr(Trainer, "fit", killing)
    monkeypatch.chdir(whole)
    status, out, err = command(*given)
    assert (status, ours(err)) == (0, []), err
    number = len(records(whole / "run")) - 1
    assert 6 < number < 60  # EarlyStopping ended it, after the kill
    kill.at = None
    monkeypatch.chdir(killed)
    old = {path.name for path in killed.rglob("*tfevents*")}
    monkeypatch.setattr(boards, "_is_mine", lambda path: path.name not in old)  # of another process
    before = events(killed / "run" / "tensorboard")
    assert [step for tag, step, _ in before["train"] if tag == "epoch_loss"][-1] >= 4  # the control: past the checkpoint
    status, out, err = command(*given)
    assert status == 0 and "resumed at update 84, epoch 4" in out, err
    assert records(killed / "run") == records(whole / "run")
    assert (killed / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()
    ours_, theirs = (events(folder / "run" / "tensorboard") for folder in (killed, whole))
    assert set(ours_) == set(theirs) == {"train", "validation"}
    for name in theirs:
        assert [event for event in ours_[name] if event[0] != "keras"] == [event for event in theirs[name] if event[0] != "keras"]
        steps = [step for tag, step, _ in ours_[name] if tag == "epoch_loss"]
        assert steps == list(range(number))


@pytest.mark.slow
def test_a_run_that_begins_anew_has_a_board_of_its_own(command, tmp_path):
    more = [*HEUN, "--set", "run.tensorboard = True", "--set", "run.epochs = 2", "--run_dir", "a"]
    assert command(*more)[0] == 0
    first = events(tmp_path / "a" / "tensorboard")
    assert command(*more, "--resume=never", "--overwrite", "--set", "run.seed = 1")[0] == 0
    again = events(tmp_path / "a" / "tensorboard")
    assert [step for tag, step, _ in again["train"] if tag == "epoch_loss"] == [0, 1] and again != first


@pytest.mark.slow
def test_what_is_no_event_file_in_a_board_is_somebodys(command, tmp_path):
    more = [*HEUN, "--set", "run.tensorboard = True", "--set", "run.epochs = 1", "--run_dir", "a"]
    assert command(*more)[0] == 0
    folder = tmp_path / "a" / "tensorboard"
    first = {path.name for path in folder.rglob("events.*")}
    kept = [folder / "notes.txt", folder / "mine" / "picture.png"]
    kept[1].parent.mkdir()
    for path in kept:
        path.write_text("mine")
    assert command(*more, "--resume=never", "--overwrite")[0] == 0
    assert all(path.read_text() == "mine" for path in kept)
    assert first and not first & {path.name for path in folder.rglob("events.*")}  # the control: those are dropped


@pytest.mark.slow
def test_a_finished_run_is_shown_and_its_board_left_alone(command, tmp_path):
    more = [*HEUN, "--set", "run.tensorboard = True", "--set", "run.epochs = 1", "--run_dir", "a"]
    assert command(*more)[0] == 0
    before = everything_in(tmp_path)
    assert command(*more)[0] == 0 and everything_in(tmp_path) == before and len(events(tmp_path / "a" / "tensorboard")) == 2


def test_a_board_of_somebody_else_is_left_alone(command, tmp_path):
    (tmp_path / "a" / "tensorboard").mkdir(parents=True)
    (tmp_path / "a" / "tensorboard" / "mine").write_text("mine")
    status, _, err = command(*HEUN, "--set", "run.tensorboard = True", "--run_dir", "a")
    assert status == 1 and "a/tensorboard: was not written by a run" in ours(err)[0]
    assert (tmp_path / "a" / "tensorboard" / "mine").read_text() == "mine"


def test_what_fails_at_the_start_leaves_no_board(command, tmp_path):
    more = ["--set", "run.tensorboard = True", "--set", "run.loss = 'categorical_crossentropy'"]
    assert command(*HEUN, *more)[0] == 1 and list(tmp_path.iterdir()) == []
