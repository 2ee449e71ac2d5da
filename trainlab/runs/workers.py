"""A `fit` of several processes: the chief trains as ever and tells the others, which do nothing but follow."""

from __future__ import annotations

import base64
import json
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import ArraySource, Inputs, Source
from trainlab.distribution import END, FOUND, RUN, STATE, SYNC, Link, Refused, StopAsked, WorkerLost
from trainlab.loop import Findings, Loop, NonFiniteError, Progress, prepare
from trainlab.runs import manifest, signals
from trainlab.runs.disk.encoding import AsText, decode, encode
from trainlab.runs.epochs import Keeper

# Rows in which workers may differ: what a machine has, and what is the chief's business.
_MAY_DIFFER = ("compiler", "threads", "processor", "initial_epoch")
_MOST = 3  # differences that are shown


class ChiefEnded(RuntimeError):
    """The chief has ended the fit by an error of its own, which it tells; the model is at a committed update."""


def meet(link: Link, rows: manifest.Manifest, make_loop: Callable[..., Loop], source: Source) -> bool:
    """Begins a fit with all other workers, which must be about to do the same.

    Args:
        link: to them.
        rows: what this one is about to do.
        make_loop: returns the loop, `anew` if it is to hold nothing of earlier fits.
        source: of this process; where machines differ in memory, arrays are streamed everywhere if they are anywhere.

    Returns:
        Whether this one follows: another is the chief.

    Raises:
        ValueError: one is about to do something else; one line.
        WorkerLost: one does not come.
    """

    def differs(theirs: bytes) -> str | None:
        found = [d for d in manifest.differences(json.loads(theirs), json.loads(mine)) if d.row not in _MAY_DIFFER]
        if not found:
            return None
        lines = [f"{d.row} {d.place}".strip() + f" is {d.current!r:.60}, at the chief {d.saved!r:.60}" for d in found]
        shown = "; ".join(lines[:_MOST]) + (f"; and {len(lines) - _MOST} more" if len(lines) > _MOST else "")
        return f"is about to train something else than the chief: {shown}"

    mine = json.dumps(rows, default=str).encode()
    # A loop is kept from fit to fit where nothing has changed, which each worker sees for itself; but a callback sets what it
    # likes at the chief alone.
    is_streamed = isinstance(source, ArraySource) and source.is_streamed
    with link.answer(alike=(Refused, StopAsked)):
        is_new, is_streamed = link.meet(mine, differs, make_loop(), is_streamed)
        if isinstance(source, ArraySource) and is_streamed:
            source.stream()
        if is_new:
            make_loop(anew=True)
    return not link.is_chief


@contextmanager
def led(link: Link | None, model: keras.Model, keeper: Keeper) -> Iterator[None]:
    """Round a fit at the chief: however it ends, the others hear of it, and have the same weights then."""
    if link is None:
        yield
        return

    with signals.Signals() as heard:
        link.signal, link.on_signal = lambda: heard.received or 0, keeper.hear
        try:
            yield
            if link.lost is not None:
                warnings.warn(f"training is complete here, but not at all workers: {link.lost}", stacklevel=2)
            message = _message(history=model.history.history, epoch=model.history.epoch)
        except StopAsked as asked:
            with suppress(WorkerLost):
                link.end(_why(SystemExit(128 + asked.signum) if asked.signum != signal.SIGINT else KeyboardInterrupt()))
            signals.stop(asked.signum)
        except BaseException as error:
            with suppress(WorkerLost):  # which may have left for the same reason; this is it
                link.end(_why(error))
            raise
        signum = link.end(message) or heard.received
    if signum:  # too late for a call: of what is done nothing is lost, but whoever sent it waits for the end
        signals.stop(signum)


