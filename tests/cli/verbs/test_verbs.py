"""One command with verbs: what each takes, what it answers to what it does not take, and its help."""

import json
import os
import subprocess
import sys

import pytest
from commands import CONFIGS, HEUN, ROOT

from trainlab.cli.help import help_text
from trainlab.cli.options import LISTED, VERBS, UsageError, number, parse

HEAVY = ("numpy", "keras", "tensorflow", "matplotlib", "jinja2", "shtab", "trainlab.trainer", "trainlab.cli.verbs.job")
# The arguments, the status, and what the line on standard error must say.
MISTAKES = {
    "no verb": ([], 2, "nothing to do: give a verb, for example trainlab train --config"),
    "verb": (["trian"], 2, "unknown verb 'trian'; did you mean train?"),
    "verb with an underscore": (["find_lr"], 2, "unknown verb 'find_lr'; did you mean find-lr?"),
    "verb in capitals": (["Report", "a"], 2, "unknown verb 'Report'; did you mean report?"),
    "nothing like a verb": (["xyzzy"], 2, "unknown verb 'xyzzy'; the verbs are train, report, find-lr, compare, sweep, show"),
    "flags first": (
        ["--config", "a.gin", "--set", "a = 1"],
        2,
        "write trainlab train --config a.gin --set 'a = 1'",
    ),
    "kind": (["--list", "strategy"], 2, "--list=strategy: must be one of strategies, models, data"),
    "no kind": (["--list"], 2, "must be one of strategies, models"),
    "kind of train": (["train", "--list", "modles"], 2, "--list=modles: must be one of strategies, models"),
    "name": (["--help", "Huen"], 2, "--help Huen: unknown name 'Huen'; did you mean Heun?"),
    "ambiguous name": (["--help", "SGD"], 2, "'SGD' is ambiguous: write keras.optimizers.SGD or trainlab.SGD"),
    "parameter": (
        ["--help", "mlp.hiden_sizes"],
        2,
        "--help mlp.hiden_sizes: mlp has no parameter 'hiden_sizes'; did you mean hidden_sizes?",
    ),
    "setting": (["train", "--help", "run.epoch"], 2, "run has no parameter 'epoch'; did you mean epochs?"),
    "shell": (["--print-completion", "fish9"], 2, "--print-completion=fish9: must be one of bash, zsh, tcsh"),
    "flag of train": (["train", "--confg", "x"], 2, "unknown flag --confg; did you mean --config?"),
    "flag with a hyphen": (["train", "--dry-rnu"], 2, "unknown flag --dry-rnu; did you mean --dry-run?"),
    "both": (["train", *HEUN, "--dry-run", "--print-config"], 2, "--print-config and --dry-run: give one of them"),
    "no config": (["train"], 2, "nothing to train: give --config FILE"),
    "no config to try": (["find-lr"], 2, "nothing to try: give --config FILE"),
    "setting of a config": (
        ["find-lr", *HEUN, "--set", "run.epoch = 1"],
        1,
        "run has no parameter 'epoch'; did you mean",
    ),
    "rate": (["find-lr", *HEUN, "--smallest", "0"], 2, "--smallest=0: must be a number of more than 0"),
    "rates": (["find-lr", *HEUN, "--smallest=2", "--largest=1"], 2, "--largest=1: must be a number of more than 2"),
    "number": (["find-lr", *HEUN, "--num-updates", "few"], 2, "--num_updates=few: must be a whole number of at least 2"),
    "curve": (["find-lr", *HEUN, "-o", "lr.txt"], 2, "--output=lr.txt: must end in .png or .json"),
    "folder of the curve": (["find-lr", *HEUN, "-o", "nosuch/lr.png"], 1, "there is no directory nosuch"),
    "no run": (["show"], 2, "show: give the directory of a run"),
    "two runs": (["show", "a", "b"], 2, "show: one run at a time, not 2"),
    "directory": (["show", str(ROOT / "config")], 1, f"no such directory; did you mean {CONFIGS}?"),
    "no directory of a run": (["show", str(CONFIGS)], 1, "is no directory of a run: it holds no config.gin"),
    "file": (["show", str(CONFIGS / "heun.gin")], 1, "is a file; give the directory of a run"),
    "no runs": (["report"], 2, "report: give the directories of runs"),
    "page": (["report", "a", "--output", "a.docx"], 2, "--output=a.docx: must end in .html, .md, .png, .pdf or .svg"),
    "no run to report": (["report", str(CONFIGS)], 1, "is no directory of a run: it holds no timeline.jsonl"),
    "flag of report": (["report", "--titel", "x", "a"], 2, "unknown flag --titel; did you mean --title?"),
    "value of a flag": (["report", "a", "--output"], 2, "missing value for flag --output"),
    "swallowed": (["report", "a", "--title", "--debug"], 2, "a flag has no value: '--debug' follows it"),
}
PROGRAM = f"""
import contextlib, io, json, sys
from trainlab.cli import console
def answer(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = console(arguments)
    return [status, out.getvalue(), err.getvalue()]
answers = [answer(arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps([answers, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
ANSWERED = [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS), *(["--list", kind] for kind in LISTED)]
NAMES = ("Heun", "mlp", "Adam", "run", "run.epochs", "EarlyStopping", "keras.metrics.AUC", "train")
ANSWERED += [["--help", name] for name in NAMES]


@pytest.fixture(scope="module")
def answers():
    """Of all mistakes and of all that is only looked up, by one process; and which modules it imported for them."""
    cases = [*(arguments for arguments, _, _ in MISTAKES.values()), *ANSWERED]
    command = [sys.executable, "-c", PROGRAM, json.dumps(cases)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
    found, heavy = json.loads(result.stdout)
    return {json.dumps(case): answer for case, answer in zip(cases, found, strict=True)}, heavy


def test_nothing_that_takes_seconds_is_imported(answers):
    assert answers[1] == []


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(answers, name):
    arguments, status, message = MISTAKES[name]
    got, out, err = answers[0][json.dumps(arguments)]
    assert (got, out) == (status, "")
    assert err.startswith("trainlab: error: ") and err.count("\n") == 1 and message in err, err


@pytest.mark.parametrize("case", ANSWERED, ids=" ".join)
def test_what_is_looked_up_is_answered(answers, case):
    status, out, err = answers[0][json.dumps(case)]
    assert (status, err) == (0, "") and out.strip()
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_the_help_of_each_fits_a_screen_and_names_every_flag(verb):
    text = help_text(verb)
    lines = text.splitlines()
    assert len(lines) <= (40 if verb == "train" else 24) and max(map(len, lines)) <= 100
    for option in VERBS[verb].options if verb else ():
        assert f"--{option.name}" in text, option.name
        assert not option.choices or option.name == "list" or all(choice in text for choice in option.choices)
    if not verb:
        assert all(name in text for name in VERBS)


def test_flags_are_spelled_either_way():
    for spelled in ("--run_dir=a", "--run-dir=a"):
        assert parse(VERBS["train"], ["--config", "c", spelled]).values["run_dir"] == "a"
    for spelled in ("--dry-run", "--dry_run"):
        assert parse(VERBS["train"], [spelled]).values["dry_run"] is True
    assert parse(VERBS["train"], ["--nodry-run"]).values["dry_run"] is False
    assert parse(VERBS["train"], ["--set", "a-b = 1", "--set", "c = '--x'"]).values["set"] == ["a-b = 1", "c = '--x'"]


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1e999", "x", ""])
def test_no_number(text):
    with pytest.raises(UsageError, match=f"--smallest={text}: must be a number of more than 0"):
        number("smallest", text, at_least=0)


def test_the_module_is_the_verb_train(command, trainlab_command):
    """`python -m trainlab.train` and `trainlab train` are one code path."""
    for arguments in (["--help"], [*HEUN, "--set", "run.epoch = 1"], ["--list", "models"], ["--resume=x"]):
        assert command(*arguments) == trainlab_command("train", *arguments)
