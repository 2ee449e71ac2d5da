"""Completion in a shell: asked of bash itself, where there is one."""

import shutil
import subprocess

import pytest

from trainlab.cli.completion import completion, parser_of_all
from trainlab.cli.options import VERBS, UsageError

shtab = pytest.importorskip("shtab")
bash = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
ASK = """
COMP_WORDS=({words})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMP_LINE="${{COMP_WORDS[*]}}"
COMP_POINT=${{#COMP_LINE}}
_shtab_trainlab
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("completion") / "trainlab.bash"
    path.write_text(completion("bash"))
    return path


def completed(script, words, cwd):
    """What bash offers for the last of these words."""
    command = ["bash", "--norc", "-c", f"source {script}\n{ASK.format(words=' '.join(words))}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)
    return {line.strip() for line in result.stdout.splitlines() if line.strip()}


@bash
@pytest.mark.parametrize(
    ("words", "offered", "not_offered"),
    [
        (["trainlab", "''"], {"train", "find-lr", "show", "report"}, {"--config"}),
        (["trainlab", "fi"], {"find-lr"}, {"train"}),
        (["trainlab", "train", "--r"], {"--run_dir", "--resume"}, {"--config"}),
        (["trainlab", "train", "--"], {"--config", "--set", "--dry-run", "--print-config", "--list"}, {"--title"}),
        (["trainlab", "train", "--resume", "''"], {"auto", "must", "never", "weights"}, {"best"}),
        (["trainlab", "train", "--use", "b"], {"best"}, {"last"}),
        (["trainlab", "train", "--override", "''"], {"learning_rate", "data"}, {"seed"}),
        (["trainlab", "train", "--config", "a"], {"a.gin"}, {"a.txt", "runs"}),
        (["trainlab", "find-lr", "--config", "a"], {"a.gin"}, {"a.txt"}),
        (["trainlab", "show", "r"], {"runs"}, {"a.gin"}),
        (["trainlab", "report", "runs", "r"], {"runs"}, {"a.gin"}),
        (["trainlab", "report", "--t"], {"--title"}, {"--config"}),
        (["trainlab", "--list", "m"], {"models", "metrics"}, {"losses"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_offers_what_there_is(script, tmp_path, words, offered, not_offered):
    (tmp_path / "a.gin").touch()
    (tmp_path / "a.txt").touch()
    (tmp_path / "runs").mkdir()
    found = completed(script, words, tmp_path)
    assert offered <= found and not found & not_offered


@bash
def test_bash_knows_whom_it_completes(script):
    asked = subprocess.run(["bash", "--norc", "-c", f"source {script}; complete -p trainlab"], capture_output=True, text=True)
    assert asked.stdout.strip().endswith(" trainlab")
    control = subprocess.run(["bash", "--norc", "-c", "complete -p trainlab"], capture_output=True, text=True)
    assert control.returncode != 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_each_shell_has_a_script_with_every_verb(trainlab_command, shell):
    status, out, err = trainlab_command("--print-completion", shell)
    assert (status, err) == (0, "") and all(verb in out for verb in VERBS)
    assert trainlab_command(f"--print-completion={shell}") == (status, out, err)


def test_without_shtab_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'trainlab\[completion\]'"):
        completion("bash")


def test_the_parser_is_that_of_the_flags():
    """A verb's flags are in one table; this parser takes what they take."""
    parser = parser_of_all()
    assert parser.parse_args(["train", "--config", "a.gin", "--resume", "must", "--dry-run"]).resume == "must"
    with pytest.raises(SystemExit):
        parser.parse_args(["train", "--resume", "sometimes"])
