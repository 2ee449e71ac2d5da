"""Every block of the README runs, and prints what stands there."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from sources import PACKAGE, ROOT

from trainlab.distribution.workers import Cluster, cluster_of

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INSTALL = re.compile(r"python3 -m venv \.venv && \.venv/bin/pip install -q -e (\S+) && \.venv/bin/")


def kind(block):
    """What a block is, and so how it is tested; KeyError for one that nothing here tests."""
    language, text = block
    if language == "python":
        return "workers" if text.startswith("# my_training.py") else "python"
    beginnings = {
        "python3 -m venv .venv": "tests" if "-m pytest" in text else "command",
        "python -m trainlab.train": "command",
        "python scripts/workers.py": "start of workers",
        "TF_CONFIG=": "launchers",
        "#!/bin/bash": "launchers",
        "model     mlp": "output",
        "parameters <- objective": "picture",
    }
    return next(value for beginning, value in beginnings.items() if text.startswith(beginning))


def of_kind(wanted):
    return [text for language, text in BLOCKS if kind((language, text)) == wanted]


def run(arguments, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def shape(line):
    """A line without its numbers, and without the unit in which a fast or a slow machine tells a step's time."""
    return re.sub(r"N(us|ms|s)/step", "N/step", re.sub(r"\d+(\.\d+)?", "N", line))


def numbers(line):
    """Those that do not depend on how fast the machine is."""
    return [float(number) for number in re.findall(r"(?<!\d)\d+\.\d+", line)]


@pytest.fixture
def clone(tmp_path):
    """A directory with the shipped configs, as in a clone."""
    (tmp_path / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    return tmp_path


def test_every_block_is_tested():
    found = {kind(block) for block in BLOCKS}
    assert found == {"python", "workers", "start of workers", "launchers", "tests", "command", "output", "picture"}
    assert [len(of_kind(name)) for name in ("workers", "start of workers", "tests", "output", "picture")] == [1] * 5
    assert len(of_kind("launchers")) == 2
    with pytest.raises(StopIteration):
        kind(("", "rm -r /\n"))


@pytest.mark.slow
def test_the_blocks_of_python_run_one_after_the_other(tmp_path):
    (tmp_path / "blocks.py").write_text("\n".join(of_kind("python")))
    assert "runs/a: begun" in run(["blocks.py"], tmp_path)
    assert "runs/a: finished" in run(["blocks.py"], tmp_path)  # started again


@pytest.mark.slow
def test_workers_train_together(tmp_path):
    (tmp_path / "my_training.py").write_text(of_kind("workers")[0])
    (tmp_path / "scripts").symlink_to(ROOT / "scripts", target_is_directory=True)
    words = shlex.split(of_kind("start of workers")[0])
    assert words[0] == "python" and words.count("python") == 2
    printed = run([sys.executable if word == "python" else word for word in words[1:]], tmp_path)
    assert "runs/together: begun" in printed and printed.count("10/10") == 3  # the chief alone prints


@pytest.mark.parametrize("text", of_kind("launchers"), ids=["by hand", "slurm"])
def test_launchers_name_the_workers(text, tmp_path):
    stand_ins = {
        "python": 'test "$1" = my_training.py && echo "$TF_CONFIG"',
        "scontrol": """test "$*" = "show hostnames host[0-1]" && printf 'host0\\nhost1\\n'""",
        "srun": 'for rank in 0 1; do SLURM_PROCID=$rank "$@"; done',
    }
    for name, does in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "host[0-1]"}
    printed = subprocess.run(["bash", "-e", "-c", text], env=environment, check=True, capture_output=True, text=True).stdout
    assert [cluster_of(line) for line in printed.splitlines()] == [Cluster(("host0:2222", "host1:2222"), rank) for rank in (0, 1)]


def test_a_block_that_fails_would_be_found(tmp_path):
    with pytest.raises(AssertionError, match="NameError"):
        run(["-c", "tl.Trainer"], tmp_path)


@pytest.mark.parametrize("text", of_kind("command"), ids=lambda text: text.split("&&")[-1].strip()[:60])
def test_the_commands_run(text, clone):
    command = INSTALL.sub("", text).strip()
    name, *arguments = shlex.split(command)
    assert name == "python"
    printed = run(arguments, clone).splitlines()
    if INSTALL.search(text):  # the one whose output is shown
        [shown] = [block.splitlines() for block in of_kind("output")]
        cut = shown.index("...")
        for want, line in [*zip(shown[:cut], printed, strict=False), *zip(shown[:cut:-1], printed[::-1], strict=False)]:
            assert shape(line) == shape(want)
            assert numbers(line) == pytest.approx(numbers(want), abs=0.02), line


def test_the_tests_are_those_that_ci_runs():
    [text] = of_kind("tests")
    assert INSTALL.match(text)[1] == "'.[test]'"
    assert re.search(r"^python3 -m venv \.venv .*-m pytest", text, re.MULTILINE)  # what .ci/run looks for


def test_the_picture_shows_every_package():
    [text] = of_kind("picture")
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    described = {line.split()[0] for line in text.splitlines()[2:]}
    assert described == rooms | {"trainer"}


def test_only_the_new_names_are_said():
    for path in [ROOT / "README.md", *(ROOT / "configs").iterdir(), *(ROOT / "scripts").glob("*.ipynb"), *PACKAGE.rglob("*.py")]:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert not re.search(r"\brun_dir=", text), path
