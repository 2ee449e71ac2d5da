"""Checks of a step by itself, on a fake objective that knows nothing of Keras."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.objective import Evaluation, touched_variables
from trainlab.parameters import Rows, Vector
from trainlab.strategies import State, Step, StepStrategy
from trainlab.testing.comparing import Failed, flat

_START = ([[0.5, -1.0, 2.0], [0.25, 0.75, -0.5]], [1.5, -0.5])  # of two leaves
_ROUNDING = 1e-12


class Potential:
    """`sum(cosh(w) - 1 + w^2 / 2)`, as an objective that counts.

    Args:
        is_sparse: whether the gradient of the first leaf comes as rows.

    Attributes:
        evaluations: what it returned, in order.
    """

    def __init__(self, is_sparse: bool = False):
        self.evaluations: list[Evaluation] = []
        self._is_sparse = is_sparse

    def __call__(self, parameters: Vector) -> Evaluation:
        """Loss and gradient at a point."""
        if not isinstance(parameters, Vector):
            raise Failed(
                f"it evaluates the objective at a {type(parameters).__name__}; it takes a Vector, such as state.parameters"
            )
        leaves: list[Any] = list(parameters.leaves)
        loss = tf.add_n([tf.reduce_sum(tf.cosh(leaf) - 1 + leaf * leaf / 2) for leaf in leaves])
        gradients: list[Any] = [tf.sinh(leaf) + leaf for leaf in leaves]
        if self._is_sparse:
            gradients[0] = Rows(gradients[0], tf.range(2), 2)
        evaluation = Evaluation(loss, Vector(gradients))
        self.evaluations.append(evaluation)
        return evaluation


def state_of(strategy: StepStrategy, seed: int = 0, dtype: str = "float64", rate: Any = None) -> State:
    """A state to step from, with the memory as `init` shapes it."""
    parameters = Vector([tf.constant(leaf, dtype) for leaf in _START])
    memory = strategy.init(parameters)
    rate = tf.constant(0.05, keras.config.floatx()) if rate is None else rate
    tensors = {name: value if isinstance(value, Vector) else tf.convert_to_tensor(value) for name, value in memory.items()}
    return State(parameters, rate, tf.constant(3, tf.int64), tf.constant([seed, 3]), tensors)


def values_of(step: Step) -> list[np.ndarray]:
    """Everything that a step returns, as arrays: gradient, memory, logs, and what `then` makes of a point."""
    return [np.asarray(value) for value in _tensors(step)]


def step_of(strategy: StepStrategy, state: State, objective: Potential | None = None) -> Step:
    """A step, made eagerly, that is a Step of Vectors.

    Raises:
        Failed: it is not, or the step raises.
    """
    try:
        step = strategy.step(Potential() if objective is None else objective, state)
    except Failed:
        raise
    except Exception as error:
        raise Failed(f"step raises {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(step, Step):
        raise Failed(f"step returns a {type(step).__name__}; it returns Step(gradient, at=evaluation)")
    if not isinstance(step.gradient, Vector):
        raise Failed(f"the gradient of the Step is a {type(step.gradient).__name__}; it is a Vector")
    return step


def check_pure(strategy: StepStrategy) -> None:
    """Nothing is assigned, and the same state gives the same step: eagerly, traced, and traced again."""
    state, before = state_of(strategy), _settings(strategy)
    first = values_of(step_of(strategy, state))
    _require_equal(first, values_of(step_of(strategy, state)), "two steps from one state differ: noise comes from state.seed")
    if (after := _settings(strategy)) != before:
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        raise Failed(f"a step changes {', '.join(f'self.{name}' for name in changed)}: what it remembers goes into memory")

    def traced() -> Any:
        return tf.function(lambda given: _tensors(strategy.step(Potential(), State(*given)))).get_concrete_function(tuple(state))

    try:
        one, other = traced(), traced()
    except Failed:
        raise
    except Exception as error:
        raise Failed(f"it cannot be traced: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if assigned := touched_variables(one)[0]:
        raise Failed(f"a step assigns the variable {assigned[0].name}: what it remembers goes into memory")
    flat_state = tf.nest.flatten(tuple(state), expand_composites=True)
    runs = [[np.asarray(t) for t in tf.nest.flatten(fn(*flat_state))] for fn in (one, one, other)]
    _require_equal(runs[0], runs[1], "a traced step gives two results from one state: noise comes from state.seed")
    _require_equal(
        runs[0], runs[2], "traced twice it is two programs: Python or NumPy drew a number, or counted, while it was traced"
    )
    _require_close(runs[0], [*first], "traced it gives another step than run eagerly")


def check_evaluations(strategy: StepStrategy) -> None:
    """As many evaluations as it says; what it wraps is delegated."""
    objective = Potential()
    step = step_of(strategy, state_of(strategy), objective)
    counted, said = len(objective.evaluations), strategy.evaluations
    if "gradient_evaluations" in step.logs:  # one that makes a step again may need more than it says, and tells
        said = int(step.logs["gradient_evaluations"])
    if counted != said or counted < strategy.evaluations:
        raise Failed(f"evaluations = {said}, but a step makes {counted}")
    for name, inner in vars(strategy).items():
        if isinstance(inner, StepStrategy) and strategy.batches % inner.batches:
            raise Failed(
                f"batches = {strategy.batches}, but self.{name} takes {inner.batches}: delegate it, or data are left out"
            )


def check_at(strategy: StepStrategy) -> None:
    """What is reported, and whose statistics are kept, is an evaluation of this step."""
    objective = Potential()
    step = step_of(strategy, state_of(strategy), objective)
    if not any(step.at is evaluation for evaluation in objective.evaluations):
        what = (
            "is none that the objective returned in this step"
            if isinstance(step.at, Evaluation)
            else f"is a {type(step.at).__name__}"
        )
        raise Failed(f"at {what}: loss, metrics, statistics and dropout seeds of the update would be lost")


def check_memory(strategy: StepStrategy) -> None:
    """What a step returns, and what `then` does, is memory that `init` shapes; one that stays need not be returned."""
    state = state_of(strategy)
    step = step_of(strategy, state)
    if step.memory is not None and set(step.memory) != set(state.memory):
        raise Failed(f"init shapes {sorted(state.memory)}, a step returns {sorted(step.memory)}")
    _check_shapes(state, step.memory or {}, "a step")
    if step.then is not None:
        point, memory = _moved(step)
        shapes = [[tuple(t.shape) for t in _dense(each)] for each in (state.parameters, point)]
        if shapes[0] != shapes[1]:
            raise Failed(f"then returns a point of shapes {shapes[1]}, the parameters' are {shapes[0]}")
        if unknown := set(memory) - set(state.memory):
            raise Failed(f"init shapes {sorted(state.memory)}, then returns {sorted(unknown)}")
        _check_shapes(state, memory, "then")


def _check_shapes(state: State, memory: Mapping[str, Any], who: str) -> None:
    for name, value in memory.items():
        shapes = [[tuple(t.shape) for t in _dense(each)] for each in (state.memory[name], value)]
        if shapes[0] != shapes[1]:
            raise Failed(f"memory[{name!r}]: init shapes {shapes[0]}, {who} returns {shapes[1]}")
        is_whole = [_dense(each)[0].dtype.is_integer if _dense(each) else True for each in (state.memory[name], value)]
        if is_whole == [True, False]:
            raise Failed(f"memory[{name!r}]: init makes it of whole numbers, {who} returns fractions: give it 0.0")


def check_kinds(strategy: StepStrategy) -> None:
    """Dtypes are kept; a rate for each variable and row-sparse gradients are taken."""
    for dtype in ("float64", "float32"):
        gradient = step_of(strategy, state_of(strategy, dtype=dtype)).gradient
        if found := {leaf.dtype.name for leaf in gradient.leaves} - {dtype}:
            raise Failed(f"the gradient of {dtype} parameters comes out as {found.pop()}")
    plain = values_of(step_of(strategy, state_of(strategy)))
    rates = Vector([tf.constant(0.05, "float64")] * 2)
    _require_close(
        values_of(step_of(strategy, state_of(strategy, rate=rates))),
        plain,
        "with a learning rate of each variable's own (MultiOptimizer: state.learning_rate is a Vector) it gives another step",
    )
    rows = values_of(step_of(strategy, state_of(strategy), Potential(is_sparse=True)))
    _require_close(rows, plain, "with the row-sparse gradient of an embedding it gives another step")


def check_serialises(strategy: StepStrategy) -> None:
    """Its configuration makes it again."""
    try:
        config = strategy.get_config()
        again = type(strategy).from_config(copy.deepcopy(config))
    except Exception as error:
        raise Failed(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if repr(again) != repr(strategy):
        raise Failed(f"made again from its configuration it is {again!r}")
    if again.evaluations != strategy.evaluations or again.batches != strategy.batches:
        raise Failed("made again from its configuration it takes other batches or evaluations")
    one, other = (values_of(step_of(each, state_of(each))) for each in (strategy, again))
    _require_equal(one, other, "made again from its configuration it takes another step")


def draws_noise(strategy: StepStrategy) -> bool:
    """Whether its step depends on `state.seed`."""
    pair = [values_of(step_of(strategy, state_of(strategy, seed=seed))) for seed in (0, 1)]
    return any(not np.array_equal(a, b) for a, b in zip(*pair, strict=True))


def _settings(strategy: StepStrategy) -> dict[str, str]:
    """What is kept on it, inner strategies' too, in words."""
    found: dict[str, str] = {}
    for name, value in vars(strategy).items():
        if isinstance(value, StepStrategy):
            found |= {f"{name}.{inner}": text for inner, text in _settings(value).items()}
        else:
            found[name] = str(value.numpy()) if isinstance(value, tf.Variable) else repr(value)
    return found


