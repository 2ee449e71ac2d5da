"""`trainlab sweep`, with optuna, or with what stands in for it where it is not installed."""

import json
import sys
import types

import numpy as np
import pytest
from commands import CONFIGS, ours, records

from trainlab import Trainer
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.settings import Sweeping
from trainlab.cli.verbs.sweep import Pruning, _check_direction, _check_name, checked_space

SWEEP = [
    "sweep",
    "--config",
    str(CONFIGS / "sweep.gin"),
    "--set",
    "run.epochs = 2",
    "--set",
    "sweep.num_trials = 3",
    "--run_dir",
    "a",
]
RUNNING, COMPLETE, PRUNED, FAIL = "running", "complete", "pruned", "fail"


class Trial:
    """A trial of the stand-in; the first values of a range, then the second, and so on."""

    def __init__(self, study, number, params, attrs):
        self.study, self.number, self.params, self.user_attrs = study, number, dict(params), dict(attrs)
        self.fixed, self.state, self.value, self.reports = dict(params), RUNNING, None, []

    def set_user_attr(self, name, value):
        self.user_attrs[name] = value

    def _take(self, name, value):
        self.params[name] = self.fixed.get(name, value)
        return self.params[name]

    def suggest_categorical(self, name, choices):
        return self._take(name, choices[self.number % len(choices)])

    def suggest_float(self, name, low, high, log=False):
        assert log == (name.endswith("learning_rate"))
        return self._take(name, low + (high - low) * (self.number + 1) / 10)

    def suggest_int(self, name, low, high):
        return self._take(name, low + self.number)

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return self.study.prunes(self)


class Study:
    """What there is of a study, kept in the test and not in a file."""

    def __init__(self):
        self.trials, self.queue, self.prunes, self.sampler = [], [], lambda trial: False, None
        self.directions = {}  # by the file of a study: that of the first call stays, as with optuna itself

    def created(self, **given):
        self.given, kept = given, self.directions.setdefault(given["storage"], given["direction"])
        self.direction = types.SimpleNamespace(name=kept.upper())
        return self

    def ask(self):
        params, attrs = self.queue.pop(0) if self.queue else ({}, {})
        self.trials.append(Trial(self, len(self.trials), params, attrs))
        return self.trials[-1]

    def tell(self, trial, value=None, state=None):
        trial = self.trials[trial] if isinstance(trial, int) else trial
        trial.state, trial.value = state or COMPLETE, value

    def enqueue_trial(self, params, user_attrs=None):
        self.queue.append((params, user_attrs or {}))

    @property
    def best_trial(self):
        sign = 1 if self.direction.name == "MINIMIZE" else -1
        return min((trial for trial in self.trials if trial.state == COMPLETE), key=lambda trial: sign * trial.value)


@pytest.fixture
def study(monkeypatch):
    """A stand-in for optuna, and its only study."""
    found = Study()
    module = types.ModuleType("optuna")
    module.logging = types.SimpleNamespace(set_verbosity=lambda level: None, WARNING=30)
    journal = types.SimpleNamespace(JournalFileBackend=lambda path: path)
    module.storages = types.SimpleNamespace(JournalStorage=lambda backend: backend, journal=journal)
    module.pruners = types.SimpleNamespace(MedianPruner=lambda: "median", NopPruner=lambda: "none")
    module.samplers = types.SimpleNamespace(TPESampler=lambda seed: seed)
    states = types.SimpleNamespace(RUNNING=RUNNING, COMPLETE=COMPLETE, PRUNED=PRUNED, FAIL=FAIL)
    module.trial = types.SimpleNamespace(TrialState=states)
    module.create_study = found.created
    monkeypatch.setitem(sys.modules, "optuna", module)
    return found


