"""A run that begins in the place of another: what of that one goes, and when, and how to go on if the new one is stopped."""

import os
from pathlib import Path

import pytest
from commands import HEUN, everything_in, ours, records

MINE = """
import os
import keras
import trainlab as tl

class Fails(tl.StepStrategy):
    def step(self, objective, state):
        raise ValueError("mine")

class Stops(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt

    def get_state(self):
        return None

    def set_state(self, state):
        pass

class Wanders(Stops):
    def on_epoch_begin(self, epoch, logs=None):
        os.chdir(os.environ["ELSEWHERE"])

    def on_epoch_end(self, epoch, logs=None):
        pass

def wandering():
    os.chdir(os.environ["ELSEWHERE"])
    return tl.datasets.digits()
"""
MORE = [*HEUN, "--set", "run.tensorboard = True", "--set", "run.epochs = 2", "--run_dir", "a"]
ANEW = ["--resume=never", "--overwrite"]


@pytest.fixture
def mine(tmp_path):
    """A module beside the configs."""
    (tmp_path / "mine.py").write_text(MINE)


@pytest.fixture
def finished(command, mine, tmp_path):
    """A finished run with a board; what its directory holds."""
    status, _, err = command(*MORE)
    assert status == 0, err
    return everything_in(tmp_path / "a")


@pytest.mark.slow
def test_a_step_that_fails_leaves_the_run_that_was_there(command, finished, tmp_path):
    status, _, err = command(*MORE, *ANEW, "--set", "import mine", "--set", "run.strategy = @mine.Fails()")
    assert status == 1 and "mine" in ours(err)[-1]
    left = everything_in(tmp_path / "a")
    assert {name: left[name] for name in finished} == finished
    status, out, _ = command(*MORE)
    assert status == 0 and "finished at update" in out


@pytest.mark.slow
def test_what_a_run_has_written_is_kept_where_another_begins_with_its_weights(command, finished, tmp_path):
    status, out, err = command(*MORE, "--resume=weights", "--set", "run.seed = 1")
    assert status == 0 and "earlier   a/earlier-1: " in out, err
    left = everything_in(tmp_path / "a")
    moved = {name: text for name, text in finished.items() if "checkpoints" not in name.parts and "compiled" not in name.parts}
    assert {"config.gin", "metrics.jsonl", "model.keras", "result.json"} < {name.name for name in moved} and len(moved) > 5
    assert everything_in(tmp_path / "a" / "earlier-1") == moved
    assert all(left[name] == text for name, text in finished.items() if "checkpoints" in name.parts)
    assert left.keys() >= {name for name in finished if len(name.parts) == 1} and not moved.keys() & {
        name for name in left if "tensorboard" in name.parts and "earlier-1" not in name.parts
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", [ANEW, ["--resume=weights"], []], ids=["never", "weights", "auto"])
def test_who_is_stopped_is_told_what_goes_on(command, finished, how):
    longer = ["--set", "run.epochs = 3", "--set", "import mine", "--set", "run.callbacks = [@mine.Stops()]"]
    status, _, err = command(*MORE, *how, *longer)
    without = "".join(f" {flag}" for flag in ["without", *how]) if how else ""
    assert status == 130 and ours(err)[-1].endswith(f"; the same command{without} goes on from there")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["callback", "data"])
def test_a_relative_directory_stays_where_it_was_whatever_the_config_names_does(command, mine, tmp_path, monkeypatch, where):
    """Each start died at the end of its first epoch, or wrote into the run of that name in the other directory."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "a").mkdir(parents=True)
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    for name in ("metrics.jsonl", "model.keras", "result.json"):
        (elsewhere / "a" / name).write_text("theirs")
    wanders = "run.callbacks = [@mine.Wanders()]" if where == "callback" else "run.data = @mine.wandering()"
    for epochs in (1, 2):
        os.chdir(tmp_path)
        status, out, err = command(*MORE, "--set", "import mine", "--set", wanders, "--set", f"run.epochs = {epochs}")
        assert status == 0 and "results   a: model.keras, metrics.jsonl, config.gin" in out, err
        assert Path.cwd() == elsewhere  # the control
    assert [record["epoch"] for record in records(tmp_path / "a")] == [1, 2, 2]  # and what was tested
    assert {"checkpoints", "config.gin", "model.keras", "result.json", "tensorboard"} <= set(os.listdir(tmp_path / "a"))
    assert set(everything_in(elsewhere).values()) == {b"theirs"} and len(list(elsewhere.rglob("*"))) == 4
