"""The script that kills runs, in a short form; and what it makes of how they end."""

import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl
from trainlab.data.stream_source import StreamSource
from trainlab.loop.loop import Loop
from trainlab.runs import evaluating

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from killing import data, trial  # noqa: E402
from killing.processes import Attempt, Gauge  # noqa: E402
from killing.sources import BATCHES, EPOCHS, KINDS, UPDATES  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
THERE = [name for name, kind in KINDS.items() if kind.is_there]


def run(*flags):
    command = [sys.executable, str(ROOT / "scripts" / "kill_and_resume.py"), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_an_evaluation_is_seen_in_training_and_after_it(monkeypatch):
    """Validation is compiled and does not go through Keras' evaluate, which alone was watched: no run was killed in it."""
    for owner, name in ((Loop, "run"), (evaluating, "evaluate"), (keras.Model, "evaluate")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # so that they are put back
    gauge, seen = Gauge(), []

    class Look(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(("evaluating", gauge.is_evaluating))

        def on_epoch_begin(self, epoch, logs=None):
            seen.append(("training", gauge.is_evaluating))

    gauge.attach()
    x, y = np.zeros([8, 2], "float32"), np.zeros([8, 1], "float32")
    trainer = tl.Trainer(keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]), optimizer="sgd", loss="mse")
    trainer.fit(x, y, epochs=2, batch_size=4, validation_data=(x, y), callbacks=[Look()], verbose=0)
    trainer.evaluate(x, y, callbacks=[Look()], verbose=0)
    assert seen == [("training", False), ("evaluating", True)] * 2 + [("evaluating", True)]
    assert not gauge.is_evaluating and gauge.updates == 4


@pytest.mark.parametrize(("instant", "missed", "problems"), [("evaluating", 9, 1), ("evaluating", 2, 0), ("ending", 9, 0)])
def test_an_instant_that_never_comes_is_a_problem(instant, missed, problems, monkeypatch, tmp_path):
    """Such a run ended with status 0, and counted as passed."""
    begun = []

    def start(directory, train, is_due, signum):
        directory.mkdir(exist_ok=True)
        begun.append(directory)
        return attempt(None, was_stopped=True) if is_due is not None and len(begun) > missed else attempt()

    monkeypatch.setattr(trial, "start", start)
    of = trial.Trial(lambda path: 0, 1.0, 9, random.Random(0), 0)
    attempts, found = of.run(tmp_path / "run", instant)
    assert len(found) == problems and all("was not stopped evaluating in 5 runs" in line for line in found)
    assert (tmp_path / "run").is_dir() and attempts[-1].status == 0
    assert len(begun) == {(9, 1): 5, (9, 0): 1}.get((missed, problems), len(begun))


@pytest.mark.parametrize(
    "runs, flags",
    [
        pytest.param(1, ("--controls=1",), marks=pytest.mark.slow),
        pytest.param(3, ("--controls=0",), marks=pytest.mark.slow),  # the third one while it evaluates
        pytest.param(2, ("--controls=0", "--signal=TERM"), marks=pytest.mark.slow),
    ],
)
def test_stopped_runs_end_as_if_nothing_had_happened(runs, flags):
    assert f"{runs} of {runs} runs ended with the same bits" in run(f"--runs={runs}", "--epochs=8", *flags)


@pytest.mark.slow
@pytest.mark.parametrize("name", THERE)
def test_so_do_they_on_every_kind_of_data(name):
    said = run("--data", name, "--runs=2")
    if KINDS[name].can_be_equal:
        assert f"{name}: 2 of 2 ended with the same bits" in said
    assert " 0 in silence, 0 failed; " in said and "not restored: 1 of 1 found out" in said


def batches(given):
    """The first batches of what `fit` is given, as bytes; all of a pass if there is an end to it."""
    x = given["x"]
    if isinstance(x, np.ndarray):
        return [np.asarray(array).tobytes() for array in (x, given["y"])]
    of_a_pass = UPDATES * BATCHES
    found = list(itertools.islice(x, of_a_pass + 1))
    assert len(found) == of_a_pass + ("steps_per_epoch" in given)
    return [np.asarray(array).tobytes() for pair in found for array in pair]


@pytest.mark.parametrize("name", THERE)
def test_a_process_that_goes_on_has_data_of_its_own_only_if_they_cannot_be_equal(name, tmp_path):
    begun, again, resumed = (batches(KINDS[name].fit(tmp_path, chance)) for chance in (None, None, 7))
    assert begun == again
    assert (resumed == begun) is KINDS[name].can_be_equal


def attempt(status=0, resumed_at=None, log="", was_stopped=False):
    # No process has this number.
    return Attempt(2**22 + 1, resumed_at, resumed_at, status, was_stopped, 3, 0, log)


def restored_warning(make, seeds=(1, 2)):
    """What is printed where a stream of the first seed is saved, and one of the second is put there."""
    source, other = (StreamSource(make(seed), None, False) for seed in seeds)
    for each in (source, other):
        each.is_to_be_saved = True
    source.advance(source.block(3, 1))
    state = source.state()
    try:
        serialized = source.serialized()
    except ValueError:
        serialized = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other.restore(state, serialized)
    return "".join(warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in caught)


RANGE = tf.data.Dataset.range


@pytest.mark.parametrize(
    ("make", "seeds", "is_said"),
    [
        (lambda seed: RANGE(9).shuffle(4, seed=seed).batch(2), (1, 2), True),
        (lambda seed: RANGE(9).shuffle(4, seed=seed).shuffle(3, seed=1).batch(2), (1, 2), True),
        (lambda seed: RANGE(9).map(lambda i: i + seed).shuffle(3, seed=1).shuffle(3, seed=1).batch(2), (1, 2), True),
        (lambda seed: RANGE(9).shuffle(4, seed=seed).batch(2), (1, 1), False),
        (lambda seed: RANGE(9).shuffle(4, seed=seed).shuffle(3, seed=1).batch(2), (1, 1), False),
    ],
)
def test_a_reason_is_what_a_resume_prints(make, seeds, is_said):
    log = restored_warning(make, seeds)
    assert data.says_why([attempt(resumed_at=4, log=log)]) is is_said
    assert not data.says_why([attempt(log=log)])  # one that began has no say


@pytest.mark.parametrize(
    "log",
    [
        "",
        "UserWarning: x cannot be saved where it stands (it shuffles twice: let one shuffle do); a resume will read it again",
        "UserWarning: resuming in spite of a difference: versions keras: 3.15.0 was 3.15.1",
        "ValueError: x gave fewer than the 3 batches that it gave before: it is not the same",
    ],
)
def test_no_other_line_is_a_reason(log):
    assert not data.says_why([attempt(resumed_at=4, log=log)])


REASON = "UserWarning: x was read again up to batch 3 of pass 1, and gives other batches than before: it is not the same"


class Pretended:
    """In place of processes: the first of each run is killed, the others end as they are told.

    Args:
        value: what is in a variable at the end.
        log: what a process says that goes on.
        status: its exit status.
    """

    def __init__(self, monkeypatch, value=1.0, log="", status=0):
        self.value, self.log, self.status = value, log, status
        for module in (data, trial):
            monkeypatch.setattr(module, "start", self)

    def __call__(self, directory, train, is_due, signum=None):
        is_whole = directory.name == "whole"
        if is_due is not None and not directory.exists():
            (directory / "checkpoints" / "00000001-step-4").mkdir(parents=True)
            return attempt(None, was_stopped=True)
        (directory / "checkpoints" / f"00000002-step-{EPOCHS * UPDATES}").mkdir(parents=True)
        is_control = directory.name == "control"
        value = 1.0 if is_whole else 2.0 if is_control else self.value
        np.savez(directory / "variables.npz", a=np.full(3, value))
        (directory / "outcome.json").write_text(json.dumps({"loss": 0.5}))
        return attempt(0 if is_whole or is_control else self.status, None if is_whole else 4, "" if is_control else self.log)


@pytest.mark.parametrize(
    ("name", "settings", "said", "failures"),
    [
        ("generator", {}, "2 of 2 ended with the same bits, 0 with others and were warned of it, 0 in silence, 0 failed", 0),
        ("generator", {"value": 1.0 + 2**-52}, "0 of 2 ended with the same bits, 0 with others", 2),  # in silence
        ("generator", {"value": 2.0, "log": REASON}, "0 in silence, 2 failed", 2),  # nothing hinders it to be equal
        ("pydataset-noisy", {"value": 2.0, "log": REASON}, "0 of 2 ended with the same bits, 2 with others and were warned", 0),
        ("pydataset-noisy", {"value": 2.0}, "2 in silence, 0 failed", 2),
        ("generator", {"status": 1}, "0 in silence, 2 failed", 2),
        ("generator", {"log": "Traceback (most recent call last)"}, "0 in silence, 2 failed", 2),
    ],
)
def test_ends_are_counted(name, settings, said, failures, monkeypatch, tmp_path, capsys):
    Pretended(monkeypatch, **settings)
    monkeypatch.setattr(trial, "_MAX_STARTS", 2)
    assert data.kill_runs(tmp_path, [name], 2, 1, random.Random(1)) == failures
    assert said in capsys.readouterr().out


def test_a_control_that_finds_nothing_fails(monkeypatch, tmp_path, capsys):
    Pretended(monkeypatch)
    monkeypatch.setattr(data, "is_same", lambda directory, whole: True)
    assert data.kill_runs(tmp_path, ["generator"], 1, 1, random.Random(0)) == 1
    assert "not restored: 0 of 1 found out" in capsys.readouterr().out


def test_what_is_not_installed_is_skipped(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(KINDS, "generator", KINDS["generator"]._replace(needs="no_such_package"))
    assert data.kill_runs(tmp_path, ["generator"], 1, 1, random.Random(0)) == 0
    assert capsys.readouterr().out == "generator: skipped, no_such_package is not installed\n"
