"""Runs of the command that are stopped, and must end as one that was not."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from killing.processes import newest_update, start
from killing.trial import INSTANTS, SIGNALS, Trial
from trainlab import cli
from trainlab.runs.disk.checkpoint import read

CONFIG = Path(__file__).parents[2] / "configs" / "accumulate_heun.gin"
SAVE_STEPS = 20


def settings(epochs: int) -> list[str]:
    """Flags of a run of so many epochs."""
    values = {
        "run.epochs": str(epochs),
        "run.save_steps": str(SAVE_STEPS),
        "run.save_seconds": "0.2",
        "run.optimizer": "@keras.optimizers.Adam()",
        "keras.optimizers.Adam.learning_rate": "0.003",
        "mlp.dropout": "0.2",
    }
    return [f"--set={name} = {value}" for name, value in values.items()]


def stop_runs(root: Path, runs: int, controls: int, epochs: int, signal_name: str, rng: random.Random) -> int:
    """Stops so many runs in a directory, prints how they ended, and returns how many did not end as they must."""

    def train(directory: Path, *flags: str) -> int:
        return cli.main(["--config", str(CONFIG), "--run_dir", str(directory), *settings(epochs), *flags])

    started, whole = time.monotonic(), root / "whole"
    start(whole, lambda: train(whole), None)
    # One interval, and the checkpoint that was being written.
    trial = Trial(train, time.monotonic() - started, SIGNALS[signal_name], rng, may_lose=2 * SAVE_STEPS)
    print(f"one run undisturbed: {time.monotonic() - started:.1f} s, {newest_update(whole)} updates", flush=True)
    failures = 0
    for i in range(runs):
        directory, instant = root / f"run-{i}", INSTANTS[i % len(INSTANTS)]
        attempts, problems = trial.run(directory, instant)
        problems += differences(directory, whole) if attempts[-1].status == 0 else []
        failures += bool(problems)
        for problem in problems:
            print(f"run {i} (stopped {instant}): {problem}", flush=True)
        shutil.rmtree(directory)
        if (i + 1) % 10 == 0:
            print(f"{i + 1 - failures} of {i + 1} so far", flush=True)
    print(f"{runs - failures} of {runs} runs ended with the same bits")
    for what, count in sorted(trial.seen.items()):
        print(f"  {what}: {count}")
    print(f"  updates lost, at most: {trial.most_lost} (a checkpoint every {SAVE_STEPS})")
    for i in range(controls):
        updates = _never_resumed(root / f"control-{i}", trial, lambda path: train(path, "--resume=never", "--overwrite"))
        print(f"control, never resumed: {updates} updates made for {newest_update(whole)}")
        failures += updates <= (newest_update(whole) or 0)
    return failures


def _never_resumed(directory: Path, trial: Trial, train: Callable[[Path], int]) -> int:
    """A run that is killed and begun anew; returns how many updates were made for it in all."""
    is_late = trial.instant("training", directory)
    killed = start(directory, lambda: train(directory), lambda gauge: is_late(gauge) and newest_update(directory) is not None)
    again = start(directory, lambda: train(directory), None)
    if again.status != 0:
        raise RuntimeError(f"the control failed: {again.log[-2000:]}")
    return killed.updates + again.updates


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
    return problems + litter(directory)


def litter(directory: Path) -> list[str]:
    """What should not have been left there."""
    left = [path for path in directory.rglob("*") if path.name.startswith(".")]
    return [f"litter: {left}"] if left else []