@pytest.mark.slow
def test_each_trial_is_a_run_and_the_best_is_told(study, trainlab_command, tmp_path):
    status, out, err = trainlab_command(*SWEEP)
    assert (status, ours(err)) == (0, []), err
    assert [trial.state for trial in study.trials] == [COMPLETE] * 3
    assert study.given["direction"] == "minimize" and study.given["load_if_exists"] and study.given["pruner"] == "median"
    for trial in study.trials:
        logs = records(tmp_path / "a" / f"trial-{trial.number:04d}")
        assert trial.value == pytest.approx(logs[-1]["val_loss"]) and [step for step, _ in trial.reports] == [0, 1]
    config = (tmp_path / "a" / "trial-0001" / "config.gin").read_text()
    assert "(128,)" in config and "@trainlab.Heun()" in config  # the second of each list
    assert f"run       a/{study.best_trial.user_attrs['run']}" in out
    assert trainlab_command(*SWEEP)[1].splitlines()[0] == out.splitlines()[3] and len(study.trials) == 3


@pytest.mark.slow
def test_a_trial_that_was_stopped_goes_on_in_its_run(study, trainlab_command, tmp_path, monkeypatch):
    assert trainlab_command(*SWEEP, "--set", "run.epochs = 3")[0] == 0
    whole = [records(tmp_path / "a" / f"trial-{k:04d}") for k in range(3)]
    study.trials, fits, real = [], [], Trainer.fit

    def fit(self, *args, callbacks=(), **kwargs):
        import keras

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if len(fits) == 3 and epoch == 1:  # the first one tries the metric
                    raise KeyboardInterrupt

        fits.append(1)
        return real(self, *args, callbacks=[*callbacks, Stop()], **kwargs)

    monkeypatch.setattr(Trainer, "fit", fit)
    more = ["--run_dir", "b", "--set", "run.epochs = 3", "--set", "run.save_steps = 10"]
    status, _, err = trainlab_command(*SWEEP, *more)
    assert status == 130 and "the same command goes on" in ours(err)[0]
    assert [trial.state for trial in study.trials] == [COMPLETE, RUNNING]
    assert trainlab_command(*SWEEP, *more)[0] == 0
    assert [trial.state for trial in study.trials] == [COMPLETE, FAIL, COMPLETE, COMPLETE]
    again = study.trials[2]
    assert again.user_attrs["run"] == "trial-0001" and again.params == study.trials[1].params
    assert [step for step, _ in again.reports] == [0, 1, 2]  # what the first process told is told again
    names = [trial.user_attrs["run"] for trial in study.trials if trial.state == COMPLETE]
    assert [records(tmp_path / "b" / name) for name in names[:2]] == whole[:2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more, said",
    [
        ("sweep.metric = ('max', 'val_accuracy')", "sweep.metric was 'val_loss', now ('max', 'val_accuracy')"),
        ("run.epochs = 1", "run.epochs was 2, now 1"),
        ("run.on_nonfinite = 'skip'", "run.on_nonfinite was not set, now 'skip'"),
    ],
)
def test_trials_by_other_settings_are_another_sweep(study, trainlab_command, tmp_path, more, said):
    """Optuna keeps the direction of the first call: by another metric the worst trial would be the best."""
    one = [*SWEEP, "--set", "sweep.num_trials = 1"]
    assert trainlab_command(*one)[0] == 0
    status, _, err = trainlab_command(*one, "--set", more)
    assert status != 0 and len(study.trials) == 1
    assert f"a holds another sweep: {said}: give another directory" in ours(err)[0]
    assert trainlab_command(*one, "--set", "sweep.prune = False")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("begun", [True, False])
