"""One update: read every variable, ask the strategy, commit once."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainlab.distribution import ONE, Replicas, check_divisible, divided
from trainlab.loop import duplicates
from trainlab.loop.loss_scaling import Scaling
from trainlab.loop.ordering import groups_bypassed, may_be_lost
from trainlab.loop.settings import touched
from trainlab.objective import (
    Batches,
    Divide,
    Evaluation,
    KerasObjective,
    ModelFunction,
    TrainStepFunction,
    check_vector,
    has_own_step,
    inner_of,
    keras_internals,
    native,
)
from trainlab.parameters import Rows, Vector, ask_beforehand, dense, tensorflow_internals
from trainlab.strategies import State, Step, StepStrategy


class Update:
    """Takes one step of a strategy on a model; the only place that assigns a variable.

    Args:
        model: compiled and built.
        strategy: where to evaluate.
        seed: the run's, from which each step's `State.seed` is drawn; a variable (int32) where further runs share the trace.
        memory: an earlier update's `memory`, to go on with if the strategy still shapes it so.
        sum_duplicate_rows: whether rows of an embedding that an update looks up more than once are summed before the optimizer
          sees them; None does so and says it where it matters.
        replicas: the devices that evaluate it.

    Attributes:
        strategy, seed: the same.
        function: the model's loss and gradient.
        memory: the strategy's memory: variables, or Vectors of variables, by name.
        scaling: decides whether an update is made, under a loss scale that moves; None otherwise.
        logs: variables `[sum, count]` of each scalar that steps log, by name. Grows while tracing.
        undeclared: variables that nobody lists as his, and that a step was seen to assign: an optimizer's beside its
          `variables`, one that a loss closes over. Grows while tracing, and with the first update that runs eagerly.
        read: variables that nobody lists either, and that steps were only seen to read. Grows so too.
        orders_may_be_lost: whether a program was traced in which TensorFlow's own optimizer might lose the order of operations.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: StepStrategy,
        seed: int | tf.Variable,
        memory: Mapping[str, Any] | None = None,
        sum_duplicate_rows: bool | None = None,
        replicas: Replicas = ONE,
    ):
        self.function = TrainStepFunction(model) if has_own_step(model) else ModelFunction(model)
        self._sum_duplicate_rows = sum_duplicate_rows
        self._replicas = replicas
        if replicas.are_several:
            check_divisible(model)
        self._optimizer = model.optimizer
        self._inner = inner_of(model.optimizer)
        self.strategy = strategy
        self.seed = seed
        initial = _initial_memory(strategy, self.function.read_parameters())
        fresh = {name: _variables_for(name, value, strategy) for name, value in initial.items()}
        is_alike = memory is not None and _describe_all(memory) == _describe_all(fresh)
        self.memory = memory if memory is not None and is_alike else fresh
        self._metric_names = {metric.name for metric in model.metrics}
        self._warned = False
        is_dynamic = self.function.loss_scale is not None and self.function.loss_scale.is_dynamic
        self.scaling = Scaling(self.function) if is_dynamic else None
        self.logs: dict[str, tf.Variable] = {} if self.scaling is None else dict(self.scaling.logs)
        self.undeclared: list[tf.Variable] = []
        self.read: list[tf.Variable] = []
        self.orders_may_be_lost = False

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """Everything that an update may change, as far as tracing has shown, by names that another process would give it."""
        function = self.function
        groups: dict[str, Iterable[Any]] = {
            "model": function.model.variables,
            "optimizer": self._optimizer.variables,
            "state": function.state_variables,
            "undeclared": self.undeclared,
            **{f"memory.{name}": tf.nest.flatten(group) for name, group in self.memory.items()},
        }
        named = {f"log.{name}": v for name, v in self.logs.items()}
        named |= {f"report.{name}": v for name, v in function.reports.items()}
        named |= {f"{group}.{i}": native(v) for group, variables in groups.items() for i, v in enumerate(variables)}
        by_id = {id(v): (name, v) for name, v in reversed(named.items())}  # one of two groups keeps its first name
        return dict(reversed(by_id.values()))

    @property
    def read_only(self) -> dict[str, tf.Variable]:
        """What an update reads and never changes, as a teacher's weights, by such names: hooks may."""
        known = {id(v) for v in self.variables.values()}
        return {f"read.{i}": v for i, v in enumerate(self.read) if id(v) not in known}

    @property
    def is_divided(self) -> bool:
        """Whether several devices evaluate it."""
        return self._replicas.are_several

    def _divided(self, jit: Callable[..., Any] | None = None) -> Divide | None:
        return functools.partial(divided, self._replicas, jit) if self.is_divided else None

    def __call__(self, batches: Sequence[Batches], jit: Callable[..., Any] | None = None) -> None:
        """Updates the model on one effective batch. Runs traced or eagerly.

        Args:
            batches: of it.
            jit: None unless XLA is to compile what each of several devices evaluates.

        Raises:
            TypeError, ValueError: the strategy returned something that is not a `Step` of this model.
        """
        objective, state = KerasObjective(self.function, batches, self._divided(jit)), self._state()
        objective.seen = None if self.scaling is None else []
        step = self.strategy.step(objective, state)
        self._check(step)
        if step.then is not None:
            ask_beforehand(step.then, state.parameters)
        if self.scaling is None:
            self._commit(step)
            for variable, value in objective.late(state.parameters):
                variable.assign(value)
            return
        for name in step.logs:  # in a branch there is no making them
            self._log_of(name)
        after = self.scaling.commit(step, objective.seen or [], batches, lambda: self._commit(step))
        for variable, value in objective.late(state.parameters):
            variable.assign(after(variable, value))

    def forget(self) -> None:
        """Shapes the strategy's memory anew, by the weights as they are now."""
        for name, value in _initial_memory(self.strategy, self.function.read_parameters()).items():
            self._remember(name, _leaves(value))

    def notice(self, traced: Any) -> None:
        """Takes note of what a function, in which this was traced, touches undeclared, and whether orders may be lost."""
        touched.note(traced, [*self.variables.values(), self.seed], self.undeclared, self.read)
        self.orders_may_be_lost |= may_be_lost(traced.graph)

    def observe(self, batches: Sequence[Batches]) -> tuple[list[Evaluation], Step]:
        """The evaluations that a step makes on one effective batch, in their order, and the step; nothing is changed.

        Runs eagerly: there a strategy's own loops and branches hide no evaluation.
        """
        objective = KerasObjective(self.function, batches, self._divided())
        seen = objective.seen = []
        values = [variable.read_value() for variable in self.undeclared]
        try:
            return seen, self.strategy.step(objective, self._state())
        finally:  # a strategy that keeps variables of its own assigns them
            for variable, value in zip(self.undeclared, values, strict=True):
                variable.assign(value)

    def _state(self) -> State:
        iteration = tf.cast(tf.convert_to_tensor(self._optimizer.iterations.value), tf.int64)
        return State(
            parameters=self.function.read_parameters(),
            learning_rate=_learning_rate(self._inner, self.function.variables),
            iteration=iteration,
            seed=tf.stack([self._seed_now(), tf.cast(iteration, tf.int32)]),
            memory={name: tf.nest.map_structure(tf.convert_to_tensor, value) for name, value in self.memory.items()},
        )

    def _seed_now(self) -> tf.Tensor:
        return tf.constant(self.seed, tf.int32) if isinstance(self.seed, int) else self.seed.read_value()

    def begin_anew(self) -> None:
        """Forgets, and sets back what draws beside the model: above all Keras' seed for all who draw without one of their own."""
        self.forget()
        own = {id(v) for v in self.function.model.variables}
        for variable in self.function.state_variables:
            if id(variable) not in own and getattr(variable, "path", "").endswith("seed_generator_state"):
                variable.assign(tf.cast(tf.stack([self._seed_now(), 0]), variable.dtype))

    def read_logs(self, metrics: Collection[str] = ()) -> dict[str, float]:
        """The means of what steps logged since `reset_logs`, by name; NaN where every update was skipped.

        Args:
            metrics: names of metrics, which what is logged of a loss scale does not take.
        """
        if self.scaling is None:
            return {name: float(pair[0] / pair[1]) for name, pair in self.logs.items() if float(pair[1]) > 0}
        hidden = self.scaling.logs.keys() & set(metrics)
        pairs = {name: pair.numpy() for name, pair in self.logs.items() if name not in hidden}
        if not any(count > 0 for _, count in pairs.values()):
            return {}
        return {name: float(value / count) if count > 0 else math.nan for name, (value, count) in pairs.items()}

    def reset_logs(self) -> None:
        """Starts the logs' means anew."""
        for pair in self.logs.values():
            pair.assign(tf.zeros([2], pair.dtype))

    def _check(self, step: Any) -> None:
        name = type(self.strategy).__name__
        if not isinstance(step, Step):
            raise TypeError(f"{name}.step returned {type(step).__name__}; it must return Step(gradient, at=evaluation)")
        check_vector(step.gradient, self.function.variables, f"{name}.step returned as gradient")
        if not isinstance(step.at, Evaluation):
            raise TypeError(
                f"{name}.step returned at={type(step.at).__name__}; it must be an Evaluation, what objective(...) returned"
            )
        for field, value in (("memory", step.memory), ("logs", step.logs)):
            if not isinstance(value, Mapping) and (field, value) != ("memory", None):
                raise TypeError(f"{name}.step returned {field} as {type(value).__name__}; it must be a dictionary by name")
        if step.then is not None and not callable(step.then):
            raise TypeError(f"{name}.step returned then as {type(step.then).__name__}; it must be a function of a Vector")
        if step.when is not None and _describe(step.when) != "a bool tensor of shape ()":  # TensorFlow aborts the process
            raise TypeError(f"{name}.step returned when as {_describe(step.when)}; it must be a scalar bool")
        if step.memory is not None and set(step.memory) != set(self.memory):
            raise ValueError(
                f"{name}.step returned memory with the keys {sorted(step.memory)}; init shaped {sorted(self.memory)}"
            )
        self._check_memory(step.memory or {}, f"{name}.step")
        for key, value in step.logs.items():
            if key in self._metric_names:
                raise ValueError(f"{name}.step returned logs[{key!r}], which is the name of a metric: choose another")
            if not isinstance(key, str):
                raise TypeError(f"{name}.step returned logs by {key!r}, which is no name: give text")
            if _describe(value) not in ("a number tensor of shape ()", "a bool tensor of shape ()"):
                raise ValueError(f"{name}.step returned logs[{key!r}] as {_describe(value)}; it must be a scalar number")

    def _check_memory(self, memory: Mapping[str, Any], who: str) -> None:
        for key, value in memory.items():
            if key not in self.memory:
                raise ValueError(f"{who} returned memory[{key!r}]; init shaped {sorted(self.memory)}")
            want, got = _describe(self.memory[key]), _describe(value)
            if want != got:
                raise ValueError(f"{who} returned memory[{key!r}] as {got}; init made it {want}")
            if _is_whole(self.memory[key]) and not _is_whole(value):
                raise ValueError(
                    f"{who} returned memory[{key!r}] with fractions; init made it of whole numbers, which loses them: give it 0.0"
                )

    def _commit(self, step: Step) -> None:
        """The one commit of a step."""
        function = self.function
        # Like Keras, leave alone what no loss depends on: a zero gradient would still decay its weights.
        connected = [i for i in range(len(function.variables)) if i in function.connected]
        if len(connected) < len(function.variables) and not self._warned:
            self._warned = True
            idle = [v.path for i, v in enumerate(function.variables) if i not in function.connected]
            warnings.warn(f"the loss does not depend on {', '.join(idle)}: not trained", stacklevel=2)
        if self._sum_duplicate_rows is None:
            rows = [function.variables[i] for i in connected if isinstance(step.gradient.leaves[i], Rows)]
            duplicates.tell(self._inner, rows)
        summed = self._sum_duplicate_rows is not False and not duplicates.are_summed_by(self._inner)
        gradients = [_as_gradient(step.gradient.leaves[i], function.variables[i], summed) for i in connected]
        # Before the variables change: a strategy may remember a point that nobody has read yet.
        memory = {name: _leaves(value) for name, value in (step.memory or {}).items()}
        self._apply(gradients, [function.variables[i] for i in connected])
        for key, value in step.at.after.items():
            function.changing[key].assign(value)
        for name, leaves in memory.items():
            self._remember(name, leaves)
        if step.then is not None:
            self._move_on(step.then, step.when)
        for name, value in step.logs.items():
            value = tf.cast(value, tf.float32)
            self._log_of(name).assign_add(tf.stack([value, 1.0]))

    def _move_on(self, then: Callable[[Vector], tuple[Vector, Mapping[str, Any]]], when: Any) -> None:
        """Goes from where the optimizer has come to on to where a step wants to be."""
        name = f"then of {type(self.strategy).__name__}.step"

        def go() -> tf.Tensor:
            variables = self.function.variables
            moved = then(Vector([tf.convert_to_tensor(v.value) for v in variables]))
            if not (isinstance(moved, tuple) and len(moved) == 2 and isinstance(moved[1], Mapping)):
                raise TypeError(f"{name} returned {type(moved).__name__}; it must return a Vector and a dictionary of the memory")
            point, memory = moved
            check_vector(point, variables, f"{name} returned as the point")
            self._check_memory(memory, name)
            allowed = Vector([_constrained(leaf, v) for leaf, v in zip(point.leaves, variables, strict=True)])
            remembered = {key: _leaves(allowed if value is point else value) for key, value in memory.items()}
            for variable, leaf in zip(variables, allowed.leaves, strict=True):
                variable.assign(leaf)
            for key, leaves in remembered.items():
                self._remember(key, leaves)
            return tf.zeros([])

        if when is None:
            go()
        else:
            tf.cond(tf.cast(when, tf.bool), go, lambda: tf.zeros([]))

    def _log_of(self, name: str) -> tf.Variable:
        if name not in self.logs:
            with tf.init_scope():  # not `tf.Variable`: a `tf.function` that sees one made is traced a second time
                value = tf.zeros([2])
                self.logs[name] = tensorflow_internals.new_variable(initial_value=value, trainable=False, name=name)
        return self.logs[name]

    def _apply(self, gradients: list[Any], variables: list[Any]) -> None:
        if not variables:
            return
        if isinstance(self._inner, keras.optimizers.MultiOptimizer):  # it takes all that it was built for
            found = {id(v): gradient for v, gradient in zip(variables, gradients, strict=True)}
            variables = list(keras_internals.trained_by(self._inner) or variables)
            gradients = [found.get(id(v)) for v in variables]
        loss_scale = self.function.loss_scale
        with groups_bypassed(), contextlib.nullcontext() if loss_scale is None else loss_scale.standing_aside():
            if self._inner is not self._optimizer or self.function.applied_by == "apply":
                self._inner.apply(gradients, variables)
            else:
                self._optimizer.apply_gradients(list(zip(gradients, variables, strict=True)))

    def _remember(self, name: str, leaves: Sequence[Any]) -> None:
        for variable, leaf in zip(tf.nest.flatten(self.memory[name]), leaves, strict=True):
            variable.assign(tf.cast(dense(leaf), variable.dtype))


