"""Two workers and more, of which one is killed: the others end in a line, and all started again end with the same bits."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import time
import traceback
from pathlib import Path

import keras
import numpy as np
from workers import configs

import trainlab as tl

_EPOCHS, _BATCH, _EXAMPLES, _SAVE_STEPS = 30, 16, 960, 50
_JOIN_SECONDS = 25.0  # within which all start
_ANSWER_SECONDS = 20.0
_MAY_TAKE = 30.0  # for the others to end
_PATIENCE = 300.0
_LINE = re.compile(r"worker \d+ \(localhost:\d+\) (was lost|has not started|has left|ended while the workers joined)")


def train(directory: Path) -> int:
    """The training script of every worker; the first writes what came of it."""
    strategy = tl.join_workers(_JOIN_SECONDS, _ANSWER_SECONDS)
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(_EXAMPLES, 8)).astype("float32"), rng.integers(3, size=_EXAMPLES)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input([8]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=loss, metrics=["accuracy"])
    run = tl.Run(directory, save_steps=_SAVE_STEPS, save_seconds=None)
    trainer = tl.Trainer(model, tl.Heun(), run=run, seed=3, distribute=strategy)
    history = trainer.fit(
        x, y, batch_size=_BATCH, epochs=_EPOCHS, validation_data=(x[:100], y[:100]), validation_freq=3, verbose=2
    )
    variables = {f"{i}": np.array(v) for i, v in enumerate([*model.variables, *model.optimizer.variables])}
    rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    np.savez(directory.parent / f"{directory.name}-{rank}.npz", **variables, history=json.dumps(history.history))
    return 0


def _start(directory: Path, number: int) -> list[int]:
    """Starts the workers; TensorFlow is imported, and nothing more: a fork for less than a start costs."""
    processes = []
    for rank, config in enumerate(configs(number)):
        process = os.fork()
        if process == 0:
            _be_worker(directory, rank, config)
        processes.append(process)
    return processes


def _be_worker(directory: Path, rank: int, config: str) -> None:
    status = 1
    try:
        os.environ["TF_CONFIG"] = config
        with open(directory.parent / f"{directory.name}-{rank}.log", "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = train(directory)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            print(end="", flush=True)
        os._exit(status)


def _wait(processes: list[int], seconds: float) -> dict[int, int]:
    """The status of each that ends within so many seconds."""
    ended: dict[int, int] = {}
    until = time.monotonic() + seconds
    while len(ended) < len(processes) and time.monotonic() < until:
        for process in processes:
            if process not in ended and os.waitpid(process, os.WNOHANG)[0]:
                ended[process] = 0
        time.sleep(0.01)
    return ended


def _end(processes: list[int], ended: dict[int, int]) -> None:
    for process in processes:
        if process not in ended:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _whole(directory: Path, number: int) -> float:
    """A run to its end; returns how long it took. Raises RuntimeError if it does not end."""
    begun = time.monotonic()
    processes = _start(directory, number)
    ended = _wait(processes, _PATIENCE)
    _end(processes, ended)
    if len(ended) < number or not all(_results(directory, rank).is_file() for rank in range(number)):
        logs = "\n".join(_log(directory, rank)[-800:] for rank in range(number))
        raise RuntimeError(f"did not end as it must:\n{logs}")
    return time.monotonic() - begun


def _results(directory: Path, rank: int) -> Path:
    return directory.parent / f"{directory.name}-{rank}.npz"


def _log(directory: Path, rank: int) -> str:
    return (directory.parent / f"{directory.name}-{rank}.log").read_text(errors="replace")


def _is_same(a: Path, b: Path) -> bool:
    with np.load(a) as first, np.load(b) as second:
        return sorted(first) == sorted(second) and all(np.array_equal(first[name], second[name]) for name in first)


def kill_runs(root: Path, number: int, runs: int, rng: random.Random) -> int:
    """Kills one of so many workers, again and again in new runs; prints what was seen, and returns how many went wrong."""
    reference = root / "whole"
    duration = _whole(reference, number)
    print(f"{number} workers, a run of {_EPOCHS} epochs takes {duration:.1f} s", flush=True)
    failures = 0
    for run in range(runs):
        directory, victim = root / f"run-{run}", rng.randrange(number)
        after = rng.uniform(0.0, 1.0) * duration
        problems, slowest = _kill_one(directory, number, victim, after)
        try:
            if not problems:
                _whole(directory, number)
                same = [_is_same(_results(reference, rank), _results(directory, rank)) for rank in range(number)]
                problems += [] if all(same) else ["other bits than those of the uninterrupted run"]
        except RuntimeError as error:
            problems.append(str(error))
        failures += bool(problems)
        what = "; ".join(problems) or "the same bits"
        print(
            f"{run + 1}: worker {victim} killed after {after:.1f} s, the others ended {slowest:.1f} s later: {what}", flush=True
        )
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{runs - failures} of {runs} as they must", flush=True)
    return failures


def _kill_one(directory: Path, number: int, victim: int, after: float) -> tuple[list[str], float]:
    """Kills a worker; what was wrong with the others, and how long they took to end."""
    processes = _start(directory, number)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(processes[victim], signal.SIGKILL)
    killed_at = time.monotonic()
    ended = _wait(processes, _MAY_TAKE)
    took = time.monotonic() - killed_at
    _end(processes, ended)
    problems = [f"worker {rank} had not ended after {_MAY_TAKE:.0f} s" for rank in range(number) if processes[rank] not in ended]
    if _results(directory, victim).is_file():  # it had ended by itself: so do the others
        return problems, took
    for rank in range(number):
        if rank != victim and not _results(directory, rank).is_file() and not _LINE.search(_log(directory, rank)):
            problems.append(f"worker {rank} said nothing of it: {_log(directory, rank)[-500:]}")
    for rank in range(number):
        _results(directory, rank).unlink(missing_ok=True)
    return problems, took
