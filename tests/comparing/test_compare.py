"""`tl.compare`: what it trains, what it says, how it goes on, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from comparisons import TRAIN, VALIDATION, asked, model, plan, problem

import trainlab as tl
from trainlab.comparing import Executor, executing, racing
from trainlab.comparing.comparison import conclude
from trainlab.comparing.results import Results
from trainlab.runs import sealed


def compared(directory, strategies, **changes):
    given, named = asked(directory, strategies, **changes)
    return tl.compare(*given, **named)


def files(directory):
    """What of a comparison is the same bits on every try."""
    names = ("result.json", "test.json", "target.json", "plan.json")
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*.json") if path.name in names}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    """A clock is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racing, "_SECONDS_A_TURN", 0.0)
        patch.setattr(racing, "_ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("compared") / "whole"
    return compared(directory, {"heun": tl.Heun(), "again": tl.Heun()})


@pytest.mark.slow
def test_the_table_has_the_plain_steps_and_all_who_were_given(whole):
    assert [row["entry"] for row in whole.table] == ["SGD()", "SGD(), rate / 2", "heun", "again"]
    assert [row["updates"] for row in whole.table] == [18, 18, 9, 9]
    assert [row["evaluations"] for row in whole.table] == [18, 18, 18, 18]
    assert [row["verdict"] for row in whole.table] == ["", "", "not told apart", "not told apart"]
    assert all(row["learning_rate"] == 0.15 for row in whole.table if "/ 2" in row["entry"])
    assert whole.judged_on == "test" and whole.num_seeds == 2


def test_two_names_for_one_step_are_one_row(whole):
    heun, again = ({k: v for k, v in row.items() if k != "entry"} for row in whole.table[2:])
    assert heun == again and whole.table[0]["mean"] != heun["mean"]


def test_the_target_is_what_the_plain_step_reaches(whole):
    runs = [sealed.load(path) for path in sorted(whole.directory.glob("0-*/rate-1-*/result.json"))]
    last = [run["points"][-1]["value"] for run in runs]
    assert len(last) == 2 and whole.target == pytest.approx(np.median(last), rel=1e-12)
    assert whole.table[0]["reached"] >= 0.5


def test_what_is_shown_is_there_in_all_forms(whole, tmp_path):
    text, page = str(whole), whole._repr_html_()
    assert "not told apart" in text and "too few to tell anything" in text and "<td>heun</td>" in page
    assert max(map(len, text.splitlines()[:5])) < 160
    read = json.loads(whole.to_json(tmp_path / "a.json"))
    assert read == json.loads((tmp_path / "a.json").read_text()) and read["table"] == whole.table
    assert set(read["seconds"]) == set(read["best_of"]) == {row["entry"] for row in whole.table}
    assert set(whole.curves) == {"evaluations", "seconds", "updates"}
    html = whole.report(tmp_path / "a.html").read_text()
    assert html.count("<figure>") == 3 and html.count('class="band"') == 12 and "http" not in html.replace("http-equiv", "")
    for name, said in (("a.png", "as one of .html"), ("nosuch/a.html", "make it first"), (".html", "as one of .html")):
        with pytest.raises((OSError, ValueError), match=said):
            whole.report(tmp_path / name)


def test_reports_read_its_runs(whole, tmp_path):
    runs = sorted(path.parent for path in whole.directory.rglob("result.json"))[:3]
    assert "loss" in tl.report(runs, tmp_path / "runs.md").read_text()


@pytest.mark.slow
def test_whoever_is_stopped_at_any_point_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    """Stopped after every few files that it writes, in the middle of runs among them."""
    real, written = executing.write_atomically, []

    def stopped(path, write):
        real(path, write)
        written.append(path.name)
        if len(written) % 4 == 0:
            raise KeyboardInterrupt

    for module in (executing, sealed):
        monkeypatch.setattr(module, "write_atomically", stopped)
    again, stops = tmp_path / "again", 0
    while True:
        try:
            found = compared(again, {"heun": tl.Heun(), "again": tl.Heun()})
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 5
    assert found.table == whole.table and found.verdicts == whole.verdicts and found.best_of == whole.best_of
    assert files(again) == files(whole.directory) and len(files(again)) == 2 + 16 + 8


def test_finished_runs_are_not_made_again_and_test_data_are_read_once(whole, monkeypatch):
    given, named = asked(whole.directory, {"heun": tl.Heun(), "again": tl.Heun()})
    for name in ("fit", "evaluate"):
        monkeypatch.setattr(tl.Trainer, name, lambda *args, **kwargs: pytest.fail("something was made again"))
    assert tl.compare(*given, **named) == whole


@pytest.mark.slow
def test_the_plain_step_runs_before_all_others(tmp_path):
    of, order = problem(), []
    all_runs = plan(of, [tl.Heun()], seeds=1, rates=(0.1,))
    executor = Executor(of, all_runs, tmp_path / "a", order.append)
    executor.prepare()
    assert executor.work(1, 2)  # a helper begins elsewhere, but not before
    assert [line.split(" at ")[0] for line in order] == ["SGD()", "Heun()", "SGD(), rate / 2"]
    target = tmp_path / "a" / "target.json"
    assert target.stat().st_mtime_ns <= next((tmp_path / "a").glob("2-*/*/result.json")).stat().st_mtime_ns


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"seeds": 3}, "seeds"),
        ({"learning_rates": [0.1]}, "learning_rates"),
        ({"batch_size": 8}, "budget"),
        ({"loss": "mse"}, "loss"),
        ({"optimizer": keras.optimizers.SGD(momentum=0.9)}, "optimizer"),
        ({"validation_data": (VALIDATION[0] + 1, VALIDATION[1])}, "data"),
        ({"metric": ("max", "accuracy")}, "metric"),
    ],
)
def test_another_comparison_does_not_go_there(whole, changes, differs):
    before = files(whole.directory)
    with pytest.raises(ValueError, match=f"holds another comparison: its {differs} differ: give another directory"):
        compared(whole.directory, {"heun": tl.Heun(), "again": tl.Heun()}, **changes)
    assert files(whole.directory) == before


