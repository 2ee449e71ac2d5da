"""The compiled loop: many updates in one call, and every call a transaction.

    while not at a boundary:
        run(updates up to the boundary, or as many as fill about a tenth of a second)

Nothing is read back between boundaries. Whatever goes wrong in a call, the variables go back to what they were before it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import tensorflow as tf

from trainlab import jit
from trainlab.blocks import Layout
from trainlab.data import ArraySource, StreamSource
from trainlab.objective import Batches
from trainlab.update import Update

# A call lasts about this many seconds, so that an interrupt need not wait long and a progress bar moves.
_TARGET_SECONDS = 0.1
_MAX_UPDATES_PER_CALL = 2**14

_JIT = functools.partial(tf.function, jit_compile=True, autograph=False)

Source = ArraySource | StreamSource


@contextmanager
def _refusals(jit_compile: bool) -> Iterator[None]:
    try:
        with jit.unsupported_operations() if jit_compile else nullcontext():
            yield
    except jit.UnsupportedOperation as error:
        raise ValueError(f'jit_compile=True: {error}: write jit_compile=False, or "auto"') from error


class Loop:
    """Runs updates on the batches of a source.

    Args:
        update: one update.
        batches: batches an update takes.
        jit_compile: whether XLA compiles the update; None is not, until `choose` has found out.
        run_eagerly: whether nothing is compiled at all.
        updates_per_call: how many updates a call makes; None leaves it to the measured time.

    Attributes:
        jit_compile: the same, as it is now.
        num_traces: how often an update was traced.
    """

    def __init__(self, update: Update, batches: int, jit_compile: bool | None, run_eagerly: bool, updates_per_call: int | None):
        self._update = update
        self._batches = batches
        self.jit_compile = jit_compile
        self._run_eagerly = run_eagerly
        self._fixed = updates_per_call
        self._measured = 1
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._read: tuple[list[tf.Variable], Callable[[], list[tf.Tensor]]] = ([], list)
        self._snapshot_at = -1
        self.num_traces = 0

    def run(self, source: Source, max_updates: int) -> int:
        """Runs up to `max_updates` updates and returns how many; none at the end of a pass.

        The source moves on only if every update of the call was committed.
        """
        limit = min(max_updates, self._fixed or self._measured)
        block = source.block(limit, self._batches)
        if block is None:
            return 0
        known = len(self._functions)
        jit_compile = bool(self.jit_compile)
        function = self._function(block.layout, jit_compile)
        started = time.monotonic()
        with _refusals(jit_compile), self._transaction():
            if jit_compile and len(self._functions) > known:
                jit.check_strings(function)
            int(function(*block.arguments))  # waits for the device
            source.advance(block)
        if block.num_updates == self._measured and known == len(self._functions):
            seconds = time.monotonic() - started
            if seconds < _TARGET_SECONDS / 2:
                self._measured = min(2 * self._measured, _MAX_UPDATES_PER_CALL)
            elif seconds > 2 * _TARGET_SECONDS:
                self._measured = max(self._measured // 2, 1)
        return block.num_updates

    def choose(self, source: Source, updates_ahead: int) -> jit.Choice:
        """Finds out, and keeps in `jit_compile`, whether XLA compiles the update: `updates_ahead` of them, on this source."""
        block = source.block(1, self._batches)
        if block is not None and not block.layout.is_static:
            choice = jit.Choice(False, "without XLA: it would compile anew for every shape of the data", True)
        else:
            choice = jit.choose(
                self._function, lambda n: source.block(n, self._batches), lambda: self._update.variables, updates_ahead
            )
            self._measured = choice.updates_per_call
        self.jit_compile = choice.jit_compile
        self._functions = {key: function for key, function in self._functions.items() if key[1] is choice.jit_compile}
        return choice

    @functools.cached_property
    def metric_results(self) -> Callable[[], Mapping[str, Any]]:
        """The results of the model's metrics, in one compiled call."""
        return self._compiled(self._update.function.model.get_metrics_result)

    def _function(self, layout: Layout, jit_compile: bool) -> Callable[..., Any]:
        """The compiled program of a layout; one trace for any epoch, position and number of updates."""
        key = (layout, jit_compile)
        if key not in self._functions:

            def step(batches: Sequence[Batches]) -> None:
                self.num_traces += 1
                self._update(batches)

            program = layout.program(step, _JIT if jit_compile else None)
            self._functions[key] = self._compiled(program, *layout.specs, tf.TensorSpec([], tf.int64))
        return self._functions[key]

    def _compiled(self, fn: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        # One concrete function: a call can neither retrace nor warn about it.
        return fn if self._run_eagerly else tf.function(fn, autograph=False).get_concrete_function(*specs)

    def _snapshot(self) -> tuple[list[tf.Variable], Callable[[], list[tf.Tensor]]]:
        """The variables, and one call that reads them all; the values share their buffers until those are written."""
        if self._snapshot_at != self.num_traces:  # tracing may have discovered more of them
            variables = self._update.variables
            self._read = variables, self._compiled(lambda: [v.read_value() for v in variables])
            self._snapshot_at = self.num_traces
        return self._read

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Puts every variable back if the block raises: an error, or an interrupt, in the middle of a call tears nothing."""
        variables, read = self._snapshot()
        values = read()
        try:
            yield
        except BaseException:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
            raise