def follow(
    link: Link, findings: Findings, make_loop: Callable[[], Loop], inputs: Inputs, model: keras.Model
) -> keras.callbacks.History:
    """A fit at another worker than the chief: makes the calls that it makes.

    Args:
        link: to the others.
        findings: take those of the chief.
        make_loop: called once they have.
        inputs: of this process.
        model: that is trained.

    Returns:
        The chief's history.

    Raises:
        NonFiniteError: as at the chief.
        TypeError, ValueError: as at the chief, of a step that cannot be made.
        KeyboardInterrupt, SystemExit: training was stopped, here or elsewhere.
        Refused: its data are not those of the chief.
        ChiefEnded: the chief has ended it by an error.
        WorkerLost: one was lost.
    """
    problem: Exception | None = None
    try:
        with signals.Signals() as heard:
            link.signal = lambda: heard.received or 0
            calls = _Calls(link, findings, make_loop, inputs)
            while (told := link.hear()).command != END:
                if problem is not None:
                    raise problem
                try:
                    calls.make(told.command, told.numbers)
                except StopAsked:
                    if link.lost is not None:
                        raise
                    # The chief has heard of it too, and ends the fit.
                except Exception as error:
                    # It may come at the chief too, which then says that it is over: so nobody is lost. Not so in the middle of a
                    # call, where others wait, but for what comes at all of them.
                    if link.lost is not None or (told.command == RUN and not isinstance(error, NonFiniteError | Refused)):
                        raise
                    problem = error
            has_variables = bool(told.numbers[0])
            if problem is not None and has_variables and link.variables is None:
                raise problem
            message = json.loads(link.take_end(has_variables))
            signum = told.signum or heard.received
    except StopAsked as asked:
        link.give_up(asked)
        signals.stop(asked.signum)
    except BaseException as error:
        link.give_up(error)
        raise
    finally:
        inputs.close()
    if problem is not None:
        raise problem
    if signum:
        signals.stop(signum)
    _raise_as(message, link)
    model.history = keras.callbacks.History()
    model.history.epoch, model.history.history = _taken(message)
    return model.history


class _Calls:
    """Makes what the chief says."""

    def __init__(self, link: Link, findings: Findings, make_loop: Callable[[], Loop], inputs: Inputs):
        self._link, self._findings, self._make_loop, self._source = link, findings, make_loop, inputs.source
        self._loop: Loop | None = None

    def make(self, command: int, numbers: Sequence[int]) -> None:
        """Makes it; the first is always `FOUND`."""
        if command == FOUND:
            self._findings.take(json.loads(self._link.message()))
            self._loop = self._make_loop()
            prepare(self._link, self._loop, self._source)
        assert self._loop is not None
        if command == SYNC:
            self._link.share()
        elif command == STATE:
            state = json.loads(self._link.message())
            with self._link.reading(may_last=True):
                self._source.restore(state, {})
            self._loop.guard.start(Progress())
        elif command == RUN:
            self._loop.follow(self._source, numbers)


def _message(**values: Any) -> bytes:
    """What a fit has come to, for the others: as a checkpoint would hold it."""
    arrays: dict[str, np.ndarray] = {}
    as_text = AsText("which the other workers get as text")
    encoded = {name: encode(value, arrays, name, as_text) for name, value in values.items()}
    tensors = {name: tf.convert_to_tensor(array) for name, array in arrays.items()}
    kept = {name: [t.dtype.name, base64.b64encode(tf.io.serialize_tensor(t).numpy()).decode()] for name, t in tensors.items()}
    return json.dumps({**encoded, "arrays": kept}).encode()


def _taken(message: Mapping[str, Any]) -> tuple[Any, Any]:
    """`epoch` and `history` of a fit."""
    told = message["arrays"].items()
    arrays = {name: np.asarray(tf.io.parse_tensor(base64.b64decode(text), dtype).numpy()) for name, (dtype, text) in told}
    return decode(message["epoch"], arrays), decode(message["history"], arrays)


def _why(error: BaseException) -> bytes:
    """What ended a fit, for the others."""
    said: dict[str, Any] = {"ended_by": type(error).__name__, "text": " ".join(str(error).split())}
    if isinstance(error, SystemExit):
        code = error.code
        said |= {"ended_by": "SystemExit", "status": code if code is None or isinstance(code, int) else str(code)}
    return json.dumps(said).encode()


def _raise_as(message: Mapping[str, Any], link: Link) -> None:
    kind = message.get("ended_by")
    if kind is None:
        return
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if kind == "SystemExit":
        raise SystemExit(message["status"])
    raise ChiefEnded(f"{link.cluster.name(0)}, the chief, ended the fit: {kind}: {message['text']}")
