"""The compiled programs of a loop: which are kept, those that tell results besides, and how many steps a call makes."""

from trainlab.loop.programs.pace import MAX_STEPS_PER_CALL, Pace
from trainlab.loop.programs.programs import Programs
from trainlab.loop.programs.telling import Telling, Tellings, as_logs

__all__ = ["MAX_STEPS_PER_CALL", "Pace", "Programs", "Telling", "Tellings", "as_logs"]
