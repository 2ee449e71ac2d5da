"""What a `fit` goes on from: which checkpoint, and how its values are put in place."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import ArraySource, Source, StreamSource
from trainlab.loop import Loop, Plan, Progress
from trainlab.objective import inner_of, keras_internals
from trainlab.runs.disk.checkpoint import Checkpoints, Loaded, peek, read
from trainlab.runs.disk.encoding import decode
from trainlab.runs.evaluating import Validator
from trainlab.runs.manifest import OVERRIDABLE

RESUME = ("auto", "must", "never", "weights")
_VALIDATION = "validation."


class Asked(NamedTuple):
    """How a `fit` is to begin, under the names that its arguments have."""

    resume: str = "auto"
    overwrite: bool = False
    override: Collection[str] = ()

    @property
    def goes_on(self) -> str:
        """What goes on with a run that was begun so, where it was stopped."""
        return "the same call goes on" if self.resume in ("auto", "must") else "the same call with resume='auto' goes on"

    def check(self, has_run: bool) -> None:
        """Makes sure that it can be asked for.

        Raises:
            ValueError: it cannot.
        """
        if self.resume not in RESUME:
            raise ValueError(f"resume must be one of {', '.join(map(repr, RESUME))}, not {self.resume!r}")
        if not has_run and (self.resume != "auto" or self.overwrite):
            raise ValueError(f"resume={self.resume!r} needs a run's directory: Trainer(..., run='runs/a')")
        if self.overwrite and self.resume != "never":
            line = f"overwrite=True removes the run that is there: it goes with resume='never', not resume={self.resume!r}"
            raise ValueError(line)
        if not set(self.override) <= set(OVERRIDABLE) or isinstance(self.override, str):
            raise ValueError(f"override must be a list of names from {list(OVERRIDABLE)}, not {self.override!r}")


class Found(NamedTuple):
    """What a `fit` begins with.

    Attributes:
        loaded: the checkpoint; None to begin, or to go on with what is in memory.
        is_resuming: whether all of it is taken, and not the weights alone.
        is_over: whether this fit has nothing left to do.
        is_longer: whether what is asked for is not what it was, and not done yet.
        override: what was changed on purpose since.
    """

    loaded: Loaded | None = None
    is_resuming: bool = False
    is_over: bool = False
    is_longer: bool = False
    override: Collection[str] = ()

    def describe(self, fits: int, progress: Progress) -> str:
        """What becomes of a run of which so many fits are finished, in words."""
        if self.loaded is None:
            return f"goes on with fit {fits + 1}" if fits else "begun"
        name = self.loaded.path.name
        if not self.is_resuming:
            return f"begun with the weights of {name}"
        if self.is_over and self.loaded.state["stop_training"]:
            where = f"update {progress.updates:,}, epoch {progress.epoch} ({name})"
            return f"stopped by a callback at {where}; more epochs go on from there"
        if self.is_over:
            return f"finished at update {progress.updates:,} ({name})"
        return f"resumed at update {progress.updates:,}, epoch {progress.epoch + 1} ({name})"

    def progress(self, initial_epoch: int) -> Progress:
        """How far the fit of the checkpoint had come; a beginning where it is not gone on with."""
        if self.loaded is None or not self.is_resuming:
            return Progress(initial_epoch)
        progress = self.loaded.state["progress"]
        return Progress(**{**progress, "logs": decode(progress["logs"], self.loaded.arrays)})


def requested(plan: Plan) -> list[int | None]:
    """How long a fit is to be: epochs to stop at, or updates in all."""
    return [plan.epochs, plan.steps]


def is_enough(state: Mapping[str, Any], plan: Plan) -> bool:
    """Whether a fit that ended with this state, perhaps since a callback stopped it, did what is asked for now."""
    if requested(plan) == state["request"]:
        return True
    reached = state["progress"]["epoch"], state["progress"]["updates"]
    return any(wanted is not None and has >= wanted for has, wanted in zip(reached, requested(plan), strict=True))


def newest(checkpoints: Checkpoints, fit: int, plan: Plan, any_will_do: bool) -> Loaded:
    """The newest checkpoint that can be read, and gone on from.

    Args:
        checkpoints: at least one.
        fit: the number of the fit that is about to begin.
        plan: how long it is to be.
        any_will_do: whether that does not matter.

    Raises:
        ValueError: none can be read, or somebody else has gone on with the run since this process wrote its last one.
    """
    if not any_will_do:
        _check_own(checkpoints)
    damaged: list[str] = []

    def on_damage(path: Path, reason: str) -> None:
        damaged.append(f"{path.name}: {reason}")
        warnings.warn(f"checkpoint {path} is damaged ({reason}): trying the one before", stacklevel=5)

    # Older ones may be another run's, whose weights this one began with; the newest need not be able to say whose it is.
    last = next((state for path in checkpoints.paths() if "run" in (state := peek(path))), {})
    fallback = None
    for loaded in checkpoints.readable(on_damage):
        if problem := _problem_of(loaded):
            on_damage(loaded.path, problem)
            continue
        state = loaded.state
        if "run" in last and state.get("run") != last["run"] and not any_will_do:
            continue
        is_short = state["fit"] == fit and state["finished"] and not is_enough(state, plan)
        if not is_short or state.get("extends") or any_will_do:
            return loaded
        fallback = fallback or loaded
    if fallback is not None:
        return fallback
    raise ValueError(
        f"{checkpoints.directory.parent}: no checkpoint can be read ({'; '.join(damaged)}): restore them from a copy, or begin "
        "anew (resume=never with overwrite)"
    )


def _check_own(checkpoints: Checkpoints) -> None:
    own, newest = checkpoints.last, checkpoints.paths()[0]
    if own is None or newest == own:
        return
    is_newer = newest.name > own.name  # an older one is left where somebody has removed some
    if is_newer or peek(newest).get("run") != checkpoints.run:
        raise ValueError(
            f"{checkpoints.directory.parent}: somebody else has gone on with this run, up to {newest.name}, and this Trainer "
            f"stands where {own.name} did: make a new one, which goes on from there, or give another directory"
        )


# What a fit has saved ever since there are checkpoints; later rows are asked for where they are used.
_ROWS = {
    "fit": int,
    "finished": bool,
    "request": list,
    "manifests": list,
    "histories": list,
    "progress": dict,
    "source": dict,
    "stop_training": bool,
    "callbacks": dict,
}


def _problem_of(loaded: Loaded) -> str | None:
    """Why nothing can go on from a checkpoint whose files are as they were written; None where it can."""
    state = loaded.state
    if wrong := [row for row, kind in _ROWS.items() if not isinstance(state.get(row), kind)]:
        return f"state.json is not what a fit saves: see {', '.join(wrong)}"
    try:  # all of it before the first variable is touched
        for row in ("callbacks", "histories"):
            decode(state[row], loaded.arrays)
        Found(loaded, is_resuming=True).progress(0)
        if not (state["manifests"] and all(isinstance(manifest, dict) for manifest in state["manifests"])):
            raise ValueError("no manifest")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"state.json is not what a fit saves ({type(error).__name__}: {error})"
    return None


def restore_data(source: Source, validator: Validator | None, loaded: Loaded, may_read: bool = True) -> None:
    """Puts the data where they stood, to train on and to validate on: in the order in which they were opened.

    Unless it `may_read`, those to train on that had to be read again are passed over, until another `fit` opens them.
    """
    state, iterators = loaded.state, loaded.iterators()
    of_validation = {name.removeprefix(_VALIDATION): it for name, it in iterators.items() if name.startswith(_VALIDATION)}
    of_training = {name: it for name, it in iterators.items() if not name.startswith(_VALIDATION)}
    place = state.get("validation") if validator is not None else None
    is_first = place is not None and place["opened_at"] < state["source"].get("opened_at", 0)
    if validator is not None and is_first:
        validator.restore(place, of_validation)
    where = state["source"]
    if may_read or isinstance(source, ArraySource) or of_training or where.get("own") or "generator" in where:
        source.restore(where, of_training)
    elif isinstance(source, StreamSource):
        source.pass_over(where)
    if validator is not None and not is_first:
        validator.restore(place, of_validation)


def serialized_data(source: Source, validator: Validator | None, is_whole: bool) -> dict[str, tf.Tensor]:
    """The same of `tf.data`, for a checkpoint: if it `is_whole`, where training stands, too. Raises as `StreamSource`."""
    beginning = {} if validator is None else {f"{_VALIDATION}{name}": it for name, it in validator.beginning.items()}
    if isinstance(source, StreamSource):
        return {**beginning, **(source.serialized() if is_whole else source.beginning())}
    return beginning


def variables(loaded: Loaded) -> dict[str, np.ndarray]:
    """The variables' values, by name."""
    return {name.removeprefix("variables/"): v for name, v in loaded.arrays.items() if name.startswith("variables/")}


