import sys

import gin
import pytest

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
