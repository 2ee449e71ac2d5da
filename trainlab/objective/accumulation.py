"""The batches of an effective batch, one evaluated after the other, each as its share of all."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from trainlab.objective.graphs import depends
from trainlab.objective.leftovers import forget_gradients
from trainlab.objective.model_function import Batch, ModelFunction, wide
from trainlab.parameters import Rows, Vector, dense

# Of a forward pass whose evaluations are written out: multilayer perceptrons have 40 to 60, a transformer of two layers 266.
_MAX_OPERATIONS = 128
# What it computes of one batch, at most: of those that are written out XLA was seen to keep that of all in memory, TensorFlow
# that of two. Where it takes longer nothing is gained anyway.
_MAX_BYTES = 2**22
_OPEN_SIZE = 256  # what a size that only the data tell is counted as


class Batches(NamedTuple):
    """Batches of one trace, fetched one at a time.

    Attributes:
        num_batches: how many: a Python int, or a scalar int32 tensor where only the data tell.
        fetch: from a scalar index in `[0, num_batches)` to `(x, y, sample_weight)`.
        may_unroll: whether they may be written out one after the other rather than looped over: a few, where memory is not
            short.
        size: examples in each, an int, or what returns a scalar integer tensor; None where only a batch itself tells.
        part: from an index, a first example and a number of examples to these of a batch; None where it must be fetched whole.
    """

    num_batches: int | tf.Tensor
    fetch: Callable[[Any], Batch]
    may_unroll: bool = False
    size: int | Callable[[], tf.Tensor] | None = None
    part: Callable[[Any, Any, Any], Batch] | None = None

    @property
    def is_one(self) -> bool:
        """Whether it is known to be one batch."""
        return isinstance(self.num_batches, int) and self.num_batches == 1

    def unrolled(self) -> list[Batches]:
        """The same, each by itself."""
        assert isinstance(self.num_batches, int)
        return [Batches(1, functools.partial(lambda j, _: self.fetch(j), j)) for j in range(self.num_batches)]


class Accumulation:
    """Loss and gradient of batches that are a part of an effective batch, or all of it.

    A pass that computes nothing else finds their denominators first (see `denominators`).

    Attributes:
        totals: `[num_losses + 1]`, these batches' denominators and numbers of examples, added up.
        batches: they, those of a small model written out where they may be.
        written_out: of each part that was given, whether it is.
    """

    def __init__(
        self,
        function: ModelFunction,
        batches: Sequence[Batches],
        start: Mapping[int, tf.Tensor],
        begun: Callable[[Mapping[int, tf.Tensor]], Mapping[int, tf.Tensor]] = dict,
        written_out: Sequence[bool] | None = None,
    ):
        """Takes the state that is there, and what makes of it that which evaluations start from.

        Where another has found out for batches of the same shapes which are `written_out`, no pass is made, and `totals` are 0.
        """
        self._function = function
        self._begun = begun
        self._start = begun(start)
        if written_out is None:
            self.totals, self.written_out = self._survey(function.read_parameters(), batches)
        else:
            self.totals, self.written_out = tf.zeros([]), list(written_out)
        pairs = list(zip(batches, self.written_out, strict=True))
        self.batches = [one for part, is_unrolled in pairs for one in (part.unrolled() if is_unrolled else [part])]
        self._is_written_out = len(self.batches) > len(batches)

    def __call__(self, parameters: Vector) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """Loss, gradient and what is left in other variables, these batches being all that there is."""
        function = self._function
        loss, gradient, left = self.share(parameters, self.totals)
        left |= function.track_loss(loss, self.totals[-1], left)
        last, after = self.batches[-1], {**self._start, **left}
        fetch = lambda: last.fetch(last.num_batches - 1)  # noqa: E731
        return loss, gradient, left | reports_of(function, function.known_last, parameters, after, fetch)

    def share(self, parameters: Vector, totals: tf.Tensor) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """The batches' share of loss and gradient, `totals` being those of the effective batch; the loss is not tracked."""
        function = self._function
        if not function.connected and not tf.executing_eagerly():  # nothing was ever evaluated
            traced_aside(lambda: function(parameters, self._start, self.batches[0].fetch(0), totals)[0])
        while True:
            known = function.num_discoveries
            share = self._accumulate(parameters, totals)
            # A loop must know beforehand what it carries. If tracing its body discovered a variable that changes, or a
            # gradient that is row-sparse, that a first batch did not, trace once more.
            if function.num_discoveries == known:
                return share

    def _survey(self, parameters: Vector, batches: Sequence[Batches]) -> tuple[tf.Tensor, list[bool]]:
        """What a forward pass tells beforehand: `totals`, and `written_out`."""
        total = tf.zeros([self._function.num_losses + 1], wide(parameters))
        written_out: list[bool] = []
        state = dict(self._start)
        for part in batches:
            total, is_unrolled, state = self._survey_part(parameters, part, total, state)
            written_out.append(is_unrolled)
        return total, written_out

    def _survey_part(
        self, parameters: Vector, part: Batches, total: tf.Tensor, state: dict[int, tf.Tensor]
    ) -> tuple[tf.Tensor, bool, dict[int, tf.Tensor]]:
        """The total with a part's denominators, whether it is written out, and the state, as far as denominators depend on it.

        It is handed on from batch to batch as in `_accumulate`: a mask may be drawn.
        """
        drawn: list[int] = []

        def count(batch: Batch, values: Mapping[int, tf.Tensor]) -> tuple[tf.Tensor, dict[int, tf.Tensor]]:
            left: dict[int, tf.Tensor] = {}
            return self._function.denominators(parameters, {**state, **values}, batch, left), left

        def first() -> tf.Tensor:
            found, left = count(part.fetch(0), {})
            drawn[:] = left
            return found

        def counted(batch: Batch, values: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            found, left = count(batch, dict(zip(drawn, values, strict=True)))
            return found, [left[key] for key in drawn]

        def add(index: Any, total: tf.Tensor, values: list[tf.Tensor]) -> list[Any]:
            found, values = counted(part.fetch(index), values)
            return [total + found, values]

        if tf.executing_eagerly():
            for index in range(int(part.num_batches)):
                found, left = count(part.fetch(index), state)
                total, state = total + found, {**state, **left}
            return total, False, state
        aside = traced_aside(first)
        is_unrolled = part.may_unroll and _is_small(aside.graph)
        known = tf.get_static_value(aside.outputs[0])
        if known is not None:  # shapes alone decide: nothing is left to compute
            return total + tf.cast(part.num_batches, total.dtype) * tf.constant(known, total.dtype), is_unrolled, state
        read = {id(outer): inner for outer, inner in aside.graph.captures}
        drawn[:] = [key for key in drawn if id(state[key]) in read and depends(aside.outputs[0], [read[id(state[key])]])]
        values = [state[key] for key in drawn]
        if is_unrolled:
            count_one = _traced_once(counted)
            for one in part.unrolled():
                found, values = count_one(one.fetch(0), values)
                total += found
        else:
            total, values = _loop(part.num_batches, add, [total, values])
        return total, is_unrolled, {**state, **dict(zip(drawn, values, strict=True))}

    def _accumulate(self, parameters: Vector, totals: tf.Tensor) -> tuple[tf.Tensor, Vector, dict[int, tf.Tensor]]:
        """One batch after the other: the state is handed on, dense gradients are added, row-sparse ones collected."""
        function = self._function
        # What an earlier evaluation discovered was not read at the start; nothing has been assigned since.
        start = (
            self._start
            if function.changing.keys() <= self._start.keys()
            else {**self._begun(function.read_state()), **self._start}
        )
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
        for part in self.batches:

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
        return loss, Vector(leaves), dict(zip(keys, state, strict=True))


def reports_of(
    function: ModelFunction,
    last: Collection[int],
    parameters: Vector,
    state: Mapping[int, tf.Tensor],
    fetch: Callable[[], Batch],
) -> dict[int, tf.Tensor]:
    """What an overridden `compute_metrics`, or a `train_step`, reports of variables that are known only when all is evaluated.

    Each batch, or replica, could only report of what they held then. What does not depend on them is left out.

    Args:
        function: of the model.
        last: these variables, by id.
        parameters: where it was evaluated.
        state: what is left, which stays so.
        fetch: returns the last batch, evaluated once more; where a report needs no forward pass, nothing of it is run.

    Returns:
        Values by the id of the variable that holds them.
    """
    if not function.reports or not last:
        return {}

    def found(values: Mapping[int, tf.Tensor]) -> dict[str, tf.Tensor]:
        results = function.reported(parameters, values, fetch(), state.keys())
        return {name: tf.convert_to_tensor(value) for name, value in results.items() if name in function.reports}

    def told(results: Mapping[str, tf.Tensor]) -> dict[int, tf.Tensor]:
        return {id(function.reports[name]): tf.cast(value, function.reports[name].dtype) for name, value in results.items()}

    def evaluate() -> dict[int, tf.Tensor]:
        marks = {key: tf.identity(value) for key, value in state.items() if key in last}
        return told({name: value for name, value in found({**state, **marks}).items() if depends(value, marks.values())})

    if not tf.executing_eagerly():
        return evaluate()
    try:
        return traced_aside(evaluate)()
    except Exception:  # what runs eagerly need not be traceable
        return told(found(state))


def traced_aside(fn: Callable[[], Any]) -> Any:
    """What `fn` computes, traced so that nothing of it is left to be run."""
    function = tf.function(fn, autograph=False).get_concrete_function()
    forget_gradients(function.graph)
    return function


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