def test_another_model_or_strategy_does_not_go_there(whole):
    given, named = asked(whole.directory, {"heun": tl.Heun(), "again": tl.Heun()})
    with pytest.raises(ValueError, match="its model differ"):
        tl.compare(lambda: model(0.3), *given[1:], **named)
    with pytest.raises(ValueError, match="its entries differ"):
        tl.compare(given[0], {"heun": tl.Heun(), "again": tl.Sam()}, *given[2:], **named)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learning_rates": []}, "learning_rates is empty"),
        ({"learning_rates": [0.1, -1]}, "-1 is none: must be a finite number above 0"),
        ({"learning_rates": [0.1, "a"]}, "'a' is none"),
        ({"learning_rates": [0.1, 0.1]}, "one is there twice"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [1, 1]}, "seeds must be different"),
        ({"epochs": 0}, "epochs must be"),
        ({"validation_data": None}, "validation_data: there are none"),
        ({"validation_data": 3}, "validation_data must be (x, y)"),
        ({"metric": ("up", "a")}, '("min", name) or ("max", name)'),
        ({"optimizer": keras.optimizers.SGD(lambda: 0.1)}, "its learning rate is the function"),
        ({"jit": True}, "jit"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_made(tmp_path, changes, said):
    with pytest.raises((TypeError, ValueError)) as error:
        compared(tmp_path / "a", [tl.Heun()], **changes)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, said",
    [
        ({"metric": "accuracy"}, "metric = 'accuracy': more of it is better: say so by "),
        ({"metric": "acuracy"}, "metric = 'acuracy': .* which are accuracy, loss; did you mean 'accuracy'"),
        ({"jit_compil": True}, "did you mean jit_compile"),
    ],
    ids=["direction", "metric", "setting"],
)
def test_whoever_called_wrongly_calls_again(tmp_path, changes, said):
    """What only the Trainer finds is said before any run, and the directory is then nobody's."""
    few = {"seeds": 1, "epochs": 1, "learning_rates": [0.1]}
    with pytest.raises((TypeError, ValueError), match=said):
        compared(tmp_path, [tl.Heun()], **few, **changes)
    assert not list(tmp_path.iterdir())
    assert compared(tmp_path, [tl.Heun()], **few).table


