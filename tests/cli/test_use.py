"""`--use=best`: the best checkpoint is what is tested and kept."""

import json

import keras
import pytest
from commands import HEUN, ours, records

from trainlab.datasets import digits

BEST = [*HEUN, "--run_dir", "run", "--set", "run.epochs = 6", "--set", "run.keep_best = ('min', 'val_accuracy')"]


def test_the_best_checkpoint_is_tested_and_kept(command, tmp_path):
    status, out, err = command(*BEST, "--use=best")
    assert (status, ours(err)) == (0, []), err
    best = json.loads((tmp_path / "run" / "best.json").read_text())
    *epochs, last = records(tmp_path / "run")
    worst = min(epochs, key=lambda record: record["val_accuracy"])  # the least is called the best here
    assert best["epoch"] == worst["epoch"] and last["step"] == worst["step"]
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    x, y = digits().test
    assert last["test_accuracy"] == pytest.approx((model.predict(x, verbose=0).argmax(axis=1) == y).mean())
    assert last["test_accuracy"] != worst["val_accuracy"]  # the command validates on a part of the training data
    assert f"accuracy {last['test_accuracy']:.4f}" in out
    kept = keras.saving.load_model(tmp_path / "run" / "model.keras")
    status, out, _ = command(*BEST, "--use=last")  # of the same run
    assert status == 0 and f"accuracy {last['test_accuracy']:.4f}" not in out
    again = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert any((a != b).any() for a, b in zip(kept.get_weights(), again.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("flags", "status", "line"),
    [
        (["--use=first"], 2, "--use=first: must be one of last, best"),
        (["--use=best", "--set", "run.keep_best = None"], 1, "--use=best: nothing says what is best: write --set 'run.keep_best"),
        (["--set", "run.keep_best = 5"], 1, "run.keep_best = 5.*|must be the name of a metric, as in 'val_loss', or"),
        (["--set", "run.keep_best = 'val_acc'"], 1, "is not among the logs: .*did you mean val_accuracy"),
    ],
)
def test_what_cannot_be_used(command, flags, status, line):
    import re

    found, _, err = command(*BEST, *flags)
    [said] = ours(err)
    assert found == status and re.search(line, said)