def test_what_nothing_finished_in_is_another_sweep_too(study, trainlab_command, tmp_path, monkeypatch, begun):
    """A trial that is gone on with tells its values again, and the study has its direction: both are of the first metric."""
    one, real = [*SWEEP, "--set", "sweep.num_trials = 1"], Study.ask

    def ask(self):
        if begun:
            real(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Study, "ask", ask)
        assert trainlab_command(*one)[0] == 130
    assert [trial.state for trial in study.trials] == [RUNNING] * begun
    kept = (tmp_path / "a" / "sweep.json").read_bytes()
    status, _, err = trainlab_command(*one, "--set", "sweep.metric = ('max', 'val_accuracy')")
    said = "sweep.metric was 'val_loss', now ('max', 'val_accuracy')" if begun else "to minimize its metric, not to maximize it"
    assert status == 1 and f"{said}: give another directory" in ours(err)[0]
    assert (tmp_path / "a" / "sweep.json").read_bytes() == kept and len(study.trials) == begun
    assert trainlab_command(*one)[0] == 0  # the control: by the first metric it goes on


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ({"sweep.json": '{"angle": [0, 90]}', "study.log": "measured\n"}, "study.log"),
        ({"sweep.json": "[1]"}, "sweep.json"),
        ({"study.log": "measured\n"}, "study.log"),
        ({"config.gin": "", "lock": "", "metrics.jsonl": ""}, "config.gin"),
    ],
)
def test_a_directory_that_is_somebodys_is_left_as_it_is(study, trainlab_command, tmp_path, there, named):
    (tmp_path / "a").mkdir()
    for name, text in there.items():
        (tmp_path / "a" / name).write_text(text)
    status, _, err = trainlab_command(*SWEEP)
    assert status == 1 and f"a holds {named}, and no sweep: give another directory" in ours(err)[0]
    assert {path.name: path.read_text() for path in (tmp_path / "a").iterdir()} == there


def test_a_file_is_no_directory(study, trainlab_command, tmp_path):
    (tmp_path / "a").write_text("mine")
    status, _, err = trainlab_command(*SWEEP)
    assert status == 1 and "a: is a file: give another directory" in ours(err)[0]


@pytest.mark.slow
def test_a_trial_that_fails_is_told_and_the_sweep_goes_on(study, trainlab_command, tmp_path):
    more = ["--set", "sweep.space = {'run.batch_size': [64, -1]}", "--set", "run.epochs = 1", "--set", "sweep.num_trials = 2"]
    status, out, err = trainlab_command(*SWEEP, *more)
    assert status == 0 and [trial.state for trial in study.trials] == [COMPLETE, FAIL, COMPLETE]
    [line] = ours(err)
    assert line.startswith("trainlab: warning: trial-0001 failed, with run.batch_size = -1: ") and "must be" in line
    assert sorted(path.name for path in (tmp_path / "a").glob("trial-*")) == ["trial-0000", "trial-0002"]
    assert "best      val_loss" in out


def test_where_all_trials_fail_the_sweep_ends(study, trainlab_command, tmp_path):
    more = ["--set", "sweep.space = {'run.batch_size': [-1]}", "--set", "sweep.num_trials = 9"]
    status, _, err = trainlab_command(*SWEEP, *more)
    *warned, line = ours(err)
    assert status == 1 and [trial.state for trial in study.trials] == [FAIL] * 3 and len(warned) == 3
    assert "3 trials in a row failed, which ends the sweep; the last one: " in line and "run.batch_size = -1" in line


@pytest.mark.slow
def test_a_name_that_is_no_metric_costs_no_trial(study, trainlab_command, tmp_path):
    status, _, err = trainlab_command(*SWEEP, "--set", "sweep.metric = 'val_acc'")
    assert status == 1 and "is not among the logs" in ours(err)[0] and not study.trials and not list(tmp_path.iterdir())
    status, _, err = trainlab_command(*SWEEP, "--set", "sweep.metric = 'val_accuracy'")
    assert status == 1 and "more of it is better: say so by ('max', 'val_accuracy')" in ours(err)[0] and not study.trials
    more = ["--set", "sweep.metric = ('max', 'val_accuracy')", "--set", "sweep.num_trials = 1", "--set", "run.epochs = 1"]
    assert trainlab_command(*SWEEP, *more)[0] == 0 and study.trials[0].value > 0


def test_of_a_metric_of_several_numbers_one_judges():
    logs = {"loss": 0.5, "val_f1_score": np.array([0.25, 1.0])}
    with pytest.raises(
        ConfigError, match=r"is several numbers, and one judges: name one of val_f1_score\[0\], val_f1_score\[1\]"
    ):
        _check_name(Sweeping({}, metric="val_f1_score"), logs)
    _check_name(Sweeping({}, metric="val_f1_score[1]"), logs)
    trial = Study().ask()
    pruning = Pruning(trial, "val_f1_score[1]")
    pruning.on_epoch_end(0, logs)
    assert (pruning.last, trial.reports) == (1.0, [(0, 1.0)])