@pytest.mark.slow
@pytest.mark.parametrize("factor, is_timed", [(-1e30, True), (np.inf, False)], ids=["soon", "at once"])
def test_whoever_diverges_at_every_rate_is_in_the_table(tmp_path, factor, is_timed):
    class Away(tl.StepStrategy):
        def step(self, objective, state):
            return tl.Step(state.parameters * factor, at=objective(state.parameters))

    found = compared(tmp_path, {"away": Away()}, metrics=[], seeds=1)
    plain, away = found.table
    assert plain["mean"] is not None and (away["mean"], away["cost_to_target"]) == (None, None)
    assert (found.seconds["away"]["seconds_per_update"] is not None) == is_timed
    assert found.seconds[plain["entry"]]["seconds_per_update"] > 0 and found.to_json() and "missed" in str(found)
    assert found.report(tmp_path / "page.html").exists()


@pytest.mark.slow
def test_nothing_goes_on_with_other_code(tmp_path):
    def factor():
        return 1.0

    def made(factor):
        class Mine(tl.StepStrategy):
            def __init__(self, factor):
                self.factor = factor

            def step(self, objective, state):
                here = objective(state.parameters)
                return tl.Step(here.gradient * self.factor(), at=here)

        return [Mine(factor)]

    few = {"seeds": 1, "epochs": 1, "learning_rates": [0.1], "test_data": None}
    first = compared(tmp_path, made(factor), **few)
    assert first.table[1]["entry"].endswith("factor>)") and " at 0x" not in first.table[1]["entry"]

    def factor():  # the same code at another address
        return 1.0

    assert compared(tmp_path, made(factor), **few).table == first.table

    def factor():
        return 0.5

    with pytest.raises(ValueError, match="another comparison: its code of the entries differ"):
        compared(tmp_path, made(factor), **few)


def test_a_model_is_no_function_that_makes_one_and_strangers_are_left_alone(tmp_path):
    given, named = asked(tmp_path, [tl.Heun()])
    with pytest.raises(TypeError, match="a function without arguments"):
        tl.compare(model(), *given[1:], **named)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt, and no comparison"):
        tl.compare(*given, **named)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    for text in ("[1, 2]", '{"rooms": 3}', "a plan"):
        (tmp_path / "notes.txt").unlink(missing_ok=True)
        (tmp_path / "plan.json").write_text(text)
        with pytest.raises(ValueError, match=r"holds plan.json, and no comparison: give another directory"):
            tl.compare(*given, **named)
        assert (tmp_path / "plan.json").read_text() == text


@pytest.mark.slow
def test_a_metric_that_is_to_be_large_is_judged_so(tmp_path):
    found = compared(tmp_path / "a", [tl.Heun()], metric=("max", "accuracy"), learning_rates=[1e-4, 0.5], seeds=1)
    assert all(row["learning_rate"] >= 0.25 for row in found.table)  # the one that learns
    assert 0 < found.target <= 1 and all(0 <= row["mean"] <= 1 for row in found.table)


@pytest.mark.slow
def test_data_sets_are_compared_on_too(tmp_path):
    import tensorflow as tf

    data, held_out = (tf.data.Dataset.from_tensor_slices(part).batch(16) for part in (TRAIN, VALIDATION))
    named = asked(tmp_path / "a", [])[1] | {"validation_data": held_out, "test_data": None, "seeds": 1, "learning_rates": [0.1]}
    found = tl.compare(model, [tl.Heun()], data, **named)
    assert [row["updates"] for row in found.table] == [18, 18, 9] and found.judged_on == "validation"
    with pytest.raises(ValueError, match="how many batches a pass has is not known"):
        tl.compare(model, [tl.Heun()], data.repeat(), **(named | {"directory": tmp_path / "b"}))


