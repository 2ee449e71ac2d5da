"""The objective: loss and gradient of an effective batch, as a pure function of the parameters."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.objective.model_function import Batch, ModelFunction, wide
from trainlab.parameters import Rows, Table, Vector, dense

# Of a forward pass whose evaluations are written out: multilayer perceptrons have 40 to 60, a transformer of two layers 266.
_MAX_OPERATIONS = 128
# What it computes of one batch, at most: of those that are written out XLA was seen to keep that of all in memory, TensorFlow
# that of two. Where it takes longer nothing is gained anyway.
_MAX_BYTES = 2**22
_OPEN_SIZE = 256  # what a size that only the data tell is counted as


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What the objective knows at one point.

    Attributes:
        loss: scalar, float.
        gradient: `Vector`, the loss's gradient with respect to the parameters.
        after: the values that the forward pass left in other variables (BatchNorm statistics, dropout seeds, metrics), by the
          variable's id; the Trainer's business.
    """

    loss: tf.Tensor
    gradient: Vector
    after: Mapping[int, tf.Tensor] = dataclasses.field(default_factory=dict)

    def __tf_flatten__(self) -> tuple[tuple[int, ...], tuple[Any, ...]]:
        return tuple(self.after), (self.loss, self.gradient, *self.after.values())

    @classmethod
    def __tf_unflatten__(cls, metadata: tuple[int, ...], components: tuple[Any, ...]) -> Evaluation:
        loss, gradient, *after = components
        return cls(loss, gradient, dict(zip(metadata, after, strict=True)))


class Batches(NamedTuple):
    """Batches of one trace, fetched one at a time.

    Attributes:
        num_batches: how many: a Python int, or a scalar int32 tensor where only the data tell.
        fetch: from a scalar index in `[0, num_batches)` to `(x, y, sample_weight)`.
        may_unroll: whether they may be written out one after the other rather than looped over: a few, where memory is not
            short.
    """

    num_batches: int | tf.Tensor
    fetch: Callable[[Any], Batch]
    may_unroll: bool = False

    @property
    def is_one(self) -> bool:
        """Whether it is known to be one batch."""
        return isinstance(self.num_batches, int) and self.num_batches == 1

    def unrolled(self) -> list[Batches]:
        """The same, each by itself."""
        assert isinstance(self.num_batches, int)
        return [Batches(1, functools.partial(lambda j, _: self.fetch(j), j)) for j in range(self.num_batches)]