def _describe(value: Any) -> str:
    """What memory may hold, in words: two are alike if the words are."""
    if isinstance(value, Vector):
        return f"a Vector of shapes {[tuple(leaf.shape) for leaf in value.leaves]}"
    if not isinstance(value, tf.Variable):
        try:
            value = tf.convert_to_tensor(value)
        except (TypeError, ValueError):  # nothing that TensorFlow knows
            return f"a {type(value).__name__}"
    kind = "number" if value.dtype.is_floating or value.dtype.is_integer else value.dtype.name
    return f"a {kind} tensor of shape {tuple(value.shape)}"


def _is_whole(value: Any) -> bool:
    """Whether a tensor holds whole numbers; a Vector never does: it is of trainable variables."""
    if isinstance(value, Vector):
        return False
    dtype = value.dtype if hasattr(value, "dtype") else tf.convert_to_tensor(value).dtype  # a variable is not read for it
    return tf.as_dtype(dtype).is_integer


def _constrained(leaf: Any, variable: Any) -> tf.Tensor:
    """A variable's new value, where its constraint, if it has one, allows it: after an update constraints hold."""
    value = tf.cast(dense(leaf), variable.dtype)
    constraint = getattr(variable, "constraint", None)
    return value if constraint is None else constraint(value)


def _leaves(value: Any) -> tuple[Any, ...]:
    return value.leaves if isinstance(value, Vector) else (value,)


