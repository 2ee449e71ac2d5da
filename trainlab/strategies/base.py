"""What a step strategy is: the base class, what it reads and what it returns."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.objective import Evaluation
from trainlab.parameters import Vector
from trainlab.reports import notebook

Objective = Callable[[Vector], Evaluation]


class State(NamedTuple):
    """What a step may read: values, never variables.

    Attributes:
        parameters: the trainable variables' values.
        learning_rate: scalar, the optimizer's at this iteration (its schedule applied), in Keras' floatx. Of a
          `keras.optimizers.MultiOptimizer` it is a Vector of one scalar a leaf, the rate of that variable's own optimizer;
          `learning_rate * gradient` means the same with both.
        iteration: scalar int64, updates done so far.
        seed: int32 `[2]`, drawn from the run's seed and the iteration; give it to `tf.random.stateless_*` for noise that is
          new at each step and the same on a rerun.
        memory: the strategy's own values, as `StepStrategy.init` shaped them.

    Example:
        >>> import tensorflow as tf
        >>> seed, zero = tf.constant([0, 1]), tf.constant(0, tf.int64)
        >>> state = State(Vector([tf.ones([2])]), tf.constant(0.1), zero, seed)
        >>> state.parameters - state.learning_rate * state.parameters
        Vector(1 leaves, 2 elements)
    """

    parameters: Vector
    learning_rate: Any
    iteration: tf.Tensor
    seed: tf.Tensor
    memory: Mapping[str, Any] = {}


class Step(NamedTuple):
    """What a step returns.

    Attributes:
        gradient: a `Vector`; the Keras optimizer takes it as it would a gradient: clips, decays, applies constraints, and
          counts one iteration.
        at: the `Evaluation` whose loss and metrics are reported and whose BatchNorm statistics and dropout seeds are kept:
          the one at the point really visited.
        memory: the new memory, with the keys of `init`; None leaves it as it was.
        logs: scalars for the logs, by name, averaged over the updates between two reports.
        then: what is made of the point to which the optimizer has come: from this `Vector` to another one, and to the values of
          the memory that change with it, by name. None leaves the point. It is the last thing that an update does: clipping,
          decay and the optimizer's own average of weights have seen the optimizer's point. Constraints are applied to the new
          one too, and to the memory's if it is that very `Vector`. It may close over what the step has read or computed.
        when: scalar bool, in which updates `then` is asked; None in all.

    Example:
        >>> import tensorflow as tf
        >>> here = Evaluation(tf.constant(0.5), Vector([tf.ones([2])]))
        >>> Step(2 * here.gradient, at=here, logs={"norm": here.gradient.norm()})._fields
        ('gradient', 'at', 'memory', 'logs', 'then', 'when')
    """

    gradient: Vector
    at: Evaluation
    memory: Mapping[str, Any] | None = None
    logs: Mapping[str, Any] = {}
    then: Callable[[Vector], tuple[Vector, Mapping[str, Any]]] | None = None
    when: Any = None


class StepStrategy:
    """Decides where the gradient is evaluated and what is made of it.

    A strategy writes one method. It gets an `objective` and a `State`, evaluates the objective wherever it wants, and
    returns a `Step`. It assigns nothing: the `Trainer` reads every variable before the step and commits once after it.

      >>> class Sam(StepStrategy):
      ...     \"\"\"Sharpness-aware minimization (Foret et al. 2021, https://arxiv.org/abs/2010.01412).\"\"\"
      ...     evaluations = 2
      ...
      ...     def __init__(self, rho=0.05):
      ...         self.rho = rho
      ...
      ...     def step(self, objective, state):
      ...         here = objective(state.parameters)
      ...         uphill = here.gradient * (self.rho / (here.gradient.norm() + 1e-12))
      ...         return Step(objective(state.parameters + uphill).gradient, at=here)
      >>> Sam(rho=0.1)
      Sam(rho=0.1)

    Within a step, every call of `objective` sees the same data (all batches of the update, under `Accumulate`) and starts
    from the same dropout seeds and BatchNorm statistics. What a strategy does not use (a loss without its gradient, the
    metrics of a second evaluation) is never computed in compiled mode (but for an evaluation of several batches that looks
    up rows of an embedding, which without XLA runs whole). A step is traced once and compiled: a Python `if` on a tensor
    does not work in it; use `tf.where`, `tf.cond` or `tf.while_loop` (a `Vector` passes through them).

    A strategy that remembers something between steps shapes its memory in `init` and returns it in `Step.memory`:

      >>> class Averaged(StepStrategy):
      ...     \"\"\"Follows an exponential average of the gradients.\"\"\"
      ...
      ...     def init(self, parameters):
      ...         return {"average": parameters * 0.0}
      ...
      ...     def step(self, objective, state):
      ...         here = objective(state.parameters)
      ...         average = 0.9 * state.memory["average"] + 0.1 * here.gradient
      ...         return Step(average, at=here, memory={"average": average})

    To change a strategy, wrap it: keep it as `inner`, call `inner.step`, and delegate `init`, `evaluations` and `batches`.

    Attributes:
        evaluations: how many times a step evaluates the objective; for the logs.
        batches: how many batches of the data one update takes.
    """

    evaluations: int = 1
    batches: int = 1

    def init(self, parameters: Vector) -> dict[str, Any]:
        """Shapes the memory: a dictionary of tensors and Vectors, whose keys name them in checkpoints. Runs eagerly."""
        del parameters
        return {}

    def step(self, objective: Objective, state: State) -> Step:
        """One step. Runs traced, or eagerly with `run_eagerly=True`.

        Args:
            objective: a pure function from a `Vector` of parameters to an `Evaluation`.
            state: what may be read.

        Returns:
            A `Step`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define step(self, objective, state)")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, read from the attributes of the same names; Keras' convention.

        Strategies and learning-rate schedules among them are described too.

        Raises:
            AttributeError: an argument is not kept under its name.
        """
        config = {}
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if not hasattr(self, name):
                raise AttributeError(
                    f"{type(self).__name__}.__init__ takes {name!r} but self.{name} is not set: "
                    f"keep it as self.{name}, or override get_config"
                )
            value = getattr(self, name)
            config[name] = keras.saving.serialize_keras_object(value) if isinstance(value, _SERIALISED) else value
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> StepStrategy:
        """Builds the strategy that `get_config` described, nested ones included."""
        return cls(
            **{
                name: keras.saving.deserialize_keras_object(value) if isinstance(value, dict) and "class_name" in value else value
                for name, value in config.items()
            }
        )

    def __repr__(self) -> str:
        try:
            names = self.get_config()
        except AttributeError:
            return f"{type(self).__name__}(...)"
        return f"{type(self).__name__}({', '.join(f'{name}={_argument(getattr(self, name))}' for name in names)})"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        steps = [self]
        while isinstance(inner := getattr(steps[-1], "inner", None), StepStrategy) and inner not in steps:
            steps.append(inner)
        return notebook.strategy_html(self, has_memory=type(steps[-1]).init is not StepStrategy.init)


_SERIALISED = (StepStrategy, keras.optimizers.schedules.LearningRateSchedule)


def _argument(value: Any) -> str:
    """An argument as it is written, the same in every process: without the address of a function, or of a schedule."""
    if not isinstance(value, keras.optimizers.schedules.LearningRateSchedule) or type(value).__repr__ is not object.__repr__:
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    try:
        config = value.get_config()
    except NotImplementedError:
        return f"{type(value).__name__}(...)"
    return f"{type(value).__name__}({', '.join(f'{name}={each!r}' for name, each in config.items() if name != 'name')})"
