"""Kills training runs with SIGKILL at random instants, and looks whether each ends as if nothing had happened.

`python scripts/kill_and_resume.py` trains once undisturbed; then again and again, each run killed once or more and started
again until it is done. All must end with the same bits: variables, optimizer, History, metrics.jsonl, test metrics. None may
lose more than one interval between checkpoints, besides the checkpoint that was being written. As the control, runs that
never resume must show that the kills cost them their work. `--signal TERM` and `--signal INT` ask instead of killing: then
nothing may be lost, and the status must be 143 or 130.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import mmap
import os
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from trainlab import cli
from trainlab.loop.loop import Loop
from trainlab.runs.disk.checkpoint import read

CONFIG = Path(__file__).parent.parent / "configs" / "accumulate_heun.gin"
SETTINGS = {
    "run.epochs": "40",
    "run.save_steps": "20",
    "run.save_seconds": "0.2",
    "run.optimizer": "@keras.optimizers.Adam()",
    "keras.optimizers.Adam.learning_rate": "0.003",
    "mlp.dropout": "0.2",
}
INSTANTS = ("training", "saving", "evaluating", "starting", "ending")
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
_MAX_STARTS = 12
_HANDLED_AFTER = 0.05  # seconds; before, the command does not listen to signals yet


class Gauge:
    """What a run is doing, told to the process that watches it, through memory that both have."""

    _FORMAT = "qq"

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, struct.calcsize(self._FORMAT))

    def _read(self) -> tuple[int, ...]:
        return struct.unpack_from(self._FORMAT, self._memory)

    def _write(self, updates: int, is_evaluating: bool) -> None:
        struct.pack_into(self._FORMAT, self._memory, 0, updates, is_evaluating)

    @property
    def updates(self) -> int:
        """How many were made so far, by this process."""
        return self._read()[0]

    @property
    def is_evaluating(self) -> bool:
        """Whether a data set is being evaluated."""
        return bool(self._read()[1])

    def attach(self) -> None:
        """Follows this process from now on."""
        run, evaluate = Loop.run, keras.Model.evaluate

        def counted(*args: Any, **kwargs: Any) -> int:
            updates = run(*args, **kwargs)
            self._write(self.updates + updates, False)
            return updates

        def shown(*args: Any, **kwargs: Any) -> Any:
            self._write(self.updates, True)
            try:
                return evaluate(*args, **kwargs)
            finally:
                self._write(self.updates, False)

        Loop.run, keras.Model.evaluate = counted, shown  # type: ignore[method-assign]


@dataclasses.dataclass
class Attempt:
    """One process of a run.

    Attributes:
        resumed_at: the update that it said it went on from; None if it said it began, -1 if it said nothing.
        newest: the update of the newest checkpoint when it started.
        status: its exit status; None if it was killed.
        was_stopped: whether it was sent a signal.
        updates: how many it made.
        lost: updates it had made beyond the newest checkpoint when it ended.
        log: all that it said.
    """

    resumed_at: int | None
    newest: int | None
    status: int | None
    was_stopped: bool
    updates: int
    lost: int
    log: str


def main() -> int:
    """Runs what the flags ask for; the status is 0 if every run ended as it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="runs that are killed (100)")
    parser.add_argument("--controls", type=int, default=3, help="runs that never resume (3)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of a run (40)")
    parser.add_argument("--seed", type=int, default=0, help="of the instants (0)")
    parser.add_argument("--signal", choices=list(SIGNALS), default="KILL", help="what they are sent (KILL)")
    options = parser.parse_args()
    SETTINGS["run.epochs"] = str(options.epochs)
    rng = random.Random(options.seed)
    root = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        started = time.monotonic()
        start(root / "whole", None)
        trial = Trial(root / "whole", time.monotonic() - started, SIGNALS[options.signal], rng)
        print(f"one run undisturbed: {trial.duration:.1f} s, {_newest(trial.whole)} updates", flush=True)
        failures = 0
        for i in range(options.runs):
            directory, instant = root / f"run-{i}", INSTANTS[i % len(INSTANTS)]
            problems = trial.run(directory, instant)
            failures += bool(problems)
            for problem in problems:
                print(f"run {i} (stopped {instant}): {problem}", flush=True)
            shutil.rmtree(directory)
            if (i + 1) % 10 == 0:
                print(f"{i + 1 - failures} of {i + 1} so far", flush=True)
        print(f"{options.runs - failures} of {options.runs} runs ended with the same bits")
        for what, count in sorted(trial.seen.items()):
            print(f"  {what}: {count}")
        print(f"  updates lost, at most: {trial.most_lost} (a checkpoint every {SETTINGS['run.save_steps']})")
        for i in range(options.controls):
            updates = trial.control(root / f"control-{i}")
            print(f"control, never resumed: {updates} updates made for {_newest(trial.whole)}")
            failures += updates <= _newest(trial.whole)
        return int(failures > 0)
    finally:
        shutil.rmtree(root)


