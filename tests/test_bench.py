"""The benchmark's own arithmetic; and, among the longer tests, that all of it runs."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarking import contestants, family, timing  # noqa: E402
from benchmarking.workloads import WORKLOADS  # noqa: E402


class Clock:
    """Time that passes only where a contestant says so."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def run(self, name, seconds, batches=1):
        waits = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.order.append(name)
            self.now += next(waits) if waits else seconds
            return batches

        return run


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_all_run_in_turns_and_the_first_round_does_not_count(clock):
    seconds = timing.in_turns({"a": clock.run("a", [100.0, 2.0, 4.0], batches=2), "b": clock.run("b", 3.0)}, 2)
    assert clock.order == ["a", "b"] * 3
    assert seconds == {"a": [1.0, 2.0], "b": [3.0, 3.0]}


def test_a_ratio_is_the_median_of_pairs():
    seconds = {"slow": [4.0, 100.0, 6.0], "fast": [2.0, 10.0, 2.0]}
    assert timing.ratio(seconds, "slow", "fast") == (3.0, 2.0, 10.0)
    assert timing.ratio(seconds, "fast", "fast") == (1.0, 1.0, 1.0)


def test_the_fastest_of_many_is_found_in_two_heats(clock):
    runs = {name: clock.run(name, seconds) for name, seconds in [("d", 4.0), ("b", 2.0), ("a", 1.0), ("c", 3.0), ("e", 50.0)]}
    assert timing.fastest(runs) == "a"
    counts = {name: clock.order.count(name) for name in "abcde"}
    assert counts == {"a": 4, "b": 4, "c": 4, "d": 2, "e": 1}  # nobody waits for e again


STEPS = {
    "SGD": (tl.SGD(), [contestants.plain_step, contestants.bare_step]),
    "Heun": (tl.Heun(), [contestants.heun_step, contestants.bare_heun_step]),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STEPS)
@pytest.mark.parametrize("name", ["mlp_32", "transformer"])  # dense, and with a table
def test_all_contestants_make_the_same_step(name, strategy):
    workload = dataclasses.replace(WORKLOADS[name], updates=1)
    x, y = workload.arrays()
    start = [v.numpy() for v in contestants.built(workload, x, y).trainable_variables]

    def moves(step):
        model = contestants.built(workload, x, y)
        step(model, tf.constant(x), tf.constant(y))
        return np.concatenate([np.ravel(v - w) for v, w in zip(model.trainable_variables, start, strict=True)])

    def ours(model, x, y):
        tl.Trainer(model, STEPS[strategy][0]).fit(x, y, batch_size=workload.batch_size, shuffle=False, verbose=0)

    expected = moves(ours)
    for same in STEPS[strategy][1]:
        np.testing.assert_allclose(moves(same), expected, atol=1e-4 * np.abs(expected).max())
    (another,) = set(STEPS) - {strategy}
    for other in STEPS[another][1]:
        assert np.abs(moves(other) - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.slow
def test_it_runs(tmp_path):
    parts = ["speed", "memory", "first_step", "checkpoints", "nonfinite", "replicas"]
    short = ["--workloads", "mlp_32", "--pairs", "1", "--scale", "0.05", "--parts", *parts]
    command = [sys.executable, str(SCRIPTS / "bench.py"), *short, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=SCRIPTS.parent)
    results = json.loads((tmp_path / "results.json").read_text())
    tables = {"mlp_32: SGD", "mlp_32: Heun", "mlp_32: Accumulate(4)", "nonfinite: SGD, XLA"}
    assert tables | {"memory", "memory, XLA", "first_step", "checkpoints", "machine"} <= set(results)
    for key, kinds in {"memory": ("batch:sgd", "whole:sgd"), "memory, XLA": ("xla:sgd", "xla_whole:sgd")}.items():
        assert "Linux" in results[key]["peak_mb"] or tf.config.list_physical_devices("GPU")
        for peaks in results[key]["peak_mb"].values():
            (batch,), (four_batches,) = (peaks[kind] for kind in kinds)
            assert batch > 50 and four_batches > 2 * batch  # the peaks are seen: 17 MB a layer's activations of a batch
    ratios = results["mlp_32: SGD"]["ratios"]
    assert len(results["replicas"]) == 2
    assert len(ratios) == 4 and all(least <= middle <= most for middle, least, most in ratios.values())
    assert "| trainlab / the limit |" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_what_a_strategy_costs(capsys):
    found = family.table(print, 1, 0.01, ["mlp_32"])
    said = capsys.readouterr().out
    assert set(found) == {f"mlp_32, {name}" for name in family.FAMILY} and found["mlp_32, SGD"]["plain_updates"] == [1, 1, 1]
    assert said.count("<= ") == 4 and "| RungeKutta | 4 |" in said


def test_what_is_wanted_is_met_or_missed():
    assert family._verdict(4.1, 4.1).endswith("met") and family._verdict(4.2, 4.1) == "<= 4.1 | **missed**"
    assert family._verdict(9.0, None) == " | "
