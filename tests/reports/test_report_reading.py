"""Runs read from their directories: with and without a timeline, damaged, running, and what is none."""

import json
import math
import os

import pytest
from reporting import begin, config, end, epoch, learned, one, written

from trainlab.reports.reading.configs import differing, settings_of_text
from trainlab.reports.reading.older import aligned
from trainlab.reports.reading.run import columns_of, read_run, read_runs
from trainlab.runs import Lock


def metrics_only(directory, num=5):
    directory.mkdir(parents=True)
    lines = [
        {"epoch": i + 1, "step": 23 * (i + 1), "loss": 1 / (i + 1), "accuracy": None if i == 2 else i / 10} for i in range(num)
    ]
    lines.append({"epoch": num, "step": 23 * num, "test_accuracy": 0.9, "test_loss": 0.2})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return directory


def dictionary(**values):
    return {"kind": "dict", "items": [[name, value] for name, value in values.items()]}


def checkpoint(directory, step, finished, **history):
    """A run of Python with a checkpoint alone; the history in the form of `encode`."""
    record = dictionary(epoch=list(range(max(map(len, history.values())))), history=dictionary(**history))
    state = {"finished": finished, "progress": {"updates": step, "epoch": 3}, "histories": [record] if finished else []}
    state["callbacks"] = dictionary() if finished else dictionary(**{"History.0": record})
    folder = directory / "checkpoints" / f"00000003-step-{step}"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps(state))
    return directory


def test_a_run_whose_numbers_are_known(tmp_path):
    [path] = one(tmp_path)
    run = read_run(path)
    assert run.status == "finished" and run.test == {"accuracy": 0.96, "loss": 0.1} and run.has_config
    assert run.settings == {"run.epochs": "30", "run.seed": "0"} and len(run.series["val_loss"]) == 30
    # 95 examples by tens are ten updates of 9.5; 23 updates take 0.1 s.
    assert run.examples == 9.5 and run.examples_a_second == pytest.approx(230 * 9.5)
    assert run.speed[1:] == pytest.approx([230.0] * 29)


def test_a_run_of_an_older_trainlab_by_the_command(tmp_path):
    run = read_run(metrics_only(tmp_path / "a"))
    assert run.epochs == [1, 2, 3, 4, 5] and run.axes["updates"] == [23, 46, 69, 92, 115]
    assert run.series["loss"] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]) and math.isnan(run.series["accuracy"][2])
    assert run.test == {"accuracy": 0.9, "loss": 0.2} and run.status == "stopped" and run.sessions == []
    assert math.isnan(run.total("seconds")) and math.isnan(run.total("evaluations"))


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_an_older_trainlab_from_python(tmp_path, finished):
    run = read_run(
        checkpoint(
            tmp_path / "a",
            40,
            finished,
            loss=[3.0, 2.0, 1.5, 1.0],
            val_loss=[2.5, {"kind": "number", "dtype": "<f4", "value": 1.25}],
        )
    )
    assert run.axes["updates"] == [10, 20, 30, 40] and run.series["loss"] == [3.0, 2.0, 1.5, 1.0]
    assert run.measured["val_loss"] == [1, 3] and run.series["val_loss"][3] == 1.25  # validation_freq=2
    assert run.status == ("finished" if finished else "stopped")


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    path = checkpoint(tmp_path / "a", 40, True, loss=[3.0, 2.0])
    newer = path / "checkpoints" / "00000004-step-60"
    newer.mkdir()
    (newer / "state.json").write_text('{"finished": tr')
    assert read_run(path).series["loss"] == [3.0, 2.0]