class KerasObjective:
    """The objective of a Keras model on an effective batch: one batch, or several evaluated one after the other.

    One batch differentiates the loss's own mean: bit for bit what a bare tape gives. Several are weighted by the
    denominators that their losses use (see `denominators`), which a pass that computes nothing else finds first.
    """

    def __init__(self, function: ModelFunction, batches: Sequence[Batches]):
        """Reads, by `function`, the state that every evaluation starts from.

        Args:
            function: the model's loss and gradient on one batch.
            batches: what the effective batch is made of, in order.
        """
        self._function = function
        self._batches = list(batches)
        function.look_at(lambda: batches[0].fetch(0))
        self._start = function.read_state()
        self._totals: tf.Tensor | None = None
        self._last: list[tf.Tensor] = []
        if len(batches) > 1 or not batches[0].is_one:
            self._totals, self._batches = self._survey(function.read_parameters())
        self._is_written_out = len(self._batches) > len(batches)

    def __call__(self, parameters: Vector) -> Evaluation:
        """Evaluates loss and gradient at `parameters`.

        Raises:
            TypeError, ValueError: `parameters` is not a Vector of this model.
        """
        self._function.check_parameters(parameters)
        # A point may be some rows, the rest zero: made whole once, so that what is watched is what is used.
        point = Vector([part if isinstance(part, Table) else dense(part) for part in parameters.parts])
        evaluation = self._evaluate(self._after_the_last(point))
        self._last = [evaluation.loss, *tf.nest.flatten(evaluation.gradient, expand_composites=True)]
        return evaluation

    def late(self, parameters: Vector) -> list[tuple[tf.Variable, tf.Tensor]]:
        """What is known only once the optimizer has changed the weights: variables and their values (see `ModelFunction.late`).

        Args:
            parameters: where the update began.
        """
        last = self._batches[-1]
        return self._function.late(parameters, self._start, lambda: last.fetch(last.num_batches - 1))

    def _after_the_last(self, parameters: Vector) -> Vector:
        """The same, for an evaluation that waits for the one before it, lest the activations of two are in memory at once.

        Where the point does not depend on the gradient before, nothing else would keep them apart; where it does, one part of
        a model that is done early would begin anew while others are not done. XLA does not look at it.
        """
        if tf.executing_eagerly():
            return parameters
        graph = tf.compat.v1.get_default_graph()
        before = [tensor for tensor in self._last if tensor.graph is graph]  # others are a loop's own
        if not before:
            return parameters
        with tf.control_dependencies(before):
            parts = [p.waiting_for(before) if isinstance(p, Table) else tf.identity(p) for p in parameters.parts]
        return Vector(parts)

    def _evaluate(self, parameters: Vector) -> Evaluation:
        if self._totals is None:
            return Evaluation(*self._function(parameters, self._start, self._batches[0].fetch(0)))
        if not self._function.connected and not tf.executing_eagerly():  # nothing was ever evaluated
            _traced_aside(lambda: self._function(parameters, self._start, self._batches[0].fetch(0), self._totals)[0])
        while True:
            known = self._function.num_discoveries
            evaluation = self._accumulate(parameters)
            # A loop must know beforehand what it carries. If tracing its body discovered a variable that changes, or a
            # gradient that is row-sparse, that a first batch did not, trace once more.
            if self._function.num_discoveries == known:
                return evaluation

    def _survey(self, parameters: Vector) -> tuple[tf.Tensor, list[Batches]]:
        """What a forward pass tells beforehand.

        Returns:
            `[num_losses + 1]`, the batches' denominators and numbers of examples, added up; and the batches, those of a small
            model written out where they may be.
        """
        total = tf.zeros([self._function.num_losses + 1], wide(parameters))
        written_out: list[Batches] = []

        def count(batch: Batch) -> tf.Tensor:
            return self._function.denominators(parameters, self._start, batch)

        for part in self._batches:

            def first(part: Batches = part) -> tf.Tensor:
                return count(part.fetch(0))

            def add(index: Any, total: tf.Tensor, part: Batches = part) -> list[Any]:
                return [total + count(part.fetch(index))]

            aside = None if tf.executing_eagerly() else _traced_aside(first)
            is_unrolled = part.may_unroll and aside is not None and _is_small(aside.graph)
            parts = part.unrolled() if is_unrolled else [part]
            written_out += parts
            known = None if aside is None else tf.get_static_value(aside.outputs[0])
            if known is not None:  # shapes alone decide: nothing is left to compute
                total += tf.cast(part.num_batches, total.dtype) * tf.constant(known, total.dtype)
            elif is_unrolled:
                count_one = _traced_once(count)
                for one in parts:
                    total += count_one(one.fetch(0))
            else:
                (total,) = _loop(part.num_batches, add, [total])
        return total, written_out

    def _accumulate(self, parameters: Vector) -> Evaluation:
        """One batch after the other: the state is handed on, dense gradients are added, row-sparse ones collected."""
        function, totals = self._function, self._totals
        assert totals is not None
        # What an earlier evaluation discovered was not read at the start; nothing has been assigned since.
        start = self._start if function.changing.keys() <= self._start.keys() else {**function.read_state(), **self._start}
        loss = tf.zeros([], wide(parameters))
        # In the order of their discovery: by id, where variables lie in memory would decide the order in the program.
        keys = list(function.changing)
        state = [start[key] for key in keys]
        sums = {
            i: tf.zeros(leaf.shape, leaf.dtype if leaf.dtype.size >= 4 else tf.float32)  # bfloat16 sums stick
            for i, leaf in enumerate(parameters.parts)
            if i not in function.sparse
        }
        slices: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {i: [] for i in sorted(function.sparse)}

        def add(batch: Any, loss: Any, state: Any, sums: Any) -> tuple[list[Any], Vector]:
            before = dict(zip(keys, state, strict=True))
            batch_loss, gradient, after = function(parameters, {**start, **before}, batch, totals)
            state = [after.get(key, value) for key, value in before.items()]
            sums = {i: total + tf.cast(dense(gradient.leaves[i]), total.dtype) for i, total in sums.items()}
            return [loss + tf.cast(batch_loss, loss.dtype), state, sums], gradient

        # Of a small model only: calls that share a trace keep the activations of two.
        add_one = _traced_once(add) if self._is_written_out else add
        for part in self._batches:

            def body(index: Any, loss: Any, state: Any, sums: Any, arrays: Any, part: Batches = part) -> list[Any]:
                carry, gradient = add(part.fetch(index), loss, state, sums)
                return [*carry, {i: _write(arrays[i], index, gradient.leaves[i]) for i in arrays}]

            if part.is_one:
                # Fetched after those before it are done: nothing else keeps their activations and its own apart.
                with tf.control_dependencies(
                    [totals, loss, *sums.values(), *(values for s in slices.values() for values, _ in s)]
                ):
                    (loss, state, sums), gradient = add_one(part.fetch(0), loss, state, sums)
                for i in slices:
                    leaf = gradient.leaves[i]
                    slices[i].append((leaf.values, tf.cast(leaf.indices, tf.int64)))
                continue
            arrays = {i: _new_arrays(parameters.parts[i], part.num_batches) for i in slices}
            loss, state, sums, arrays = _loop(part.num_batches, body, [loss, state, sums, arrays])
            for i, (values, indices) in arrays.items():
                slices[i].append((values.concat(), indices.concat()))
        leaves = [
            _join(slices[i], part) if i in slices else tf.cast(sums[i], part.dtype) for i, part in enumerate(parameters.parts)
        ]
        left = dict(zip(keys, state, strict=True))
        return Evaluation(loss, Vector(leaves), {**left, **function.track_loss(loss, totals[-1], left)})


