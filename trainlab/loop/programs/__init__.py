"""The compiled programs of a loop: which are kept, and those that tell results besides."""

from trainlab.loop.programs.programs import Programs
from trainlab.loop.programs.telling import FEWEST_CALLS, MOST_SECONDS, Telling, as_logs

__all__ = ["FEWEST_CALLS", "MOST_SECONDS", "Programs", "Telling", "as_logs"]
