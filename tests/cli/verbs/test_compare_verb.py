"""`trainlab compare`: from a config to a table; what it refuses; several processes."""

import json
import sys

import pytest
from commands import CONFIGS, ours

from trainlab.comparing import racing

COMPARE = ["compare", "--config", str(CONFIGS / "compare.gin")]
SMALL = [
    *COMPARE,
    "--set",
    "compare.strategies = [@Heun()]",
    "--set",
    "compare.learning_rates = [0.2]",
    "--set",
    "compare.seeds = 2",
]
SMALL += ["--set", "run.epochs = 1", "--set", "mlp.hidden_sizes = (8,)"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(racing, "_SECONDS_A_TURN", 0.0)
    monkeypatch.setattr(racing, "_ROUNDS", 1)


@pytest.mark.slow
def test_it_prints_the_table_and_leaves_all_of_it(trainlab_command, tmp_path, monkeypatch):
    status, out, err = trainlab_command(*SMALL, "--set", "run.keep = 2", "--set", "run.monitor = 'loss'", "--run_dir", "a")
    assert (status, ours(err)) == (0, []), err
    assert "unused    run.keep, run.monitor: a comparison saves and judges in its own way" in out
    assert "3 steps × 1 rates × 2 seeds: 6 runs" in out and "budget    21 evaluations" in out
    found = json.loads((tmp_path / "a" / "comparison.json").read_text())
    assert [row["entry"] for row in found["table"]] == ["SGD()", "SGD(), rate / 2", "Heun()"]
    assert "not told apart" in out and out.count("seed 0:") == 3
    assert (tmp_path / "a" / "report.html").read_text().count("<figure>") == 3
    monkeypatch.setitem(sys.modules, "jinja2", None)
    again = trainlab_command(*SMALL, "--run_dir", "a")
    assert "no page   a report in HTML needs jinja2: pip install" in again[1]
    assert again[0] == 0 and "seed 0:" not in again[1] and again[1].split("\n\n")[1] == out.split("\n\n")[1]
    status, _, err = trainlab_command(*SMALL, "--set", "compare.seeds = 3", "--run_dir", "a")
    [line] = ours(err)
    assert status == 1 and "a holds another comparison: its seeds differ" in line


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--set", "compare.seed = 3"], 1, "compare has no parameter 'seed'; did you mean seeds?"),
        (["--set", "compare.strategies = [@Huen()]"], 1, "did you mean Heun?"),
        (["--set", "compare.strategies = []"], 1, "strategies is empty"),
        (["--set", "compare.strategies = [@Heun]"], 1, "must be StepStrategies"),
        (["--set", "compare.learning_rates = [0]"], 1, "must be a finite number above 0"),
        (["--set", "compare.learning_rates = None", "--set", "compare.smallest = 2.0"], 1, "0 < smallest < largest"),
        (["--set", "run.strategy = @Heun()"], 1, "run.strategy: the steps are those of compare.strategies; remove this"),
        (["--set", "run.callbacks = [@EarlyStopping()]"], 1, "nobody is called in a comparison"),
        (["--set", "run.steps = 3"], 1, "the budget is run.epochs passes of the plain step"),
        (["--set", "run.validation_split = 0"], 1, "validation_data: there are none"),
        (["--set", "mlp.hiden = 3"], 1, "mlp has no parameter 'hiden'"),
        (["--jobs", "0"], 2, "--jobs=0: must be a whole number of at least 1"),
        (["--jobs", "x.gin"], 2, "--jobs=x.gin: must be a whole number"),
    ],
)
def test_a_mistake_is_one_line(trainlab_command, tmp_path, more, status, said):
    got, _, err = trainlab_command(*COMPARE, *more, "--run_dir", "a")
    [line] = ours(err)
    assert (got, said in line) == (status, True), line
    assert not list(tmp_path.rglob("result.json"))


def test_without_strategies_or_a_config_it_says_what_to_write(trainlab_command):
    status, _, err = trainlab_command("compare", "--config", str(CONFIGS / "base.gin"))
    assert status == 1 and "compare needs strategies: add compare.strategies = ..." in ours(err)[0]
    status, _, err = trainlab_command("compare")
    assert status == 2 and "nothing to compare: give --config FILE" in ours(err)[0]


def test_a_parameter_is_explained(trainlab_command):
    status, out, _ = trainlab_command("--help", "compare.seeds")
    assert status == 0 and "compare.seeds = 10" in out and "fewer than ten" in out
    status, out, _ = trainlab_command("train", "--help", "sweep.space")
    assert status == 0 and "sweep.space" in out and "'log'" in out


@pytest.mark.slow
def test_two_processes_make_the_same_table(trainlab_command, tmp_path):
    assert trainlab_command(*SMALL, "--run_dir", "one")[0] == 0
    status, _, err = trainlab_command(*SMALL, "--run_dir", "two", "--jobs", "2")
    assert (status, ours(err)) == (0, [])
    one, two = (json.loads((tmp_path / name / "comparison.json").read_text()) for name in ("one", "two"))
    assert one["table"] == two["table"] and one["verdicts"] == two["verdicts"]
