"""`tl.compare`: strategies × learning rates × seeds, so that what is said of them is so."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from trainlab.comparing.comparison import Comparison, conclude
from trainlab.comparing.entries import entries_of
from trainlab.comparing.executing import Executor
from trainlab.comparing.plan import Plan
from trainlab.comparing.problem import Problem, check_repeatable
from trainlab.comparing.schedules import optimizer_like, schedule_of
from trainlab.data import check_count, is_stream
from trainlab.strategies import StepStrategy


def compare(
    model: Callable[[], keras.Model],
    strategies: Mapping[str, StepStrategy] | Sequence[StepStrategy],
    x: Any,
    y: Any = None,
    *,
    directory: str | os.PathLike[str],
    learning_rates: Sequence[float],
    validation_data: Any,
    test_data: Any = None,
    optimizer: keras.Optimizer | None = None,
    loss: Any,
    metrics: Any = None,
    seeds: int | Sequence[int] = 10,
    epochs: int = 10,
    batch_size: int | None = None,
    sample_weight: Any = None,
    metric: str | tuple[str, str] = "loss",
    verbose: int = 1,
    **settings: Any,
) -> Comparison:
    """Compares strategies with each other and with the plain step, which has as many evaluations of the gradient as they have.

    Every strategy trains at every learning rate from every seed. For a seed all have the same initial weights, order of the data
    and dropout masks. `epochs` says what a run may use: as many evaluations of a batch's gradient as the plain step makes in so
    many passes; a step that evaluates twice makes half as many updates. In the table are always the plain step `SGD()`, and for
    a strategy that costs c evaluations `SGD(), rate / c`: c times as many updates at a rate c times smaller. A strategy is called
    better only where it beats both.

    The optimizer takes what a step returns, the same for all. Of a learning-rate schedule the horizon is stretched to each one's
    updates, and it is scaled to begin at the rate.

    Every run is a run directory below `directory`: whenever this is killed, the same call goes on. Test data are read once, at
    the end, at each strategy's best rate by validation.

    Args:
        model: a function without arguments that returns a new Keras model, not compiled.
        strategies: a list, or a dictionary by name.
        x, y, sample_weight, batch_size: as in `Trainer.fit`: arrays `[n, ...]` of any dtype that it takes, or a `tf.data.Dataset`
          of known length, which each run reads from its beginning: the order is that of the seed of its `shuffle`, for all seeds.
          A generator, a `PyDataset` or a shuffle without a seed is refused, since every run must read the same.
        directory: of this comparison.
        learning_rates: that everybody tries.
        validation_data: `(x, y)`, `(x, y, sample_weight)` or a data set, by which rates are chosen, and the target is set.
        test_data: the same, by which is judged; without it validation data judge too.
        optimizer: a Keras optimizer, `keras.optimizers.SGD()` by default; its own rate is not used, a schedule's shape is.
        loss, metrics: as in `model.compile`.
        seeds: how many, from 0, or which; fewer than ten tell nothing apart.
        epochs: passes over the data that the plain step makes.
        metric: what runs are judged by, less being better; `("max", "accuracy")` where more is.
        verbose: 0 says nothing; 1 a line a run.
        settings: other arguments of `Trainer`, such as `jit_compile` (False by default) and `deterministic`.

    Returns:
        A `Comparison`: `print` it; it has `table` and `verdicts`, and is written by `to_json(path)` and `report(path)`.

    Raises:
        TypeError, ValueError: an argument is none of this, or the directory is of another comparison; one line.
        OSError: the directory cannot be made, or written.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from trainlab.strategies import Heun
        >>> x = np.linspace(-1, 1, 24, dtype="float32")[:, None]
        >>> found = compare(
        ...     lambda: keras.Sequential([keras.Input([1]), keras.layers.Dense(1)]),
        ...     [Heun()],
        ...     x[::2],
        ...     2 * x[::2],
        ...     validation_data=(x[1::2], 2 * x[1::2]),
        ...     loss="mse",
        ...     learning_rates=[0.1, 0.2],
        ...     seeds=2,  # too few to tell anything apart
        ...     epochs=4,
        ...     batch_size=4,
        ...     directory=tempfile.mkdtemp(),
        ...     verbose=0,
        ... )
        >>> for row in found.table:
        ...     print(row["entry"], row["updates"], row["evaluations"], row["verdict"])
        SGD() 12 12.0
        SGD(), rate / 2 12 12.0
        Heun() 6 12.0 not told apart
    """
    problem = problem_of(
        model,
        (x, y, sample_weight),
        validation_data,
        test_data,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=loss,
        metrics=metrics,
        metric=metric,
        settings=settings,
    )
    plan = plan_of(problem, strategies, learning_rates, seeds, epochs)
    executor = Executor(problem, plan, Path(directory), _said(verbose))
    executor.prepare()
    executor.work()
    return finish(executor, problem, plan)


def problem_of(
    model: Callable[[], keras.Model],
    train: tuple[Any, Any, Any],
    validation_data: Any,
    test_data: Any = None,
    *,
    batch_size: int | None = None,
    optimizer: keras.Optimizer | None = None,
    loss: Any = None,
    metrics: Any = None,
    metric: str | tuple[str, str] = "loss",
    settings: Mapping[str, Any] | None = None,
) -> Problem:
    """What is trained; see `compare`."""
    if isinstance(model, keras.Model) or not callable(model):
        raise TypeError(
            "model must be a function without arguments that returns a new keras.Model: each seed begins with another"
        )
    is_data_set = hasattr(train[0], "element_spec")
    if is_stream(train[0]) and not is_data_set:
        raise TypeError(
            "x must be arrays or a tf.data.Dataset of known length, which every run can read from its beginning, not "
            f"{type(train[0]).__name__}"
        )
    if validation_data is None:
        raise ValueError(
            "validation_data: there are none: rates are chosen, and the target is set, by data that are not trained on"
        )
    validation = _part("validation_data", validation_data)
    test = None if test_data is None else _part("test_data", test_data)
    for named, part in (("x", train), ("validation_data", validation), ("test_data", test or (None, None, None))):
        check_repeatable(named, part[0])
    if not metric or (not isinstance(metric, str) and (len(metric) != 2 or metric[0] not in ("min", "max"))):
        raise ValueError(f'metric must be a name, or ("min", name) or ("max", name), not {metric!r}')
    direction, name = ("min", metric) if isinstance(metric, str) else metric
    optimizer = keras.optimizers.SGD() if optimizer is None else keras.optimizers.get(optimizer)
    schedule_of(optimizer)  # what cannot be compared is said before anything is trained
    optimizer_like(optimizer)
    return Problem(
        make_model=model,
        train=train,
        validation=validation,
        test=test,
        batch_size=None if is_data_set else (32 if batch_size is None else batch_size),
        optimizer=optimizer,
        loss=loss,
        metrics=metrics,
        metric=name.removeprefix("val_"),
        is_up=direction == "max",
        is_said=not isinstance(metric, str),
        settings={"jit_compile": False} | dict(settings or {}),
    )


def plan_of(problem: Problem, strategies: Any, learning_rates: Sequence[float], seeds: Any, epochs: int) -> Plan:
    """Which runs there are; see `compare`.

    Raises:
        TypeError, ValueError: there are none.
    """
    entries = entries_of(strategies)
    check_count("epochs", epochs, 1)
    rates: list[Any] = [learning_rates] if isinstance(learning_rates, numbers.Real) else list(learning_rates)
    if not rates:
        raise ValueError("learning_rates is empty: give at least one, as in [0.05, 0.1, 0.2]")
    for rate in rates:
        if isinstance(rate, bool) or not isinstance(rate, numbers.Real) or not 0 < float(rate) < math.inf:
            raise ValueError(f"learning_rates: {rate!r} is none: must be a finite number above 0")
    if len(set(rates)) < len(rates):
        raise ValueError(f"learning_rates: one is there twice: {rates}")
    if isinstance(seeds, numbers.Integral):
        check_count("seeds", seeds, 1)
        seeds = range(int(seeds))
    found = list(seeds)
    for seed in found:
        check_count("seeds", seed, 0)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be different, and at least one, not {found}")
    per_pass = problem.batches_per_pass
    if per_pass is None:
        raise ValueError("x: how many batches a pass has is not known: use a data set of known length, as .take(n) makes one")
    plan = Plan(entries, [float(rate) for rate in rates], [int(seed) for seed in found], epochs * per_pass, per_pass)
    for entry in entries:
        plan.updates(entry)  # which raises where the budget is too small
    return plan


def finish(executor: Executor, problem: Problem, plan: Plan) -> Comparison:
    """What all runs together say, once they are there."""
    results = executor.results()
    tests = executor.tested(results)
    seconds = executor.timed(results)
    results = results.with_seconds(seconds)
    return conclude(plan, results, executor.target(), tests, seconds, problem.metric, executor.directory)


def _said(verbose: int) -> Callable[[str], None]:
    return (lambda line: print(line, flush=True)) if verbose else (lambda line: None)


def _part(name: str, part: Any) -> tuple[Any, Any, Any]:
    if hasattr(part, "element_spec"):
        return part, None, None
    if not isinstance(part, (tuple, list)) or len(part) not in (2, 3):
        raise TypeError(f"{name} must be (x, y), (x, y, sample_weight) or a data set, not {type(part).__name__}")
    return part[0], part[1], part[2] if len(part) == 3 else None
