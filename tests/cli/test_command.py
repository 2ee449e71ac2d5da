import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from commands import CONFIGS, HEUN, ROOT, SHORT, everything_in, ours, records, start

from trainlab.cli.running import setup

RATE = "keras.optimizers.SGD.learning_rate"


@pytest.mark.slow
def test_heun_from_a_shell_in_any_directory(tmp_path):
    process = start(*HEUN, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    directory = tmp_path / "runs" / "heun"
    files = ["checkpoints", "config.gin", "lock", "metrics.jsonl", "model.keras", "result.json", "timeline.jsonl"]
    assert sorted(file.name for file in directory.iterdir()) == files
    for line in (
        "Heun(), 2 evaluations an update",
        "64 examples",
        "1,294 training, 144 validation and 359 test",
        "9,610 parameters",
    ):
        assert line in out
    *epochs, last = records(directory)
    assert [record["epoch"] for record in epochs] == list(range(1, 31))
    assert list(last) == ["epoch", "step", "test_accuracy", "test_loss"] and last["step"] == 30 * 21
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_finished_run_shows_its_result_and_is_left_alone(command, tmp_path):
    first = command(*SHORT)
    before = everything_in(tmp_path / "runs" / "heun")
    again = command(*SHORT)
    assert (first[0], again[0]) == (0, 0) and ours(again[2]) == []
    assert "finished at update 21" in again[1] and "Epoch" not in again[1]
    test = [line for line in first[1].splitlines() if line.startswith("test ")]
    assert len(test) == 1 and test[0] in again[1]
    assert everything_in(tmp_path / "runs" / "heun") == before


@pytest.mark.slow
def test_a_longer_run_goes_on_with_a_finished_one(command, tmp_path):
    command(*SHORT, "--run_dir", "a")
    status, out, _ = command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "a")
    assert status == 0 and "resumed at update 21, epoch 2" in out
    command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "b")
    assert records(tmp_path / "a") == records(tmp_path / "b")
    a, b = (json.loads((tmp_path / name / "result.json").read_text()) for name in "ab")
    assert (a["step"], a["test"]) == (b["step"], b["test"]) and a["checkpoint"] == "00000002-step-63"


@pytest.mark.slow
def test_the_end_of_a_run_can_be_done_again(command, tmp_path):
    command(*SHORT)
    directory = tmp_path / "runs" / "heun"
    before = records(directory)
    (directory / "result.json").unlink()  # killed between the last checkpoint and the end
    (directory / "model.keras").unlink()
    assert command(*SHORT)[0] == 0
    assert records(directory) == before and (directory / "model.keras").exists() and (directory / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["result", "model", "both removed", "no digest"])
def test_a_result_that_somebody_changed_is_measured_again(command, tmp_path, edit):
    assert command(*SHORT)[0] == 0
    directory = tmp_path / "runs" / "heun"
    result, before = directory / "result.json", records(directory)
    text = result.read_text()
    content = json.loads(text)
    if edit == "result":
        result.write_text(text.replace('"accuracy": 0.', '"accuracy": 1.'))
    elif edit == "model":
        (directory / "model.keras").write_bytes((directory / "model.keras").read_bytes()[:-9])
    elif edit == "both removed":
        result.unlink()
        (directory / "model.keras").unlink()
    else:  # as 0.2 wrote it
        result.write_text(json.dumps({name: content[name] for name in ("checkpoint", "step", "test")}))
    status, out, err = command(*SHORT)
    assert status == 0 and f"accuracy {content['test']['accuracy']:.4f}" in out
    said = {"result": "result.json: changed since it was written", "model": "model.keras: changed since it was written"}.get(edit)
    assert [line.startswith(f"trainlab: warning: runs/heun/{said}") for line in ours(err)] == [True] * (said is not None)
    assert records(directory) == before and json.loads(result.read_text())["test"] == content["test"]
    assert keras.saving.load_model(directory / "model.keras").count_params() == 9610
    after = everything_in(directory)
    assert command(*SHORT)[0] == 0 and everything_in(directory) == after  # and now it is believed