def _traced_aside(fn: Callable[[], tf.Tensor]) -> Any:
    """What `fn` computes, traced so that nothing of it is left to be run."""
    return tf.function(fn, autograph=False).get_concrete_function()


def _traced_once(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same, but a second call with arguments of the same kind is not traced again, which would take as long as the first."""
    return fn if tf.executing_eagerly() else tf.function(fn, autograph=False)


def _is_small(forward: tf.Graph) -> bool:
    """Whether a few evaluations of this forward pass, written out, are faster on a CPU than a loop over them.

    A rule of thumb, by what was timed (scripts/RESULTS.md): perceptrons and an embedding gained by it, a transformer and an LSTM
    lost. And whether it takes little memory.
    """
    operations = forward.get_operations()
    if len(operations) > _MAX_OPERATIONS or any(op.type in ("While", "StatelessWhile") for op in operations):
        return False
    outputs = [output for op in operations if op.type != "Placeholder" for output in op.outputs]
    if any(output.shape.rank is None for output in outputs):
        return False
    sizes = [[_OPEN_SIZE if size is None else size for size in output.shape] for output in outputs]
    num_bytes = sum(math.prod(size) * output.dtype.size for size, output in zip(sizes, outputs, strict=True))
    return num_bytes <= _MAX_BYTES


def _loop(num_steps: int | tf.Tensor, body: Callable[..., list[Any]], carry: list[Any]) -> list[Any]:
    """`carry = body(i, *carry)`, one after the other: only one batch's activations are alive."""
    if tf.executing_eagerly() or (isinstance(num_steps, int) and num_steps == 1):
        for i in range(int(num_steps)):
            carry = body(i, *carry)
        return carry
    _, *carry = tf.while_loop(
        lambda i, *_: i < num_steps,
        lambda i, *carry: [i + 1, *body(i, *carry)],
        [tf.constant(0), *carry],
        parallel_iterations=1,
    )
    return carry


def _new_arrays(leaf: tf.Tensor, size: int | tf.Tensor) -> tuple[tf.TensorArray, tf.TensorArray]:
    # Batches of different lengths name different numbers of rows, so the first axis is open.
    values = tf.TensorArray(leaf.dtype, size, element_shape=[None, *leaf.shape[1:]], infer_shape=False)
    return values, tf.TensorArray(tf.int64, size, element_shape=[None], infer_shape=False)


def _write(arrays: Any, index: Any, leaf: Any) -> Any:
    values, indices = arrays
    return values.write(index, leaf.values), indices.write(index, tf.cast(leaf.indices, tf.int64))


def _join(slices: list[tuple[tf.Tensor, tf.Tensor]], leaf: tf.Tensor) -> Rows:
    values = tf.concat([part for part, _ in slices], axis=0)
    indices = tf.concat([part for _, part in slices], axis=0)
    return Rows(values, indices, leaf.shape[0])
