"""The loop of a `fit` in words: what happens, in which order, who is called when, and how many updates a call makes."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainlab.data import as_arrays, describe_update, frequency_of, is_stream, size_of_batches
from trainlab.loop import Evaluations, Plan, plan_of
from trainlab.runs.listeners.hearing import hears_every_test_batch, hears_every_update, takes_summaries, updates_unheard
from trainlab.runs.listeners.listing import callback_list, verbosity
from trainlab.runs.run import Run
from trainlab.strategies import StepStrategy

_WIDTH = 100
_BATCH = ("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end")


@dataclasses.dataclass(frozen=True)
class Described:
    """What a `fit` would work with, as far as the words need it.

    Attributes:
        model: compiled.
        strategy: the step.
        run: where it is saved; None for nowhere.
        device: where the step runs, in words.
        num_replicas: shards that a batch is cut into.
        micro_batch_size: examples evaluated at once; None for whole batches.
        updates_per_call: by hand; None leaves it to the program.
        is_eager: whether Python runs step by step.
        on_nonfinite: "stop" or "skip".
        jit_compile: whether XLA compiles the step; None where that is not known yet.
    """

    model: keras.Model
    strategy: StepStrategy
    run: Run | None
    device: str
    num_replicas: int
    micro_batch_size: int | None
    updates_per_call: int | None
    is_eager: bool
    on_nonfinite: str
    jit_compile: bool | None


@dataclasses.dataclass(frozen=True)
class _Told(Described):
    """The same, and what the arguments of the `fit` say.

    Attributes:
        plan: how long it is; `updates_per_epoch` None where nobody knows.
        update: what an update is made of, in words; empty where nobody knows.
        validation: what it is validated on, in words; empty for nothing.
        frequency: after which epochs: a number, or those numbers.
    """

    plan: Plan
    update: str
    validation: str
    frequency: Any


def describe_loop(owner: Described, fit_fn: Callable[..., Any], x: Any, y: Any, others: Mapping[str, Any]) -> str:
    """The loop of a `fit` in words, a paragraph for each of its parts.

    Args:
        owner: what it works with.
        fit_fn: the method, whose arguments the others are.
        x, y, others: arguments of it; any may be left out.

    Raises:
        TypeError: it has no such argument.
        ValueError: it has no length.
    """
    given = _arguments_of(fit_fn, x, y, others)
    plan, update = _planned(given, owner.strategy.batches)
    validation = _validation(given)
    frequency = frequency_of(given["validation_freq"]) if validation else 1
    fit = _Told(**vars(owner), plan=plan, update=update, validation=validation, frequency=frequency)
    # Of no model: told of one, a TensorBoard begins an event file, and the model has another history.
    listener = callback_list(given["callbacks"], None, plan, verbosity(given["verbose"]))
    parts = [
        ("at the beginning", _beginning(fit, listener)),
        (_epochs(fit.plan), _epoch_begin(listener)),
        (f"  {_updates(fit)}", _update(fit)),
        ("  updates in one compiled call", _calls(fit, listener)),
        ("  between two calls", _between(fit)),
        ("  at the epoch's end, in this order", _epoch_end(fit, listener)),
        ("at the end", _end(fit, listener)),
    ]
    lines = []
    for title, said in parts:
        lines.append(title)
        indent = " " * (len(title) - len(title.lstrip()) + 2)
        for line in said:
            lines += textwrap.wrap(line, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
    return "\n".join(lines)


def _arguments_of(fit: Callable[..., Any], x: Any, y: Any, others: Mapping[str, Any]) -> Mapping[str, Any]:
    """All arguments of a `fit`, by name, with its defaults.

    Raises:
        TypeError: it has no such argument.
    """
    signature = inspect.signature(fit)
    for name in others:
        if name not in signature.parameters:
            close = difflib.get_close_matches(name, signature.parameters, n=1)
            hint = f"did you mean {close[0]}?" if close else "it takes those of fit"
            raise TypeError(f"describe_loop has no argument {name!r}; {hint}")
    bound = signature.bind(x, y, **others)
    bound.apply_defaults()
    return bound.arguments


def _planned(given: Mapping[str, Any], batches: int) -> tuple[Plan, str]:
    """How long a `fit` with these arguments would be, as far as that can be told without its data, and an update in words.

    Args:
        given: all arguments of `Trainer.fit`, by name.
        batches: of the strategy.

    Raises:
        ValueError: it has no length.
    """
    x, size = given["x"], given["batch_size"] or 32
    plan = plan_of(*(given[name] for name in ("initial_epoch", "epochs", "steps", "steps_per_epoch", "validate_every")))
    if x is None or is_stream(x):
        number = int(getattr(x, "cardinality", lambda: -1)())
        per_pass, update = -(-number // batches) if number >= 0 else None, "" if x is not None else describe_update(size, batches)
    else:
        num_examples = _num_examples(x)
        if given["validation_data"] is None:
            num_examples -= num_examples - int(num_examples * (1 - given["validation_split"]))
        size = size_of_batches(num_examples, given["batch_size"], given["steps_per_epoch"], batches)
        per_pass, update = -(-num_examples // (size * batches)), describe_update(size, batches)
    if plan.validate_every is None or plan.steps is not None or per_pass is not None:
        plan = plan.on(per_pass, is_endless=False)
    return plan, update


def _validation(given: Mapping[str, Any]) -> str:
    """What a `fit` with these arguments would be validated on, in words; empty for nothing."""
    data = given["validation_data"]
    if data is None:
        share = given["validation_split"]
        return f"the last {100 * share:g} % of the data" if share else ""
    if is_stream(data):
        return "a data set"
    x, *_ = keras.utils.unpack_x_y_sample_weight(data)
    return "a data set" if is_stream(x) else f"{_num_examples(x):,} examples"


def _num_examples(x: Any) -> int:
    """Of arrays of any kind, as `fit` takes them."""
    first = keras.tree.flatten(x)[0]
    first = first if hasattr(first, "shape") else tf.nest.flatten(as_arrays(x))[0]
    return int(first.shape[0])


def _beginning(fit: _Told, listener: keras.callbacks.CallbackList) -> list[str]:
    said = [_called("on_train_begin", listener)]
    if fit.run is not None:
        said.append(f"{fit.run.directory}: the newest good checkpoint is put back, with what callbacks remember, if there is one")
    return said


def _epochs(plan: Plan) -> str:
    if plan.epochs is not None:
        number = max(plan.epochs - plan.initial_epoch, 0)
        return f"for each of {number:,} epochs" if number != 1 else "for one epoch"
    return f"epoch by epoch, until there are {plan.steps:,} updates"


def _epoch_begin(listener: keras.callbacks.CallbackList) -> list[str]:
    return ["metrics are set back to zero", _called("on_epoch_begin", listener)]


def _updates(fit: _Told) -> str:
    number = fit.plan.updates_per_epoch
    return "updates, as many as the data have" if number is None else f"{number:,} update{'s' * (number != 1)}, each"


def _update(fit: _Told) -> list[str]:
    strategy = fit.strategy
    evaluations, batches = strategy.evaluations, strategy.batches
    said = [f"takes {fit.update}" if fit.update else f"takes {_many(batches, 'batch', 'es')} of the data"]
    passes = evaluations * batches
    counted = f", {passes} forward and backward passes" if batches > 1 else ""
    said.append(f"{strategy!r}: {_many(evaluations, 'evaluation')} of loss and gradient{counted}")
    if fit.num_replicas > 1:
        said.append(f"every batch is cut into {fit.num_replicas} shards, evaluated at once on {fit.device}, and added up")
    if fit.micro_batch_size is not None:
        said.append(f"every batch is evaluated in pieces of at most {fit.micro_batch_size} examples, one after the other")
    said.append(f"one update by {type(fit.model.optimizer).__name__}: weights, statistics and metrics are written once")
    how = {True: "compiled by XLA", False: "compiled without XLA", None: "without XLA unless timing it shows that it pays"}
    said.append("run by Python, step by step" if fit.is_eager else how[fit.jit_compile])
    return said


def _calls(fit: _Told, listener: keras.callbacks.CallbackList) -> list[str]:
    every = [_name(one) for one in _members(listener) if hears_every_update(one)]
    if fit.is_eager:
        return ["one: it runs eagerly"]
    if fit.updates_per_call is not None and fit.updates_per_call > 1:
        listens = f"; {_listed(every)} hears the last of them" if every else ""
        return [f"{fit.updates_per_call}, as steps_per_execution says{listens}"]
    if every:
        verb = "hears" if len(every) == 1 else "hear"
        return [f"one, since {_listed(every)} {verb} of every batch ({_listed(_batch_hooks(listener))})"]
    said = "as many as take 0.1 to 0.2 s, of at most 65,536 examples: nobody hears of every batch"
    others = [f"{_name(one)} hears of every {number}th" for one in _members(listener) if (number := _distance(one)) is not None]
    return [said, *(f"{other}: a call ends there" for other in others)]


def _between(fit: _Told) -> list[str]:
    said = ["all is committed, and signals are heard"]
    action = "training stops at the update before it" if fit.on_nonfinite == "stop" else "that update is left out"
    said.append(f"if an update left a NaN or an infinity, the call is taken back, and {action}")
    if fit.run is not None:
        when = [f"{fit.run.save_seconds:g} seconds"] if fit.run.save_seconds is not None else []
        when += [f"{fit.run.save_steps:,} updates"] if fit.run.save_steps is not None else []
        said.append(f"a checkpoint is written every {' and every '.join(when)}" if when else "no checkpoint is written")
    return said


def _epoch_end(fit: _Told, listener: keras.callbacks.CallbackList) -> list[str]:
    said = []
    if fit.validation:
        heard = [_name(one) for one in _members(listener) if hears_every_test_batch(one)]
        how = f"batch by batch, since {_listed(heard)} hears of each" if heard else "many batches in a call"
        if not (evaluations := Evaluations()).may_compile(fit.model, fit.is_eager, takes_summaries(listener)):
            how = f"batch by batch, as Keras does it ({evaluations.why_not})"
        said.append(f"validation on {fit.validation}, {_frequency(fit.frequency)}, {how}")
    else:
        said.append("no validation: there are no val_ metrics")
    said.append(_called("on_epoch_end", listener))
    if fit.run is not None and fit.run.keep_best is not None:
        name = fit.run.keep_best if isinstance(fit.run.keep_best, str) else " ".join(fit.run.keep_best)
        said.append(f"a checkpoint, if the epoch was the best so far by {name}")
    stopping = [_name(one) for one in _members(listener) if isinstance(one, keras.callbacks.EarlyStopping)]
    if stopping:
        said.append(f"training ends here if {_listed(stopping)} says so")
    return said


def _end(fit: _Told, listener: keras.callbacks.CallbackList) -> list[str]:
    said = []
    if getattr(fit.model.optimizer, "use_ema", False):
        said.append("the optimizer's averages of the weights take their place")
    said.append(_called("on_train_end", listener))
    if fit.run is not None:
        said.append(f"a last checkpoint; the last {fit.run.keep} stay")
    return said


def _called(hook: str, listener: keras.callbacks.CallbackList) -> str:
    names = [_named(one) for one in _members(listener) if _overrides(one, hook)]
    return f"{hook}: {', '.join(names)}" if names else f"{hook}: nobody"


def _named(callback: keras.callbacks.Callback) -> str:
    """With what it watches, where it watches something."""
    monitor = getattr(callback, "monitor", None)
    return f"{_name(callback)} ({monitor})" if isinstance(monitor, str) else _name(callback)


def _name(callback: Any) -> str:
    return type(callback).__name__.lstrip("_")


def _overrides(callback: Any, hook: str) -> bool:
    own = getattr(callback, hook)
    function = getattr(own, "__func__", own)
    return function is not vars(keras.callbacks.Callback)[hook]


def _batch_hooks(listener: keras.callbacks.CallbackList) -> list[str]:
    heard = [one for one in _members(listener) if hears_every_update(one)]
    return [hook for hook in _BATCH if any(_overrides(one, hook) for one in heard)]


def _distance(callback: keras.callbacks.Callback) -> int | None:
    """Every how manyth update it hears of, by its setting; None for one that hears of none."""
    settings: Iterable[Any] = (getattr(callback, name, None) for name in ("update_freq", "save_freq"))
    number = next((value for value in settings if isinstance(value, int)), None)
    return number if number is not None and not hears_every_update(callback) and updates_unheard(callback) >= 0 else None


def _members(listener: keras.callbacks.CallbackList) -> Sequence[keras.callbacks.Callback]:
    found: list[keras.callbacks.Callback] = []
    for one in listener.callbacks:
        found += _members(one) if isinstance(one, keras.callbacks.CallbackList) else [one]
    return found


def _frequency(frequency: Any) -> str:
    if isinstance(frequency, int):
        return "after every epoch" if frequency == 1 else f"after every {frequency} epochs"
    return f"after the epochs {', '.join(map(str, frequency))}"


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} and {unique[-1]}"


def _many(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"
