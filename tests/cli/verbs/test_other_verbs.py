"""`find-lr`, `report` and `show`: what they hand on, and what they print."""

import errno
import glob
import json
import sys
import types
from pathlib import Path

import pytest
from commands import CONFIGS, HEUN, SHORT, everything_in, ours

from trainlab import Trainer

RATES = types.SimpleNamespace(
    suggestion=0.0321,
    why="the loss falls fastest there",
    learning_rates=[1e-3, 1.0],
    losses=[2.0, float("nan")],
    smoothed=[2.0, 2.0],
)


@pytest.fixture
def tried(monkeypatch):
    """A stand-in for `Trainer.find_learning_rate`, and what it was given."""
    given = []

    def find(self, x, y=None, **how):
        given.append((len(x), how))
        return RATES

    monkeypatch.setattr(Trainer, "find_learning_rate", find, raising=False)
    return given


def test_find_lr_says_which_and_why(trainlab_command, tmp_path, tried):
    status, out, err = trainlab_command("find-lr", *HEUN, "--num-updates", "20", "--largest=2", "-o", "lr.json")
    assert (status, ours(err)) == (0, []), err
    assert tried == [
        (1294, {"smallest": 1e-7, "largest": 2.0, "num_updates": 20, "batch_size": 64, "sample_weight": None}),
    ]
    assert "why       the loss falls fastest there\nrate      0.0321\ncurve     lr.json\n" in out
    written = json.loads((tmp_path / "lr.json").read_text())
    assert written["suggestion"] == 0.0321 and written["losses"] == [2.0, None] and written["learning_rates"] == [0.001, 1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["lr.json"]


def test_find_lr_is_of_one_process(trainlab_command, tried):
    status, out, err = trainlab_command("find-lr", *HEUN, "--set", "run.distribute = 'workers'")
    [line] = ours(err)
    assert (status, out, tried) == (1, "", [])
    assert line == "trainlab: error: run.distribute = 'workers': find-lr is of one process: add --set 'run.distribute = None'"


def test_find_lr_draws(trainlab_command, tmp_path, tried, monkeypatch):
    monkeypatch.setattr(RATES, "plot", lambda path: path.write_bytes(b"drawn"), raising=False)
    assert trainlab_command("find-lr", *HEUN, "--output", "lr.png")[0] == 0
    assert (tmp_path / "lr.png").read_bytes() == b"drawn"


@pytest.mark.parametrize("verb", ["show", "report"])
def test_a_path_that_cannot_be_looked_at_is_one_line(trainlab_command, tmp_path, verb, monkeypatch):
    name = "x" * 300
    assert trainlab_command(verb, name)[0] == 1
    [line] = ours(trainlab_command(verb, name)[2])
    assert line.startswith("trainlab: error: xxx") and line.endswith(": File name too long; give a path that can be read")
    with pytest.raises(OSError, match="too long"):  # the control
        trainlab_command(verb, name, "--debug")
    (tmp_path / "mine").mkdir()
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: denied(self) if self.parent.name == "mine" else stat(self, **how))
    [line] = ours(trainlab_command(verb, "mine")[2])
    assert line.startswith("trainlab: error: mine/") and line.endswith(": Permission denied; give a path that can be read")