def _describe_all(memory: Mapping[str, Any]) -> dict[str, str]:
    return {name: _describe(value) for name, value in memory.items()}


def _learning_rate(optimizer: keras.Optimizer, variables: Sequence[Any]) -> tf.Tensor | Vector:
    inner = keras_internals.inner_optimizers(optimizer)
    if inner is None:
        return tf.convert_to_tensor(optimizer.learning_rate)
    return Vector([tf.cast(inner[id(v)].learning_rate, v.dtype) for v in variables])


def _as_gradient(leaf: Any, variable: Any, summed: bool) -> Any:
    if isinstance(leaf, Rows):
        return (leaf.unique() if summed else leaf).to_indexed_slices()
    return tf.cast(leaf, variable.dtype)


def _initial_memory(strategy: StepStrategy, parameters: Vector) -> Mapping[str, Any]:
    memory = strategy.init(parameters)
    if not isinstance(memory, Mapping) or not all(isinstance(name, str) for name in memory):
        raise TypeError(f"{type(strategy).__name__}.init must return a dict of tensors and Vectors by name, not {memory!r}")
    return memory


def _variables_for(name: str, value: Any, strategy: StepStrategy) -> Any:
    """A variable for a tensor; for a Vector, a Vector whose leaves are variables."""
    if isinstance(value, Vector):
        leaves = tuple(tf.Variable(dense(leaf), trainable=False, name=name) for leaf in value.leaves)
        return Vector.__tf_unflatten__((), leaves)
    try:
        return tf.Variable(value, trainable=False, name=name)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{type(strategy).__name__}.init: memory[{name!r}] must be a tensor or a Vector, not {type(value).__name__}"
        ) from error
