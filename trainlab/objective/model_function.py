"""A Keras model's loss and gradient on one batch, as a pure function: the one place that swaps variables for values."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import tensorflow as tf

from trainlab.objective import denominators
from trainlab.objective.backward_order import filters_first
from trainlab.objective.graphs import check_operations
from trainlab.objective.keras_internals import compile_loss, compile_metrics, flat_losses, layers_of, loss_tracker
from trainlab.objective.pure import Lookups, Scope, StandIn, is_reachable, opened
from trainlab.objective.scaling import LossScale, loss_scale_of
from trainlab.parameters import Rows, Table, Vector, dense, tensorflow_internals

Batch = tuple[Any, Any, Any]  # x, y, sample_weight; y and sample_weight may be None


def wide(parameters: Vector) -> tf.DType:
    """The dtype that sums over batches are taken in."""
    return tf.float64 if any(leaf.dtype == tf.float64 for leaf in parameters.parts) else tf.float32


class ModelFunction:
    """Evaluates a compiled, built model at given parameters, from given state, and assigns nothing.

    Attributes:
        model: the model.
        variables: its trainable variables, in the order of a `Vector`'s leaves.
        changing: the variables that evaluations were seen to change, by id: BatchNorm statistics, seeds, metrics, and the
          global seed generator where a layer draws from it. Grows while tracing.
        sparse: the leaves whose gradient is row-sparse. Grows while tracing.
        connected: the leaves that some evaluation's loss depends on. Grows while tracing.
        reports: variables that hold what an overridden `compute_metrics` returned last, by name.
        applied_by: the optimizer's method that gradients are handed to.
    """

    applied_by = "apply_gradients"  # as Keras' own step does: an optimizer may override it

    def __init__(self, model: keras.Model):
        """Takes a model that is compiled and built, its losses, metrics and optimizer too."""
        self.model = model
        self.variables = list(model.trainable_variables)
        self.changing: dict[int, Any] = {id(v): v for v in loss_tracker(model).variables}
        self.sparse: set[int] = set()
        self.connected: set[int] = set()
        self.reports: dict[str, tf.Variable] = {}
        self.num_losses = len(flat_losses(model))
        self._state = {id(v): v for v in _state_variables(model)}
        self._tables = _tables(model)
        self._loss_takes_training = "training" in inspect.signature(model.compute_loss).parameters
        self._metrics_are_custom = type(model).compute_metrics is not keras.Model.compute_metrics

    @property
    def loss_scale(self) -> LossScale | None:
        """How the loss is scaled before it is differentiated; None if it is not. What evaluations return is true either way."""
        return loss_scale_of(self.model.optimizer)

    @property
    def num_discoveries(self) -> int:
        """Grows whenever an evaluation shows something that a loop round it must carry."""
        return len(self.changing) + len(self.sparse)

    @property
    def state_variables(self) -> list[Any]:
        """The variables that an evaluation may read or change and that are not trained; a loss scale that moves is one."""
        scale = [] if self.loss_scale is None else self.loss_scale.variables
        return list({**self._state, **self.changing, **{id(v): v for v in scale}}.values())

    @property
    def known_last(self) -> set[int]:
        """The variables, by id, whose values are not known before all batches are evaluated: those of the loss tracker."""
        return {id(v) for v in loss_tracker(self.model).variables}

    def read_parameters(self) -> Vector:
        """The trainable variables' current values."""
        is_lazy = not tf.executing_eagerly()
        return Vector(
            [Table(native(v)) if is_lazy and id(v) in self._tables else tf.convert_to_tensor(v.value) for v in self.variables]
        )

    def read_state(self) -> dict[int, tf.Tensor]:
        """The other variables' current values, by id."""
        return {id(v): tf.convert_to_tensor(native(v)) for v in self.state_variables}

    def check_parameters(self, parameters: Any) -> None:
        """Raises TypeError or ValueError, in one line, if `parameters` is not a Vector of this model."""
        check_vector(parameters, self.variables, "the objective was called with")

    def __call__(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, totals: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """Loss, gradient, and the values of the variables that changed.

        Args:
            parameters: where.
            state: what `read_state` gave, or an earlier batch left.
            batch: `(x, y, sample_weight)`.
            totals: the effective batch's denominators if this batch is one of several: loss and gradient are then its share of
              theirs, and the mean of the loss is left to `track_loss`.
        """
        first_operation, loss_scale = num_operations(), self.loss_scale
        # This tape watches what it meets: a variable met here was not swapped, and would never be trained.
        with tf.GradientTape() as tape:
            scope = self.scope_at(parameters, state, tape)
            before = scope.values()
            with opened(scope), self._shared(batch, totals):
                y_pred, loss = self._forward(batch, totals)
                target = loss if loss_scale is None else loss_scale.scaled(loss)
        with opened(scope):
            results = self._update_metrics(batch, y_pred, None if totals is not None else loss)
        self.check_forward(scope, tape, first_operation)
        with opened(scope.again(before)):  # for functions with a gradient of their own, which may read variables
            gradients = self._gradients(tape, target, scope.lookups, parameters)
            if loss_scale is not None:
                gradients = loss_scale.unscaled(gradients)
        if totals is not None and not tf.executing_eagerly():  # who accumulates is short of memory
            filters_first(tf.compat.v1.get_default_graph().get_operations()[first_operation:])
        return loss, self.gradient_of(gradients, parameters), self.state_after(scope, state, results)

    def denominators(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, left: dict[int, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """`[num_losses + 1]`: what each compiled loss divides by on this batch and, last, the number of examples.

        Args:
            parameters: where.
            state: what `read_state` gave, or an earlier batch left.
            batch: `(x, y, sample_weight)`.
            left: takes the seeds, and other whole numbers, that the forward pass leaves, by the variable's id.
        """
        examples, scope = denominators.num_examples(batch[0]), self.scope_at(parameters, state)
        with opened(scope), denominators.counted(self.model, examples, None) as found:
            self._forward(batch, None)
        if left is not None:
            values = {key: scope.get_current_value(variable) for key, variable in scope.updated.items() if key in state}
            left |= {key: value for key, value in values.items() if value.dtype.is_integer and is_reachable(value)}
        dtype = wide(parameters)
        zero = tf.zeros([], dtype)
        counts = [tf.cast(found.get(index, zero), dtype) for index in range(self.num_losses)]
        return tf.stack([*counts, tf.cast(examples, dtype)])

    def track_loss(self, loss: tf.Tensor, examples: tf.Tensor, state: Mapping[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        """The loss tracker's variables after it has seen an effective batch."""
        tracker = loss_tracker(self.model)
        with Scope([(v, state[id(v)]) for v in tracker.variables]) as scope:
            tracker.update_state(loss, sample_weight=examples)
        return {id(v): scope.get_current_value(v) for v in tracker.variables}

    def reported(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], batch: Batch, kept: Collection[int]
    ) -> Mapping[str, Any]:
        """What an evaluation would report, by name, if the variables `kept`, by id, held what is in `state` and stayed so."""
        scope = self.scope_at(parameters, state)
        scope.kept = kept
        with opened(scope):
            y_pred, _ = self._forward(batch, None)
            return self._update_metrics(batch, y_pred, None)

    def look_at(self, fetch: Callable[[], Batch]) -> None:
        """Learns what must be known before the state is read; `fetch` returns a batch."""
        del fetch

    def late(
        self, parameters: Vector, state: Mapping[int, tf.Tensor], fetch: Callable[[], Batch]
    ) -> list[tuple[tf.Variable, tf.Tensor]]:
        """What an update changes that is known only once the optimizer has changed the weights: variables and their values.

        Args:
            parameters: where the update began.
            state: what it began with.
            fetch: returns its last batch.
        """
        del parameters, state, fetch
        return []

    def _shared(self, batch: Batch, totals: tf.Tensor | None) -> contextlib.AbstractContextManager[Any]:
        if totals is None:
            return denominators.trackers_told(self.model, batch[0])  # one batch differentiates the loss's own mean, untouched
        return denominators.counted(self.model, denominators.num_examples(batch[0]), totals)

    def scope_at(self, parameters: Vector, state: Mapping[int, tf.Tensor], tape: tf.GradientTape | None = None) -> Scope:
        """A scope in which the model is at these parameters and in this state; `tape` watches what is read of them."""
        values = dict(zip(map(id, self.variables), parameters.parts, strict=True))
        tables = {key: part for key, part in values.items() if isinstance(part, Table) and not part.is_read}
        pairs = [(v, dense(values[id(v)])) for v in self.variables if id(v) not in tables]
        if tape is not None:
            tape.watch([value for _, value in pairs])
        swapped = [(v, state[id(v)]) for v in self.state_variables if id(v) in state and not isinstance(v, tf.Variable)]
        return Scope([*pairs, *swapped], {id(v): v for v in self.model.trainable_variables}, Lookups(tables, tape))

    def _forward(self, batch: Batch, totals: tf.Tensor | None) -> tuple[Any, tf.Tensor]:
        x, y, sample_weight = batch
        kwargs = {"training": True} if self._loss_takes_training else {}
        y_pred = self.model(x, training=True)
        loss = self.model.compute_loss(x, y, y_pred, sample_weight, **kwargs)
        if loss is None:
            raise ValueError("compute_loss returned None while training; it must return a scalar")
        loss = tf.convert_to_tensor(loss)
        if loss.shape.rank != 0:
            raise ValueError(
                f"the loss must be a scalar, not a tensor of shape {loss.shape}: "
                'give it a reduction such as "sum_over_batch_size"'
            )
        if totals is not None:
            share = tf.math.divide_no_nan(tf.cast(denominators.num_examples(x), totals.dtype), totals[-1])
            loss = loss * tf.cast(share, loss.dtype)
        return y_pred, loss

    def _update_metrics(self, batch: Batch, y_pred: Any, loss: tf.Tensor | None) -> Mapping[str, Any]:
        x, y, sample_weight = batch
        if loss is not None:
            # The tracker's own dtype, whatever Keras makes of an int64 weight.
            examples = tf.cast(denominators.num_examples(x), tf.float32)
            loss_tracker(self.model).update_state(loss, sample_weight=examples)
        results = self.model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return flat_logs(values_of(results)) if self._metrics_are_custom else {}

    def _gradients(self, tape: tf.GradientTape, loss: tf.Tensor, lookups: Lookups, parameters: Vector) -> list[Any]:
        """Of each variable, by what was read of it."""
        readings = [lookups.of(v) for v in self.variables]
        pairs = zip(readings, parameters.parts, strict=True)
        gradients = tape.gradient(loss, [[dense(part)] if reading is None else reading.sources for reading, part in pairs])
        return [
            found[0] if reading is None else reading.joined(found) for reading, found in zip(readings, gradients, strict=True)
        ]

    def gradient_of(self, gradients: list[Any], parameters: Vector) -> Vector:
        """A Vector of gradients in the order of `variables`: tensors, `tf.IndexedSlices`, or None for zero."""
        leaves: list[Any] = []
        for i, (gradient, leaf) in enumerate(zip(gradients, parameters.parts, strict=True)):
            if gradient is None:
                leaves.append(tf.zeros(leaf.shape, leaf.dtype))
                continue
            self.connected.add(i)
            if isinstance(gradient, tf.IndexedSlices):
                self.sparse.add(i)
                gradient = Rows(gradient.values, gradient.indices, leaf.shape[0])
            else:
                gradient.set_shape(leaf.shape)  # which batches of open size can hide, from a strategy's memory for one
            leaves.append(gradient)
        return Vector(leaves)

    def state_after(self, scope: Scope, state: Mapping[int, tf.Tensor], results: Mapping[str, Any]) -> dict[int, tf.Tensor]:
        """What was assigned in a scope and differs from `state`, by id, and what was reported, by the id of its variable."""
        after = {}
        for key, variable in scope.updated.items():
            value = scope.get_current_value(variable)
            if not is_reachable(value):
                raise ValueError(
                    f"layer {_owners(self.model, variable)} changes its state {variable.path!r} inside a tf.cond, a loop or a "
                    "map, where a pure evaluation cannot follow: draw or assign outside it (in an RNN: the layer's own dropout)"
                )
            if value is not state.get(key):
                self.changing[key] = variable
                after[key] = value
        for name, value in results.items():
            variable = self.report_of(name, value)
            self.changing[id(variable)] = variable
            after[id(variable)] = tf.convert_to_tensor(value)
        return after

    def report_of(self, name: str, value: Any) -> tf.Variable:
        """The variable that holds what was reported last under this name; made if there is none."""
        if name not in self.reports:
            value = tf.convert_to_tensor(value)
            with tf.init_scope():
                zeros = tf.zeros(value.shape, value.dtype)
                self.reports[name] = tensorflow_internals.new_variable(initial_value=zeros, trainable=False, name=name)
        return self.reports[name]

    def check_forward(self, scope: Scope, tape: Any, first_operation: int) -> None:
        """Raises ValueError, in one line, if something was done in a scope that a pure evaluation cannot do."""
        for variable in self.variables:
            if id(variable) in scope.updated:
                raise ValueError(
                    f"layer {_owners(self.model, variable)} assigns its trainable variable {variable.path!r} in its forward pass "
                    "(as SpectralNormalization does), which has no gradient of its own: train this model without that layer"
                )
        trained = {v.value.ref(): v for v in self.variables}
        frozen = {v.value.ref() for v in self._state.values()}
        strangers = {v.value.ref(): v for v in scope.strangers.values()}
        for variable in tape.watched_variables():
            if isinstance(variable, StandIn):
                continue
            if variable.ref() in trained:
                owners = _owners(self.model, trained[variable.ref()])
                raise ValueError(
                    f"layer {owners} reads its variable {variable.name!r} past Keras (from a function traced before?): "
                    "read it in call, as self.kernel or by calling the layer"
                )
            stranger = strangers.get(variable.ref())
            if stranger is not None and stranger.trainable:
                raise ValueError(
                    f"the model or its loss reads the trainable keras.Variable {stranger.path!r} of shape {stranger.shape}, "
                    "which is none of the model's, so that nothing would train it: make it a weight of the model (by "
                    "self.add_weight, or in a layer of it) and use it in compute_loss; or, if it is a constant, such as a "
                    "teacher's, set trainable=False on it or on the layer or model that it belongs to"
                )
            if stranger is None and variable.ref() not in frozen:
                raise ValueError(
                    f"the model reads the raw tf.Variable {variable.name!r} of shape {variable.shape}, which Keras does not "
                    "track and nothing would train: give it trainable=False if it is a constant, and otherwise make it with "
                    "self.add_weight or keras.Variable"
                )
        if not tf.executing_eagerly():
            check_operations(tf.compat.v1.get_default_graph(), first_operation, self.model)


def flat_logs(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs sorted by name, those of a metric whose result is a dictionary among them; as Keras does."""
    flat: dict[str, Any] = {}
    for name, value in sorted(logs.items()):
        flat.update(flat_logs(value) if isinstance(value, Mapping) else {name: value})
    return flat


def values_of(logs: Any) -> Any:
    """Logs with the values of variables in their places, as they are now: a scope's, while one is open."""
    return keras.tree.map_structure(
        lambda leaf: tf.convert_to_tensor(leaf.value) if isinstance(leaf, keras.Variable) else leaf, logs
    )


def native(variable: Any) -> tf.Variable:
    """The `tf.Variable` behind a Keras variable, or the variable itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value


def check_vector(vector: Any, variables: list[Any], what: str) -> None:
    """Raises TypeError or ValueError, in one line that starts with `what`, unless `vector` has these variables' shapes."""
    if not isinstance(vector, Vector):
        raise TypeError(f"{what} {type(vector).__name__}; it must be a Vector, such as state.parameters")
    if len(vector.parts) != len(variables):
        raise ValueError(
            f"{what} a Vector of {len(vector.parts)} leaves, but this model has {len(variables)} trainable variables: "
            "is it another model's?"
        )
    for leaf, variable in zip(vector.parts, variables, strict=True):
        if not leaf.shape.is_compatible_with(variable.shape):
            raise ValueError(
                f"{what} a Vector whose leaf for {variable.path!r} has shape {leaf.shape}, not {tuple(variable.shape)}: "
                "is it another model's?"
            )


def _tables(model: keras.Model) -> set[int]:
    """Variables of which rows are looked up, by id."""
    embeddings = [layer for layer in layers_of(model) if isinstance(layer, keras.layers.Embedding)]
    return {id(v) for layer in embeddings for v in layer.trainable_variables}


def _state_variables(model: keras.Model) -> list[Any]:
    return list({id(v): v for v in (*model.non_trainable_variables, *metric_variables(model))}.values())


def metric_variables(model: keras.Model) -> list[Any]:
    """The variables that hold what is reported of a model: of its metrics, and of its losses."""
    found: list[Any] = list(model.metrics_variables)
    for tracker in (loss_tracker(model), compile_metrics(model), compile_loss(model)):
        # Missing from `metrics_variables` where a model overrides `metrics`.
        found.extend(tracker.variables if tracker is not None else [])
    return found


def _owners(model: keras.Model, variable: Any) -> str:
    layers = [layer for layer in layers_of(model, include_self=False) if any(v is variable for v in layer.variables)]
    return " > ".join(repr(layer.name) for layer in layers) or repr(model.name)


def num_operations() -> int:
    """How many operations the graph being built has; 0 eagerly."""
    return 0 if tf.executing_eagerly() else len(tf.compat.v1.get_default_graph().get_operations())
