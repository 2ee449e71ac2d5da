"""The settings of a run from the command line: what `run.NAME` in a config may be, checked where it is set.

Whatever needs Keras is imported when the settings are made: their names, and numbers out of range, are known without it.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

    from trainlab.datasets import Data
    from trainlab.runs import Run
    from trainlab.strategies import StepStrategy


def _plain() -> StepStrategy:
    from trainlab.strategies import SGD

    return SGD()


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """What a run is told: each attribute is a parameter of `run` in a config.

    Attributes:
        data: The data set, for example `@digits()`.
        model: Called as `model(input_shape, num_classes)`, returns a Keras model, for example `@mlp` (no parentheses:
            the shapes come from the data).
        optimizer: A Keras optimizer, for example `@keras.optimizers.SGD()`.
        strategy: The step, for example `@Heun()`.
        loss: A Keras loss, its name, or a function `(y_true, y_pred)`. The models of `trainlab.models` return logits. None takes
            the one that the data are made for.
        metrics: Keras metrics or their names, in a list; None takes those that the data are made for.
        batch_size: Examples in a batch; under `Accumulate(n)` an update takes n batches.
        epochs: Passes over the training data.
        steps: Total number of updates, in place of `epochs` where given.
        validation_split: The share of the training arrays that is held out to validate on, drawn by a seed of its own; of a
            `numpy.memmap` the end. 0 for none.
        validation_data: What to validate on instead: a function that returns `(x, y)`, `(x, y, sample_weight)`, a
            `tf.data.Dataset` or a `Data`; `'test'` for the test data, on which then nothing must be chosen.
        callbacks: Keras callbacks or your own, in a list, as in `[@EarlyStopping(), @TensorBoard()]`.
        monitor: The metric that the run is judged by, such as `'val_accuracy'`, or `('max', 'NAME')`: by `keep_best = True`, and
            by the callbacks `EarlyStopping`, `ReduceLROnPlateau` and `ModelCheckpoint` where their own `monitor` is not set.
        tensorboard: Whether a TensorBoard writes into the run's directory.
        overfit: Trains and validates on only so many batches, which a model that can learn fits.
        seed: Seed of everything random: initial weights, the order of the data, dropout.
        jit_compile: Whether XLA compiles the step; None finds out by timing, if the run is long enough to repay it and not
            deterministic.
        deterministic: Whether two runs on one machine are equal to the last bit; TensorFlow's op determinism.
        save_steps: Updates between two checkpoints; None for none by steps.
        save_seconds: Seconds between two checkpoints; None for none by time.
        keep: How many of the last checkpoints are kept.
        keep_best: The metric, such as `'val_loss'`, whose best checkpoint is kept besides; `('max', 'NAME')` or `('min', 'NAME')`
            where nothing says which is better; True takes `monitor`, or `'val_loss'` where that is not set.
        micro_batch_size: Evaluates batches in pieces of at most so many examples; `'auto'` halves until they fit in memory.
        on_nonfinite: `'stop'` at an update that leaves a NaN or an infinity, or `'skip'` it.
        sum_duplicate_rows: Whether rows of an embedding that an update looks up more than once are summed before the optimizer
            sees them; False hands them on one by one, as Keras does. None sums them, and says so where it matters.
        distribute: `'mirrored'` cuts every batch into one shard for each GPU of the machine, which are evaluated at once;
            `'workers'` into those of all processes that TF_CONFIG names, each of which is given this command; None trains on one.

    Raises:
        TypeError: A value is of the wrong kind.
        ValueError: A number is out of range.

    Example:
        >>> import keras, trainlab.datasets, trainlab.models
        >>> Settings(
        ...     data=trainlab.datasets.digits(),
        ...     model=trainlab.models.mlp,
        ...     loss="mse",
        ...     optimizer=keras.optimizers.SGD(0.1),
        ...     epochs=-1,
        ... )
        Traceback (most recent call last):
        ...
        ValueError: run.epochs = -1: must be a whole number of at least 0
    """

    data: Data
    model: Callable[[Any, int], keras.Model]
    optimizer: keras.Optimizer
    strategy: StepStrategy = dataclasses.field(default_factory=_plain)
    loss: Any = None
    metrics: Sequence[Any] | None = None
    batch_size: int = 32
    epochs: int = 1
    steps: int | None = None
    validation_split: float = 0.1
    validation_data: Any = None
    callbacks: Sequence[Any] = ()
    monitor: str | tuple[str, str] | None = None
    tensorboard: bool = False
    overfit: int | None = None
    seed: int = 0
    jit_compile: bool | None = None
    deterministic: bool = True
    save_steps: int | None = None
    save_seconds: float | None = 60.0
    keep: int = 3
    keep_best: str | tuple[str, str] | bool | None = None
    on_nonfinite: str = "stop"
    micro_batch_size: int | str | None = None
    sum_duplicate_rows: bool | None = None
    distribute: str | None = None

    def __post_init__(self):
        import keras

        from trainlab.datasets import Data
        from trainlab.strategies import StepStrategy

        _require_object("data", self.data, Data, "a data set", "@digits()")
        _require_object("optimizer", self.optimizer, keras.Optimizer, "a Keras optimizer", "@keras.optimizers.SGD()")
        _require_object("strategy", self.strategy, StepStrategy, "a strategy", "@Heun()")
        # A Keras model is callable too, but it was built before anybody knew the shapes.
        if isinstance(self.model, keras.Model) or not callable(self.model):
            raise TypeError(
                f"run.model = {_brief(self.model)}: must be a function (input_shape, num_classes) -> keras.Model; "
                "write it without parentheses, as in run.model = @mlp"
            )
        for name in _RULES:
            check_setting(name, getattr(self, name))
        for i, callback in enumerate(self.callbacks):
            _require_object(f"callbacks[{i}]", callback, keras.callbacks.Callback, "a Keras callback", "@EarlyStopping()")
        for metric in self.metrics or ():
            if isinstance(metric, keras.Loss):  # a loss and a metric of one name
                kind = type(metric).__name__
                raise TypeError(f"run.metrics = [..., @{kind}()]: is a loss; write @keras.metrics.{kind}() for the metric")
        rate = self.optimizer.get_config().get("learning_rate")
        if isinstance(rate, float) and not (math.isfinite(rate) and rate >= 0):  # a schedule is a dictionary here
            raise ValueError(f"{type(self.optimizer).__name__}.learning_rate = {rate:g}: must be a finite number of at least 0")

    def run_in(self, directory: Path) -> Run:
        """The run that these settings describe, in a directory."""
        from trainlab.runs import Run

        best = (self.monitor or "val_loss") if isinstance(self.keep_best, bool) else self.keep_best
        return Run(directory, self.save_seconds, self.save_steps, self.keep, best)


@dataclasses.dataclass(frozen=True, eq=False)
class Comparing:
    """What a comparison is told, besides its `run`: each attribute is a parameter of `compare` in a config.

    Attributes:
        strategies: The steps: a list, as in `[@Heun(), @Sam()]`, or a dictionary by name. The plain step is always there.
        learning_rates: Those that every step tries, in a list; None draws `num_trials` between `smallest` and `largest`.
        num_trials: How many are drawn, log-uniform.
        smallest: The least that is drawn.
        largest: The greatest that is drawn.
        seeds: How many, from 0, or a list of them; fewer than ten tell nothing apart.
        metric: What runs are judged by on data that were not trained on, less being better; `('max', 'accuracy')` where more is.

    Raises:
        TypeError, ValueError: A value is none of these.
    """

    strategies: Any
    learning_rates: Sequence[float] | None = None
    num_trials: int = 3
    smallest: float = 0.01
    largest: float = 1.0
    seeds: int | Sequence[int] = 10
    metric: str | tuple[str, str] = "loss"


@dataclasses.dataclass(frozen=True, eq=False)
class Sweeping:
    """What a sweep is told, besides its `run`: each attribute is a parameter of `sweep` in a config.

    Attributes:
        space: By the name of a parameter, as in a config, what it may be: `('log', 1e-3, 1.0)` or `('uniform', 0.0, 0.9)` for
            numbers between two, `('int', 16, 256)` for whole ones, a list for one of several.
        num_trials: How many runs are made, those of earlier calls among them.
        metric: The name in the logs by which runs are judged, less being better; `('max', 'val_accuracy')` where more is.
        prune: Whether a run that does worse than the median of those before it, at the same epoch, is ended.
        seed: Of what is tried.

    Raises:
        TypeError, ValueError: A value is none of these.
    """

    space: Any
    num_trials: int = 20
    metric: str | tuple[str, str] = "val_loss"
    prune: bool = True
    seed: int = 0


def check_setting(name: str, value: Any) -> None:
    """Checks a setting that is a plain value: a number, text, a list.

    Args:
        name: Which.
        value: What it is; anything may be what only Keras can judge.

    Raises:
        TypeError, ValueError: It is not what it must be, in one line.

    Example:
        >>> check_setting("epochs", -1)
        Traceback (most recent call last):
        ...
        ValueError: run.epochs = -1: must be a whole number of at least 0
    """
    if name in _RULES:
        _RULES[name](name, value)


def _require_object(name: str, value: Any, kind: type, noun: str, example: str) -> None:
    if isinstance(value, kind):
        return
    forgotten = "; the parentheses are missing" if callable(value) else ""
    raise TypeError(f"run.{name} = {_brief(value)}: must be {noun}, as in run.{name} = {example}{forgotten}")


def require_count(name: str, value: Any, at_least: int, at_most: float = math.inf) -> None:
    """Checks that the setting `run.NAME` is a whole number.

    Args:
        name: Which setting.
        value: What it is.
        at_least: The smallest number allowed.
        at_most: The largest.

    Raises:
        ValueError: It is not.

    Example:
        >>> require_count("epochs", 20, at_least=0)
    """
    try:
        valid = not isinstance(value, bool) and at_least <= operator.index(value) <= at_most
    except TypeError:
        valid = False
    if not valid:
        limit = "" if at_most == math.inf else f" and at most {at_most}"
        raise ValueError(f"run.{name} = {value!r}: must be a whole number of at least {at_least}{limit}")


def _brief(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__"):
        return f"@{value.__name__}"
    return repr(value) if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def _count(at_least: int, at_most: float = math.inf, others: Sequence[Any] = ()) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not any(value is other or (isinstance(other, str) and value == other) for other in others):
            require_count(name, value, at_least, at_most)

    return check


def _seconds(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0):
        raise ValueError(f"run.{name} = {value!r}: must be a number of seconds of at least 0, or None")


def _one_of(kind: type[Exception], words: str, *values: Any) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not any(value is known or (isinstance(known, str) and value == known) for known in values):
            raise kind(f"run.{name} = {value!r}: must be {words}")

    return check


def _list(example: str, others: Sequence[Any] = ()) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not any(value is other for other in others) and (isinstance(value, str) or not isinstance(value, Sequence)):
            raise TypeError(f"run.{name} = {_brief(value)}: must be a list, as in run.{name} = [{example}]")

    return check


def _share(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"run.{name} = {value!r}: must be a number of at least 0 and less than 1, as in run.{name} = 0.1")


def _held_out(name: str, value: Any) -> None:
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and value != "test"):
        what = "must be 'test', or a function that returns (x, y), a tf.data.Dataset or a Data"
        raise TypeError(f"run.{name} = {value!r}: {what}, as in run.{name} = @my_module.held_out()")
    if callable(value) and not hasattr(value, "element_spec"):
        raise TypeError(f"run.{name} = {_brief(value)}: must be what that returns; the parentheses are missing")


def _best_or_true(name: str, value: Any) -> None:
    if value is not True:
        _best(name, value)


def _best(name: str, value: Any) -> None:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2 and value[0] in ("max", "min") and isinstance(value[1], str)
    if value is not None and not isinstance(value, str) and not is_pair:
        what = "must be the name of a metric, as in 'val_loss', or ('max', 'NAME') or ('min', 'NAME')"
        raise TypeError(f"run.{name} = {value!r}: {what}")


_RULES: dict[str, Callable[[str, Any], None]] = {
    "batch_size": _count(1),
    "epochs": _count(0),
    "seed": _count(0, 2**32 - 1),
    "steps": _count(0, others=(None,)),
    "keep": _count(1),
    "save_steps": _count(1, others=(None,)),
    "save_seconds": _seconds,
    "deterministic": _one_of(TypeError, "True or False", True, False),
    "micro_batch_size": _count(1, others=(None, "auto")),
    "on_nonfinite": _one_of(ValueError, "'stop' or 'skip'", "stop", "skip"),
    "keep_best": _best_or_true,
    "monitor": _best,
    "validation_split": _share,
    "validation_data": _held_out,
    "callbacks": _list("@EarlyStopping()"),
    "tensorboard": _one_of(TypeError, "True or False", True, False),
    "overfit": _count(1, others=(None,)),
    "jit_compile": _one_of(TypeError, "True, False or None", True, False, None),
    "sum_duplicate_rows": _one_of(TypeError, "True, False or None", True, False, None),
    "distribute": _one_of(ValueError, "'mirrored', 'workers' or None", "mirrored", "workers", None),
    "metrics": _list("'accuracy'", others=(None,)),
}
