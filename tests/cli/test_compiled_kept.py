"""The command keeps what XLA compiled: when it goes on, the update is not compiled again, and the numbers are the same."""

import os

import pytest
from commands import SHORT, records, start


def ran(tmp_path, name, epochs, *more):
    flags = ["--set", "run.jit_compile = True", "--set", f"run.epochs = {epochs}", "--run_dir", name, *more]
    process = start(*SHORT[:2], *flags, cwd=tmp_path)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / name / "compiled").glob("*/*")}


def numbers(directory):
    return [{name: value for name, value in one.items() if "second" not in name} for one in records(directory)]


@pytest.mark.slow
def test_a_run_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    first, second, third = (ran(tmp_path, "a", epochs) for epochs in (1, 2, 3))
    assert first.items() <= second.items()  # those of the first start were not written anew
    assert len(second) - len(first) < len(first)  # the evaluation at most, which comes after other things than in a first start
    assert third == second
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=")  # the user's own setting: none
    assert [ran(tmp_path, "b", epochs) for epochs in (1, 2, 3)] == [{}, {}, {}]
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert not os.path.exists(tmp_path / "b" / "compiled")


@pytest.mark.slow
def test_without_xla_there_is_nothing_to_keep(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_XLA_FLAGS", raising=False)
    assert ran(tmp_path, "a", 1, "--set", "run.jit_compile = False") == {}
    assert not os.path.exists(tmp_path / "a" / "compiled")