def restore_variables(model: keras.Model, loop: Loop, loaded: Loaded, keeps_rate: bool) -> None:
    """Puts every variable where it was; the learning rate stays if it was changed on purpose.

    Raises:
        ValueError: one is of another shape or dtype; nothing is touched.
    """
    known = {**loop.read_only(), **loop.snapshot()}
    values = variables(loaded)
    if keeps_rate:
        values = _without_rates(model.optimizer, values)
    values = {name: value for name, value in values.items() if name in known}
    for name, value in values.items():
        if tuple(known[name].shape) != value.shape or known[name].dtype != tf.as_dtype(value.dtype):
            raise ValueError(
                f"{loaded.path}: {name} is {value.dtype} {list(value.shape)}, here {known[name].dtype.name} "
                f"{known[name].shape.as_list()}; nothing was touched"
            )
    loop.assign(values)


def _without_rates(optimizer: keras.Optimizer, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same values but for the learning rates; where there is a schedule in place of one, or one in its place, renumbered.

    Keras counts a rate among the optimizer's variables, behind the iterations, and a schedule not.
    """
    plain = inner_of(optimizer)
    several = keras_internals.inner_optimizers(plain)
    rates = [one.learning_rate for one in ([plain] if several is None else several.values())]
    own = optimizer.variables
    kept = {name: value for name, value in values.items() if not name.startswith("optimizer.")}
    saved = [values[f"optimizer.{i}"] for i in range(len(values) - len(kept))]
    is_rate = [any(variable is rate for rate in rates) for variable in own]
    if len(saved) == len(own) + 1 and several is None:  # it was a variable
        del saved[1 + next(i for i, variable in enumerate(own) if variable is plain.iterations)]
    places = [i for i in range(len(own)) if len(saved) == len(own) or not is_rate[i]]
    return kept | {f"optimizer.{i}": value for i, value in zip(places, saved, strict=True) if not is_rate[i]}


def load_best(model: keras.Model, checkpoints: Checkpoints) -> Path:
    """Gives a model the weights of the best checkpoint, and returns that.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another model, or damaged; nothing is touched.
    """
    if (path := checkpoints.best) is None:
        raise FileNotFoundError(
            f"{checkpoints.directory.parent}: no checkpoint was kept as the best: give tl.Run(..., keep_best=...)"
        )
    load_weights(model, read(path))
    return path


def load_weights(model: keras.Model, loaded: Loaded) -> None:
    """Gives a model the weights, and the statistics, of a checkpoint.

    Raises:
        ValueError: it is another model's, or the model has no weights yet; nothing is touched.
    """
    values = {name: value for name, value in variables(loaded).items() if name.startswith("model.")}
    own = {f"model.{i}": variable for i, variable in enumerate(model.variables)}
    shapes = {name: (tuple(variable.shape), variable.dtype) for name, variable in own.items()}
    if shapes != {name: (value.shape, tf.as_dtype(value.dtype).name) for name, value in values.items()}:
        if not model.built:  # Keras does not call one built that makes its layers in its constructor, and has all weights
            raise ValueError(f"{loaded.path}: the model has no weights yet: build it, or call fit, before")
        raise ValueError(f"{loaded.path}: is of another model than this one; nothing was touched")
    for name, variable in own.items():
        variable.assign(values[name])
    _follow(model)


def _follow(model: keras.Model) -> None:
    """Makes layers take what they have made of their variables, and keep beside them, from these as they are now."""
    for layer in keras_internals.layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def restore_adapted(model: keras.Model, loaded: Loaded | None) -> None:
    """Gives the layers that keep something beside their variables what they had: before an update is traced, which reads it."""
    if loaded is None or sum(name.startswith("variables/model.") for name in loaded.arrays) != len(model.variables):
        return  # of a later fit, whose model has others
    layers = [layer for layer in keras_internals.layers_of(model) if isinstance(layer, keras.layers.Normalization)]
    adapted = {id(v) for layer in layers for v in layer.variables}
    for i, variable in enumerate(model.variables):
        value = loaded.arrays.get(f"variables/model.{i}")
        if id(variable) in adapted and value is not None and value.shape == tuple(variable.shape):
            variable.assign(value)
    _follow(model)


def restore_ahead(loop: Loop, loaded: Loaded) -> None:
    """Gives the model of a finished fit the weights of a later one, which is gone on with, if they are those of this model."""
    values = {name: value for name, value in variables(loaded).items() if name.startswith("model.")}
    known = loop.snapshot()
    if {name: tuple(known[name].shape) for name in known if name.startswith("model.")} != {n: v.shape for n, v in values.items()}:
        warnings.warn(
            f"{loaded.path}: fit {loaded.state['fit'] + 1}, which is gone on with, is of a model with other variables: until it "
            "is called, the weights are those that this process has",
            stacklevel=5,
        )
        return
    loop.assign(values)


def restore_weights(model: keras.Model, loop: Loop, loaded: Loaded) -> None:
    """Takes nothing but the model's weights: no seeds, no optimizer."""
    weights = {id(v) for v in model.weights}
    names = [f"model.{i}" for i, v in enumerate(model.variables) if id(v) in weights]
    loop.assign({name: loaded.arrays[f"variables/{name}"] for name in names})
    loop.update.forget()  # lest it remember where other weights began