class Trial:
    """Stops runs, and compares how they end.

    Args:
        whole: the directory of a run that nobody stopped.
        duration: how long that took, in seconds.
        signum: what the others are sent.
        rng: draws the instants.

    Attributes:
        seen: how often what happened.
        most_lost: the most updates that a run had to make again.
    """

    def __init__(self, whole: Path, duration: float, signum: int, rng: random.Random):
        self.whole, self.duration = whole, duration
        self._signum, self._rng = signum, rng
        self.seen: Counter[str] = Counter()
        self.most_lost = 0

    def run(self, directory: Path, instant: str) -> list[str]:
        """Stops a run at such an instant, perhaps more than once; returns what was wrong."""
        problems: list[str] = []
        for number in range(_MAX_STARTS):
            is_stopped = number == 0 or (number < 3 and self._rng.random() < 0.3)
            attempt = start(directory, self._instant(instant, directory) if is_stopped else None, self._signum)
            problems += self._problems(attempt)
            self.seen["started again and resumed"] += attempt.resumed_at not in (None, -1)
            if attempt.was_stopped:
                self.most_lost = max(self.most_lost, attempt.lost)
                has_checkpoint = "after" if _newest(directory) is not None else "before"
                self.seen[f"stopped {instant}, {has_checkpoint} the first checkpoint"] += 1
            elif attempt.status == 0:
                return problems + differences(directory, self.whole)
            else:
                return [*problems, f"ended with status {attempt.status}: {attempt.log[-500:]}"]
        return [*problems, f"not done after {_MAX_STARTS} starts"]

    def _problems(self, attempt: Attempt) -> list[str]:
        problems = []
        if attempt.resumed_at == -1 and not attempt.was_stopped:
            problems.append("a start did not say where it went on from")
        elif attempt.resumed_at not in (-1, attempt.newest):
            problems.append(f"went on from update {attempt.resumed_at}, but the newest checkpoint was of {attempt.newest}")
        allowed = 0
        if self._signum == signal.SIGKILL:
            allowed = 2 * int(SETTINGS["run.save_steps"])  # one interval, and the checkpoint that was being written
        if attempt.was_stopped and attempt.lost > allowed:
            problems.append(f"{attempt.lost} updates were lost")
        asked = None if self._signum == signal.SIGKILL else 128 + self._signum
        if attempt.was_stopped and attempt.status != asked:
            problems.append(f"stopped with status {attempt.status}: {attempt.log[-500:]}")
        if "Traceback" in attempt.log:
            problems.append(f"a traceback: {attempt.log[-2000:]}")
        return problems

    def control(self, directory: Path) -> int:
        """A run that is killed and begun anew; returns how many updates were made for it in all."""
        flags = ["--resume=never", "--overwrite"]
        is_late = self._instant("training", directory)
        killed = start(directory, lambda gauge: is_late(gauge) and _newest(directory) is not None, signal.SIGKILL, flags)
        again = start(directory, None, flags=flags)
        if again.status != 0:
            raise RuntimeError(f"the control failed: {again.log[-2000:]}")
        return killed.updates + again.updates

    def _instant(self, instant: str, directory: Path) -> Callable[[Gauge], bool]:
        """A function that says when to stop a run that begins now."""
        begun, draw = time.monotonic(), self._rng.uniform
        shares = {"starting": (0.0, 0.3), "ending": (0.8, 1.1)}.get(instant, (0.1, 1.0))
        after = max(draw(*shares) * self.duration, _HANDLED_AFTER)

        def is_due(gauge: Gauge) -> bool:
            if time.monotonic() - begun < after:
                return False
            if instant == "training":
                return gauge.updates > 0
            if instant == "evaluating":
                return gauge.is_evaluating
            if instant == "saving":  # as soon as one is being written
                with contextlib.suppress(FileNotFoundError):
                    return any(path.name.startswith(".writing-") for path in (directory / "checkpoints").iterdir())
                return False
            return True

        return is_due


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


def start(
    directory: Path, is_due: Callable[[Gauge], bool] | None, signum: int = signal.SIGKILL, flags: list[str] | None = None
) -> Attempt:
    """Trains in a process of its own, until it ends or is sent a signal because it is time."""
    newest = _newest(directory)
    log = directory.with_suffix(".log")
    gauge = Gauge()
    process = os.fork()  # TensorFlow is imported, and nothing more: a new process for less than its start costs
    if process == 0:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        gauge.attach()
        settings = [f"--set={name} = {value}" for name, value in SETTINGS.items()]
        status = cli.main(["--config", str(CONFIG), "--run_dir", str(directory), *settings, *(flags or [])])
        sys.stdout.flush()
        os._exit(status)
    was_stopped = False
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if is_due is not None and not was_stopped and is_due(gauge):
            os.kill(process, signum)
            was_stopped = True
        time.sleep(0.002)
    said = log.read_text(errors="replace")
    where = re.search(r"^run .*: (begun|(?:resumed|finished) at update ([\d,]+))", said, re.MULTILINE)
    resumed_at = -1 if where is None else int(where[2].replace(",", "")) if where[2] else None
    code = None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)
    was_stopped = was_stopped and code != 0  # it may have come too late
    lost = max((newest or 0) + gauge.updates - (_newest(directory) or 0), 0)
    return Attempt(resumed_at, newest, code, was_stopped, gauge.updates, lost, said)


def _newest(directory: Path) -> int | None:
    """The update of the newest checkpoint."""
    folder = directory / "checkpoints"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return int(names[-1].rpartition("-")[2]) if names else None


if __name__ == "__main__":
    sys.exit(main())
