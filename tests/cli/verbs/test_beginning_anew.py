"""A run that begins in the place of another: what of that one goes, and when, and how to go on if the new one is stopped."""

import pytest
from commands import HEUN, everything_in, ours

MINE = """
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
"""
MORE = [*HEUN, "--set", "run.tensorboard = True", "--set", "run.epochs = 2", "--run_dir", "a"]
ANEW = ["--resume=never", "--overwrite"]


@pytest.fixture
def finished(command, tmp_path):
    """A finished run with a board; what its directory holds."""
    (tmp_path / "mine.py").write_text(MINE)
    status, _, err = command(*MORE)
    assert status == 0, err
    return everything_in(tmp_path / "a")


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
