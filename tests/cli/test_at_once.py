"""Typos are answered before anything is imported that takes seconds; and what the answers are."""

import json
import os
import re
import subprocess
import sys

import pytest
from commands import CONFIGS, HEUN, ROOT

# The arguments, the status, and what the line on standard error must say.
TYPOS = {
    "flag": (["--confg", "x"], 2, "unknown flag --confg; did you mean --config?"),
    "flag's value": ([*HEUN, "--resume=sometimes"], 2, "--resume=sometimes: must be one of auto, must, never, weights"),
    "override": ([*HEUN, "--override=seed"], 2, "--override=seed: must be one of learning_rate, data"),
    "use": ([*HEUN, "--use=first"], 2, "--use=first: must be one of last, best"),
    "no flag": ([*HEUN, "run.epochs=3"], 2, "unexpected argument 'run.epochs=3': write --set 'run.epochs=3'"),
    "no config": ([], 2, "nothing to train: give --config FILE"),
    "file": (["--config", str(CONFIGS / "huen.gin")], 1, "huen.gin: no such file; did you mean"),
    "syntax": ([*HEUN, "--set", "run.epochs 3"], 1, "--set 'run.epochs 3': expected NAME.PARAMETER = VALUE"),
    "quotes": ([*HEUN, "--set", "run.loss = mse"], 1, "mse is no value: text needs quotes ('mse')"),
    "setting": ([*HEUN, "--set", "run.epoch = 3"], 1, "run has no parameter 'epoch'; did you mean epochs?"),
    "range": ([*HEUN, "--set", "run.epochs = -1"], 1, "must be a whole number of at least 0"),
    "range by a macro": ([*HEUN, "--set", "n = 0", "--set", "run.keep = %n"], 1, "must be a whole number of at least 1"),
    "kind": ([*HEUN, "--set", "run.deterministic = 'yes'"], 1, "must be True or False"),
    "list": ([*HEUN, "--set", "run.metrics = 'accuracy'"], 1, "must be a list, as in run.metrics = ['accuracy']"),
    "one of two": ([*HEUN, "--set", "run.on_nonfinite = 'ignore'"], 1, "must be 'stop' or 'skip'"),
    "macro": ([*HEUN, "--set", "run.epochs = %n"], 1, "nothing defines the macro %n; add n = VALUE"),
    "metric": ([*HEUN, "--set", "run.metrics = ['acuracy']"], 1, "Keras has no metric 'acuracy'; did you mean accuracy?"),
    "second metric": ([*HEUN, "--set", "run.metrics = ['mae', 'Precison']"], 1, "did you mean Precision?"),
    "loss": ([*HEUN, "--set", "run.loss = 'sparse_crossentropy'"], 1, "Keras has no loss 'sparse_crossentropy'"),
    "strategy": ([*HEUN, "--set", "run.strategy = @Huen()"], 1, "unknown name 'Huen'; did you mean Heun?"),
    "optimizer": ([*HEUN, "--set", "run.optimizer = @Adm()"], 1, "unknown name 'Adm'; did you mean Adam?"),
    "parameter": ([*HEUN, "--set", "mlp.hidden_size = 3"], 1, "mlp has no parameter 'hidden_size'; did you mean hidden_sizes?"),
    "Keras' parameter": ([*HEUN, "--set", "Adam.learning_rat = 3"], 1, "keras.optimizers.Adam has no parameter 'learning_rat'"),
    "module": ([*HEUN, "--set", "import nosuch_module"], 1, "cannot import nosuch_module: No module named 'nosuch_module'"),
    # Where nothing is alike, there is a list of what there is.
    "no such strategy": ([*HEUN, "--set", "run.strategy = @Xyzzy()"], 1, "the strategies are Accumulate, AdaptiveStep, Asam"),
    "no such inner one": ([*HEUN, "--set", "Accumulate.inner = @Xyzzy()"], 1, "the strategies are Accumulate, AdaptiveStep"),
    "no such model": (
        [*HEUN, "--set", "run.model = @Xyzzy"],
        1,
        "the models are cnn, logistic_regression, lstm, mlp, tabular, text_transformer;",
    ),
    "no such data": (
        [*HEUN, "--set", "run.data = @Xyzzy()"],
        1,
        "the data sets are abalone, cifar10, csv, digits, fashion_mnist, gaussian_grid, grain,",
    ),
    "no such optimizer": ([*HEUN, "--set", "run.optimizer = @Xyzzy()"], 1, "Muon, Nadam, RMSprop, SGD"),
    "no such loss": ([*HEUN, "--set", "run.loss = @Xyzzy()"], 1, "the losses are BinaryCrossentropy"),
    "no such thing": ([*HEUN, "--set", "Xyzzy.a = 1"], 1, "the models are cnn"),
    "no such metric": ([*HEUN, "--set", "run.metrics = ['xyzzy']"], 1, "Keras has no metric 'xyzzy'; it has acc, accuracy"),
    "no such parameter": ([*HEUN, "--set", "mlp.xyzzy = 1"], 1, "mlp has no parameter 'xyzzy'; it has input_shape, num_classes"),
}
HEAVY = ("numpy", "keras", "tensorflow", "trainlab.trainer", "trainlab.cli.verbs.job")
PROGRAM = f"""
import contextlib, io, json, sys
from trainlab.cli import main
def answer(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    return [status, out.getvalue(), err.getvalue()]
answers = [answer(arguments) for arguments in json.loads(sys.argv[1])]
heavy = [name for name in {HEAVY!r} if name in sys.modules]
import trainlab.datasets  # the control
print(json.dumps([answers, heavy, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def answers():
    """Of all typos and of --help, by one process; and which modules it imported for them."""
    cases = {**{name: arguments for name, (arguments, _, _) in TYPOS.items()}, "help": ["--help"]}
    command = [sys.executable, "-c", PROGRAM, json.dumps(list(cases.values()))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    found, heavy, control = json.loads(result.stdout)
    return dict(zip(cases, found, strict=True)), heavy, control


def test_nothing_that_takes_seconds_is_imported(answers):
    _, heavy, control = answers
    assert heavy == []
    assert control == ["numpy"]


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_one_line_that_says_what_there_is(answers, name):
    _, status, message = TYPOS[name]
    got, out, err = answers[0][name]
    assert (got, out) == (status, "")
    assert err.startswith("trainlab: error: ") and err.count("\n") == 1 and message in err, err


def test_help_shows_every_setting_and_how_to_hear_tensorflow(answers):
    status, out, err = answers[0]["help"]
    assert (status, err) == (0, "")
    for name in ("data", "model", "loss", "optimizer", "strategy", "micro_batch_size"):
        assert re.search(rf"\b{name}[,.]", out)
    assert "TF_CPP_MIN_LOG_LEVEL=0" in out


def test_the_module_itself_imports_nothing_either(tmp_path):
    """As a person starts it: `python -m trainlab.train`, with Python's own account of what was imported."""
    command = [sys.executable, "-X", "importtime", "-m", "trainlab.train", "--confg", "x"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    lines = result.stderr.splitlines()
    imported = {line.split("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert result.returncode == 2 and "trainlab.cli.command" in imported
    assert not imported & set(HEAVY)
    said = [line for line in lines if not line.startswith("import time:")]
    assert said == ["trainlab: error: unknown flag --confg; did you mean --config? (--help shows all flags)"]


def test_what_the_flags_take_is_what_runs_take():
    from trainlab import runs
    from trainlab.cli import options

    assert options.RESUME == runs.RESUME and options.OVERRIDABLE == runs.OVERRIDABLE
