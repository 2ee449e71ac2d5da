"""What is run on a GPU runs here on the CPU; and a part that fails or hangs is a finding, no end."""

import json
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import gpu_check  # noqa: E402
from gpu_checking import PARTS, Part  # noqa: E402


def short(tmp_path, parts):
    patience = ["--patience", "10", "--seconds", "3600"]  # the bounds are a GPU's, and of a machine that does nothing else
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--short", *patience, "--out", str(tmp_path), "--parts", *parts]
    ended = subprocess.run(command, capture_output=True, text=True)
    return ended, json.loads((tmp_path / "gpu_check.json").read_text())


def test_the_laws(tmp_path):
    ended, found = short(tmp_path, ["device", "laws-float64"])
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert sum(one["ok"] is True for one in found) > 20 and not any(one["ok"] is False for one in found)


@pytest.mark.slow
def test_scaling_and_replicas(tmp_path):
    ended, found = short(tmp_path, ["laws-float16", "replicas"])
    assert ended.returncode == 0, ended.stdout[-3000:]
    checked = [one["check"] for one in found if one["ok"] is True]
    for what in ("plain is Keras' fit", "a real skip", "control: no skip", "two replicas are one device", "stopped twice"):
        assert any(what in check for check in checked), what


@pytest.mark.slow
@pytest.mark.parametrize("parts", [
    ("laws-float32", "laws-float64-rest", "laws-tf32-text"), ("strategies", "workers"), ("resume", "memory", "signals"),
    ("kill",), ("speed-cnn",), ("speed-strategies",), ("speed-mlp", "speed-embedding"), ("speed-transformer",),
    ("laws-tf32", "laws-float32-rest"), ("laws-tf32-rest",), ("laws-float32-text", "laws-float64-text"),
])  # fmt: skip
def test_the_other_parts(tmp_path, parts):
    ended, found = short(tmp_path, parts)
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert {one["part"] for one in found if one["check"] == "time"} == set(parts)


def test_a_part_that_hangs_or_fails_is_a_finding(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(gpu_check.PARTS, "device", Part(PARTS["device"].run, 0.2))  # less than TensorFlow takes to be imported
    monkeypatch.setitem(gpu_check.PARTS, "unheard of", Part(print, 60))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path), "--parts", "device", "unheard of"])
    assert gpu_check.main() == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [(one["part"], one["check"], one["ok"]) for one in found] == [
        ("device", "the whole part", False),
        ("unheard of", "the whole part", False),
    ]
    assert "ended after 0 s" in found[0]["seen"] and "KeyError" in found[1]["seen"]
    assert "0 of 2 are as they must be" in capsys.readouterr().out


def test_what_is_late_is_not_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path), "--parts", "kill", "speed-mlp", "--seconds", "0"])
    assert gpu_check.main() == 1
    assert capsys.readouterr().out.count("no time was left for it") == 2


def test_no_part_is_forgotten():
    """Each is run here by some test, in its short form."""
    [parts] = [mark.args[1] for mark in test_the_other_parts.pytestmark if mark.name == "parametrize"]
    elsewhere = {"device", "laws-float64", "laws-float16", "replicas"}
    assert {name for each in parts for name in each} | elsewhere == set(PARTS)
