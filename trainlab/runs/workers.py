"""A `fit` of several processes: the chief trains as ever and tells the others, which do nothing but follow."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainlab.data import Inputs, Source
from trainlab.distribution import END, STATE, Link, Refused, StopAsked
from trainlab.loop import Loop, NonFiniteError, Progress
from trainlab.runs import manifest, signals
from trainlab.runs.epochs import Keeper

# Rows in which workers may differ: what a machine has, and what is the chief's business.
_MAY_DIFFER = ("threads", "initial_epoch")
_MOST = 3  # differences that are shown


class ChiefEnded(RuntimeError):
    """The chief has ended the fit by an error of its own, which it tells; the model is at a committed update."""


def meet(link: Link, rows: manifest.Manifest) -> bool:
    """Begins a fit with all other workers, which must be about to do the same.

    Args:
        link: to them.
        rows: what this one is about to do.

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
    link.meet(mine, differs)
    return not link.is_chief


@contextmanager
def led(link: Link | None, loop: Loop, source: Source, model: keras.Model, keeper: Keeper) -> Iterator[None]:
    """Round a fit at the chief: however it ends, the others hear of it, and have the same weights then."""
    if link is None:
        yield
        return
    heard = signals.Signals()
    link.signal, link.on_signal = lambda: heard.received or 0, keeper.hear
    loop.link = link
    message: dict[str, Any] = {}
    try:
        with heard:
            loop.prepare(source)  # so that all know the same variables
            yield
            if link.lost is not None:
                warnings.warn(f"training is complete here, but not at all workers: {link.lost}", stacklevel=2)
        message = {"history": model.history.history, "epoch": model.history.epoch}
    except StopAsked as asked:
        message = _why(SystemExit(128 + asked.signum) if asked.signum != signal.SIGINT else KeyboardInterrupt())
        signals.stop(asked.signum)
    except BaseException as error:
        message = _why(error)
        raise
    finally:
        loop.link = None
        link.end(json.dumps(message, default=_plain).encode(), lambda: list(loop.update.variables.values()))


def follow(link: Link, loop: Loop, inputs: Inputs, model: keras.Model) -> keras.callbacks.History:
    """A fit at another worker than the chief: makes the calls that it makes.

    Returns:
        The chief's history.

    Raises:
        NonFiniteError: as at the chief.
        KeyboardInterrupt, SystemExit: training was stopped, here or elsewhere.
        Refused: its data are not those of the chief.
        ChiefEnded: the chief has ended it by an error.
        WorkerLost: one was lost.
    """

    def variables() -> list[tf.Variable]:
        return list(loop.update.variables.values())

    source = inputs.source
    problem: Exception | None = None
    loop.link = link
    try:
        with signals.Signals() as heard:
            link.signal = lambda: heard.received or 0
            loop.prepare(source)
            while (told := link.hear(variables)).command != END:
                if told.command == STATE:
                    _begin(loop, source, json.loads(link.message()))
                    continue
                try:
                    loop.follow(source, told.numbers)
                except (NonFiniteError, Refused) as error:  # the chief has it too, and says when it is over
                    problem = error
            message = json.loads(link.take_end(variables))
    finally:
        loop.link = None
        inputs.close()
    if problem is not None:
        raise problem
    _raise_as(message, link)
    model.history = keras.callbacks.History()
    model.history.epoch, model.history.history = message["epoch"], message["history"]
    return model.history


def _begin(loop: Loop, source: Source, state: Mapping[str, Any]) -> None:
    epoch, done, updates = state["progress"]
    source.restore(state["source"], {})
    loop.guard.start(Progress(epoch, "updates", done, updates))


def _why(error: BaseException) -> dict[str, Any]:
    """What ended a fit, for the others."""
    if isinstance(error, SystemExit):
        return {"ended_by": "SystemExit", "status": error.code}
    text = " ".join(str(error).split())
    return {"ended_by": type(error).__name__, "text": text}


def _raise_as(message: Mapping[str, Any], link: Link) -> None:
    kind = message.get("ended_by")
    if kind is None:
        return
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if kind == "SystemExit":
        raise SystemExit(message["status"])
    raise ChiefEnded(f"{link.cluster.name(0)}, the chief, ended the fit: {kind}: {message['text']}")


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
