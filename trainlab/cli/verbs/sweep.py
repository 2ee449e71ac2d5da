"""`trainlab sweep`: looks for good settings, a run a trial, with optuna."""

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from trainlab.cli.configs import reading
from trainlab.cli.configs.config import Config, literal
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.settings import Sweeping
from trainlab.cli.running.failing import Failure, attempted, explained, show_warning
from trainlab.cli.running.run_directory import RunDirectory
from trainlab.cli.running.setup import check_all_used, seed, set_up
from trainlab.cli.running.workers import refuse_workers
from trainlab.cli.verbs.dry_run import tried
from trainlab.cli.verbs.job import callbacks_of, fit_arguments
from trainlab.comparing import held_in
from trainlab.data import device
from trainlab.loop import NonFiniteError
from trainlab.objective import keras_internals
from trainlab.reports import numbers_of
from trainlab.runs import Lock, write_atomically

_KINDS: dict[str, Callable[[Any], Any]] = {"log": float, "uniform": float, "int": int}
_EXAMPLE = "{'keras.optimizers.SGD.learning_rate': ('log', 1e-3, 1.0)}"
_RUN = "run"  # of a trial, the name of its directory
_SETTINGS = "sweep.json"
_MAY_CHANGE = ("num_trials", "prune", "seed")  # of those of a sweep, between two calls
_MOST_FAILED = 3  # trials in a row: more would fail too


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
        if _held(directory) is None:
            _check_metric(files, bindings, told, space)
        directory.mkdir(parents=True, exist_ok=True)
        with Lock(directory / "lock"):
            study = _study(optuna, directory, told, config)
            _give_back_what_was_stopped(optuna, study)
            num_failed = 0
            while _num_done(optuna, study) < told.num_trials:
                failure = _one(optuna, study, told, space, (files, bindings, directory), debug)
                num_failed = 0 if failure is None else num_failed + 1
                if num_failed == _MOST_FAILED:
                    raise ValueError(f"{num_failed} trials in a row failed, which ends the sweep; the last one: {failure}")
        best = study.best_trial
        print(f"best      {_name_of(told)} {best.value:.4g}")
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
    _sign(told)  # which says what a metric must be
    return told


def _held(directory: Path) -> dict[str, Any] | None:
    """By what the trials of a directory are made; None where it is nobody's yet."""
    return held_in(directory, _SETTINGS, "sweep.space", "sweep")


def _check_metric(files: Sequence[str], bindings: Sequence[str], told: Sweeping, space: Mapping[str, Any]) -> None:
    """Makes an update with the first of all that may be, so that a name that is none is known before any trial is begun.

    Raises:
        ConfigError: The metric is not among the logs, is no single number, or more of it is better; nothing used what was typed.
    """
    first = [
        range_[0] if isinstance(range_, list) else (int if range_[0] == "int" else float)(range_[1]) for range_ in space.values()
    ]
    config = reading.load(files, [*bindings, *(f"{name} = {value!r}" for name, value in zip(space, first, strict=True))])
    config.made("trainlab.sweep")  # which is used
    try:
        seed(config)
        setup = set_up(config, None)
        check_all_used(config)
        logs = tried(setup, 1)
    except ConfigError:
        raise
    except Exception:  # others of what may be perhaps do better: the trials will say what is wrong
        return
    _check_name(told, logs)
    _check_direction(told, keras_internals.metric_directions(setup.trainer.model))


def _check_direction(told: Sweeping, directions: Mapping[str, str | None]) -> None:
    name = told.metric
    if isinstance(name, str) and directions.get(name.removeprefix("val_").partition("[")[0]) == "up":
        raise ConfigError(f"sweep.metric = {name!r}: more of it is better: say so by ('max', {name!r})")


