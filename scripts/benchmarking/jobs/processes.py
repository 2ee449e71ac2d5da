"""Whole processes, from their start: runs that go on, and the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarking.jobs.figures import Found, Size, ratio, seconds_of, take_turns
from benchmarking.jobs.fitting import KERAS, OURS
from benchmarking.jobs.things import SHAPES

SCRIPTS = Path(__file__).parents[2]
ROOT = SCRIPTS.parent


def ended(command: Sequence[str], folder: Path = SCRIPTS) -> str:
    """Runs it to its end and returns what it printed; trainlab is this checkout's.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["nothing was said"]
        raise RuntimeError(f"status {result.returncode}: {said[-1]}")
    return result.stdout


def resumed(size: Size) -> Found:
    """Seconds from the start of a process to its first update, under XLA: of a new run, and of the same that goes on."""
    seconds: dict[str, list[float]] = {}
    for _ in range(size.pairs):
        for model in SHAPES:
            with tempfile.TemporaryDirectory() as folder:
                for who, epochs in {"first start": 1, "resumed": 2}.items():
                    seconds.setdefault(f"{model}, {who}", []).append(_to_first_update(model, folder, epochs))
    pairs = [(f"{model}, resumed", f"{model}, first start", "<= 0.6", f"{model}: resumed / first start") for model in SHAPES]
    return Found(seconds, [ratio(seconds, *pair) for pair in pairs])


def _to_first_update(model: str, folder: str, epochs: int) -> float:
    arguments = [model, folder, str(epochs), str(time.time())]
    found = json.loads(ended([sys.executable, "-m", "benchmarking.jobs.going_on", *arguments]).splitlines()[-1])
    if (found["resumed_at"] is not None) != (epochs > 1):
        raise RuntimeError(f"a run of {epochs} epochs went on from {found['resumed_at']}")
    return found["seconds"]


def command(size: Size) -> Found:
    """The README's first command, and a plain script with Keras."""
    epochs = size.scaled(30)

    def ours() -> float:
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--config", "configs/heun.gin", "--run_dir", f"{folder}/run", "--set", f"run.epochs = {epochs}"]
            return seconds_of(lambda: ended([sys.executable, "-m", "trainlab.train", *flags], ROOT))

    def theirs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            flags = [f"{folder}/model.keras", str(epochs)]
            return seconds_of(lambda: ended([sys.executable, str(Path(__file__).with_name("plain_script.py")), *flags]))

    seconds = take_turns({KERAS: theirs, OURS: ours}, size.pairs, warm_up=False)
    return Found(seconds, [ratio(seconds, KERAS, OURS)])