@pytest.mark.parametrize("older", [metrics_only, lambda d: checkpoint(d, 115, False, loss=[1.0, 0.5, 0.3, 0.2, 0.1])])
def test_a_run_that_is_older_than_its_timeline(tmp_path, older):
    path = older(tmp_path / "a")
    lines = [begin(115, 5, resumed=True), *learned(3, first=5), end(184, 0.3)]
    (path / "timeline.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path)
    assert run.epochs == [1, 2, 3, 4, 5, 6, 7, 8] and run.axes["updates"] == [23 * i for i in range(1, 9)]
    assert [math.isnan(s) for s in run.axes["seconds"]] == [True] * 5 + [False] * 3


def test_names_tell_runs_apart(tmp_path):
    for place in ("x/a", "y/a", "b"):
        written(tmp_path / place, [begin()])
    runs = read_runs([tmp_path / "x/a", tmp_path / "y/a", tmp_path / "b", tmp_path / "x" / ".." / "b"])
    assert [run.name for run in runs] == ["x/a", "y/a", f"{tmp_path.name}/b"]  # the last is the same once more
    assert [run.name for run in read_runs([tmp_path / "x/a", tmp_path / "b"])] == ["a", "b"]


def test_running_or_killed_is_told_by_the_lock(tmp_path):
    path = written(tmp_path / "a", [begin(), *learned(2)])
    assert read_run(path).status == "stopped (killed)"
    with Lock(path / "lock"):
        assert read_run(path).status == "running"
    assert read_run(path).status == "stopped (killed)"
    written(tmp_path / "b", [begin()])
    (tmp_path / "b" / "lock").write_text("garbage")
    assert read_run(tmp_path / "b").status == "stopped (killed)"  # and its only epoch was not over


@pytest.mark.parametrize(
    ("why", "status"),
    [
        ("finished", "finished"),
        ("stopped by a callback", "stopped by a callback"),
        ("signal SIGTERM", "stopped (signal SIGTERM)"),
        (None, "stopped (None)"),
    ],
)
def test_how_it_ended(tmp_path, why, status):
    assert read_run(written(tmp_path / "a", [begin(), end(0, 0.1, why)])).status == status


def test_what_is_no_run_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"empty: holds no run \(no timeline.jsonl, no metrics.jsonl, no checkpoint\); give the directory of"
    ):
        read_run(tmp_path / "empty")
    written(tmp_path / "runs" / "a", [begin()])
    written(tmp_path / "runs" / "b", [begin()])
    with pytest.raises(ValueError, match=r"there are 2 in it: give .*/runs/\*/, or .*/runs/a"):
        read_run(tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such directory; give those of runs"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="timeline.jsonl: is a file; give the directory"):
        read_run(tmp_path / "runs" / "a" / "timeline.jsonl")
    (tmp_path / "empty" / "timeline.jsonl").write_text("notes")
    with pytest.raises(ValueError, match="holds no run"):
        read_run(tmp_path / "empty")


def test_metrics_that_are_not_of_every_epoch_and_gaps_are_two_things(tmp_path):
    nan = float("nan")
    lines = [begin(), epoch(0, 1, 0.1, loss=1.0), epoch(1, 2, 0.2, loss=nan, val_loss=2.0), epoch(2, 3, 0.3, loss=0.5)]
    run = read_run(written(tmp_path / "a", lines))
    assert run.measured == {"loss": [0, 1, 2], "val_loss": [1]} and [math.isnan(v) for v in run.series["loss"]] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [10**400, 1e999, True, "text", [], {}, [[1], {"a": 2}], {"<b>": {"c": 1}}])
def test_any_value_among_the_logs(tmp_path, value):
    run = read_run(written(tmp_path / "a", [begin(), epoch(0, 1, 0.1, loss=0.5, odd=value)]))
    assert run.series["loss"] == [0.5]
    assert all(isinstance(number, float) for column in run.series.values() for number in column)


def test_lists_and_dictionaries_are_numbers_by_place():
    columns, measured = columns_of([{"rate": [0.1, 0.2], "by": {"a": 1}}, {"rate": [0.3, None]}])
    assert columns["rate[0]"] == [0.1, 0.3] and columns["by.a"][0] == 1.0 and measured["by.a"] == [0]
    assert sorted(columns) == ["by.a", "rate[0]", "rate[1]"]
    assert len(columns_of([{"many": list(range(1000))}])[0]) == 16


def test_settings_of_a_config_file():
    text = """# Parameters for run:
# ==============================
import mine
from keras import optimizers
run.epochs = 30
run.strategy = @Accumulate()
Accumulate.inner = @Heun()
mlp.hidden_sizes = \\
    (64,
     32)
scope/SGD.learning_rate = 0.1
run.note = '''a
  b'''
run.empty = {
}
"""
    found = settings_of_text(text)
    assert found["mlp.hidden_sizes"] == "(64, 32)" and found["scope/SGD.learning_rate"] == "0.1" and found["run.empty"] == "{ }"
    assert found["Accumulate.inner"] == "@Heun()" and found["import mine"] == "yes" and found["run.note"] == "'''a b'''"
    assert settings_of_text("") == {}


def test_only_what_differs():
    a, b, c = {"x": "1", "y": "2", "z": "3"}, {"x": "1", "y": "3", "z": "3"}, {"x": "1", "y": "2"}
    assert differing([a, b, c]) == {"y": ["2", "3", "2"], "z": ["3", "3", None]}
    assert differing([a, a]) == {} and differing([a]) == {} and differing([]) == {}


def test_settings_of_runs_from_python_are_those_of_their_beginning(tmp_path):
    run = read_run(written(tmp_path / "a", [begin(settings={"seed": 3, "optimizer.beta_1": 0.9})]))
    assert run.settings["seed"] == "3" and run.settings["strategy"] == "SGD()" and not run.has_config
    odd = read_run(written(tmp_path / "b", [begin(settings=[1], versions="?", directions=7, evaluations="x", examples=-1)]))
    assert odd.settings["strategy"] == "SGD()" and odd.directions == {} and odd.examples is None


@pytest.mark.parametrize(
    ("num_values", "num", "places"),
    [(3, 6, [1, 3, 5]), (2, 4, [1, 3]), (4, 4, [0, 1, 2, 3]), (1, 3, [2]), (0, 2, []), (2, 5, [1, 3]), (3, 10, [2, 5, 8])],
)
def test_shorter_columns_are_spread(num_values, num, places):
    values = aligned([float(i) for i in range(num_values)], num)
    assert [i for i, value in enumerate(values) if value is not ...] == places and len(values) == num


def test_a_config_is_read_without_running_it(tmp_path):
    path = written(tmp_path / "a", [begin()], config(epochs=3) + "import os; os.mkdir('ran')\n")
    assert "run.epochs" in read_run(path).settings and not os.path.exists("ran")
