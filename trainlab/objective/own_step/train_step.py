"""A model's own `train_step` as a pure function: the gradient that it would have applied, the state that it would have left."""

from __future__ import annotations

import re
import warnings
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from trainlab.objective import cutting, denominators, keras_internals
from trainlab.objective.backward_order import filters_first
from trainlab.objective.graphs import check_operations, computed_from
from trainlab.objective.model_function import Batch, ModelFunction, flat_logs, native, num_operations, values_of, wide
from trainlab.objective.own_step.recording import Recorder
from trainlab.objective.pure import Scope, functions_inlined, opened
from trainlab.parameters import Vector, tensorflow_internals

_UNTRACEABLE = (NotImplementedError, AttributeError, TypeError, tf.errors.OperatorNotAllowedInGraphError)
_warned: set[type] = set()
_built: weakref.WeakSet[Any] = weakref.WeakSet()  # the loss trackers, of which each `compile` makes one, of what was built here


class Whole(NamedTuple):
    """In place of x: what a data set holds, where that is no `x`, `(x, y)` or `(x, y, sample_weight)`, as a step may like it."""

    element: Any


def has_own_step(model: Any) -> bool:
    """Whether a model defines a `train_step` of its own."""
    return type(model).train_step is not keras.Model.train_step or "train_step" in vars(model)


def packed(batch: Batch) -> Any:
    """What Keras hands to a `train_step` of a batch: x, `(x, y)` or `(x, y, sample_weight)`, or an element as it is."""
    if isinstance(batch[0], Whole):
        return batch[0].element
    return keras.utils.pack_x_y_sample_weight(*batch)


def build_by_step(model: keras.Model, specs: Batch) -> None:
    """Builds the layers, the metrics, and the optimizer for the variables that `train_step` applies gradients to.

    The step is traced for batches of any size, lest a layer keep that of the first, and for these batches if it needs theirs.

    Raises:
        ValueError: it is not one step of one optimizer, or cannot be traced; one line.
    """
    tracker = keras_internals.loss_tracker(model)
    if tracker in _built:
        return
    recorders: list[Recorder] = []

    def step(x: Any, y: Any, sample_weight: Any) -> None:
        recorders.append(Recorder(model))
        with functions_inlined(), recorders[-1].open():
            _call(model, (x, y, sample_weight))

    try:
        _traced(model, step, tf.nest.map_structure(any_size, specs))
    except Exception:  # what users' code does with a size that is None may raise anything
        _traced(model, step, specs)
    _check_applied(model, recorders[-1])
    if not model.optimizer.built:
        model.optimizer.build(recorders[-1].variables)
    _built.add(tracker)


def any_size(spec: Any) -> Any:
    """The same for batches of any size: a model must not keep the size of those that it was first trained on."""
    return spec if spec is None or not spec.shape.rank else cutting.sized(spec, None)


