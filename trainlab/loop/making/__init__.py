"""What a loop is made by: what the user said or was found out, and what the step is traced with."""

from trainlab.loop.making.findings import Findings, check_given, check_strategy
from trainlab.loop.making.loops import Loops
from trainlab.loop.making.recipe import traced_settings

__all__ = ["Findings", "Loops", "check_given", "check_strategy", "traced_settings"]
