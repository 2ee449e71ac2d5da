"""SIGINT and SIGTERM as requests: heard between two calls, when everything is in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

HANDLED = (signal.SIGINT, signal.SIGTERM)


def stop(signum: int) -> NoReturn:
    """Ends training as the signal would have: KeyboardInterrupt for SIGINT, SystemExit with 128 + its number for others."""
    raise KeyboardInterrupt if signum == signal.SIGINT else SystemExit(128 + signum)


class Signals:
    """While entered, SIGINT and SIGTERM only set a flag; a second SIGINT interrupts at once.

    Outside the main thread, where Python handles no signals, it does nothing.

    Attributes:
        received: the signal that came, or None.

    Example:
        >>> import os
        >>> with Signals() as signals:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     signals.received == signal.SIGTERM
        True
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            # One that is ignored (as in a job put into the background by a shell) stays so.
            for signum in (s for s in HANDLED if signal.getsignal(s) != signal.SIG_IGN):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        self._before = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if signum == signal.SIGINT == self.received:
            raise KeyboardInterrupt
        self.received = signum
