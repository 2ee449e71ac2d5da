"""A failure of a verb as one line and an exit status, and warnings as lines."""

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainlab.cli.configs.config import Config
from trainlab.cli.configs.errors import in_flags, one_line
from trainlab.distribution import WorkerLost
from trainlab.loop import NonFiniteError
from trainlab.runs import ChiefEnded, OtherRun, Signals

Failure = tuple[str, int]
_EXPECTED = (ValueError, TypeError, OSError, MemoryError, NonFiniteError, WorkerLost, ChiefEnded)


def attempted(
    work: Callable[[], None],
    config: Callable[[], Config | None],
    left: Callable[[], str],
    debug: bool,
    warn: Callable[..., None] | None = None,
) -> Failure | None:
    """Does what a verb does.

    Args:
        work: Does it.
        config: Returns the config, as soon as there is one.
        left: Says what is left where it was interrupted.
        debug: Whether what goes wrong is raised.
        warn: Takes warnings; None shows them.

    Returns:
        None; of a failure the line that explains it, and the exit status.

    Raises:
        BaseException: Whatever went wrong, if that is wanted.
    """
    try:
        with warnings.catch_warnings(), Signals(at_once=True):
            warnings.showwarning = warn or show_warning  # type: ignore[assignment]  # it takes what that takes, and less
            work()
    except (KeyboardInterrupt, SystemExit) as error:
        if debug:
            raise
        what, status = _ended(error.code) if isinstance(error, SystemExit) else ("interrupted", 130)
        return f"{what}; {left()}", status
    except Exception as error:
        if debug:
            raise
        return in_flags(explained(error, config())), 1
    return None


def explained(error: Exception, config: Config | None) -> str:
    """The line that explains a failure, as far as there is a config in its words."""
    if isinstance(error, OtherRun):
        return str(error)
    line = config.explain(error) if config else one_line(error)
    # An extra that is missing says itself what to install; that a module of the user's cannot be found is another matter.
    expected = isinstance(error, _EXPECTED) or (isinstance(error, ModuleNotFoundError) and "pip install 'trainlab[" in line)
    return line if expected else f"{type(error).__name__}: {line} (--debug shows where)"


def _ended(code: Any) -> tuple[str, int]:
    """Why a program ends by `sys.exit(code)`, and the status that Python gives it."""
    if code is None or isinstance(code, int):
        return "terminated", code or 0
    return " ".join(str(code).split()), 1


def show_warning(message: Warning | str, *_: Any) -> None:
    """Shows a warning as a line, in the words of the command line; what it is of, and where, is left out."""
    with suppress(OSError):  # the terminal may be gone, which is no reason to stop
        print(f"trainlab: warning: {in_flags(' '.join(str(message).split()))}", file=sys.stderr)
