"""What the command shows on a terminal: its own lines and Keras' progress, and nothing of TensorFlow's unless it is asked for."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from commands import HEUN, ROOT

from trainlab.cli import quiet

OWN = re.compile(r"(model|device|data|strategy|update|length|run|test|results) {2,}\S|Epoch \d+/\d+$")
BAR = re.compile(r"\s*\d+/\d+ ")
NOISE = (
    b"I0000 00:00:1795702907.066417    3761 port.cc:153] oneDNN custom operations are on.\n",
    b"WARNING: All log messages before ...\n",
)


def on_a_terminal(arguments, cwd, environment):
    """What a terminal shows of the command, line by line, standard error included; colours and redrawing are left out."""
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "trainlab.train", *arguments]
    process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=child, stdout=child, stderr=child, close_fds=True)
    os.close(child)
    shown, deadline = b"", time.monotonic() + 200
    while time.monotonic() < deadline:
        if not select.select([parent], [], [], 1)[0]:
            continue
        try:
            piece = os.read(parent, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(parent)
    assert process.wait(timeout=60) == 0, shown
    text = re.sub(r"\x1b\[[0-9;]*m|\x08", "", shown.decode())
    return [line for line in re.split(r"[\r\n]+", text) if line.strip()]


def foreign(lines):
    return [line for line in lines if not OWN.match(line) and not BAR.match(line)]


def clean_environment(**more):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return {**environment, "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize(
    "config", [HEUN, pytest.param(["--config", str(ROOT / "configs" / "accumulate_heun.gin")], marks=pytest.mark.slow)]
)
def test_a_terminal_shows_no_line_of_tensorflow(tmp_path, config):
    lines = on_a_terminal([*config, "--set", "run.epochs = 2"], tmp_path, clean_environment())
    assert foreign(lines) == []
    assert [line for line in lines if line.startswith("strategy")] and lines[-1].startswith("results")
    told = [line for line in lines if "examples = 4 batches" in line]
    assert len(told) == ("accumulate" in config[1])  # once, and not again by `fit`


@pytest.mark.slow
def test_the_user_hears_tensorflow_by_asking(tmp_path):
    lines = on_a_terminal([*HEUN, "--set", "run.epochs = 1"], tmp_path, clean_environment(TF_CPP_MIN_LOG_LEVEL="0"))
    assert any("oneDNN" in line or "cpu_feature_guard" in line for line in foreign(lines))


@pytest.fixture
def not_imported(monkeypatch):
    """As if TensorFlow had not been imported, nor its log level been set."""
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")  # so that it is put back
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")


def written_inside(*lines):
    with quiet.quiet():
        for line in lines:
            os.write(2, line)


def test_what_is_logged_while_it_is_imported_is_held_back(not_imported, capfd):
    written_inside(
        *NOISE, b"mine\n", b"E1126 14:21:21.568 1 x.cc:1] no GPU\n", b"2026-11-26 14:21:21.5: I tensorflow/x.cc:1] hello\n"
    )
    assert capfd.readouterr().err == "mine\n"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"
    os.write(2, NOISE[0])  # the control
    assert capfd.readouterr().err == NOISE[0].decode()


def test_an_import_that_fails_shows_everything(not_imported, capfd):
    with pytest.raises(ImportError), quiet.quiet():
        os.write(2, NOISE[0])
        raise ImportError("no libstdc++")
    assert capfd.readouterr().err == NOISE[0].decode()


def test_a_level_that_is_set_is_left_alone(not_imported, monkeypatch, capfd):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    written_inside(*NOISE)
    assert capfd.readouterr().err == b"".join(NOISE).decode()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_where_it_is_imported_already_nothing_is_touched(monkeypatch, capfd):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    written_inside(NOISE[0])
    assert capfd.readouterr().err == NOISE[0].decode() and "TF_CPP_MIN_LOG_LEVEL" not in os.environ


def test_an_output_that_cannot_hold_a_sign_gets_it_escaped(tmp_path):
    program = "import sys; from trainlab.cli import console; sys.exit(console(sys.argv[1:]))"
    shown = {}
    for encoding in ("utf-8", "ascii"):
        command = [sys.executable, "-c", program, "--list", "strategies"]
        environment = clean_environment(PYTHONIOENCODING=f"{encoding}:strict")
        shown[encoding] = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, check=True, timeout=100
        ).stdout
    assert shown["ascii"].decode() == shown["utf-8"].decode().encode("ascii", "backslashreplace").decode()
    assert not shown["utf-8"].isascii()  # the control: there is such a sign
