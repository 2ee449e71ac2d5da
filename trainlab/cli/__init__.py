"""The command line: all that knows gin and flags."""

from trainlab.cli.command import main

__all__ = ["main"]
