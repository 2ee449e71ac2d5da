"""The command, stopped by signals in each of its phases and started again on damaged files."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from commands import CONFIGS, everything_in, ours, records, start
from damaging import damage

from trainlab.cli import main
from trainlab.cli.running import setup
from trainlab.cli.verbs import job
from trainlab.loop import EvaluationLoop
from trainlab.loop.loop import Loop
from trainlab.loop.update import Update
from trainlab.runs.disk import checkpoint
from trainlab.runs.epochs import Epochs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")

RUN = ["--config", str(CONFIGS / "accumulate_heun.gin")]
RUN += [f"--set=run.{setting}" for setting in ("epochs = 3", "save_steps = 10", "save_seconds = None", "keep = 9")]
RUN += ["--set=mlp.dropout = 0.2", "--set=keras.optimizers.SGD.momentum = 0.9", "--run_dir", "run"]

# The function at whose n-th call the signal comes.
PHASES = {
    "start": (job.reading, "load", 1),
    "building": (setup, "Trainer", 1),
    "trace": (Update, "__call__", 1),
    "training": (Loop, "run", 5),
    "the last update": (Epochs, "_end_epoch", 3),
    "evaluation": (EvaluationLoop, "run", 2),
    "saving": (checkpoint, "_write", 3),
    "saving the end": (checkpoint, "_write", 7),
    "test": (job.Trainer, "evaluate", 1),
    "writing the model": (job, "write_atomically", 1),
    "writing the result": (job, "write_atomically", 2),
}
QUICK = ("evaluation",)
WITHOUT_A_CHECKPOINT = ("start", "building")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing befell."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert main([*RUN[:-1], str(directory)]) == 0
    return directory


def newest(directory):
    return checkpoint.Checkpoints(directory / "checkpoints").paths()[0]


def assert_as(directory, whole, lost_records=False):
    """Two runs ended with the same bits; records may be lost where somebody cut the file that they were in, and it was told."""
    kept = records(directory)
    assert [record for record in records(whole) if not lost_records or record in kept] == kept
    mine, other = (json.loads((path / "result.json").read_text()) for path in (directory, whole))
    assert (mine["step"], mine["test"]) == (other["step"], other["test"])
    a, b = (checkpoint.read(newest(path)).arrays for path in (directory, whole))
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert not [path for path in directory.rglob("*") if path.name.startswith(".")]


def at_call(owner, name, number, then, monkeypatch):
    """Does something at the n-th call of a function, before what that does."""
    real, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            then()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize(
    "signum, status",
    [
        pytest.param(signal.SIGTERM, 143, id="SIGTERM"),
        pytest.param(signal.SIGINT, 130, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, id="SIGHUP", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "phase", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow, id=name) for name in PHASES]
)
def test_a_signal_in_each_phase(phase, signum, status, whole, command, tmp_path, monkeypatch):
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with monkeypatch.context() as patch:
        at_call(*PHASES[phase], lambda: os.kill(os.getpid(), signum), patch)
        got, out, err = command(*RUN)
    assert handlers == {s: signal.getsignal(s) for s in handlers}
    assert got == status, out + err
    (line,) = ours(err)
    what = "interrupted" if signum == signal.SIGINT else "terminated"
    left = "nothing is saved" if phase in WITHOUT_A_CHECKPOINT else "the last checkpoint is run/checkpoints/"
    assert line.startswith(f"trainlab: error: {what}; {left}")
    if phase not in WITHOUT_A_CHECKPOINT:
        at = int(newest(tmp_path / "run").name.rpartition("-")[2])
        assert at == {"trace": 1, "the last update": 63}.get(phase, at) > 0
    got, out, err = command(*RUN)
    assert (got, ours(err)) == (0, [])
    assert ("begun" if phase in WITHOUT_A_CHECKPOINT else f"at update {at}") in out
    assert_as(tmp_path / "run", whole)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_imports(signum, tmp_path):
    """Not SIGINT: what becomes of a KeyboardInterrupt is up to the module that is being imported."""
    process = start(*RUN, cwd=tmp_path)
    time.sleep(0.3)
    process.send_signal(signum)
    process.communicate(timeout=60)
    assert process.returncode == -signum  # as of any program: a shell makes 128 + the number of it
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 20))])
def test_a_damaged_run_goes_on_from_what_is_whole_or_is_refused(seed, whole, command, tmp_path):
    rng = random.Random(seed)
    shutil.copytree(whole, tmp_path / "run")
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    (tmp_path / "run" / "result.json").unlink()
    for path in checkpoints[rng.randrange(3, len(checkpoints)) :]:
        shutil.rmtree(path)  # as if it had been killed then
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    is_hit = [rng.random() < 0.4 for _ in checkpoints[:-1]] + [True]
    if seed % 5 == 4:
        is_hit = [True] * len(is_hit)
    for path, hit in zip(checkpoints, is_hit, strict=True):
        if hit:
            damage(rng, rng.choice(sorted(path.iterdir())))
    others = [rng.choice(["metrics.jsonl", "lock", "config.gin"]) for _ in range(rng.randrange(2))]
    for name in others:
        damage(rng, tmp_path / "run" / name)
    before = everything_in(tmp_path / "run")
    status, out, err = command(*RUN)
    lines = ours(err)  # none is of a traceback
    if all(is_hit):
        assert status == 1 and "no checkpoint can be read" in lines[-1] and "begin anew (--resume=never --overwrite)" in lines[-1]
        assert everything_in(tmp_path / "run") == before
        return
    good = max(path for path, hit in zip(checkpoints, is_hit, strict=True) if not hit)
    if status == 0:
        assert f"at update {int(good.name.rpartition('-')[2])}," in out
        assert sum("is damaged" in line for line in lines) == len(checkpoints) - 1 - checkpoints.index(good)
        is_told = any("changed since the checkpoint" in line for line in lines)
        assert_as(tmp_path / "run", whole, is_told and others == ["metrics.jsonl"])
    else:
        assert others and "config.gin" in lines[-1], (others, err)
        assert everything_in(tmp_path / "run") == before
