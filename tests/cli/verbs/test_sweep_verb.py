"""`trainlab sweep`, with optuna, or with what stands in for it where it is not installed."""

import json
import sys
import types

import pytest
from commands import CONFIGS, ours, records

from trainlab import Trainer
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.verbs.sweep import checked_space

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
        return min((trial for trial in self.trials if trial.state == COMPLETE), key=lambda trial: trial.value)


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
    module.create_study = lambda **given: found.__dict__.update(given=given) or found
    monkeypatch.setitem(sys.modules, "optuna", module)
    return found


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
                if len(fits) == 2 and epoch == 1:
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
