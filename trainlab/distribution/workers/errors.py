"""What is raised where several processes train together, and which of TensorFlow's errors come of that."""

from __future__ import annotations

import re

import tensorflow as tf

_OF_COLLECTIVES = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.InternalError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnknownError,
)

# How an operation that calls Python passes on what that raised.
_OF_PYTHON = re.compile(r"Traceback \(most recent call last\):|^(\{\{.*?\}\} )?\w+(Error|Exception|Interrupt): ")


class WorkerLost(RuntimeError):
    """A worker has ended, or does not answer; the model is at a committed update. This process cannot train with others again.

    `fit` raises it at all workers that are left. Catch it round `fit`, put away what is to be kept, and let the process end: all
    started again go on from the chief's last checkpoint.

    Example:
        >>> def trained(trainer, x, y):
        ...     try:
        ...         trainer.fit(x, y)
        ...     except WorkerLost as error:
        ...         raise SystemExit(f"{error}")  # one line that names the worker
    """


class Refused(ValueError):
    """A worker cannot go on; the same line at all of them."""


class StopAsked(Exception):
    """A worker was told to stop, by the signal of this number."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def is_collective(error: BaseException) -> bool:
    """Whether an error comes of what processes do together.

    TensorFlow writes the device, and with it the word worker, before the errors of any operation; and users' own Python functions
    may say what they like. So the words count outside of the parts in braces, and not in a Python traceback.

    Example:
        >>> is_collective(tf.errors.UnavailableError(None, None, "Socket closed, from remote target /job:worker/task:1"))
        True
        >>> is_collective(tf.errors.UnknownError(None, None, "{{node PyFunc_device_/job:worker/task:0}} KeyError: 'worker'"))
        False
    """
    if not isinstance(error, _OF_COLLECTIVES):
        return False
    text = str(error)
    if _OF_PYTHON.search(text):
        return False
    return "ollective" in text or bool(re.search("worker|coordination|task:", re.sub(r"\{\{.*?\}\}", "", text)))
