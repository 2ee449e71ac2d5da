import os
import re
import signal
import time
from pathlib import Path

import keras
import pytest
from commands import CONFIGS, HEUN, SHORT, everything_in, ours, records, start

from trainlab.cli import command as train

RATE = "keras.optimizers.SGD.learning_rate"


def test_heun_from_a_shell_in_any_directory(tmp_path):
    process = start(*HEUN, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    directory = tmp_path / "runs" / "heun"
    files = ["checkpoints", "config.gin", "lock", "metrics.jsonl", "model.keras", "result.json"]
    assert sorted(file.name for file in directory.iterdir()) == files
    for line in ("Heun(), 2 evaluations an update", "64 examples", "1,438 training and 359 test", "9,610 parameters"):
        assert line in out
    *epochs, last = records(directory)
    assert [record["epoch"] for record in epochs] == list(range(1, 31))
    assert list(last) == ["epoch", "step", "test_accuracy", "test_loss"] and last["step"] == 30 * 23
    assert {"epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy"} <= epochs[0].keys()
    assert last["test_accuracy"] >= 0.95
    assert f"accuracy {last['test_accuracy']:.4f}" in out and str(Path("runs/heun")) in out
    assert ours(err) == []
    assert keras.saving.load_model(directory / "model.keras").count_params() == 9610


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "accumulate", "accumulate_heun", "own_module"])
def test_the_other_examples_learn(command, tmp_path, name):
    status, out, err = command("--config", CONFIGS / f"{name}.gin")
    assert (status, ours(err)) == (0, []), err
    assert records(tmp_path / "runs" / name)[-1]["test_accuracy"] >= 0.95


def test_a_short_run_can_be_repeated_from_what_it_left(command, tmp_path):
    accumulate = ["--config", CONFIGS / "accumulate_heun.gin", "--set", "run.steps = 3"]
    status, out, _ = command(*accumulate)
    assert status == 0
    assert "Accumulate(num_batches=4, inner=Heun()), 2 evaluations an update" in out
    assert "64 examples = 4 batches of 16" in out
    first = tmp_path / "runs" / "accumulate_heun"
    assert records(first)[-1]["step"] == 3
    assert command("--config", first / "config.gin", "--run_dir", "again")[0] == 0
    assert records(tmp_path / "again") == records(first)
    # The control: another seed is another run.
    assert command(*accumulate, "--set", "run.seed = 1", "--run_dir", "other")[0] == 0
    assert records(tmp_path / "other")[-1] != records(first)[-1]


def test_a_finished_run_shows_its_result_and_is_left_alone(command, tmp_path):
    first = command(*SHORT)
    before = everything_in(tmp_path / "runs" / "heun")
    again = command(*SHORT)
    assert (first[0], again[0]) == (0, 0) and ours(again[2]) == []
    assert "finished at update 23" in again[1] and "Epoch" not in again[1]
    test = [line for line in first[1].splitlines() if line.startswith("test ")]
    assert len(test) == 1 and test[0] in again[1]
    assert everything_in(tmp_path / "runs" / "heun") == before


def test_a_longer_run_goes_on_with_a_finished_one(command, tmp_path):
    command(*SHORT, "--run_dir", "a")
    status, out, _ = command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "a")
    assert status == 0 and "resumed at update 23, epoch 2" in out
    command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "b")
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert (tmp_path / "a" / "result.json").read_text() == (tmp_path / "b" / "result.json").read_text().replace(
        "1-step", "2-step"
    )


def test_the_end_of_a_run_can_be_done_again(command, tmp_path):
    command(*SHORT)
    directory = tmp_path / "runs" / "heun"
    before = records(directory)
    (directory / "result.json").unlink()  # killed between the last checkpoint and the end
    (directory / "model.keras").unlink()
    assert command(*SHORT)[0] == 0
    assert records(directory) == before and (directory / "model.keras").exists() and (directory / "result.json").exists()


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--resume=never"], 1, r"holds a run already .*--run_dir r-2, go on with it by --resume=auto"),
        (["--resume=sometimes"], 2, "must be one of auto, must, never, weights"),
        (["--overwrite"], 2, "it goes with --resume=never"),
        (["--override=seed"], 2, "must be one of learning_rate, data, micro_batch_size"),
        (["--set", "run.seed = 5"], 1, r"seed: saved 0, now 5"),
        (["--set", "run.batch_size = 32"], 1, r"batches batch_size: saved 64, now 32"),
        (["--set", "run.strategy = @trainlab.SGD()"], 1, "strategy class: saved 'trainlab.strategies.heun.Heun'"),
        (["--set", "mlp.hidden_sizes = (32, 64)"], 1, r"model layers\[2\].config.units: saved 128, now 32 .* variables"),
    ],
)
def test_another_run_is_refused_and_nothing_is_touched(command, tmp_path, arguments, status, message):
    assert command(*SHORT, "--run_dir", "r")[0] == 0
    before = everything_in(tmp_path / "r")
    got, out, err = command(*HEUN, "--set", "run.epochs = 2", "--run_dir", "r", *arguments)
    assert (got, ours(err)[-1].startswith("trainlab: error: ")) == (status, True)
    assert re.search(message, " ".join(err.split())), err
    assert everything_in(tmp_path / "r") == before