def denied(path):
    """As a directory that somebody else has closed; root may look into all."""
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_what_the_hint_says_is_a_report(trainlab_command, tmp_path):
    """A sweep's directory holds files beside its runs, which are none."""
    for name in ("trial-0000", "trial-0001"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        (tmp_path / "sweep" / name / "metrics.jsonl").write_text('{"epoch": 1, "step": 2, "loss": 0.5}\n')
    for name in ("lock", "study.log", "sweep.json"):
        (tmp_path / "sweep" / name).write_text("")
    [line] = ours(trainlab_command("report", "sweep")[2])
    pattern = line.partition("give ")[2].partition(",")[0]
    assert pattern == "sweep/*/"
    status, _, err = trainlab_command("report", *sorted(glob.glob(pattern)), "-o", "sweep.md")
    assert (status, ours(err)) == (0, []), err
    assert "trial-0001" in (tmp_path / "sweep.md").read_text()
    assert trainlab_command("report", *sorted(glob.glob("sweep/*")), "-o", "sweep.md")[0] == 1  # the control


def test_a_report_of_the_folder_of_runs_says_where_they_are(trainlab_command, tmp_path):
    for name in ("b", "a"):  # as runs from Python leave: without the command's records
        (tmp_path / "runs" / name / "checkpoints").mkdir(parents=True)
    status, _, err = trainlab_command("report", "runs")
    [line] = ours(err)
    assert status == 1 and line.endswith("it holds no timeline.jsonl; there are 2 in it: give runs/*/, or runs/a")


@pytest.mark.slow
def test_find_lr_really_tries(trainlab_command, tmp_path):
    status, out, err = trainlab_command("find-lr", *HEUN, "-o", "lr.json", "--num_updates=30")
    assert (status, ours(err)) == (0, []), err
    written = json.loads((tmp_path / "lr.json").read_text())
    assert 1e-7 < written["suggestion"] < 10 and len(written["losses"]) == len(written["learning_rates"]) <= 30
    assert [path.name for path in tmp_path.iterdir()] == ["lr.json"]


def test_report_hands_on_what_it_was_given(trainlab_command, tmp_path, monkeypatch):
    given = []

    def write(runs, output, title=None):
        given.append(([str(run) for run in runs], str(output), title))
        return output

    monkeypatch.setitem(sys.modules, "trainlab.reports", types.SimpleNamespace(write=write))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").touch()
    assert trainlab_command("report", "a", "b") == (0, "report    report.html\n", "")
    assert trainlab_command("report", "a", "-o", "a.MD", "--title", "A run")[0] == 0
    assert trainlab_command("report", "a", "-o", "a.svg")[0] == 0
    assert given == [(["a", "b"], "report.html", None), (["a"], "a.MD", "A run"), (["a"], "a.svg", None)]


@pytest.mark.slow
def test_a_report_by_the_command_is_the_real_one(trainlab_command, tmp_path):
    assert trainlab_command("train", *SHORT, "--run_dir", tmp_path / "a")[0] == 0
    status, out, err = trainlab_command("report", tmp_path / "a", "-o", tmp_path / "a.md")
    assert (status, out, err) == (0, f"report    {tmp_path / 'a.md'}\n", "")
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "| a | finished |" in text and "test accuracy" in text
    status, out, err = trainlab_command("report", tmp_path / "none")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "none" in err


def test_what_a_report_cannot_do_is_one_line(trainlab_command, tmp_path, monkeypatch):
    def write(*args, **kwargs):
        raise ModuleNotFoundError("a picture needs matplotlib: pip install 'trainlab[report]'")

    monkeypatch.setitem(sys.modules, "trainlab.reports", types.SimpleNamespace(write=write))
    (tmp_path / "metrics.jsonl").touch()
    status, out, err = trainlab_command("report", ".", "-o", "a.png")
    assert (status, out, err) == (1, "", "trainlab: error: a picture needs matplotlib: pip install 'trainlab[report]'\n")


@pytest.mark.slow
def test_show_says_what_happens_in_this_very_run(trainlab_command, tmp_path):
    more = ["--set", "run.callbacks = [@EarlyStopping(), @ModelCheckpoint()]", "--set", "ModelCheckpoint.filepath = 'best.keras'"]
    more += ["--set", "ModelCheckpoint.save_freq = 50", "--set", "run.monitor = 'val_accuracy'", "--set", "run.keep_best = True"]
    assert trainlab_command("train", *SHORT, *more, "--run_dir", "a")[0] == 0
    before = everything_in(tmp_path)
    status, out, err = trainlab_command("show", "a")
    assert (status, ours(err)) == (0, []), err
    said = " ".join(out.split())
    for words in (
        "9,610 parameters",
        "for one epoch",
        "21 updates, each takes 64 examples Heun(): 2 evaluations",
        "ModelCheckpoint hears of every 50th",
        "validation on 144 examples, after every epoch",
        "on_epoch_end: Begin, EarlyStopping (val_accuracy), ModelCheckpoint (val_accuracy), JsonLines, History",
        "a checkpoint, if the epoch was the best so far by val_accuracy",
        "a checkpoint is written every 60 seconds",
    ):
        assert words in said, words
    assert everything_in(tmp_path) == before  # it only reads


@pytest.mark.parametrize("module", ["own_of_a_run", "own_package_of_a_run.inner", "own_package_of_a_run"])
def test_a_module_beside_the_config_is_found_from_that_of_the_run(trainlab_command, tmp_path, monkeypatch, module):
    (tmp_path / "mine" / "own_package_of_a_run").mkdir(parents=True)
    for name in ("own_of_a_run.py", "own_package_of_a_run/__init__.py", "own_package_of_a_run/inner.py"):
        (tmp_path / "mine" / name).write_text("from trainlab import SGD\nclass Own(SGD):\n    pass\n")
    (tmp_path / "mine" / "c.gin").write_text(
        f"include '{CONFIGS / 'heun.gin'}'\nimport {module} as own\nrun.strategy = @own.Own()\nrun.epochs = 0\n"
    )
    path = sys.path[:]
    status, _, err = trainlab_command("train", "--config", "mine/c.gin", "--run_dir", "a")
    assert status == 0, err
    monkeypatch.setattr(sys, "path", path)
    for name in [name for name in sys.modules if name.startswith(("own_of_a_run", "own_package_of_a_run"))]:
        monkeypatch.delitem(sys.modules, name)
    status, out, err = trainlab_command("show", "a")
    assert (status, ours(err)) == (0, []) and "Own(): 1 evaluation" in out


def test_a_config_that_does_not_load_any_more_is_one_line(trainlab_command, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.gin").write_text("import own_that_is_gone\n\nrun.epochs = 1\n")
    status, out, err = trainlab_command("show", "a")
    assert (status, out) == (1, "") and err.count("\n") == 1
    assert "a/config.gin:1: cannot import own_that_is_gone" in err
