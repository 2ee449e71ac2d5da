"""Runs that are stopped again and again, at instants that are drawn, until they are done."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from killing.processes import Attempt, Gauge, newest_update, start

INSTANTS = ("training", "saving", "evaluating", "starting", "ending")
SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
_MAX_STARTS = 12
_MAX_DRAWS = 5  # of an instant
_HANDLED_AFTER = 0.05  # seconds; before, the command does not listen to signals yet


class Trial:
    """Stops runs, and looks how they go on.

    Args:
        train: trains in a directory, and returns the status; called in a process of its own.
        duration: how long that takes undisturbed, in seconds.
        signum: what the runs are sent.
        rng: draws the instants.
        may_lose: how many updates may have to be made again.
        updates: how many a whole run makes. If it is given, instants are drawn among these and not by the clock, of which a
            process spends the larger part before its first update; but for those at the start.

    Attributes:
        seen: how often what happened.
        most_lost: the most updates that a run had to make again.
    """

    def __init__(
        self,
        train: Callable[[Path], int],
        duration: float,
        signum: int,
        rng: random.Random,
        may_lose: int,
        updates: int | None = None,
    ):
        self._train, self._updates = train, updates
        self._duration = duration
        self._signum, self._rng, self._may_lose = signum, rng, may_lose
        self.seen: Counter[str] = Counter()
        self.most_lost = 0

    def run(self, directory: Path, instant: str) -> tuple[list[Attempt], list[str]]:
        """Stops a run at such an instant, perhaps more than once; returns its processes, and what was wrong.

        One that was done before its instant came is made again: the clock is not exact. Only the end may be missed.
        """
        for draw in range(_MAX_DRAWS):
            if draw:
                shutil.rmtree(directory)
            attempts, problems = self._run(directory, instant)
            if problems or instant == "ending" or attempts[0].was_stopped:
                return attempts, problems
            self.seen["done before its instant"] += 1
        return attempts, [f"was not stopped {instant} in {_MAX_DRAWS} runs: nothing says that there is such an instant"]

    def _run(self, directory: Path, instant: str) -> tuple[list[Attempt], list[str]]:
        attempts: list[Attempt] = []
        problems: list[str] = []
        for number in range(_MAX_STARTS):
            is_stopped = number == 0 or (number < 3 and self._rng.random() < 0.3)
            attempt = self.start(directory, self.instant(instant, directory) if is_stopped else None)
            attempts.append(attempt)
            problems += self._problems(attempt)
            self.seen["started again and resumed"] += attempt.resumed_at not in (None, -1)
            if attempt.was_stopped:
                self.most_lost = max(self.most_lost, attempt.lost)
                has_checkpoint = "after" if newest_update(directory) is not None else "before"
                self.seen[f"stopped {instant}, {has_checkpoint} the first checkpoint"] += 1
            elif attempt.status == 0:
                return attempts, problems
            else:
                return attempts, [*problems, f"ended with status {attempt.status}: {attempt.log[-500:]}"]
        return attempts, [*problems, f"not done after {_MAX_STARTS} starts"]

    def start(self, directory: Path, is_due: Callable[[Gauge], bool] | None) -> Attempt:
        """One process of a run, stopped when it is time."""
        return start(directory, lambda: self._train(directory), is_due, self._signum)

    def _problems(self, attempt: Attempt) -> list[str]:
        problems = []
        if attempt.resumed_at == -1 and not attempt.was_stopped:
            problems.append("a start did not say where it went on from")
        elif attempt.resumed_at not in (-1, attempt.newest):
            problems.append(f"went on from update {attempt.resumed_at}, but the newest checkpoint was of {attempt.newest}")
        allowed = self._may_lose if self._signum == signal.SIGKILL else 0
        if attempt.was_stopped and attempt.lost > allowed:
            problems.append(f"{attempt.lost} updates were lost")
        asked = None if self._signum == signal.SIGKILL else 128 + self._signum
        if attempt.was_stopped and attempt.status != asked:
            problems.append(f"stopped with status {attempt.status}: {attempt.log[-500:]}")
        if "Traceback" in attempt.log:
            problems.append(f"a traceback: {attempt.log[-2000:]}")
        return problems

    def instant(self, instant: str, directory: Path) -> Callable[[Gauge], bool]:
        """A function that says when to stop a run that begins now."""
        begun, draw = time.monotonic(), self._rng.uniform
        shares = {"starting": (0.0, 0.3), "ending": (0.8, 1.1)}.get(instant, (0.1, 1.0))
        share = draw(*shares)
        is_by_clock = self._updates is None or instant == "starting"
        after = max(share * self._duration, _HANDLED_AFTER) if is_by_clock else 0.0
        # This process has only the rest of them to make.
        updates = 0.0 if is_by_clock else min(share, 1.0) * ((self._updates or 0) - (newest_update(directory) or 0))

        def is_due(gauge: Gauge) -> bool:
            if time.monotonic() - begun < after or gauge.updates < updates:
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