def _check_name(told: Sweeping, logs: Mapping[str, Any]) -> None:
    names, wanted = numbers_of(logs), _name_of(told)
    if wanted in names:
        return
    if wanted in logs:
        parts = ", ".join(numbers_of({wanted: logs[wanted]}))
        raise ConfigError(f"sweep.metric = {told.metric!r}: is several numbers, and one judges: name one of {parts}")
    raise ConfigError(f"sweep.metric = {told.metric!r}: is not among the logs, which are {', '.join(sorted(names))}")


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("a sweep needs optuna: pip install 'trainlab[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, directory: Path, told: Sweeping, config: Config) -> Any:
    """The study of a directory, begun where there is none.

    Raises:
        ConfigError: There are trials in it that other settings have made, or that are judged the other way.
    """
    wanted = {b.name: repr(b.value) for b in config.bindings if b.selector != "trainlab.sweep" or b.argument not in _MAY_CHANGE}
    if (found := _held(directory)) is None:
        _write(directory, found := wanted)
    path = os.fspath(directory.absolute() / "study.log")  # a trial may change the working directory
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    pruner = optuna.pruners.MedianPruner() if told.prune else optuna.pruners.NopPruner()
    way = "minimize" if _sign(told) > 0 else "maximize"
    study = optuna.create_study(storage=storage, study_name="sweep", direction=way, pruner=pruner, load_if_exists=True)
    for name in sorted({*found, *wanted}) if study.trials else ():  # also unfinished ones, which are gone on with
        if found.get(name) != wanted.get(name):
            was, now = (each.get(name, "not set") for each in (found, wanted))
            raise ConfigError(f"{directory} holds another sweep: {name} was {was}, now {now}: give another directory")
    if (kept := study.direction.name.lower()) != way:  # which Optuna keeps, whatever it is told
        raise ConfigError(
            f"{directory} holds another sweep, which is to {kept} its metric, not to {way} it: give another directory"
        )
    _write(directory, wanted)
    # By how many trials there are: a process that goes on would otherwise try the first ones again.
    study.sampler = optuna.samplers.TPESampler(seed=told.seed + len(study.trials))
    return study


def _write(directory: Path, settings: Mapping[str, str]) -> None:
    text = json.dumps(settings, indent=1) + "\n"
    write_atomically(directory / _SETTINGS, lambda aside: aside.write_text(text, encoding="utf-8"))


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


def _one(optuna: Any, study: Any, told: Sweeping, space: Mapping[str, Any], where: tuple[Any, ...], debug: bool) -> str | None:
    """Makes a trial, or goes on with one; returns why there is nothing to judge it by, if it failed."""
    files, bindings, directory = where
    trial = study.ask()
    if _RUN not in trial.user_attrs:
        trial.set_user_attr(_RUN, _name(trial.number))
    said = [f"{name} = {_suggested(trial, name, range_)}" for name, range_ in space.items()]
    path, read = directory / trial.user_attrs[_RUN], list[Config]()
    try:
        with contextlib.chdir("."):  # which is left again, wherever a trial goes
            value, is_pruned = _trained(trial, told, ([*files], [*bindings, *said], path), read)
    except Exception as error:  # what is interrupted is given back, and made again; what fails would fail again
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if debug:
            raise
        failure = explained(error, read[0] if read else None)
        show_warning(f"{path.name} failed, with {'; '.join(said)}: {failure}")
        return failure
    value = value if math.isfinite(value) else _sign(told) * math.inf
    if is_pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, value)
    print(f"{path.name}  {'; '.join(said)}: {value:.4g}{' (ended early)' if is_pruned else ''}", flush=True)
    return None


def _trained(trial: Any, told: Sweeping, given: tuple[Any, ...], read: list[Config]) -> tuple[float, bool]:
    """A trial's run: its last value, NaN where it diverged, and whether it was ended early."""
    files, bindings, path = given
    config = reading.load(files, bindings)
    read.append(config)
    config.made("trainlab.sweep")  # which is used
    run = RunDirectory(path)
    pruning = Pruning(trial, _name_of(told))
    try:
        run.check("auto", overwrite=False)
        seed(config)
        setup = set_up(config, path)
        *first, records = callbacks_of(setup, run)
        setup.trainer.fit(callbacks=[*first, pruning, records], verbose=0, **fit_arguments(setup))
    except NonFiniteError:
        return math.nan, False
    finally:
        run.release()
    if pruning.last is None:
        _check_name(told, pruning.logs)
    assert pruning.last is not None
    return pruning.last, pruning.is_pruned


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


def _name_of(told: Sweeping) -> str:
    return told.metric if isinstance(told.metric, str) else told.metric[1]


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
        logs: Those of the last epoch.
    """

    def __init__(self, trial: Any, metric: str):
        super().__init__()
        self._trial, self._metric = trial, metric
        self._told: list[list[float]] = []
        self.last: float | None = None
        self.is_pruned = False
        self.logs: Mapping[str, Any] = {}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Tells the value, and asks."""
        self.logs = logs or {}
        value = numbers_of(self.logs).get(self._metric)
        if value is None:
            return
        self._tell(epoch, value)
        if math.isfinite(value) and self._trial.should_prune():
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
