"""The script that kills runs, in a short form."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
@pytest.mark.parametrize("flags", [("--controls=1",), pytest.param(("--controls=0", "--signal=TERM"), marks=pytest.mark.slow)])
def test_stopped_runs_end_as_if_nothing_had_happened(flags):
    command = [sys.executable, str(ROOT / "scripts" / "kill_and_resume.py"), "--runs=2", "--epochs=8", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=400)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 of 2 runs ended with the same bits" in result.stdout
