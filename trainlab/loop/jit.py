"""Whether XLA compiles the step, decided by timing this very step with and without it.

The timed steps are real ones on copies of the variables, so that nothing real moves: no weight, no seed, no position.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import Block, Layout, TrailingLayout, device, finishes
from trainlab.objective import keras_internals, string_operation
from trainlab.parameters import tensorflow_internals

# With fewer updates ahead nothing is timed at all: who tries something out is not kept waiting, whatever its step takes.
FEWEST_UPDATES = 1000
# Finding out may take this share of the time that the work ahead takes without XLA.
SHARE = 0.1
# Compiling takes about so many times as long as tracing and the first call without XLA: below, it is not even tried.
_COMPILE_RATIO = 3.0
# XLA must be so many times as fast: of two that are alike, the one that needs no compiling for other shapes wins.
_CLEAR_WIN = 1.05
_SECONDS_A_TIMING = 0.03
# Both are timed in turns until one has won so many more turns than the other: on a shared machine a few turns say little.
_LEAD = 5
_MAX_PAIRS = 25
_FIRST_UPDATES = 4


class Choice(NamedTuple):
    """What was found.

    Attributes:
        jit_compile: whether XLA compiles the step.
        reason: in words.
        is_final: whether it was measured, or follows from the step itself; False where the work ahead was too short to tell.
        seconds: that an update takes so; None where nothing was timed.
    """

    jit_compile: bool
    reason: str
    is_final: bool
    seconds: float | None = None


class UnsupportedOperation(ValueError):
    """XLA cannot compile this step; the line names the operation."""


def is_worth_asking(model: keras.Model, updates_ahead: int) -> bool:
    """Whether to find out at all.

    Not where a layer says that XLA cannot compile it, nor where finding out would take longer than a short run, whose length
    is 0 where nobody knows it; nor under op determinism: a choice that depends on timing could not be repeated.
    """
    if updates_ahead < FEWEST_UPDATES or tensorflow_internals.is_op_determinism_enabled():
        return False
    return all(getattr(layer, "supports_jit", True) for layer in keras_internals.layers_of(model))


def check_strings(function: Any) -> None:
    """Raises `UnsupportedOperation` for a graph with string tensors: XLA raises on some, and aborts the process on others."""
    name = string_operation(function.graph)
    if name is not None:
        raise UnsupportedOperation(f"XLA cannot compile string tensors: {name}")


def is_refused(function: Any) -> bool:
    """Whether a graph is not to be handed to XLA: it holds string tensors."""
    return string_operation(function.graph) is not None


@contextmanager
def unsupported_operations() -> Iterator[None]:
    """Turns XLA's own refusal, several pages long, into an `UnsupportedOperation`."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = _refusal(str(error))
        if reason is None:
            raise
        raise UnsupportedOperation(reason) from error


@contextmanager
def refusals() -> Iterator[None]:
    """Turns what XLA does not compile, where it was told to, into a ValueError that says what to write."""
    try:
        with unsupported_operations():
            yield
    except UnsupportedOperation as error:
        raise ValueError(f'jit_compile=True: {error}: write jit_compile=False, or "auto"') from error


def _refusal(message: str) -> str | None:
    """Why XLA did not compile a program, in a line; None if that is not what the message of an error says."""
    if found := re.search(r"Detected unsupported operations.*? on XLA_\w+: (\w+)", message, re.DOTALL):
        place = re.search(r"\{\{node ([^}]+)\}\}", message)
        return f"XLA has no kernel for {found[1]}" + (f" ({place[1]})" if place else "")
    if found := re.search(r"node `([^`]+)` with op (\w+) must be a compile-time constant", message):
        return f"XLA must know sizes beforehand, but that of {found[2]} ({found[1]}) depends on the data"
    return f"XLA cannot compile it: {_first_line(message)}" if "tf2xla conversion failed" in message else None


def _first_line(message: str) -> str:
    return next(iter(message.strip().splitlines()), "")


