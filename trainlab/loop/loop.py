"""The compiled loop: many updates in one call, and every call a transaction.

    while not at a boundary:
        run(updates up to the boundary, or as many as fill a tenth of a second or two)

Nothing is read back between boundaries, but for one number a call: whether all is finite. Whatever goes wrong in a call, the
variables go back to what they were before it; what was not finite is then found by halves, with the same program.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import tensorflow as tf

from trainlab.data import Block, Layout, Source, device
from trainlab.distribution import Link, NotForXla
from trainlab.loop import jit
from trainlab.loop.leading import answer, explained, find, lead
from trainlab.loop.micro_batches import MicroBatches
from trainlab.loop.nonfinite import Guard, Undo
from trainlab.loop.programs import Pace, Programs, Tellings, as_logs
from trainlab.loop.settings import touched
from trainlab.loop.update import Update
from trainlab.objective import Batches, check_step, forget_gradients
from trainlab.parameters import tensorflow_internals

# A compiled read of all variables costs a trace that the first step would wait for, and pays off after so many.
_SNAPSHOTS_TO_COMPILE = 10

_JIT = functools.partial(tf.function, jit_compile=True, autograph=False)


class Loop:
    """Runs updates on the batches of a source.

    Args:
        update: one update.
        jit_compile: whether XLA compiles the update; None is not, until `choose` has found out.
        run_eagerly: whether nothing is compiled at all.
        updates_per_call: how many updates a call makes; None leaves it to the measured time.
        micro_batches: the pieces that batches are evaluated in.
        tracing: to be open while the update is traced.
        link: with other processes that make the same calls; None for none.

    Attributes:
        update: the same.
        guard: what becomes of updates that are not finite.
        jit_compile: the same, as it is now.
        is_eager: `run_eagerly`.
        num_traces: how often an update was traced.
        link: the same.
    """

    def __init__(
        self,
        update: Update,
        jit_compile: bool | None,
        run_eagerly: bool,
        updates_per_call: int | None,
        micro_batches: MicroBatches,
        tracing: Callable[[], AbstractContextManager[Any]] = nullcontext,
        link: Link | None = None,
    ):
        self.update = update
        self._tracing = tracing
        self._batches = update.strategy.batches
        self.guard = Guard(update)
        self.jit_compile = jit_compile
        self.is_eager = run_eagerly
        self._micro_batches = micro_batches
        self._pace = Pace(updates_per_call)
        self._reach = sys.maxsize  # what one call may try: little after a bad update, then more and more
        self._functions = Programs(self._traced)
        self._variables: dict[str, tf.Variable] = {}
        self._read: Callable[[], list[tf.Tensor]] = list
        self._tellings = Tellings(update)
        self._results: dict[str, tf.Tensor] | None = None  # after the call just made, if it told them
        self._snapshot_at, self._num_snapshots = -1, 0
        self.num_traces = 0
        self.link = link
        self._found: Callable[[], Mapping[str, tf.Tensor] | None] | None = None

    def run(self, source: Source, max_updates: int, before: Callable[[], None] | None = None, tells: str = "") -> int:
        """Runs up to `max_updates` updates and returns how many, skipped ones too; none at the end of a pass.

        The source moves on by what was committed, and by what the guard skips. `before` is called once there is something to
        run, and before it is. `tells` says that `logs` will be asked for at once: "always" if after every call, "now" otherwise.

        Raises:
            NonFiniteError: an update is not finite; those before it are committed.
            MemoryError: a batch does not fit; one line says what to do.
        """
        started = time.monotonic()  # reading the data counts: a signal waits for it too
        self._results = None
        with nullcontext() if self.link is None else self.link.reading():
            block = self.block(source, min(max_updates, self._pace.first(source)))
            if block is not None and not self._pace.allows(source, block):
                block = self.block(source, 1)
        if block is None:
            return 0
        if before is not None:
            before()
        if not self.is_eager:
            ahead = self._pace.size if self._pace.is_fixed else min(self._pace.size, 2 * block.num_updates)
            source.read_ahead(block, min(max_updates - block.num_updates, ahead), self._batches)
        with nullcontext() if self.link is None else lead(self.link, self, source, block):
            self._make(source, block, tells, started)
        return block.num_updates

    def _make(self, source: Source, block: Block, tells: str, started: float) -> None:
        """Makes a block's updates, whatever becomes of them; learns how long they take since `started`."""
        if block.num_updates > self._reach:
            self._search(source, block.num_updates)
            return
        known, begun = self._functions.num_built, time.monotonic()
        if self.is_eager or self.link is not None:  # others have programs that do not tell
            tells = ""
        problem = self._attempt(source, block, tells)
        if tells and problem is None:
            self._tellings.note(time.monotonic() - started)
        if problem is not None and block.num_updates == 1:
            self._reject(source, block, problem)
        elif problem is not None:
            self._search(source, block.num_updates, suspects=block.num_updates)
        elif known == self._functions.num_built:
            now = time.monotonic()
            self._pace.note(block, now - started, now - begun)

    def heed_others(self) -> None:
        """Called when somebody else's code was run, which may have changed variables."""
        if self.link is not None:
            self.link.is_stale = True

    def follow(self, source: Source, numbers: Sequence[int]) -> None:
        """Makes the call that the chief makes, which said by these numbers what it is of.

        Raises:
            NonFiniteError: as at the chief.
            WorkerLost: it has ended.
            ValueError: this process' data are not those of the chief.
        """
        assert self.link is not None
        block, line = find(self.link, self, source, numbers)
        with answer(self.link, source, line):
            assert block is not None
            self._make(source, block, "", time.monotonic())

    def block(self, source: Source, max_updates: int, by_xla: bool | None = None) -> Block | None:
        """The next updates of a source, up to so many; None at the end of a pass."""
        by_xla = bool(self.jit_compile) if by_xla is None else by_xla
        return self._micro_batches.cut(source.block(max_updates, self._batches, by_xla))

    def logs(self) -> dict[str, Any]:
        """What is reported as the metrics are now, by name: floats, and arrays."""
        reports = self.update.function.reports
        results: Mapping[str, Any]
        if self._results is not None:
            results, self._results = self._results, None
        else:
            results = {name: v.read_value() for name, v in reports.items()} if reports else self._read_metrics()
        logs = as_logs(results)
        return {**logs, **self.update.read_logs(logs)}

    def _attempt(self, source: Source, block: Block, tells: str = "") -> Exception | None:
        """Makes a block's updates and moves the source on, or else takes everything back and returns why.

        What does not fit in memory is tried again in smaller pieces, if it may be.
        """
        tried = self._micro_batches.size
        while True:
            try:
                self._call(source, block, tells)
            except Undo as problem:
                return problem
            except tf.errors.OpError as problem:
                if device.is_out_of_memory(problem):
                    size = self._micro_batches.halve(block, self.update.strategy, problem)
                    self._functions.clear()
                    self._tellings.forget()
                    block = block._replace(layout=block.layout.cut(size))
                    continue  # only now: the error holds what the call had in memory
                if self._functions.explain(block.layout, bool(self.jit_compile), problem):
                    self._tellings.forget()  # among them the one of the program that is not to be tried again
                    continue
                if not isinstance(problem, tf.errors.InvalidArgumentError):  # of a label out of range, on a CPU
                    raise
                if self.link is None:
                    return problem
                raise explained(self.link, self, block, problem) from problem
            if self._micro_batches.size != tried:
                self._micro_batches.report()
            self._reach = min(2 * self._reach, sys.maxsize)
            return None

    def _call(self, source: Source, block: Block, tells: str) -> None:
        """Makes the block's updates, or none of them."""
        jit_compile = bool(self.jit_compile)
        telling = self._tellings.get(block.layout, jit_compile) if tells else None
        if telling is None:
            function = self._function(block.layout, jit_compile)
            telling = self._tellings.make(block.layout, jit_compile, function, tells) if tells else None
        found = telling.begin() if telling is not None and telling.keeps else None
        with jit.refusals() if jit_compile else nullcontext(), self.transaction(found), self._noting():
            with tensorflow_internals.sums_left_alone(self.update.orders_may_be_lost):
                if telling is not None:
                    is_surely_finite, results = telling(block.arguments)
                else:
                    is_surely_finite, results = function(*block.arguments), None
            if not is_surely_finite and (name := self.guard.watch.first()) is not None:  # waits for the device
                raise Undo(name)
            source.advance(block)
            self.guard.accept(block.num_updates)  # at once: where training stands in the data and in the run is one thing
            self._results = results

    def _search(self, source: Source, num_updates: int, suspects: int = 0) -> None:
        """Makes so many updates with care; among the next `suspects` one is known to be bad, and is found by halves."""
        done = 0
        while done < num_updates:
            size = max(suspects // 2, 1) if suspects else min(self._reach, num_updates - done)
            block = self.block(source, size)
            assert block is not None
            problem = self._attempt(source, block)
            if problem is not None and block.num_updates > 1:
                suspects = block.num_updates
                continue
            if problem is not None:
                self._reject(source, block, problem)
            suspects = 0 if problem is not None else max(suspects - block.num_updates, 0)
            done += block.num_updates

    def _reject(self, source: Source, block: Block, problem: Exception) -> None:
        """Stops at a block's single update, or moves on over it."""
        left = self.guard.excused(block, problem, lambda: self._attempt(source, block))
        if left is None:
            return
        self.guard.reject(block, left)
        source.advance(block)
        self._reach = 1

    def choose(self, source: Source, updates_ahead: int) -> jit.Choice:
        """Finds out, and keeps in `jit_compile`, whether XLA compiles the update: `updates_ahead` of them, on this source."""
        with tensorflow_internals.sums_left_alone():
            choice = jit.choose(
                self._functions.get,
                lambda max_updates, by_xla=False: self.block(source, max_updates, by_xla),
                lambda: list(self.update.variables.values()),
                updates_ahead,
            )
        if choice.seconds is not None:
            self._pace.expect(source, choice.seconds)
        self.jit_compile = choice.jit_compile if choice.is_final else None
        self._functions.keep(choice.jit_compile)
        self._tellings.forget()
        return choice

    @functools.cached_property
    def _read_metrics(self) -> Callable[[], Mapping[str, Any]]:
        """The results of the model's metrics, in one compiled call."""
        return self._compiled(self.update.function.model.get_metrics_result)

    def _function(self, layout: Layout, jit_compile: bool) -> Callable[..., Any]:
        with jit.refusals() if jit_compile else nullcontext():
            return self._functions.get(layout, jit_compile)

    def _traced(self, layout: Layout, jit_compile: bool) -> Callable[..., Any]:
        """The compiled program of a layout; one trace for any epoch, position and number of updates."""
        before = self.num_traces
        is_divided = self.update.is_divided  # XLA then compiles what each device evaluates, not the loop
        is_by_xla = self._functions.is_by_xla(layout, jit_compile)
        by_device = _JIT if is_divided and is_by_xla else None

        def step(batches: Sequence[Batches]) -> None:
            self.num_traces += 1
            self.update(batches, by_device)

        program = layout.program(step, _JIT if jit_compile and not is_divided else None)

        def call(*arguments: Any) -> tf.Tensor:
            program(*arguments)
            return self.guard.watch.is_surely_finite()

        try:
            with self._tracing():
                function: Any = self._compiled(call, *layout.specs, tf.TensorSpec([], tf.int32))
        except Exception as error:
            self.num_traces = before  # it came to nothing
            if isinstance(error, NotForXla):
                raise jit.UnsupportedOperation(str(error)) from error
            raise
        if is_by_xla:
            jit.check_strings(function)
        if not self.is_eager:
            check_step(function.graph)
            self.update.notice(function)
            forget_gradients(function.graph, jit_compile and not is_divided)
        return function

    def _compiled(self, fn: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        # One concrete function: a call can neither retrace nor warn about it.
        if self.is_eager:
            return fn
        return tensorflow_internals.graph_freed_with(tf.function(fn, autograph=False).get_concrete_function(*specs))

    def prepare(self, source: Source) -> None:
        """Traces the update, so that every variable that it may change is known; runs nothing that lasts."""
        if self.is_eager:  # the one way to know what Python does is to let it: once where others must do so at the same time
            if self.link is not None and self.link.variables is not None:
                return
            with suppress(_Undone), self.transaction(), self._noting():
                self.num_traces += 1
                self.update([Batches(1, lambda i: source.first_batch())])
                raise _Undone
        else:
            layout, size = source.layout(self._batches, bool(self.jit_compile)), self._micro_batches.size
            self._function(layout if size is None else layout.cut(size), bool(self.jit_compile))

    def _noting(self) -> AbstractContextManager[None]:
        """While open, the first update that runs eagerly shows what it touches, as a trace does."""
        if not self.is_eager or self.num_traces:
            return nullcontext()
        update = self.update
        return touched.noting(lambda: [*update.variables.values(), update.seed], update.undeclared, update.read)

    def snapshot(self) -> dict[str, tf.Tensor]:
        """The values of all variables that an update may change, by name; they share their buffers until those are written."""
        if self._snapshot_at != self.num_traces:  # tracing may have discovered more of them
            self._variables = self.update.variables
            self._read, self._num_snapshots = self._read_variables, 0
            self._snapshot_at = self.num_traces
        if self._num_snapshots == _SNAPSHOTS_TO_COMPILE:
            read = self._compiled(self._read_variables)
            self._read = read if self.is_eager else functools.partial(tensorflow_internals.flat_caller(read), ())
        self._num_snapshots += 1
        return dict(zip(self._variables, self._read(), strict=True))

    def _read_variables(self) -> list[tf.Tensor]:
        return [tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for v in self._variables.values()]

    def read_only(self) -> dict[str, tf.Tensor]:
        """The values of what an update only reads, in the same way; no call changes them, but hooks may."""
        read = self.update.read_only.items()
        return {name: tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for name, v in read}

    def assign(self, values: Mapping[str, Any]) -> None:
        """Gives variables these values, by name."""
        variables = self.update.read_only | self.update.variables
        for name, value in values.items():
            variables[name].assign(value)

    @contextmanager
    def transaction(self, found: Callable[[], Mapping[str, tf.Tensor] | None] | None = None) -> Iterator[None]:
        """Puts every variable back if the block raises: an error, or an interrupt, in the middle of a call tears nothing.

        Args:
            found: what the block has found, by name, or None as long as it has changed nothing; where the block does not keep
              that itself, it is read before.
        """
        self._found = found = found or functools.partial(dict, self.snapshot())
        try:
            yield
        except BaseException:
            before = found()
            self.assign(before or {})
            for name, variable in self.update.variables.items():
                if before is not None and name not in before and name.startswith(("log.", "report.")):
                    variable.assign(tf.zeros_like(variable))  # made in this call, as an eager one may
            raise
        finally:
            self._found = None

    @property
    def committed(self) -> Mapping[str, tf.Tensor] | None:
        """Within a transaction, what it would put back; None outside."""
        found = self._found
        if found is None:
            return None
        if (before := found()) is not None:
            return before
        # It is asked by another thread, for which a compiled call that hangs may have left no thread to run another in.
        now = {name: tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for name, v in self.update.variables.items()}
        before = found()  # the call may have begun meanwhile
        return now if before is None else before

    def rest(self) -> None:
        """Lets go of what the last calls found, which is kept from call to call: what comes now may last."""
        self._tellings.rest()


class _Undone(Exception):
    """Ends a transaction that was meant to leave nothing."""
