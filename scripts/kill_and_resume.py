"""Kills training runs with SIGKILL at random instants, and looks whether each ends as if nothing had happened.

`python scripts/kill_and_resume.py` trains once undisturbed; then again and again, each run killed once or more and started
again until it is done. All must end with the same bits: variables, optimizer, History, metrics.jsonl, test metrics. As the
control, runs that never resume must show that the kills cost them their work.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from trainlab import train
from trainlab.checkpoint import read

CONFIG = Path(__file__).parent.parent / "configs" / "accumulate_heun.gin"
SETTINGS = {
    "run.epochs": "40",
    "run.save_seconds": "0.2",
    "run.optimizer": "@keras.optimizers.Adam()",
    "keras.optimizers.Adam.learning_rate": "0.003",
    "mlp.dropout": "0.2",
}
INSTANTS = ("training", "saving", "starting", "ending")
_MAX_STARTS = 12


@dataclasses.dataclass
class Attempt:
    """One process of a run.

    Attributes:
        resumed_at: the update that it said it went on from; None if it said it began, -1 if it said nothing.
        newest: the update of the newest checkpoint when it started.
        status: its exit status; None if it was killed.
    """

    resumed_at: int | None
    newest: int | None
    status: int | None


def main() -> int:
    """Runs what the flags ask for; the status is 0 if every run ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="runs that are killed (100)")
    parser.add_argument("--controls", type=int, default=3, help="runs that never resume (3)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of a run (40)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    options = parser.parse_args()
    SETTINGS["run.epochs"] = str(options.epochs)
    rng = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        started = time.monotonic()
        start(root / "whole", None)
        duration = time.monotonic() - started
        print(f"one run undisturbed: {duration:.1f} s, {_newest(root / 'whole')} updates", flush=True)
        seen: Counter[str] = Counter()
        failures = 0
        for i in range(options.runs):
            directory = root / f"run-{i}"
            problems = one_run(directory, root / "whole", INSTANTS[i % len(INSTANTS)], duration, rng, seen)
            failures += bool(problems)
            for problem in problems:
                print(f"run {i} (killed {INSTANTS[i % len(INSTANTS)]}): {problem}", flush=True)
            shutil.rmtree(directory)
            if (i + 1) % 10 == 0:
                print(f"{i + 1 - failures} of {i + 1} so far", flush=True)
        good = options.runs - failures
        print(f"{good} of {options.runs} runs ended with the same bits; {dict(seen)}")
        for i in range(options.controls):
            updates = control(root / f"control-{i}", duration, rng)
            print(f"control, never resumed: {updates} updates made for {_newest(root / 'whole')}")
            failures += updates <= _newest(root / "whole")
        return int(failures > 0)
    finally:
        shutil.rmtree(root)


def one_run(directory: Path, whole: Path, instant: str, duration: float, rng: random.Random, seen: Counter[str]) -> list[str]:
    """Kills a run at such an instant, perhaps more than once; returns what was wrong."""
    problems, attempts = [], []
    for number in range(_MAX_STARTS):
        kill = _when(instant, duration, rng, directory) if number == 0 or (number < 3 and rng.random() < 0.3) else None
        attempt = start(directory, kill)
        attempts.append(attempt)
        if attempt.status is None:
            seen[f"killed {instant}"] += 1
            seen["killed after a checkpoint"] += _newest(directory) is not None
        if attempt.resumed_at == -1 and attempt.status is not None:
            problems.append("a start did not say where it went on from")
        elif attempt.resumed_at != -1 and attempt.resumed_at != attempt.newest:
            problems.append(f"went on from update {attempt.resumed_at}, but the newest checkpoint was of {attempt.newest}")
        seen["resumed"] += attempt.resumed_at not in (None, -1)
        if attempt.status is not None:
            break
    if attempts[-1].status != 0:
        problems.append(f"ended with status {attempts[-1].status}")
        return problems
    return problems + differences(directory, whole)


def differences(directory: Path, whole: Path) -> list[str]:
    """What is not as in an undisturbed run; litter too."""
    problems = []
    for name in ("metrics.jsonl", "config.gin"):
        if (directory / name).read_bytes() != (whole / name).read_bytes():
            problems.append(f"{name} differs")
    mine, other = (json.loads((path / "result.json").read_text()) for path in (directory, whole))
    if mine["test"] != other["test"] or mine["step"] != other["step"]:
        problems.append(f"result differs: {mine} {other}")
    a, b = (
        read(path / "checkpoints" / json.loads((path / "result.json").read_text())["checkpoint"]) for path in (directory, whole)
    )
    if a.arrays.keys() != b.arrays.keys() or any(not np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays):
        problems.append("variables differ")
    if a.state["callbacks"] != b.state["callbacks"] or a.state["histories"] != b.state["histories"]:
        problems.append("History or callbacks differ")
    litter = [path for path in directory.rglob("*") if path.name.startswith(".")]
    return problems + ([f"litter: {litter}"] if litter else [])


def control(directory: Path, duration: float, rng: random.Random) -> int:
    """A run that is killed and begun anew; returns how many updates were made for it in all."""
    flags = ["--resume=never", "--overwrite"]
    is_late = _when("training", duration, rng, directory)
    start(directory, lambda: is_late() and _newest(directory) is not None, flags)
    lost = _newest(directory) or 0
    if start(directory, None, flags).status != 0:
        raise RuntimeError("the control failed")
    return lost + (_newest(directory) or 0)


def start(directory: Path, kill: Callable[[], bool] | None, flags: list[str] | None = None) -> Attempt:
    """Trains in a process of its own, until it ends or `kill` says so."""
    newest = _newest(directory)
    log = directory.with_suffix(".log")
    process = os.fork()  # TensorFlow is imported, and nothing more: a new process for less than its start costs
    if process == 0:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        settings = [f"--set={name} = {value}" for name, value in SETTINGS.items()]
        status = train.main(["--config", str(CONFIG), "--run_dir", str(directory), *settings, *(flags or [])])
        sys.stdout.flush()
        os._exit(status)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if kill is not None and kill():
            os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            break
        time.sleep(0.002)
    said = re.search(r"^run .*: (begun|(?:resumed|finished) at update ([\d,]+))", log.read_text(errors="replace"), re.MULTILINE)
    resumed_at = -1 if said is None else int(said[2].replace(",", "")) if said[2] else None
    return Attempt(resumed_at, newest, None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status))


def _when(instant: str, duration: float, rng: random.Random, directory: Path) -> Callable[[], bool]:
    """A function that says when to kill."""
    begun = time.monotonic()
    after = {"starting": rng.uniform(0, 0.3 * duration), "ending": rng.uniform(0.8, 1.1) * duration}.get(
        instant, rng.uniform(0.1, 1.0) * duration
    )

    def is_due() -> bool:
        if time.monotonic() - begun < after:
            return False
        if instant == "saving":  # as soon as one is being written
            with contextlib.suppress(FileNotFoundError):
                return any(path.name.startswith(".writing-") for path in (directory / "checkpoints").iterdir())
            return False
        return True

    return is_due


def _newest(directory: Path) -> int | None:
    """The update of the newest checkpoint."""
    folder = directory / "checkpoints"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return int(names[-1].rpartition("-")[2]) if names else None


if __name__ == "__main__":
    sys.exit(main())