def test_of_what_is_better_the_more_there_is_the_least_is_not_looked_for_unless_it_is_asked_for():
    directions = {"acc": "up", "f1": "up", "loss": "down"}
    for name in ("val_acc", "val_f1[0]"):
        with pytest.raises(ConfigError) as error:
            _check_direction(Sweeping({}, metric=name), directions)
        assert str(error.value) == f"sweep.metric = {name!r}: more of it is better: say so by ('max', {name!r})"
        for mode in ("max", "min"):
            _check_direction(Sweeping({}, metric=(mode, name)), directions)
    _check_direction(Sweeping({}, metric="val_loss"), directions)


@pytest.mark.slow
def test_a_run_that_does_worse_is_ended_early(study, trainlab_command, tmp_path):
    study.prunes = lambda trial: trial.number == 1
    status, out, _ = trainlab_command(*SWEEP)
    assert status == 0 and [trial.state for trial in study.trials] == [COMPLETE, PRUNED, COMPLETE]
    assert len(records(tmp_path / "a" / "trial-0001")) == 1 and out.count("(ended early)") == 1


@pytest.mark.slow
def test_more_may_be_better_and_what_diverges_is_worst(study, trainlab_command):
    more = ["--set", "sweep.metric = ('max', 'val_accuracy')", "--set", "sweep.prune = False"]
    assert trainlab_command(*SWEEP, *more)[0] == 0
    assert study.given["direction"] == "maximize" and study.given["pruner"] == "none"
    study.trials = []
    more = [
        "--set",
        "sweep.space = {'keras.optimizers.SGD.learning_rate': [1e30, 0.1]}",
        "--run_dir",
        "b",
    ]
    more += ["--set", "sweep.num_trials = 2"]
    trainlab_command(*SWEEP, *more)
    assert study.trials[0].value == float("inf")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "sweep.space = {}"], "sweep.space: must be a dictionary"),
        (["--set", "sweep.space = {'run.batch_size': ('int', 64, 16)}"], "run.batch_size: ('int', 64, 16) is no range"),
        (["--set", "sweep.space = {'mlp.width': [1, 2]}"], "mlp has no parameter 'width'"),
        (["--set", "sweep.metric = 'val_acc'"], "sweep.metric = 'val_acc': is not among the logs, which are accuracy"),
        (["--set", "sweep.metric = ('up', 'a')"], "must be a name in the logs, or ('max', 'NAME')"),
        (["--set", "run.distribute = 'workers'"], "run.distribute = 'workers': a sweep is of one process: add --set 'run.dist"),
        (["--set", "sweep.num_trials = 0"], "sweep.num_trials = 0: must be a whole number of at least 1"),
        (["--set", "sweep.trials = 3"], "sweep has no parameter 'trials'; did you mean num_trials?"),
    ],
)
def test_a_mistake_is_one_line(study, trainlab_command, more, said):
    status, _, err = trainlab_command(*SWEEP, *more)
    [line] = ours(err)
    assert status == 1 and said in line, line


def test_without_optuna_a_line_says_what_to_install(trainlab_command, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = trainlab_command(*SWEEP)
    assert status == 1 and "a sweep needs optuna: pip install 'trainlab[sweep]'" in ours(err)[0]


@pytest.mark.parametrize("space", [3, {"a": 1}, {"a": []}, {"a": ("log", 0, 1)}, {"a": ("exp", 1, 2)}, {"a": ("log", "1", 2)}])
def test_what_is_no_space(space):
    with pytest.raises(ConfigError, match=r"sweep\.space"):
        checked_space(space)


def test_with_optuna_itself(trainlab_command, tmp_path):
    pytest.importorskip("optuna")
    assert trainlab_command(*SWEEP)[0] == 0
    status, out, _ = trainlab_command(*SWEEP, "--set", "sweep.num_trials = 4")
    assert status == 0 and out.count("trial-0003  ") == 1
    assert json.loads((tmp_path / "a" / "study.log").read_text().splitlines()[0])