def choose(
    build: Callable[[Layout, bool], Any],
    block_of: Callable[..., Block | None],
    variables: Callable[[], Sequence[tf.Variable]],
    updates_ahead: int,
) -> Choice:
    """Times the step with and without XLA.

    Args:
        build: from a block's layout and whether XLA compiles it to a concrete function of the block's arguments; raises
          `UnsupportedOperation` where XLA cannot.
        block_of: the next updates of the data, up to a number, and as XLA is to be given them if that is True; asking for them
            must not use them up.
        variables: all that the step may change, as far as tracing it has shown.
        updates_ahead: how many updates this choice is for.

    Raises:
        StopRequested: training is to stop (see `trainlab.data.stoppable`); nothing was used up.
    """
    started = time.monotonic()
    copies = _Copies(variables)
    block_of = functools.partial(_block_of, block_of)
    block = block_of(_FIRST_UPDATES)
    if block is None:
        return Choice(False, "without XLA: there are no data", is_final=False)
    if not block.layout.is_static:
        return Choice(False, "without XLA: it would compile anew for every shape of the data", True)
    plain = build(block.layout, False)
    try:
        with copies.used_by(plain):
            plain(*block.arguments)
            plain_cost = time.monotonic() - started
            timing, seconds = _calibrate(plain, block_of, block)
    except tf.errors.OpError:
        return Choice(False, "without XLA: the step fails", is_final=False)  # as the real one soon will, and say why
    work = seconds * updates_ahead
    if SHARE * work < _COMPILE_RATIO * plain_cost:
        reason = (
            f"without XLA: {work:.1f} s of work ahead would not repay finding out (about {_COMPILE_RATIO * plain_cost:.1f} s)"
        )
        return Choice(False, reason, False, seconds)
    try:
        padded = block_of(timing.block.num_updates, True)
        assert padded is not None  # it is the same block
        jitted = build(padded.layout, True)
        timing = timing._replace(jitted=jitted, padded=padded)
        until = max(started + SHARE * work, time.monotonic() + 1.0)
        compiling = _compile(jitted, padded, copies, until)
        times = [] if compiling is None else _race(plain, jitted, timing, copies, until)
    except UnsupportedOperation as error:
        return Choice(False, f"without XLA: {error}", True, seconds)
    except tf.errors.OpError as error:  # the same step has just run without
        if device.is_out_of_memory(error):
            return Choice(False, "without XLA, which takes more memory than there is", True, seconds)
        return Choice(False, f"without XLA, with which the step fails: {_first_line(error.message)}", True, seconds)
    spent = time.monotonic() - started
    if compiling is None:
        reason = f"without XLA, which was still compiling after {spent:.0f} s ({SHARE:.0%} of the work ahead)"
        return Choice(False, reason, True, seconds)
    without, with_xla = (float(value) for value in np.median(times, axis=0))
    is_faster = _is_worth_it(times, compiling, updates_ahead)
    reason = (
        f"{'with' if is_faster else 'without'} XLA: {with_xla * 1e6:,.0f} us an update with it, {without * 1e6:,.0f} us without "
        f"(found out in {spent:.1f} s)"
    )
    return Choice(is_faster, reason, True, with_xla if is_faster else without)


def _compile(jitted: Any, block: Block, copies: _Copies, until: float) -> float | None:
    """Seconds that XLA takes to compile; None if it is not done in time. Leaves the function with the copies.

    Raises:
        StopRequested: training is to stop, for which nobody waits: nothing can end a compiler.
    """
    started = time.monotonic()
    copies.lend(jitted)

    def call() -> None:  # in a thread, whose options are its own
        with tensorflow_internals.sums_left_alone():
            jitted(*block.arguments)

    with unsupported_operations():
        if not finishes(call, until - started):
            return None  # its thread goes on for a while, on copies: nobody will use what it makes
    return time.monotonic() - started


