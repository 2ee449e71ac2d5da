"""`trainlab sweep`: looks for good settings, a run a trial, with optuna."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config, literal
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.settings import Sweeping
from trainlab.cli.running.failing import Failure, attempted
from trainlab.cli.running.run_directory import RunDirectory
from trainlab.cli.running.setup import check_all_used, seed, set_up
from trainlab.cli.running.workers import refuse_workers
from trainlab.cli.verbs.job import callbacks_of, fit_arguments
from trainlab.data import device
from trainlab.loop import NonFiniteError
from trainlab.runs import Lock, write_atomically

_KINDS = {"log": float, "uniform": float, "int": int}
_EXAMPLE = "{'keras.optimizers.SGD.learning_rate': ('log', 1e-3, 1.0)}"
_RUN = "run"  # of a trial, the name of its directory
_SETTINGS = "sweep.json"
_MAY_CHANGE = ("num_trials", "prune", "seed")  # of those of a sweep, between two calls


def sweep(files: Sequence[str], bindings: Sequence[str], directory: Path, debug: bool) -> Failure | None:
    """Makes trials until there are as many as wanted, and prints the best; the study is kept in the directory.

    Args:
        files, bindings: The config, as `reading.load` takes it.
        directory: Of the study, and of a run each trial.
        debug: Whether what goes wrong is raised.
    """
    read: list[Config] = []

    def work() -> None:
        optuna = _optuna()
        device.grow_memory()
        config = reading.load(files, bindings)
        read.append(config)
        refuse_workers(config, "a sweep")
        told = _told(config)
        space = checked_space(told.space)
        directory.mkdir(parents=True, exist_ok=True)
        with Lock(directory / "lock"):
            study = _study(optuna, directory, told)
            _check_same(config, directory, is_begun=_num_done(optuna, study) > 0)
            _give_back_what_was_stopped(optuna, study)
            while (number := _num_done(optuna, study)) < told.num_trials:
                _one(optuna, study, told, space, (files, bindings, directory), number)
        best = study.best_trial
        print(f"best      {told.metric if isinstance(told.metric, str) else told.metric[1]} {best.value:.4g}")
        for name, value in best.params.items():
            print(f"          {name} = {value}")
        print(f"run       {directory / best.user_attrs[_RUN]}")

    left = f"the same command goes on with what is in {directory}"
    return attempted(work, lambda: read[0] if read else None, lambda: left, debug)


def checked_space(space: Any) -> dict[str, Any]:
    """The search space, once it is one.

    Args:
        space: What `sweep.space` was given.

    Raises:
        ConfigError: It is none; the line says what to write.

    Example:
        >>> checked_space({"mlp.activation": ["relu", "gelu"]})
        {'mlp.activation': ['relu', 'gelu']}
    """
    if not isinstance(space, Mapping) or not space:
        raise ConfigError(f"sweep.space: must be a dictionary of parameters, as in {_EXAMPLE}")
    for name, range_ in space.items():
        if isinstance(range_, list) and range_:
            continue
        is_range = isinstance(range_, tuple) and len(range_) == 3 and range_[0] in _KINDS
        if not is_range or not all(isinstance(end, (int, float)) for end in range_[1:]) or not range_[1] < range_[2]:
            raise ConfigError(
                f"sweep.space: {name}: {range_!r} is no range: write ('log', smallest, largest), or 'uniform' or 'int' in place "
                "of 'log', or a list"
            )
        if range_[0] == "log" and not range_[1] > 0:
            raise ConfigError(f"sweep.space: {name}: {range_!r}: of logarithms the smallest must be more than 0")
    return dict(space)


def _told(config: Config) -> Sweeping:
    """What the config says; references in the space stay as they are written."""
    given = {b.argument: literal(b, config.bindings) for b in config.bindings if b.selector == "trainlab.sweep"}
    if "space" not in given:
        raise ConfigError(f"sweep needs space: add sweep.space = {_EXAMPLE}")
    told = Sweeping(**given)
    if isinstance(told.num_trials, bool) or not isinstance(told.num_trials, int) or told.num_trials < 1:
        raise ConfigError(f"sweep.num_trials = {told.num_trials!r}: must be a whole number of at least 1")
    return told


def _check_same(config: Config, directory: Path, is_begun: bool) -> None:
    """Notes what the trials are made by, or compares it: trials of other settings, or by another metric, are no study."""
    path = directory / _SETTINGS
    wanted = {b.name: repr(b.value) for b in config.bindings if b.selector != "trainlab.sweep" or b.argument not in _MAY_CHANGE}
    if is_begun and path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted({*found, *wanted}):
            if found.get(name) != wanted.get(name):
                was, now = (each.get(name, "not set") for each in (found, wanted))
                raise ConfigError(f"{directory} holds another sweep: {name} was {was}, now {now}: give another directory")
    write_atomically(path, lambda aside: aside.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8"))


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a sweep needs optuna: pip install 'trainlab[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, directory: Path, told: Sweeping) -> Any:
    path = os.fspath(directory / "study.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    pruner = optuna.pruners.MedianPruner() if told.prune else optuna.pruners.NopPruner()
    way = "minimize" if _sign(told) > 0 else "maximize"
    study = optuna.create_study(storage=storage, study_name="sweep", direction=way, pruner=pruner, load_if_exists=True)
    # By how many trials there are: a process that goes on would otherwise try the first ones again.
    study.sampler = optuna.samplers.TPESampler(seed=told.seed + len(study.trials))
    return study


def _give_back_what_was_stopped(optuna: Any, study: Any) -> None:
    """A trial whose process was killed is made again: with the same settings, in the same run, which goes on."""
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params, user_attrs={_RUN: trial.user_attrs.get(_RUN, _name(trial.number))})


def _num_done(optuna: Any, study: Any) -> int:
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return sum(trial.state in states for trial in study.trials)


def _one(optuna: Any, study: Any, told: Sweeping, space: Mapping[str, Any], where: tuple[Any, ...], number: int) -> None:
    """Makes a trial, or goes on with one."""
    files, bindings, directory = where
    trial = study.ask()
    if _RUN not in trial.user_attrs:
        trial.set_user_attr(_RUN, _name(trial.number))
    said = [f"{name} = {_suggested(trial, name, range_)}" for name, range_ in space.items()]
    config = reading.load(files, [*bindings, *said])
    config.made("trainlab.sweep")  # which is used
    path = directory / trial.user_attrs[_RUN]
    run = RunDirectory(path)
    run.check("auto", overwrite=False)
    seed(config)
    setup = set_up(config, path)
    if number == 0:
        check_all_used(config)
    pruning = Pruning(trial, told.metric if isinstance(told.metric, str) else told.metric[1])
    *first, records = callbacks_of(setup, run)
    try:
        setup.trainer.fit(callbacks=[*first, pruning, records], verbose=0, **fit_arguments(setup))
        value = pruning.last
    except NonFiniteError:
        value = math.nan
    finally:
        run.release()
    if value is None:
        raise ConfigError(f"sweep.metric = {told.metric!r}: is not among the logs, which are {', '.join(pruning.names)}")
    value = value if math.isfinite(value) else _sign(told) * math.inf
    if pruning.is_pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)
    print(f"{path.name}  {'; '.join(said)}: {value:.4g}{' (ended early)' if pruning.is_pruned else ''}", flush=True)


def _suggested(trial: Any, name: str, range_: Any) -> str:
    """A value of a parameter, as a config has it."""
    if isinstance(range_, list):
        return str(trial.suggest_categorical(name, [repr(value) for value in range_]))
    kind, low, high = range_
    if kind == "int":
        return repr(trial.suggest_int(name, int(low), int(high)))
    return repr(trial.suggest_float(name, float(low), float(high), log=kind == "log"))


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def _sign(told: Sweeping) -> float:
    metric = told.metric
    if isinstance(metric, str):
        return 1.0
    if not isinstance(metric, (tuple, list)) or len(metric) != 2 or metric[0] not in ("min", "max"):
        raise ConfigError(f"sweep.metric = {metric!r}: must be a name in the logs, or ('max', 'NAME') or ('min', 'NAME')")
    return -1.0 if metric[0] == "max" else 1.0


class Pruning(keras.callbacks.Callback):
    """Tells a trial how its run does, and ends the run where others did better at that epoch.

    Args:
        trial: Of optuna's.
        metric: The name in the logs.

    Attributes:
        last: The last value; None as long as there was none.
        is_pruned: Whether the run was ended.
        names: What was in the logs.
    """

    def __init__(self, trial: Any, metric: str):
        super().__init__()
        self._trial, self._metric = trial, metric
        self._told: list[list[float]] = []
        self.last: float | None = None
        self.is_pruned = False
        self.names: list[str] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Tells the value, and asks."""
        self.names = sorted(logs or {})
        value = (logs or {}).get(self._metric)
        if value is None:
            return
        self._tell(epoch, float(value))
        if math.isfinite(float(value)) and self._trial.should_prune():
            self.is_pruned = self.model.stop_training = True

    def get_state(self) -> dict[str, Any]:
        """What was told, which another process tells again."""
        return {"told": [list(pair) for pair in self._told], "is_pruned": self.is_pruned}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Tells it again."""
        for epoch, value in state["told"]:
            self._tell(int(epoch), float(value))
        self.is_pruned = bool(state["is_pruned"])

    def _tell(self, epoch: int, value: float) -> None:
        self._told.append([float(epoch), value])
        self.last = value
        if math.isfinite(value):
            self._trial.report(value, epoch)
