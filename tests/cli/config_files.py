"""Configs, for the tests that read them."""

from commands import CONFIGS

HEUN = CONFIGS / "heun.gin"


def write(path, text):
    """A file, and the directories it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
