"""The compiled programs of a loop: which are kept, and those that tell results besides."""

from trainlab.loop.programs.programs import Programs
from trainlab.loop.programs.telling import Telling, Tellings, as_logs

__all__ = ["Programs", "Telling", "Tellings", "as_logs"]
