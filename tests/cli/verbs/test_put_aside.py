"""What a run from the command line has left, where another begins in its directory with its weights: kept, whatever happens."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from commands import everything_in

from trainlab.cli.running import run_directory
from trainlab.runs import Run, RunKeeper, move

OWN = """
import keras
import numpy as np
from trainlab.datasets import Data

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")

def arrays():
    return Data("arrays", (X, (X.sum(1) > 0).astype("int32")), (X, (X.sum(1) > 0).astype("int32")), 2)

class Weights(keras.Model):
    def __init__(self, thing):
        super().__init__()
        self.w = self.add_weight(shape=(4, 2), initializer="zeros", name="w")

    def call(self, x):
        return keras.ops.softmax(x @ self.w)

def whole(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(2, activation="softmax")])

def holding(input_shape, num_classes):
    return Weights(object())
"""
CONFIG = """
import put_aside_for_tests as own
run.data = @own.arrays()
run.loss = @SparseCategoricalCrossentropy()
run.optimizer = @keras.optimizers.SGD()
run.batch_size = 8
run.epochs = 2
run.keep_best = "loss"
run.tensorboard = True
"""
KEPT = {"config.gin", "metrics.jsonl", "model.keras", "model.weights.h5", "result.json", "best.json"}


@pytest.fixture
def train(command, tmp_path):
    """The command on a model that can be saved whole, or not."""
    (tmp_path / "put_aside_for_tests.py").write_text(OWN)

    def run(*flags, model="whole", directory="a"):
        (tmp_path / "c.gin").write_text(CONFIG + f"run.model = @own.{model}\n")
        status, out, err = command("--config", "c.gin", "--run_dir", directory, *flags)
        return status, out, err, tmp_path / directory

    return run


def of_results(directory):
    """What a run has left besides its checkpoints and what was compiled."""
    found = everything_in(directory)
    return {path: text for path, text in found.items() if path.name in KEPT or path.parts[0] == "tensorboard"}


@pytest.mark.slow
@pytest.mark.parametrize("model, kept", [("holding", "model.weights.h5"), ("whole", "model.keras")])
def test_all_that_the_run_before_has_left_is_kept(train, model, kept):
    """The weights alone, of a model that cannot be saved whole, and best.json were overwritten."""
    status, _, err, directory = train(model=model)
    assert status == 0, err
    before = of_results(directory)
    assert {kept, "best.json", "result.json"} < {path.name for path in before} and len(before) > 6
    status, out, err, _ = train("--resume=weights", "--set", "run.seed = 1", model=model)
    assert status == 0 and "earlier   a/earlier-1: " in out, err
    assert everything_in(directory / "earlier-1") == before
    after = of_results(directory)
    assert after.keys() >= {path for path in before if len(path.parts) == 1} and after[Path(kept)] != before[Path(kept)]


@pytest.mark.slow
@pytest.mark.parametrize("moves", [0, 3, 99])  # all, and the config is about to be written
def test_a_start_that_is_killed_before_its_first_epoch_leaves_that_to_the_next(train, monkeypatch, moves):
    """Its checkpoint looked like one of a run that had begun: the records and the model of the run before were lost."""
    _, _, _, directory = train()
    before, moved = of_results(directory), []

    def until(file, place):
        if len(moved) == moves:
            raise KeyboardInterrupt
        moved.append(file)
        move(file, place)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "move", until)
        patch.setattr(run_directory, "write_atomically", interrupted)
        assert train("--resume=weights", "--set", "run.seed = 1")[0] == 130
    assert len(moved) == min(moves, len(before))  # the controls
    assert RunKeeper(Run(directory)).last_checkpoint.name.endswith("-step-0")
    status, out, err, _ = train("--set", "run.seed = 1")
    assert status == 0 and "resumed at update 0" in out, err
    kept = everything_in(directory / "earlier-1")
    assert {path: kept.get(path) for path in before} == before
    assert {path.parts[0] for path in kept.keys() - before.keys()} <= {"tensorboard"}  # begun, and holding nothing
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 2] and not (directory / "earlier-2").exists()


@pytest.mark.slow
def test_a_board_on_another_disk(train, tmp_path, monkeypatch):
    """A link to it ended the run between the files that were moved and those that were not."""
    status, _, err, directory = train()
    assert status == 0, err
    shutil.move(directory / "tensorboard", tmp_path / "disk")
    (directory / "tensorboard").symlink_to(tmp_path / "disk")
    before = of_results(directory) | {Path("tensorboard") / path: text for path, text in everything_in(tmp_path / "disk").items()}
    rename, refused = Path.rename, []

    def between_disks(self, target):
        if self.is_relative_to(directory / "tensorboard") != Path(target).is_relative_to(directory / "tensorboard"):
            refused.append(self)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", between_disks)
    status, _, err, _ = train("--resume=weights", "--set", "run.seed = 1")
    assert status == 0 and refused, err
    assert everything_in(directory / "earlier-1") == before
    assert not {path.name for path in refused} & {path.name for path in (tmp_path / "disk").rglob("*")}
    assert len([path for path in (tmp_path / "disk").rglob("*tfevents*")]) == 2  # those of the new run


@pytest.mark.slow
def test_a_complete_run_whose_model_was_moved_away_is_not_begun_anew(train, tmp_path):
    """Its result says that it is complete; nothing was asked, and it was overwritten."""
    status, _, err, directory = train()
    assert status == 0, err
    (directory / "model.keras").rename(tmp_path / "model.keras")
    shutil.rmtree(directory / "checkpoints")
    before = everything_in(directory)
    status, _, err, _ = train("--set", "run.seed = 1")
    assert status == 1 and "a: holds a run without checkpoints (result.json); write elsewhere with --run_dir a-2" in err
    assert everything_in(directory) == before