def results_of(values, is_up=False):
    """A table of made-up results: by entry the last value of each seed, at one rate."""
    of = problem()
    seeds = len(next(iter(values.values())))
    all_runs = plan(of, {"heun": tl.Heun(), "other": tl.Heun()}, rates=(0.1,), seeds=seeds)
    found = {}
    for entry in all_runs.entries:
        for seed, value in enumerate(values[entry.name]):
            points = [{"updates": 1, "evaluations": 1, "value": 9.0, "loss": 9.0}]
            points += [{"updates": all_runs.updates(entry), "evaluations": 24, "value": value, "loss": 1.0}]
            found[entry.name, 0, seed] = {"points": points, "end": "finished" if value is not None else "not finite: here"}
    seconds = {entry.name: 0.1 for entry in all_runs.entries}
    results = Results(all_runs, found, is_up).with_seconds(seconds)
    return conclude(all_runs, results, 1.0, {}, seconds, "loss", Path())


def test_better_is_better_than_every_plain_step():
    rng = np.random.default_rng(0)
    base = 1 + 0.3 * rng.normal(size=12)

    def like(difference):
        return list(base + difference + 0.01 * rng.normal(size=12))

    plain = {"SGD()": like(0), "SGD(), rate / 2": like(0.5)}
    verdicts = {}
    for difference in (-0.2, 0.0, 0.2, 0.7):
        found = results_of(plain | {"heun": like(difference), "other": like(0)})
        verdicts[difference] = found.table[2]["verdict"]
    # At 0.2 it beats the one with the smaller rate, and not the one with the larger.
    assert verdicts == {-0.2: "better", 0.0: "not told apart", 0.2: "worse", 0.7: "worse"}


def test_a_metric_that_is_to_be_large_is_told_as_it_is():
    """Differences and quartiles have the metric's own sign; what is better is turned."""
    rng = np.random.default_rng(0)
    plain = list(0.5 + 0.01 * rng.normal(size=12))
    values = {
        "SGD()": plain,
        "SGD(), rate / 2": plain,
        "heun": [p + 0.1 + 0.001 * k for k, p in enumerate(plain)],
        "other": plain,
    }
    up, down = results_of(values, is_up=True), results_of(values)
    assert (up.table[2]["verdict"], down.table[2]["verdict"]) == ("better", "worse")
    for found in (up, down):
        first = found.verdicts[0]
        assert first["mean"] == pytest.approx(0.1055) and 0.1 < first["interval"][0] < 0.1055 < first["interval"][1] < 0.111
        for curve in found.curves["evaluations"].values():
            assert all(
                low <= middle <= high for low, middle, high in zip(curve["low"], curve["median"], curve["high"], strict=True)
            )


def test_a_miss_is_infinite_and_takes_part_in_the_median():
    values = {
        "SGD()": [1.0] * 5,
        "SGD(), rate / 2": [1.0, 1.0, 1.0, 2.0, None],
        "heun": [0.5, 0.5, 2.0, 2.0, None],
        "other": [None] * 5,
    }
    found = results_of(values)
    assert [row["cost_to_target"] for row in found.table] == [24, 24, None, None]
    assert [row["reached"] for row in found.table] == [1.0, 0.6, 0.4, 0.0]
    assert found.table[3]["mean"] is None and json.loads(found.to_json())["table"] == found.table
    assert found.profile["shares"]["heun"] == [0.4] and found.profile["shares"]["other"] == [0.0]


PROGRAM = """
import sys
sys.path[:0] = [{tests!r}]
import trainlab as tl
from comparisons import asked
given, named = asked(sys.argv[1], {{"heun": tl.Heun(), "again": tl.Heun()}}, seeds=10)
open(sys.argv[2], "w").write(repr(tl.compare(*given, **named).table))
"""


@pytest.mark.slow
def test_killed_five_times_it_gives_the_same_table(tmp_path):
    tests = Path(__file__).parents[1]
    tables = []
    for name, kills in (("whole", []), ("killed", [7, 6, 6, 6, 6])):
        command = [sys.executable, "-c", PROGRAM.format(tests=str(tests)), str(tmp_path / name), str(tmp_path / f"{name}.txt")]
        for seconds in kills:
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        tables.append((tmp_path / f"{name}.txt").read_text())
    assert tables[0] == tables[1] and files(tmp_path / "whole") == files(tmp_path / "killed")