@pytest.mark.slow
@pytest.mark.parametrize("change", ["CRLF", "a record removed", "a note"])
def test_metrics_that_somebody_changed_lose_and_double_nothing(command, tmp_path, change):
    more = [*HEUN, "--set", "run.epochs = 4", "--run_dir", "a"]
    command(*HEUN, "--set", "run.epochs = 2", "--run_dir", "a")
    metrics = tmp_path / "a" / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    changed = {"CRLF": [x.replace("\n", "\r\n") for x in lines], "a record removed": lines[1:], "a note": ["# mine\n", *lines]}
    metrics.write_bytes("".join(changed[change]).encode())
    status, _, err = command(*more)
    assert status == 0 and any("metrics.jsonl: changed since the checkpoint" in line for line in ours(err))
    found = [json.loads(line) for line in metrics.read_text().splitlines() if not line.startswith("#")]
    first = 2 if change == "a record removed" else 1
    assert [record["epoch"] for record in found] == [*range(first, 5), 4] and "test_loss" in found[-1]
    assert metrics.read_text().startswith("# mine") == (change == "a note")


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--resume=never"], 1, r"holds a run already .*--run_dir r-2, go on with it by --resume=auto"),
        (["--resume=sometimes"], 2, "must be one of auto, must, never, weights"),
        (["--overwrite"], 2, "it goes with --resume=never"),
        (["--override=seed"], 2, "must be one of learning_rate, data, micro_batch_size"),
        (["--set", "run.seed = 5"], 1, r"seed: saved 0, now 5"),
        (["--set", "run.batch_size = 32"], 1, r"batches batch_size: saved 64, now 32"),
        (["--set", "run.strategy = @trainlab.SGD()"], 1, r"strategy class: saved '(.*\.)?Heun'"),
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


@pytest.mark.slow
def test_overwriting_begins_anew(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    first = records(tmp_path / "r")
    status, out, _ = command(*SHORT, "--run_dir", "r", "--set", "run.seed = 1", "--resume=never", "--overwrite")
    assert status == 0 and "begun" in out
    again = records(tmp_path / "r")
    assert len(again) == len(first) and again != first
    assert command(*SHORT, "--run_dir", "none", "--resume=must")[0] == 1


@pytest.mark.slow
def test_a_new_learning_rate_needs_to_be_said(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    more = [*HEUN, "--set", "run.epochs = 2", "--set", f"{RATE} = 0.01", "--run_dir", "r"]
    assert "learning_rate: saved 0.2, now 0.01" in command(*more)[2]
    status, out, _ = command(*more, "--override=learning_rate")
    assert status == 0 and "resumed at update 21" in out


@pytest.mark.slow
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
    assert len(out.splitlines()) <= 40 and max(map(len, out.splitlines())) <= 100


@pytest.mark.slow
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

    monkeypatch.setattr(setup.Trainer, "fit", interrupt)
    status, _, err = command(*SHORT)
    assert (status, ours(err)) == (130, ["trainlab: error: interrupted; nothing is saved"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX's")
@pytest.mark.parametrize("name, status", [("SIGHUP", 129), ("SIGTERM", 143)])
def test_a_signal_before_training_is_heard(command, tmp_path, monkeypatch, name, status):
    signum = getattr(signal, name)

    def raise_it(*args, **kwargs):
        os.kill(os.getpid(), signum)

    monkeypatch.setattr(setup, "Trainer", raise_it)
    handlers = {s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGHUP, signal.SIGTERM)}
    try:
        got, _, err = command(*SHORT)
        assert (got, ours(err)) == (status, ["trainlab: error: terminated; nothing is saved"])
        assert {s: signal.getsignal(s) for s in handlers} == dict.fromkeys(handlers, signal.SIG_DFL)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX's")
def test_a_signal_that_is_ignored_stays_so(command, monkeypatch):
    real = setup.Trainer

    def raise_them(*args, **kwargs):
        for signum in (signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), signum)
        return real(*args, **kwargs)

    monkeypatch.setattr(setup, "Trainer", raise_them)
    handlers = {s: signal.signal(s, signal.SIG_IGN) for s in (signal.SIGHUP, signal.SIGTERM)}
    try:
        assert command(*HEUN, "--set", "run.epochs = 0")[0] == 0
        assert {s: signal.getsignal(s) for s in handlers} == dict.fromkeys(handlers, signal.SIG_IGN)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.slow  # that signals are heard and saved at, other tests show in one process
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals are POSIX's")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_is_closed(tmp_path, nohup):
    arguments = [sys.executable, "-m", "trainlab.train", *HEUN, "--set", f"run.epochs = {60 if nohup else 1000000}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        ["nohup", *arguments] if nohup else arguments,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "heun" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGHUP)
    _, err = process.communicate(timeout=120)
    if nohup:
        assert process.returncode == 0 and records(metrics.parent)[-1]["epoch"] == 60, err
        return
    assert process.returncode == 129, err
    assert ours(err)[-1].startswith("trainlab: error: terminated; the last checkpoint is runs/heun/checkpoints/")
    assert list((metrics.parent / "checkpoints").glob("0*-step-*"))