def test_overwriting_begins_anew(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    first = records(tmp_path / "r")
    status, out, _ = command(*SHORT, "--run_dir", "r", "--set", "run.seed = 1", "--resume=never", "--overwrite")
    assert status == 0 and "begun" in out
    again = records(tmp_path / "r")
    assert len(again) == len(first) and again != first
    assert command(*SHORT, "--run_dir", "none", "--resume=must")[0] == 1


def test_a_new_learning_rate_needs_to_be_said(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    more = [*HEUN, "--set", "run.epochs = 2", "--set", f"{RATE} = 0.01", "--run_dir", "r"]
    assert "learning_rate: saved 0.2, now 0.01" in command(*more)[2]
    status, out, _ = command(*more, "--override=learning_rate")
    assert status == 0 and "resumed at update 23" in out


def test_an_own_strategy_model_and_data_set_need_only_a_module(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_for_test_train.py").write_text(
        """
import keras, numpy as np, trainlab as tl
from trainlab.datasets import Data

class Midpoint(tl.StepStrategy):
    evaluations = 2
    def __init__(self, where=0.5):
        self.where = where
    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(objective(state.parameters - self.where * state.learning_rate * here.gradient).gradient, at=here)

def line(shape, num_classes, scale=1.0):
    return keras.Sequential([keras.Input(shape), keras.layers.Rescaling(scale), keras.layers.Dense(num_classes)])

def two_sides(num=64):
    x = np.linspace(-1, 1, num, dtype="float32")[:, None]
    y = (x[:, 0] > 0).astype("int32")
    return Data("two_sides", (x, y), (x, y), 2)
"""
    )
    config = tmp_path / "mine" / "mine.gin"
    config.write_text(
        """
import mine_for_test_train as mine
run.data = @mine.two_sides()
run.model = @mine.line
run.strategy = @mine.Midpoint()
run.loss = @SparseCategoricalCrossentropy()
run.optimizer = @keras.optimizers.SGD()
run.epochs = 10
mine.line.scale = 3
mine.Midpoint.where = 0.25
SparseCategoricalCrossentropy.from_logits = True
keras.optimizers.SGD.learning_rate = 1
"""
    )
    status, out, err = command("--config", config)
    assert (status, ours(err)) == (0, []), err
    assert "Midpoint(where=0.25), 2 evaluations an update" in out
    assert records(tmp_path / "runs" / "mine")[-1]["test_accuracy"] > 0.9
    assert "mine.Midpoint" in (tmp_path / "runs" / "mine" / "config.gin").read_text()


def test_debug_shows_the_traceback(command):
    with pytest.raises(ValueError, match="epoch"):
        command(*SHORT, "--set", "run.epoch = 1", "--debug")


def test_help_says_what_a_newcomer_needs(command):
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    for word in ("--config FILE", "--set 'BINDING'", "--run_dir DIR", "--debug", "examples:", "batch_size", "strategy"):
        assert word in out
    assert len(out.splitlines()) < 25


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_control_c_is_one_line(tmp_path):
    process = start(*HEUN, "--set", "run.epochs = 1000000", cwd=tmp_path)
    metrics = tmp_path / "runs" / "heun" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (line,) = ours(err)
    assert re.fullmatch(
        r"trainlab: error: interrupted; the last checkpoint is runs/heun/checkpoints/0*1-step-\d+; the same command .*", line
    )
    assert len(records(metrics.parent)) > 0


def test_interrupted_before_the_first_update_leaves_nothing(command, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Trainer, "fit", interrupt)
    status, _, err = command(*SHORT)
    assert (status, ours(err)) == (130, ["trainlab: error: interrupted; nothing is saved"])
    assert list(tmp_path.iterdir()) == []