def _tensors(step: Step) -> list[Any]:
    values = [*_dense(step.gradient), *_in_order(step.memory or {}), *_in_order(step.logs)]
    if step.then is not None:
        point, memory = _moved(step)
        moved = [*_dense(point), *_in_order(memory)]  # where it is not asked it may be anything
        values += moved if step.when is None else [tf.where(step.when, value, tf.zeros_like(value)) for value in moved]
    return values


def _in_order(named: Mapping[str, Any]) -> list[Any]:
    return [tensor for _, value in sorted(named.items()) for tensor in _dense(value)]


def _moved(step: Step) -> tuple[Vector, Mapping[str, Any]]:
    """What `then` makes of a point to which an optimizer might have come.

    Raises:
        Failed: it is no point and memory, or it raises.
    """
    assert step.then is not None
    try:
        moved = step.then(Vector(_dense(step.gradient)))
    except Exception as error:
        raise Failed(f"then raises {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    if not (isinstance(moved, tuple) and len(moved) == 2 and isinstance(moved[0], Vector) and isinstance(moved[1], Mapping)):
        raise Failed(f"then returns a {type(moved).__name__}; it returns a Vector and a dictionary of the memory")
    return moved


def _dense(value: Any) -> list[Any]:
    if not isinstance(value, Vector):
        return [tf.convert_to_tensor(value)]
    return [leaf.to_dense() if isinstance(leaf, Rows) else leaf for leaf in value.leaves]


def _require_equal(one: Sequence[np.ndarray], other: Sequence[np.ndarray], line: str) -> None:
    if len(one) != len(other) or not all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(one, other, strict=True)
    ):
        raise Failed(line)


def _require_close(one: Sequence[np.ndarray], other: Sequence[np.ndarray], line: str) -> None:
    apart = np.linalg.norm(flat(one) - flat(other)) if len(one) == len(other) else np.inf
    if not apart <= max(_ROUNDING, _rounding(other)) * np.linalg.norm(flat(other)):
        raise Failed(line)


def _rounding(values: Sequence[np.ndarray]) -> float:
    """What a difference may be where some of the values (a memory, a log) are float32."""
    return 1e-5 if any(value.dtype == np.float32 for value in values) else 0.0
