"""A model's own `test_step`, over many batches in one compiled call; and what any such loop does."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import tensorflow as tf

from trainlab.data import Block, Layout, Source, device
from trainlab.loop import jit
from trainlab.loop.programs import Pace, Programs
from trainlab.objective import Batch, Batches, flat_logs, forget_gradients, keras_internals
from trainlab.parameters import tensorflow_internals

_JIT = functools.partial(tf.function, jit_compile=True, autograph=False)


class CannotCompile(Exception):
    """The evaluation cannot be traced; the message is the reason, in a line."""


def first_line(error: Exception) -> str:
    """Of its message, no longer than somebody reads."""
    return next(iter(str(error).strip().splitlines()), "")[:300]


class CompiledLoop:
    """Runs a step over the batches of a source, many in a call, each by itself.

    Args:
        jit_compile: whether XLA compiles what it can: all but a last, smaller batch.
        tracing: to be open while something is traced.

    Attributes:
        num_traces: how often the step was traced.
    """

    def __init__(self, jit_compile: bool, tracing: Callable[[], AbstractContextManager[Any]] = nullcontext):
        self._jit_compile, self._tracing = jit_compile, tracing
        self._programs = Programs(self._build)
        self._have_run: set[Layout] = set()
        self._pace = Pace()
        self.num_traces = 0

    def step(self, batches: Sequence[Batches]) -> None:
        """What to do with a batch, the first of the only one of these; traced."""
        raise NotImplementedError

    def after_call(self, num_batches: int) -> None:
        """Called after each call, with how many batches it took."""

    def prepare(self, source: Source) -> None:
        """Traces the step for a source, and runs nothing.

        Raises:
            CannotCompile: that fails.
        """
        try:
            self._programs.get(source.layout(1, self._jit_compile), self._jit_compile)
        except Exception as error:
            raise CannotCompile(f"{type(error).__name__}: {first_line(error)}") from error

    def run(self, source: Source, max_batches: int, before: Callable[[], None] | None = None) -> int:
        """Takes up to `max_batches` batches, and returns how many; none at the end of a pass.

        Args:
            source: moves on by as many.
            max_batches: the most.
            before: called once there is something to run, and before it is.
        """
        started = time.monotonic()
        block = source.block(min(max_batches, self._pace.first(source)), 1, self._jit_compile)
        if block is not None and not self._pace.allows(source, block):
            block = source.block(1, 1, self._jit_compile)
        if block is None:
            return 0
        if before is not None:
            before()
        source.read_ahead(block, min(max_batches - block.num_updates, self._pace.size, 2 * block.num_updates), 1)
        known, begun = self._programs.num_built, time.monotonic()
        self._call(block)
        self.after_call(block.num_updates)
        source.advance(block)
        if known == self._programs.num_built:
            now = time.monotonic()
            self._pace.note(block, now - started, now - begun)
        return block.num_updates

    def _call(self, block: Block) -> None:
        function = self._programs.get(block.layout, self._jit_compile)
        try:
            with tensorflow_internals.sums_left_alone():
                int(function(*block.arguments))  # waits for the device
        except tf.errors.OpError as error:
            if not self._jit_compile or block.layout in self._have_run:
                if not device.is_out_of_memory(error):
                    raise
                examples = block.layout.largest(block.tensors, block.num_updates)
                raise MemoryError(
                    f"out of memory: {examples} examples at once do not fit, though nothing is trained: take smaller batches to "
                    "evaluate, validate or predict on (batch_size, validation_batch_size)"
                ) from error
            # What is done in inference alone may have no kernel in XLA; nothing was run. Otherwise the same error comes again.
            self._jit_compile = False
            self._call(block)
        self._have_run.add(block.layout)

    def _build(self, layout: Layout, jit_compile: bool) -> Callable[..., Any]:
        with self._tracing():
            is_compiled = jit_compile and layout.is_static
            function = self._traced(layout, is_compiled)
            return self._traced(layout, False) if is_compiled and jit.is_refused(function) else function

    def _traced(self, layout: Layout, is_compiled: bool) -> Callable[..., Any]:
        def step(batches: Sequence[Batches]) -> None:
            self.num_traces += 1
            self.step(batches)

        program = layout.program(step, _JIT if is_compiled else None)
        specs = (*layout.specs, tf.TensorSpec([], tf.int32))
        function = tensorflow_internals.graph_freed_with(tf.function(program, autograph=False).get_concrete_function(*specs))
        forget_gradients(function.graph, is_compiled)
        return function


class EvaluationLoop(CompiledLoop):
    """Runs the `test_step` of a model over the batches of a source: it changes metrics, and what a layer changes in inference.

    Args:
        model: compiled and built.
        jit_compile, tracing: see `CompiledLoop`.
    """

    def __init__(
        self,
        model: keras.Model,
        jit_compile: bool,
        tracing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        super().__init__(jit_compile, tracing)
        self._model = model
        # What an overridden compute_metrics returns may be more than the metrics' results: it is kept, batch by batch.
        self._reports_more = type(model).compute_metrics is not keras.Model.compute_metrics
        self._reports: dict[str, tf.Variable] = {}
        self._has_several_losses = len(keras_internals.flat_losses(model)) > 1

    def step(self, batches: Sequence[Batches]) -> None:
        """See `CompiledLoop`."""
        self._report(self._model.test_step(self._as_keras_sees_it(batches[0].fetch(0))))

    def reset(self) -> None:
        """Begins anew."""
        self._model.reset_metrics()
        for variable in self._reports.values():
            variable.assign(tf.zeros_like(variable))

    def logs(self) -> dict[str, Any]:
        """The results so far, as tensors by name, sorted; what `keras.Model.evaluate` makes of its last step."""
        results = self._results()
        if self._reports and set(self._reports) != set(results):
            return flat_logs({name: variable.read_value() for name, variable in self._reports.items()})
        return flat_logs(results)

    @functools.cached_property
    def _results(self) -> Callable[[], Mapping[str, Any]]:
        with self._tracing():
            return tf.function(self._model.get_metrics_result, autograph=False).get_concrete_function()

    def _as_keras_sees_it(self, batch: Batch) -> Batch:
        """The batch, without the number of its examples where Keras, which never knows it, would make something of it.

        Of several outputs it weighs the mean losses by that number where it knows it, and otherwise each batch alike.
        """
        if not self._has_several_losses:
            return batch

        def hidden(leaf: Any) -> Any:
            if not isinstance(leaf, tf.Tensor) or leaf.shape.rank in (None, 0):
                return leaf
            return tf.compat.v1.placeholder_with_default(leaf, [None, *leaf.shape[1:]])

        return tf.nest.map_structure(hidden, batch)

    def _report(self, logs: Any) -> None:
        """Keeps what a step returned, where that may be more than the metrics know."""
        if not self._reports_more or not isinstance(logs, Mapping):
            return
        for name, value in logs.items():
            value = tf.convert_to_tensor(value)
            if name not in self._reports:
                with tf.init_scope():
                    self._reports[name] = tf.Variable(tf.zeros(value.shape, value.dtype), trainable=False, name=name)
            self._reports[name].assign(value)
