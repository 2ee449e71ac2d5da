import sys

import gin
import pytest

from trainlab.cli import console
from trainlab.cli.configs import names


@pytest.fixture
def clean(monkeypatch, tmp_path):
    """A directory of its own, and nothing left in gin or on the import path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    gin.clear_config()
    names.register()
    yield
    gin.clear_config()


@pytest.fixture
def trainlab_command(command, capsys):
    """The command `trainlab` in this process, in a directory of its own: arguments -> (status, stdout, stderr)."""

    def run(*arguments):
        status = console([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