class TrainStepFunction(ModelFunction):
    """Evaluates the `train_step` of a compiled, built model at given parameters, from given state, and assigns nothing.

    Its loss is what the step's tape differentiates; the gradient is what it would have applied, whatever it was made of.

    What the step assigns once its gradients are applied, and that depends on the weights then (an average of them, a target
    network), is not known before the update is made: `late` computes it.
    """

    def __init__(self, model: keras.Model):
        """Takes a model that is compiled and built, by `build_by_step`."""
        super().__init__(model)
        self.num_losses = 0
        self._state |= {id(v): v for v in model.optimizer.variables}  # a step may read its count, before and after
        trained = {id(v) for v in keras_internals.trained_by(model.optimizer) or self.variables}
        self._state |= {id(v): v for v in self.variables if id(v) not in trained}
        self.variables = [v for v in self.variables if id(v) in trained]
        self._tables = set()  # the step's own tape would not know rows that are looked up
        self._late: set[Any] | None = None  # variables by id, and reports by name; None as long as nobody has looked

    @property
    def known_last(self) -> set[int]:
        """None: see `track_loss`."""
        return set()

    def look_at(self, fetch: Callable[[], Batch]) -> None:
        """See `ModelFunction`."""
        if self._late is None:
            self._late = self._find_late(fetch())

    def __call__(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, totals: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """See `ModelFunction`; of several batches each weighs by its examples."""
        assert self._late is not None  # KerasObjective has looked
        first_operation = num_operations()
        recorder = Recorder(self.model)
        with tf.GradientTape() as tape:
            scope = self.scope_at(parameters, state, tape)
            with opened(scope), recorder.open():
                logs = self._step(batch)
        self._check_step(recorder, scope, logs)
        self.check_forward(scope, tape, first_operation)
        self.applied_by = recorder.by or self.applied_by
        gradients = [recorder.gradients.get(id(v)) for v in self.variables]
        if self.loss_scale is not None:
            with scope:
                gradients = self.loss_scale.unscaled(gradients)
        gradient = self.gradient_of(gradients, parameters)
        loss = recorder.loss if recorder.loss is not None else tf.convert_to_tensor(flat_logs(logs)["loss"])
        if totals is not None:
            share = tf.math.divide_no_nan(tf.cast(denominators.num_examples(batch[0]), totals.dtype), totals[-1])
            loss, gradient = loss * tf.cast(share, loss.dtype), gradient * share
            if not tf.executing_eagerly():
                filters_first(tf.compat.v1.get_default_graph().get_operations()[first_operation:])
        results = {name: value for name, value in flat_logs(logs).items() if name not in self._late}
        after = self.state_after(scope, state, results)
        return loss, gradient, {key: value for key, value in after.items() if key not in self._late}

    def denominators(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, left: dict[int, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """`[1]`: the number of examples, which no state changes."""
        del state, left
        if type(self.model) not in _warned:
            _warned.add(type(self.model))
            warnings.warn(
                f"{type(self.model).__name__}.train_step makes its loss itself: of several batches in an update each weighs "
                "by its examples, which is exact where the loss is a mean over them",
                stacklevel=2,
            )
        return tf.cast(denominators.num_examples(batch[0]), wide(parameters))[None]

    def track_loss(self, loss: tf.Tensor, examples: tf.Tensor, state: Mapping[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        """Nothing: the step keeps its own account."""
        del loss, examples, state
        return {}

    def reported(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, kept: Collection[int]
    ) -> Mapping[str, Any]:
        """See `ModelFunction`."""
        scope = self.scope_at(parameters, state)
        scope.kept = kept
        with opened(scope), Recorder(self.model).open():
            return flat_logs(self._step(batch))

    def late(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], fetch: Callable[[], Batch]
    ) -> list[tuple[tf.Variable, tf.Tensor]]:
        """See `ModelFunction`."""
        if not self._late:
            return []
        scope = self.scope_at(parameters, state)
        new = [(id(v), native(v)) for v in self._moved]  # inside, a Keras variable is its value

        def applied() -> None:
            for key, variable in new:
                scope.state_mapping[key] = tf.convert_to_tensor(variable)

        with opened(scope), Recorder(self.model, applied).open():
            logs = flat_logs(self._step(fetch()))
        found = [(native(v), scope.get_current_value(v)) for key, v in scope.updated.items() if key in self._late]
        return found + [(self.report_of(name, value), value) for name, value in logs.items() if name in self._late]

    @property
    def _moved(self) -> list[Any]:
        """What the optimizer changes."""
        return [*self.variables, *self.model.optimizer.variables]

    def _step(self, batch: Batch) -> Any:
        with denominators.trackers_told(self.model, batch[0], always=True):
            return values_of(_call(self.model, batch))

    def _find_late(self, batch: Batch) -> set[Any]:
        """What depends on the weights after the update, by a trace of which nothing is run; and what else is assigned.

        Raises:
            ValueError: it is not one step of one optimizer, or cannot be traced; one line.
        """
        late: set[Any] = set()
        parameters, state = self.read_parameters(), self.read_state()

        def step() -> tf.Tensor:
            scope, marks = self.scope_at(parameters, state), []
            scale = self._marked_scale(scope)
            moved = [(id(v), v.dtype) for v in self._moved]

            def applied() -> None:
                for key, dtype in moved:
                    value = tf.cast(scope.state_mapping[key], dtype)
                    marks.append(tf.identity(value))
                    scope.state_mapping[key] = marks[-1]

            recorder = Recorder(self.model, applied)
            with opened(scope), recorder.open():
                logs = self._step(batch)
            self._check_step(recorder, scope, logs)
            self._check_scaled(recorder, scale)
            check_operations(tf.compat.v1.get_default_graph(), 0, self.model)  # an eager step would not be looked at
            assigned, dependent = [(key, scope.state_mapping[key]) for key in scope.updated], computed_from(marks)
            late.update(key for key, value in (*assigned, *flat_logs(logs).items()) if _depends(value, dependent))
            for metric in self.model.metrics:  # what is told once an update is counted once, of several batches too
                keys = {id(v) for v in metric.variables}
                late.update(keys & scope.updated.keys() if late & keys else ())
            self._state |= scope.updated
            self.changing |= {key: variable for key, variable in scope.updated.items() if key not in late}
            return tf.zeros([])

        _traced(self.model, step, ())
        return late

    def _marked_scale(self, scope: Scope) -> list[tf.Tensor]:
        """The loss scale, if it moves, as a tensor that nothing else reads in this scope than the step itself."""
        if self.loss_scale is None or not self.loss_scale.is_dynamic:
            return []
        key = id(self.loss_scale.variable)
        scope.state_mapping[key] = tf.identity(scope.state_mapping[key])
        return [scope.state_mapping[key]]

    def _check_scaled(self, recorder: Recorder, scale: list[tf.Tensor]) -> None:
        """Raises ValueError, in one line, where gradients are to be divided by a loss scale that is not in them."""
        if self.loss_scale is None or recorder.has_scaled or _depends(recorder.gradients, computed_from(scale)):
            return
        raise ValueError(
            f"{type(self.model).__name__}.train_step does not scale its loss, and {type(self.model.optimizer).__name__} divides "
            "gradients by the loss scale: write loss = self.optimizer.scale_loss(loss) before tape.gradient"
        )

    def _check_step(self, recorder: Recorder, scope: Scope, logs: Any) -> None:
        name = f"{type(self.model).__name__}.train_step"
        _check_applied(self.model, recorder)
        trained = {id(v) for v in self.variables}
        for variable in recorder.variables:
            if id(variable) not in trained:
                raise ValueError(
                    f"{name} applies a gradient to {variable.path!r}, which the optimizer was not built for: "
                    "call model.compile again"
                )
        own = {id(v) for v in self.model.optimizer.variables}
        for key, variable in scope.updated.items():
            if key in own:
                raise ValueError(
                    f"{name} assigns the optimizer's {variable.path!r}, which an update must find as it is: "
                    "use a learning rate schedule or a callback"
                )
            if key in trained:
                raise ValueError(
                    f"{name} assigns the weight {variable.path!r} that it also trains, past the optimizer: a step is one update; "
                    "give the layer a constraint, or write a StepStrategy"
                )
        if not isinstance(logs, Mapping):
            raise ValueError(f"{name} must return a dictionary of logs, not {type(logs).__name__}")
        metrics = keras_internals.metric_directions(self.model)  # whose result may be several numbers, as F1Score's is
        for log, value in flat_logs(logs).items():
            shape = getattr(value, "shape", None)
            if value is None or isinstance(value, str) or (shape is not None and len(shape) > 0 and log not in metrics):
                is_of = repr(value) if shape is None else f"a tensor of shape {tuple(shape)}"
                raise ValueError(f"{name} returns logs[{log!r}] as {is_of}: a log is a number, such as the mean")
        if recorder.loss is None and "loss" not in flat_logs(logs):
            raise ValueError(f"{name} differentiates no loss by a tf.GradientTape: nothing says what its gradient is of")


def _call(model: keras.Model, batch: Batch) -> Any:
    step = model.train_step
    if isinstance(step, tf.types.experimental.PolymorphicFunction):  # with XLA it would keep its gradients to itself
        return tensorflow_internals.call_python(step, (packed(batch),), {})
    return step(packed(batch))


def _check_applied(model: keras.Model, recorder: Recorder) -> None:
    if recorder.by is None or not recorder.variables:
        raise ValueError(
            f"{type(model).__name__}.train_step applies no gradient by model.optimizer.apply or apply_gradients: "
            "there is nothing to make a step of"
        )
    if all(gradient is None for gradient in recorder.gradients.values()):
        raise ValueError(
            f"{type(model).__name__}.train_step applies gradients that are all None: its loss does not depend on these weights"
        )


def _traced(model: keras.Model, step: Callable[..., Any], specs: Any) -> None:
    def traced(*args: Any) -> Any:
        with tf.variable_creator_scope(_made_at_once):
            return step(*args)

    name = f"{type(model).__name__}.train_step"
    try:
        tf.function(traced, autograph=False).get_concrete_function(*specs)
    except Exception as error:  # users' code may raise anything
        text = str(error)
        if text.startswith("in user code:") and f"ValueError: {name} " in text:  # one of our lines, as AutoGraph tells it
            raise ValueError(text.rpartition("ValueError: ")[2].strip()) from error
        if isinstance(error, _UNTRACEABLE) and re.search("symbolic|numpy\\(", text, re.IGNORECASE):
            text = " ".join(text.split())
            raise ValueError(
                f"{name} cannot be traced, which a pure evaluation needs, run_eagerly or not: {text[:300]}"
            ) from error
        raise


def _made_at_once(creator: Callable[..., Any], **kwargs: Any) -> Any:
    """Makes a variable, which a `tf.function` would fill only once it is traced to its end."""
    if not callable(kwargs.get("initial_value")):
        return creator(**kwargs)
    with tf.init_scope():
        return tensorflow_internals.new_variable(**kwargs)


def _depends(value: Any, operations: set[Any]) -> bool:
    return any(getattr(leaf, "op", None) in operations for leaf in tf.nest.flatten(value, expand_composites=True))
