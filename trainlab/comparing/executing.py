"""The runs of a comparison, each in its directory: what is killed is gone on with, by as many processes as there are."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainlab.comparing.entries import PLAIN, Entry
from trainlab.comparing.plan import Plan, Trial
from trainlab.comparing.problem import Problem, code_of
from trainlab.comparing.racing import Racer, measured_in_turns, number
from trainlab.comparing.results import Results
from trainlab.comparing.statistics import median
from trainlab.runs import InUse, Lock, sealed, write_atomically

_PLAN, _RESULT, _TARGET, _TEST, _TIMING, _CLAIM = "plan.json", "result.json", "target.json", "test.json", "timing.json", "claim"
_FORMAT = 1
_PATIENCE = 0.2  # seconds until a run that another process makes is looked at again


class Executor:
    """Makes the runs of a plan in a directory, those that are not there yet.

    The plain step's come first: what it reaches, tuned, is the target of all, written down before anybody else has run.

    Args:
        problem: what is trained.
        plan: which runs.
        directory: where they go.
        say: is told a line of each run.
        goes_on: asked between two runs; False ends the work.

    Attributes:
        directory: where they go, absolute.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        directory: Path,
        say: Callable[[str], None] = lambda line: None,
        goes_on: Callable[[], bool] = lambda: True,
    ):
        self._problem, self._plan, self._given = problem, plan, directory
        self.directory = directory.absolute()  # a model or an entry may change where the process is
        self._say, self._goes_on = say, goes_on
        self._racers: dict[int, Racer] = {}

    def prepare(self) -> None:
        """Makes the directory this comparison's.

        Raises:
            TypeError, ValueError: it holds another one, or something else (the line says which); nothing can be trained.
        """
        plan = self._plan
        described = {
            "format": _FORMAT,
            "entries": [[entry.name, repr(entry.strategy), entry.cost, entry.divisor] for entry in plan.entries],
            "learning_rates": list(plan.rates),
            "seeds": list(plan.seeds),
            "budget": plan.budget,
            **self._problem.described(),
            "code of the entries": {entry.name: code_of(entry.strategy) for entry in plan.entries},
        }
        path = self.directory / _PLAN
        held = held_in(self._given, _PLAN, "format", "comparison")
        self.directory.mkdir(parents=True, exist_ok=True)
        if held is not None:
            found, wanted = held, json.loads(json.dumps(described))
            # By another Python the same code has other bytes.
            unlike = {name for name in wanted if name.startswith("code of ")} if found.get("python") != wanted["python"] else ()
            for name in {**wanted, **found}:
                if found.get(name) != wanted.get(name) and name not in ("python", *unlike):
                    raise ValueError(
                        f"{self._given} holds another comparison: its {name} differ: give another directory, or remove this one"
                    )
            return
        entry = plan.entries[0]
        self._racer(entry).check(plan.trials(entry)[0])  # what was called wrongly leaves the directory to whoever calls again
        text = json.dumps(described) + "\n"
        write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))

    def work(self, worker: int = 0, num_workers: int = 1) -> bool:
        """Makes all runs, with others that do the same; each begins with other entries, and helps out where some are left.

        Returns:
            Whether all are there.
        """
        plain = [entry for entry in self._plan.entries if entry.name == PLAIN]
        others = [entry for entry in self._plan.entries if entry.name != PLAIN]
        if not self._make(plain, worker, num_workers):
            return False
        self.target()
        return self._make(others, worker, num_workers)

    def target(self) -> float:
        """What the plain step reaches on validation, tuned: the median over the seeds at its best rate; infinite if nothing."""
        path = self.directory / _TARGET
        if (found := sealed.load(path)) is None:
            results = self.results([entry for entry in self._plan.entries if entry.name == PLAIN])
            values = results.finals(PLAIN, results.best(PLAIN))
            middle = median(values)
            found = {"value": None if math.isinf(middle) else results.shown(middle), "learning_rate": results.rate(PLAIN)}
            sealed.save(path, found)
        return math.inf if found["value"] is None else float(found["value"])

    def results(self, entries: Sequence[Entry] | None = None) -> Results:
        """All runs that are there."""
        found = {}
        for entry in self._plan.entries if entries is None else entries:
            for trial in self._plan.trials(entry):
                if (result := self._result(trial)) is not None:
                    found[entry.name, trial.index, trial.seed] = result
        return Results(self._plan, found, self._problem.is_up)

    def tested(self, results: Results) -> dict[str, list[dict[str, float | None]]]:
        """The test metrics of the runs at each entry's best rate, read now; those that were read before are as they were."""
        found: dict[str, list[dict[str, float | None]]] = {}
        for entry in self._plan.entries if self._problem.test is not None else ():
            found[entry.name] = []
            for trial in self._plan.trials(entry):
                if trial.index != results.best(entry.name):
                    continue
                path = self.directory / trial.name / _TEST
                if (test := sealed.load(path)) is None:
                    failed = results.result(entry.name, trial)["end"].startswith("not finite")
                    test = {} if failed else self._racer(entry).test(trial, path.parent)
                    sealed.save(path, test)
                found[entry.name].append(test)
        return found

    def timed(self, results: Results) -> dict[str, float]:
        """Seconds an update of each entry takes, measured in turns; measured once and kept."""
        path = self.directory / _TIMING
        if (found := sealed.load(path)) is None:
            trials = {
                e.name: next(t for t in self._plan.trials(e) if t.index == results.best(e.name)) for e in self._plan.entries
            }
            alike: dict[int, str] = {}
            for entry in self._plan.entries:  # the plain step at another rate takes as long
                alike.setdefault(id(entry.strategy), entry.name)
            racers = {entry.name: self._racer(entry) for entry in self._plan.entries if alike[id(entry.strategy)] == entry.name}
            seconds = measured_in_turns(racers, trials)
            found = {entry.name: number(seconds[alike[id(entry.strategy)]]) for entry in self._plan.entries}
            sealed.save(path, found)
        return {name: math.inf if value is None else float(value) for name, value in found.items()}

    def _make(self, entries: Sequence[Entry], worker: int, num_workers: int) -> bool:
        first = len(entries) * worker // num_workers
        left = [trial for entry in [*entries[first:], *entries[:first]] for trial in self._plan.trials(entry)]
        while left:
            left = [trial for trial in left if not self._is_made(trial)]
            if not self._goes_on():
                return not left
            if left:
                time.sleep(_PATIENCE)
        return True

    def _is_made(self, trial: Trial) -> bool:
        """Makes a run unless it is there; False where another process is at it."""
        if not self._goes_on():
            return False
        if self._result(trial) is not None:
            return True
        folder = self.directory / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with Lock(folder / _CLAIM):
                if self._result(trial) is None:
                    started = time.monotonic()
                    result = self._racer(trial.entry).run(trial, folder)
                    sealed.save(folder / _RESULT, result)
                    self._say(_line(trial, result, time.monotonic() - started))
        except InUse:
            return False
        return True

    def _racer(self, entry: Entry) -> Racer:
        key = id(entry.strategy)
        if key not in self._racers:
            self._racers[key] = Racer(self._problem, self._plan, entry.strategy)
        return self._racers[key]

    def _result(self, trial: Trial) -> dict[str, Any] | None:
        return sealed.load(self.directory / trial.name / _RESULT)


def held_in(directory: Path, file: str, key: str, what: str) -> dict[str, Any] | None:
    """What a directory holds by the file that makes it one of ours; nothing is made.

    Args:
        directory: it need not exist.
        file: the name of a file of JSON.
        key: a name in it that no other file has.
        what: it makes the directory of.

    Returns:
        What is in the file; None where the directory is nobody's yet.

    Raises:
        NotADirectoryError: it is a file.
        ValueError: it holds something else.
    """
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{directory}: is a file: give another directory")
    found = _read(directory / file)
    if isinstance(found, dict) and key in found:
        return found
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    if strangers := [name for name in names if not name.startswith(".") and name != "lock"]:  # a lock says itself whose it is
        raise ValueError(f"{directory} holds {strangers[0]}, and no {what}: give another directory")
    return None


def _line(trial: Trial, result: dict[str, Any], seconds: float) -> str:
    last = result["points"][-1]["value"] if result["points"] else None
    said = result["end"] if last is None or result["end"].startswith("not finite") else f"{last:.4g}"
    return f"{trial.entry.name} at {trial.rate:.4g}, seed {trial.seed}: {said} ({seconds:.1f} s)"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
