"""Training scripts on kinds of data, killed: each ends with the bits of one that was not, or a resume has said why not."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import trainlab as tl
from killing.command import litter
from killing.processes import Attempt, Gauge, newest_update, start
from killing.sources import BATCHES, EPOCHS, KINDS, UPDATES, Kind, examples
from killing.trial import INSTANTS, Trial
from trainlab.data import ArraySource, StreamSource, array_source

SAVE_STEPS = 4
# What a resume says of data that go on otherwise, and after it why.
_SAYS_WHY = re.compile(r"Warning: x\b.*(?:other batches than before: |another order than it would have)")
_LATE = EPOCHS * UPDATES // 2  # updates
_SOON = 5.0  # seconds, in which processes that a run has left behind would have ended by themselves


def train(kind: Kind, directory: Path, restores: bool = True) -> int:
    """The training script: trains in a directory, and writes there what came of it; returns the status.

    Args:
        kind: of its data.
        directory: of the run.
        restores: whether data are put where training stands; if not, runs that were killed must end otherwise.
    """
    is_resumed = newest_update(directory) is not None
    keras.utils.set_random_seed(1)
    if kind.is_streamed:
        array_source.RESIDENT_SHARE = 0.0
    if not restores:
        for source in (ArraySource, StreamSource):
            source.restore = lambda self, state, serialized: None  # type: ignore[method-assign]
    data = kind.fit(directory.parent, random.SystemRandom().getrandbits(31) if is_resumed else None)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dropout(0.2), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input([8]), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss=loss, metrics=["accuracy"])
    if is_resumed:
        random.seed()  # what another process draws is its own
    run = tl.Run(directory, save_steps=SAVE_STEPS, save_seconds=0.2)
    trainer = tl.Trainer(model, tl.Accumulate(BATCHES), run=run, seed=3)
    validation = examples(40, seed=1)
    history = trainer.fit(**data, epochs=EPOCHS, validation_data=validation, validation_freq=3, verbose=2)
    metrics = trainer.evaluate(*validation, verbose=0, return_dict=True)
    variables = {f"model.{i}": np.array(v) for i, v in enumerate(model.variables)}
    variables |= {f"optimizer.{i}": np.array(v) for i, v in enumerate(model.optimizer.variables)}
    np.savez(directory / "variables.npz", **variables)
    told = {"history": history.history, "epochs": history.epoch, "metrics": metrics, "updates": trainer.iterations}
    (directory / "outcome.json").write_text(json.dumps(told))
    return 0


def is_same(directory: Path, whole: Path) -> bool:
    """Whether two runs ended with the same bits: variables, optimizer, History, metrics."""
    if (directory / "outcome.json").read_bytes() != (whole / "outcome.json").read_bytes():
        return False
    a, b = (np.load(path / "variables.npz") for path in (directory, whole))
    return sorted(a) == sorted(b) and all(np.array_equal(a[name], b[name]) for name in a)


def says_why(attempts: list[Attempt]) -> bool:
    """Whether a process that went on with a run has said that, and why, its data are not as before."""
    return any(_SAYS_WHY.search(attempt.log) for attempt in attempts if attempt.resumed_at is not None)


class DataTrial:
    """Kills runs on one kind of data.

    Args:
        name: of the kind.
        root: a directory for all of it.
        rng: draws the instants.

    Attributes:
        counts: how many runs ended with the same bits ("same"), with others and a warning ("warned"), with others in
            silence ("silent"), or not as they must ("failed").
    """

    def __init__(self, name: str, root: Path, rng: random.Random):
        self.counts: Counter[str] = Counter()
        self._name, self._kind, self._root = name, KINDS[name], root
        self._whole = root / "whole"
        started = time.monotonic()
        attempt = start(self._whole, lambda: train(self._kind, self._whole), None)
        if attempt.status != 0 or newest_update(self._whole) != EPOCHS * UPDATES:
            raise RuntimeError(f"{name}: a run that nobody stopped ended with status {attempt.status}: {attempt.log[-2000:]}")
        seconds, updates = time.monotonic() - started, EPOCHS * UPDATES
        self._trial = Trial(lambda path: train(self._kind, path), seconds, signal.SIGKILL, rng, updates, updates)

    @property
    def cost(self) -> str:
        """What was done to the runs, and what they had to do again, in words."""
        kills = sum(count for what, count in self._trial.seen.items() if what.startswith("stopped"))
        resumed = self._trial.seen["started again and resumed"]
        return f"{kills} kills, {resumed} resumes, {self._trial.most_lost} updates made again at most"

    def run(self, number: int) -> None:
        """Kills one, counts how it ended, and prints what was wrong."""
        directory, instant = self._root / f"run-{number}", INSTANTS[number % len(INSTANTS)]
        attempts, problems = self._trial.run(directory, instant)
        self._end(directory, attempts, problems, f"run {number} (killed {instant})")

    def control(self) -> bool:
        """Kills one whose data are not put where training stands; returns whether that is found out."""
        directory = self._root / "control"
        is_late = self._trial.instant("training", directory)

        def is_due(gauge: Gauge) -> bool:
            return (is_late(gauge) or gauge.updates > _LATE) and newest_update(directory) not in (None, EPOCHS * UPDATES)

        attempts = [start(directory, lambda: train(self._kind, directory, restores=False), each) for each in (is_due, None)]
        for attempt in attempts:
            attempt.end_group()
        is_found = attempts[-1].status == 0 and not is_same(directory, self._whole) and not says_why(attempts)
        if not is_found:
            print(
                f"{self._name}, control: data that were not restored made no difference: {attempts[-1].log[-2000:]}", flush=True
            )
        shutil.rmtree(directory)
        return is_found

    def _end(self, directory: Path, attempts: list[Attempt], problems: list[str], name: str) -> None:
        is_done = attempts[-1].status == 0
        if is_done:
            problems += litter(directory)
            if not attempts[-1].is_group_gone(_SOON):  # workers of one that was killed cannot know of it
                problems.append("processes were left behind")
        for attempt in attempts:
            attempt.end_group()
        if not is_done:
            end = "failed"
        elif is_same(directory, self._whole):
            end = "same"
        elif says_why(attempts):
            end = "warned"
            problems += ["could have been equal, and was not"] if self._kind.can_be_equal else []
        else:
            end = "silent"
            problems.append(f"ended with other bits, and no resume has said why: {attempts[-1].log[-2000:]}")
        self.counts[end if end == "silent" or not problems else "failed"] += 1
        for problem in problems:
            print(f"{self._name}, {name}: {problem}", flush=True)
        shutil.rmtree(directory)


def kill_runs(root: Path, names: Sequence[str], runs: int, controls: int, rng: random.Random) -> int:
    """Kills so many runs on each of these kinds of data, a line for each kind; returns how many did not end as they must."""
    failures = 0
    for name in names:
        if not KINDS[name].is_there:
            print(f"{name}: skipped, {KINDS[name].needs} is not installed", flush=True)
            continue
        folder = root / name
        folder.mkdir()
        trial = DataTrial(name, folder, rng)
        for number in range(runs):
            trial.run(number)
        counts = trial.counts
        found = sum(trial.control() for _ in range(controls))
        failures += counts["silent"] + counts["failed"] + controls - found
        print(
            f"{name}: {counts['same']} of {runs} ended with the same bits, {counts['warned']} with others and were warned of it, "
            f"{counts['silent']} in silence, {counts['failed']} failed; {trial.cost}; "
            f"not restored: {found} of {controls} found out",
            flush=True,
        )
        shutil.rmtree(folder)
    return failures
