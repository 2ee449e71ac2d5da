"""TensorFlow is imported without what it logs."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LOGGED = re.compile(rb"WARNING: All log messages before|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |[IWE]\d{4} \d\d:\d\d:\d\d")


@contextmanager
def quiet() -> Iterator[None]:
    """While TensorFlow is imported, unless the user has set its log level: keeps what it logs from the terminal.

    The level holds from then on, but not for what is written while its libraries are loaded: that is held back, and all but lines
    of its log is shown afterwards.
    """
    if _LOG_LEVEL in os.environ or "tensorflow" in sys.modules:
        yield
        return
    os.environ[_LOG_LEVEL] = "3"
    try:
        terminal = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        keeps = True
        try:
            yield
            keeps = False
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            held.seek(0)
            lines = [line for line in held if keeps or not _LOGGED.match(line)]
            with suppress(OSError):
                os.write(2, b"".join(lines))
