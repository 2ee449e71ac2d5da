"""The command, and what it leaves, for the tests that use it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
HEUN = ["--config", str(CONFIGS / "heun.gin")]
SHORT = [*HEUN, "--set", "run.epochs = 1"]


def start(*arguments, cwd):
    """The command as a person starts it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainlab.train", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts its background jobs with SIGINT ignored, and children inherit that: not what these tests are about.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def records(directory):
    """What is in its metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def ours(stderr):
    """The lines of stderr that are this package's: TensorFlow has things to say too."""
    assert "Traceback" not in stderr
    return [line for line in stderr.splitlines() if line.startswith("trainlab:")]


def everything_in(directory):
    """The bytes of every file but the lock, which names its last holder, and the timeline, which holds times."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name not in ("lock", "timeline.jsonl")]
    return {path.relative_to(directory): path.read_bytes() for path in paths}
