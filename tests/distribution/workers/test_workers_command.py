"""The command as several workers: what the chief leaves, that the others leave nothing, and how all of them end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import CONFIGS, ROOT, ours, records

sys.path.insert(0, str(ROOT / "scripts"))

from workers import configs  # noqa: E402

WORKERS = 'run.distribute = "workers"'
EPOCHS = 12


def begin(directory, *settings, number=2, flags=(), others=()):
    """Starts the command as so many workers; `others` are settings of all but the chief."""
    settings = [f"run.epochs = {EPOCHS}", "run.save_steps = 20", "run.save_seconds = None", WORKERS, *settings]
    directory.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "trainlab.train", "--config", str(CONFIGS / "accumulate_heun.gin"), *flags]
    command += ["--run_dir", str(directory / "run")]
    processes = []
    for rank, config in enumerate(configs(number)):
        bindings = [part for setting in (*settings, *(others if rank else ())) for part in ("--set", setting)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "TF_CONFIG": config}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen([*command, *bindings], env=environment, cwd=directory, **pipes))
    return processes


def end(processes):
    """Statuses, standard output and this package's lines of standard error, of each."""
    said = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], [out for out, _ in said], [ours(err) for _, err in said]


def left(directory):
    """What a run has come to: metrics, and the bytes of the last checkpoint's arrays and of the model's weights."""
    run = directory / "run"
    last = max((run / "checkpoints").glob("*-step-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    result = json.loads((run / "result.json").read_text())
    return records(run), result["step"], result["test"], (last / "tensors.data-00000-of-00001").read_bytes()


def when_epoch(directory, number, processes):
    """Waits until the chief has written so many epochs."""
    path, until = directory / "run" / "metrics.jsonl", time.monotonic() + 240
    while not path.is_file() or len(path.read_text().splitlines()) < number:
        assert time.monotonic() < until and all(process.poll() is None for process in processes)
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbs."""
    directory = tmp_path_factory.mktemp("whole")
    statuses, outs, errs = end(begin(directory))
    assert (statuses, errs) == ([0, 0], [[], []])
    return directory, outs


def go_on(directory, whole):
    """The same command again ends with the bits of the run that nobody disturbed."""
    statuses, outs, errs = end(begin(directory))
    assert (statuses, errs, outs[1]) == ([0, 0], [[], []], "")
    assert left(directory) == left(whole[0])
    return outs[0]


@pytest.mark.slow
def test_the_chief_does_what_is_to_be_seen_and_a_killed_pair_goes_on(whole, tmp_path):
    directory, outs = whole
    assert "device    2 replicas: CPU:0 at each of 2 workers" in outs[0] and f"Epoch {EPOCHS}/{EPOCHS}" in outs[0]
    assert outs[1] == "" and sorted(os.listdir(directory)) == ["run"]
    assert [record["epoch"] for record in records(directory / "run")] == [*range(1, EPOCHS + 1), EPOCHS]
    processes = begin(tmp_path)
    when_epoch(tmp_path, 4, processes)
    processes[1].kill()
    statuses, _, errs = end(processes)
    assert statuses == [1, -signal.SIGKILL] and errs[1] == [] and len(errs[0]) == 1
    assert "error: worker 1 (localhost:" in errs[0][0] and "start all of them again, and the same command goes on" in errs[0][0]
    assert not (tmp_path / "run" / "result.json").exists()
    assert "resumed at update" in go_on(tmp_path, whole)


@pytest.mark.slow
def test_a_finished_run_is_shown(whole, tmp_path):
    shutil.copytree(whole[0] / "run", tmp_path / "run")
    before = left(tmp_path)
    assert "finished at update" in go_on(tmp_path, whole)
    assert left(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name, status", [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
@pytest.mark.parametrize("who", [0, 1])
def test_a_signal_to_any_saves_and_ends_all(name, status, who, whole, tmp_path):
    processes = begin(tmp_path)
    when_epoch(tmp_path, 3, processes)
    processes[who].send_signal(getattr(signal, name))
    statuses, _, errs = end(processes)
    assert statuses == [status, status]
    assert len(errs[0]) == len(errs[1]) == 1
    assert "the last checkpoint is" in errs[0][0] and "the chief, says what is saved" in errs[1][0]
    assert "resumed at update" in go_on(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3])
def test_a_chief_that_is_killed_ends_the_others_in_a_line(number, whole, tmp_path):
    processes = begin(tmp_path, number=number)
    when_epoch(tmp_path, 4, processes)
    processes[0].kill()
    statuses, outs, errs = end(processes)
    assert statuses == [-signal.SIGKILL, *[1] * (number - 1)] and outs[1:] == [""] * (number - 1)
    assert all(len(lines) == 1 and "worker 0 (localhost:" in lines[0] and "was lost" in lines[0] for lines in errs[1:])
    if number == 2:
        go_on(tmp_path, whole)


@pytest.mark.slow
def test_one_alone_is_a_run_as_ever(tmp_path):
    """A launcher that was asked for one worker; and what two make is what one makes, to rounding."""
    statuses, outs, errs = end(begin(tmp_path, "run.epochs = 2", number=1))
    assert (statuses, errs) == ([0], [[]]) and "device    CPU\n" in outs[0]


def refused(directory, *settings, **others):
    """The line of each."""
    statuses, outs, errs = end(begin(directory, *settings, **others))
    assert statuses == [1, 1] and [len(lines) for lines in errs] == [1, 1] and outs[1] == ""
    return [lines[0] for lines in errs]


@pytest.mark.slow
def test_what_cannot_be_is_a_line_at_each(tmp_path):
    lines = refused(tmp_path / "auto", 'run.micro_batch_size = "auto"')
    assert lines[0] == lines[1] and "several workers cannot do together: give a number" in lines[0]
    lines = refused(tmp_path / "must", flags=["--resume=must"])
    assert "no checkpoint to go on from" in lines[0] and "the chief, ended the fit: FileNotFoundError" in lines[1]
    (tmp_path / "taken" / "run").mkdir(parents=True)
    (tmp_path / "taken" / "run" / "model.keras").write_text("somebody's")
    lines = refused(tmp_path / "taken")
    assert "model.keras" in lines[0] and "worker 0 (localhost:" in lines[1] and "was lost" in lines[1]
    assert [path.name for path in (tmp_path / "taken" / "run").iterdir()] == ["model.keras"]
    for name in ("auto", "must"):
        assert not (tmp_path / name / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting, says",
    [
        ("run.seed = 1", "seed is 1, at the chief 0"),
        ("run.batch_size = 8", "batch_size is 8, at the chief 16"),
        ("mlp.hidden_sizes = (3,)", "units is 3"),
        ("Accumulate.num_batches = 2", "num_batches is 2, at the chief 4"),
    ],
)
def test_workers_of_other_settings_are_refused_everywhere(setting, says, tmp_path):
    lines = refused(tmp_path, others=[setting])
    assert all("worker 1 (localhost:" in line and says in line for line in lines)
    assert not (tmp_path / "run").exists()


def test_which_workers_is_said_by_tf_config(monkeypatch, command):
    first = ["--config", CONFIGS / "sgd.gin", "--set", WORKERS]
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for given, says in ((None, "TF_CONFIG, which says who"), ("", "TF_CONFIG, which says who"), ("{", "cannot be read")):
        if given is not None:
            monkeypatch.setenv("TF_CONFIG", given)
        status, out, err = command(*first)
        assert (status, out) == (1, "") and says in err and err.count("\n") == 1
    # A macro, a later --set: as it is known before anything is built.
    macro = ["--set", "places = 'workers'", "--set", "run.distribute = %places"]
    assert "cannot be read" in command(*first[:2], *macro)[2]
    monkeypatch.delenv("TF_CONFIG")
    assert command(*first, "--set", "run.distribute = None", "--set", "run.steps = 1")[0] == 0
    assert Path("runs/sgd/model.keras").is_file()
