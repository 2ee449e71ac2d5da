"""A call that several processes make together: the chief says of which batches, and the others find theirs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from trainlab.data import Block, Source, checksum_of, moves_on
from trainlab.distribution import FOUND, STATE, Link, Refused, StopAsked
from trainlab.loop.nonfinite import NonFiniteError

if TYPE_CHECKING:
    from trainlab.loop.loop import Loop
    from trainlab.loop.making import Findings

_ALIKE = (NonFiniteError, Refused, StopAsked)  # come at all of them


@contextmanager
def lead(link: Link, loop: Loop, source: Source, block: Block) -> Iterator[None]:
    """Round the call of a block at the chief."""
    first, second = source.place()
    progress = loop.guard.progress
    numbers = [block.num_updates, first, second, checksum_of(block), progress.epoch, progress.done]
    with link.call(numbers, _ALIKE):
        if source.arrays is None:
            link.agree(None)
        yield


def begin(loop: Loop, source: Source, findings: Findings) -> None:
    """Tells the others, at the chief, what was found out, by which they make their loop; nothing where there are none."""
    if loop.link is not None:
        loop.link.announce(FOUND, json.dumps(findings.record()).encode())
        prepare(loop.link, loop, source)


def prepare(link: Link, loop: Loop, source: Source) -> None:
    """Prepares a loop as all workers do, and at the same time, so that they know the same variables."""
    link.held.add(loop)
    with link.answer() if loop.is_eager else nullcontext():  # which makes an update, and waits for the others' parts
        loop.prepare(source)
    link.variables = lambda: [*loop.update.variables.values(), *_numbers(loop.update.read_only)]


def _numbers(variables: Mapping[str, tf.Variable]) -> list[tf.Variable]:
    """What an update only reads: somebody may change it between two calls."""
    return [variable for variable in variables.values() if variable.dtype != tf.string]


def announce(loop: Loop, source: Source) -> None:
    """Tells the others, at the chief, where in the data training begins; nothing where there are none."""
    if loop.link is not None:
        message = json.dumps(source.state(), default=lambda value: np.asarray(value).tolist()).encode()
        loop.link.announce(STATE, message)


def find(link: Link, loop: Loop, source: Source, numbers: Sequence[int]) -> tuple[Block | None, str | None]:
    """The block that the chief means, in this process; and, if it is not there, why."""
    num_updates, first, second, checksum, epoch, done = numbers[:6]
    loop.guard.progress.epoch, loop.guard.progress.done = epoch, done  # as the chief counts, who knows when an epoch is over
    try:
        with link.reading():
            source.go_to((first, second))
            block = loop.block(source, num_updates)
    except StopAsked as asked:  # the others hear of it when they are asked; of arrays, which hang where a disk does, nobody asks
        if source.arrays is not None:
            link.give_up(asked)
            raise
        return None, None
    except Exception as error:  # of the user's data
        if source.arrays is not None:
            raise
        return None, f"cannot read its data: {_reason(error)}"
    if block is None or block.num_updates != num_updates:
        has = 0 if block is None else block.num_updates
        return None, f"has data for {has} more updates where the chief has them for {num_updates}: they have ended, or failed"
    if checksum_of(block) != checksum:
        return None, (
            "has other batches than the chief: every worker must read the same data in the same order (seeds, "
            "options.deterministic, interleave's cycle_length; no sharding, for it is batches that are cut)"
            f"{_shared_shuffle(source, first)}"
        )
    return block, None


def _shared_shuffle(source: Source, num_passes: int) -> str:
    """What else may be the reason, in a later pass: data that count who has begun one."""
    dataset = getattr(source, "dataset", None)
    if num_passes == 0 or dataset is None or not moves_on(dataset):
        return ""
    return (
        "; or the chief alone has begun a pass over what shares a shuffle with it (a validation set that was split off it, a "
        "callback that reads it): split with shuffle(..., reshuffle_each_iteration=False), and shuffle again what is trained on"
    )


def explained(link: Link, loop: Loop, block: Block, problem: Exception) -> Exception:
    """What this worker raises for an error of a call that it alone has had, once the others, in the middle of it, know.

    It names the update whose data explain the error; if there is none, it is the error itself.
    """
    error = loop.guard.explained(block, problem)
    link.give_up(error)
    return error


def _reason(error: Exception) -> str:
    """An error in a line: of one in a user's generator, which TensorFlow tells with both tracebacks, the error itself."""
    own = re.findall(r"^(\w+(?:Error|Exception): .*)$", str(error), re.MULTILINE)
    return own[-1] if own else f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextmanager
def answer(link: Link, source: Source, line: str | None) -> Iterator[None]:
    """Round the same call at another worker; `line` says why it cannot make it."""
    with link.answer(_ALIKE):
        if source.arrays is None:
            link.agree(line)  # or a signal has kept it from reading them, which all hear of now
        elif line is not None:
            raise ValueError(line)
        yield
