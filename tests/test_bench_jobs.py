"""What the benchmark makes of whole jobs: turns, figures, verdicts, and rows that fail; and that a few of them run."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys

import keras
import pytest
from sources import imports

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from benchmarking import jobs  # noqa: E402
from benchmarking.jobs import __main__ as one_job  # noqa: E402
from benchmarking.jobs import figures, fitting, plain_script, processes, things  # noqa: E402
from benchmarking.jobs.figures import Figure, Found, Size  # noqa: E402


class Report:
    """Remembers what it is told."""

    def __init__(self):
        self.said, self.kept = [], {}

    def say(self, text):
        self.said.append(text)

    def keep(self, name, value):
        self.kept[name] = json.loads(json.dumps(value))


def turn(order, name, seconds):
    waits = iter(seconds)

    def take():
        order.append(name)
        return next(waits)

    return take


@pytest.mark.parametrize(
    ("warm_up", "expected"), [(True, {"a": [2.0, 4.0], "b": [1.0, 8.0]}), (False, {"a": [100.0, 2.0], "b": [3.0, 1.0]})]
)
def test_sides_take_turns_and_a_warm_up_does_not_count(warm_up, expected):
    order = []
    turns = {"a": turn(order, "a", [100.0, 2.0, 4.0]), "b": turn(order, "b", [3.0, 1.0, 8.0])}
    assert figures.take_turns(turns, 2, warm_up) == expected
    assert order == ["a", "b"] * (2 + warm_up)


def test_a_ratio_is_the_median_of_pairs_with_its_least_and_most():
    found = figures.ratio({"Keras": [4.0, 100.0, 6.0], "ours": [2.0, 10.0, 2.0]}, "Keras", "ours", ">= 3")
    assert found == Figure("Keras / ours", 3.0, 2.0, 10.0, ">= 3")  # of 2, 10 and 3; the ratio of the medians is 3 too,
    assert figures.ratio({"a": [1.0, 9.0, 2.0], "b": [1.0, 3.0, 4.0]}, "a", "b").median == 1.0  # and here 2 / 3


def test_a_number_keeps_its_spread():
    assert figures.number("traces", [4, 2, 9], "<= 4") == Figure("traces", 4, 2, 9, "<= 4")


@pytest.mark.parametrize(
    ("median", "wanted", "verdict"),
    [
        (2.0, ">= 2", "met"),
        (1.999, ">= 2", "missed"),
        (7.0, ">= 2", "met"),
        (1.1, "<= 1.1", "met"),
        (1.11, "<= 1.1", "missed"),
        (0.2, "<= 0.6", "met"),
        (0.2, "", ""),
    ],
)
def test_what_is_wanted_is_met_or_missed_by_the_median(median, wanted, verdict):
    assert Figure("a / b", median, 0.0, 100.0, wanted).verdict == verdict


def test_a_fit_is_timed_without_what_it_is_given(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(figures.time, "perf_counter", lambda: clock[0])
    ended = []

    @contextlib.contextmanager
    def given():
        clock[0] += 10
        yield {"x": 3.0}
        clock[0] += 100
        ended.append(True)

    def fit(x, verbose):
        assert verbose == 0 and len(ended) == 0
        clock[0] += x

    assert fitting.fits(fit, given)() == 3.0
    assert ended


@pytest.mark.parametrize(("size", "expected"), [(Size(), 40), (Size(scale=0.5), 20), (Size(scale=0.01), 4)])
def test_a_scale_shrinks_down_to_the_least(size, expected):
    assert size.scaled(40, 4) == expected


FOUND = Found(
    {"Keras": [3.0, 5.0, 4.0], "trainlab": [0.5, 0.5, 0.5]},
    [Figure("Keras / trainlab", 8.0, 6.0, 10.0, ">= 9"), Figure("traces", 2, 1, 3, "<= 4"), Figure("MB", 612.3, 600.0, 700.2)],
)


def test_rows_say_what_was_missed_and_the_times_once():
    assert list(jobs.lines("a job", FOUND)) == [
        "| a job | Keras / trainlab | 8.00 | 6.00 | 10.00 | >= 9 | **missed** | Keras 4; trainlab 0.5 |",
        "|  | traces | 2.00 | 1.00 | 3.00 | <= 4 | met |  |",
        "|  | MB | 612 | 600 | 700 |  |  |  |",
    ]


def test_a_job_that_fails_is_a_row_and_the_others_go_on(monkeypatch):
    def measured(name, size):
        if name == "plain":
            raise RuntimeError("ValueError: x | y\nis bad")
        return FOUND

    monkeypatch.setattr(jobs, "measured", measured)
    report = Report()
    jobs.table(report, ["plain", "evaluate", "scan"], Size(pairs=3))
    rows = [line for line in report.said if line.startswith("| ") and not line.startswith("| job")]
    assert rows[0] == f"| {jobs.JOBS['plain'].words} | failed: ValueError: x / y is bad | | | | | | |"
    assert rows[1].startswith(f"| {jobs.JOBS['evaluate'].words} | Keras / trainlab | 8.00 |")
    assert "--jax_python PATH" in rows[-1] and "pip install jax optax" in rows[-1]
    assert {row.count("|") for row in rows} == {9}
    assert report.kept["jobs: plain"] == {"failed": "ValueError: x | y\nis bad"}
    assert report.kept["jobs: evaluate"]["verdicts"] == ["missed", "met", ""]
    assert Found.of_json(report.kept["jobs: evaluate"]) == FOUND
    assert set(report.kept) == {"jobs: plain", "jobs: evaluate"}


@pytest.mark.parametrize("fails", [False, True])
def test_the_process_of_a_job_prints_what_it_found_or_what_failed(monkeypatch, capsys, fails):
    def measure(size):
        assert size == Size(2, 0.5, None)
        if fails:
            raise ValueError("the data are gone")
        return FOUND

    monkeypatch.setitem(jobs.JOBS, "plain", jobs.Job(measure, "a job"))
    monkeypatch.setattr(sys, "argv", ["benchmarking.jobs", "plain", '{"pairs": 2, "scale": 0.5, "jax_python": null}'])
    one_job.main()
    found = json.loads(capsys.readouterr().out)
    if fails:
        assert found == {"failed": "ValueError: the data are gone"}
    else:
        assert Found.of_json(found) == FOUND


def test_a_process_that_ends_badly_is_told_with_its_last_line():
    assert processes.ended([sys.executable, "-c", "print(3)"]) == "3\n"
    with pytest.raises(RuntimeError, match="^status 1: it is bad$"):
        processes.ended([sys.executable, "-c", "import sys; print('before', file=sys.stderr); sys.exit('it is bad')"])


def test_what_is_shown_is_shown_on_a_terminal(capsys):
    assert not sys.stdout.isatty()
    with fitting.on_a_terminal():
        assert sys.stdout.isatty()
        print("x" * 100_000)  # more than a terminal holds that nobody reads
    assert not sys.stdout.isatty()
    assert capsys.readouterr().out == ""


def test_the_residual_net_has_fourteen_convolutions():
    model = things.residual()
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 14
    assert model.output_shape == (None, 10)


def test_the_transformer_has_two_layers_of_attention():
    model = things.vision_transformer()
    assert sum(isinstance(layer, keras.layers.MultiHeadAttention) for layer in model.layers) == 2
    assert model.output_shape == (None, 10)


@pytest.mark.parametrize(
    ("script", "strangers"),
    [("plain_script.py", {"trainlab", "benchmarking"}), ("jax_scan.py", {"trainlab", "benchmarking", "tensorflow", "keras"})],
)
def test_peers_know_nothing_of_us(script, strangers):
    def packages(name):
        return {
            module.split(".")[0] for module in imports((SCRIPTS / "benchmarking" / "jobs" / name).read_text(encoding="utf-8"))
        }

    assert not packages(script) & strangers
    assert packages("our_scan.py") & strangers  # such an import would be seen


@pytest.mark.slow
def test_the_plain_script_trains_what_the_config_says(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plain_script.py", str(tmp_path / "model.keras"), "1"])
    plain_script.main()
    shown = capsys.readouterr().out
    assert "23/23" in shown and "val_accuracy" in shown  # 1,438 examples in batches of 64
    model = keras.saving.load_model(tmp_path / "model.keras")
    assert model.count_params() == 9610  # as the README shows of configs/heun.gin
    assert type(model.optimizer) is keras.optimizers.SGD and float(model.optimizer.learning_rate) == pytest.approx(0.2)


@pytest.mark.slow
def test_a_few_jobs_run(tmp_path):
    few = {"evaluate": 1, "terminal": 1, "growing": 5}  # and how many figures each has
    short = ["--parts", "jobs", "--jobs", *few, "scan", "--pairs", "1", "--scale", "0.02"]
    command = [sys.executable, str(SCRIPTS / "bench.py"), *short, "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=SCRIPTS.parent)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: len(results[f"jobs: {name}"]["figures"]) for name in few} == few
    for name in few:
        assert set(results[f"jobs: {name}"]["verdicts"]) <= {"met", "missed", ""}
        assert all(seconds > 0 for values in results[f"jobs: {name}"]["seconds"].values() for seconds in values)
    text = (tmp_path / "results.md").read_text()
    assert "failed" not in text and "--jax_python PATH" in text
    assert len(re.findall(r"\| (?:met|\*\*missed\*\*) \|", text)) == 4
