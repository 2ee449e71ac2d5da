"""What is read while a step is traced, besides data and variables: a program keeps it, so that a change must be noticed."""

from trainlab.loop.settings import code
from trainlab.loop.settings.reading import Settings
from trainlab.loop.settings.touched import is_touched

__all__ = ["Settings", "code", "is_touched"]
