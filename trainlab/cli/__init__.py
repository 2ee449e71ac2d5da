"""The command line: all that knows gin and flags."""

from trainlab.cli.command import console, main

__all__ = ["console", "main"]
