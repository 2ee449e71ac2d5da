"""Where progress is printed to."""

import sys

import numpy as np
import pytest
from small import compiled, dense_model

import trainlab as tl
from trainlab.runs import verbosity


class Tee:
    """Has what `print` needs, and no more."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Terminal(Tee):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream, verbose", [(Tee, 2), (lambda: None, 0), (Terminal, 1)], ids=["Tee", "none", "terminal"])
def test_any_stream_will_do(stream, verbose, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    assert verbosity("auto") == verbose
    trainer = tl.Trainer(compiled(dense_model()))
    trainer.fit(np.ones([4, 3], "float32"), np.ones([4, 1], "float32"))
    assert trainer.iterations == 1
    assert sys.stdout is None or "1/1" in sys.stdout.text