def _block_of(block_of: Callable[..., Block | None], max_updates: int, by_xla: bool = False) -> Block | None:
    """The next updates; what is a pass's last update, which is not for XLA, as if there were nothing else to time."""
    block = block_of(max_updates, by_xla)
    if block is None or not isinstance(block.layout, TrailingLayout):
        return block
    return block._replace(layout=dataclasses.replace(block.layout, is_pass=True))


def _race(plain: Any, jitted: Any, timing: _Timing, copies: _Copies, until: float) -> list[tuple[float, float]]:
    """Seconds an update without and with XLA, in turns, as many as tell; few of them where the time is up."""
    times: list[tuple[float, float]] = []
    lead = 0
    with copies.used_by(plain):
        while abs(lead) < _LEAD and len(times) < (_MAX_PAIRS if time.monotonic() < until else _LEAD):
            times.append((timing.seconds_of(plain), timing.seconds_of(jitted)))
            lead += 1 if _is_win(times[-1]) else -1
    copies.give_back(jitted)
    return times


def _is_worth_it(times: list[tuple[float, float]], compiling: float, updates_ahead: int) -> bool:
    """Whether XLA won most turns, and saves more than compiling takes."""
    without, with_xla = np.median(times, axis=0)
    return 2 * sum(map(_is_win, times)) > len(times) and bool((without - with_xla) * updates_ahead > compiling)


def _is_win(pair: tuple[float, float]) -> bool:
    without, with_xla = pair
    return without >= _CLEAR_WIN * with_xla


class _Timing(NamedTuple):
    """A block that is run so many times for one timing.

    Attributes:
        block: the updates.
        repeats: how many times.
        jitted: a function that is given `padded` instead.
        padded: the same updates, as XLA is given them.
    """

    block: Block
    repeats: int
    jitted: Any = None
    padded: Block | None = None

    def seconds_of(self, function: Any) -> float:
        """Seconds an update."""
        block = self.block if self.padded is None or function is not self.jitted else self.padded
        started = time.perf_counter()
        for _ in range(self.repeats):
            int(function(*block.arguments))
        return (time.perf_counter() - started) / (self.repeats * self.block.num_updates)


def _calibrate(function: Any, block_of: Callable[..., Block | None], block: Block) -> tuple[_Timing, float]:
    """Finds a timing that is long enough; and the seconds that an update takes."""
    while True:
        timing = _Timing(block, 1)
        seconds = timing.seconds_of(function)
        missing = _SECONDS_A_TIMING / (seconds * block.num_updates)
        if missing <= 1:
            return timing, seconds
        larger = block_of(2 * block.num_updates)
        if larger is None or larger.num_updates <= block.num_updates or larger.layout != block.layout:
            timing = _Timing(block, math.ceil(missing))
            return timing, timing.seconds_of(function)
        block = larger


class _Copies:
    """Copies of variables, for functions to work on in place of those that they were traced with."""

    def __init__(self, variables: Callable[[], Sequence[tf.Variable]]):
        self._variables = variables
        self._copies: dict[int, tuple[tf.Variable, tf.Variable]] = {}  # by the handle's id; both kept alive

    def lend(self, function: Any) -> None:
        """Lets a concrete function work on the copies."""
        for variable in self._variables():
            if id(variable.handle) not in self._copies:
                with tf.device(variable.device):
                    self._copies[id(variable.handle)] = variable, tf.Variable(variable.read_value(), trainable=False)
        handles = {handle: copy.handle for handle, (_, copy) in self._copies.items()}
        function.set_external_captures([handles.get(id(captured), captured) for captured in function.captured_inputs])

    def give_back(self, function: Any) -> None:
        """Lets it work on the real ones again; what was compiled stays."""
        handles = {id(copy.handle): variable.handle for variable, copy in self._copies.values()}
        function.set_external_captures([handles.get(id(captured), captured) for captured in function.captured_inputs])

    @contextmanager
    def used_by(self, function: Any) -> Iterator[None]:
        """Lends, and gives back whatever happens."""
        self.lend(function)
        try:
            yield
        finally:
            self.give_back(function)
