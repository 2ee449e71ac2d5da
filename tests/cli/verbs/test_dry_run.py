"""`--dry-run`: two updates, an evaluation, a checkpoint; what the run will be; and nothing left."""

import re

import keras
import pytest
from commands import CONFIGS, HEUN, SHORT, everything_in, ours

from trainlab import Trainer
from trainlab.cli.verbs.dry_run import _size, _time

DRY = ["--dry-run", *HEUN]


@pytest.mark.slow
def test_it_says_what_the_run_will_be_and_leaves_nothing(trainlab_command, tmp_path, monkeypatch):
    saved, real = [], Trainer.fit

    def fit(self, *args, **kwargs):
        history = real(self, *args, **kwargs)
        saved.append((self.iterations, self.last_checkpoint.name, sorted(history.history), kwargs["steps"]))
        return history

    monkeypatch.setattr(Trainer, "fit", fit)
    status, out, err = trainlab_command("train", *DRY)
    assert (status, ours(err)) == (0, []), err
    assert saved == [(2, "00000001-step-2", ["accuracy", "loss", "step_error", "val_accuracy", "val_loss"], 2)]
    assert list(tmp_path.iterdir()) == []
    assert "model     mlp, 9,610 parameters" in out and "weights 38 kB" in out  # 9,610 numbers of 4 bytes
    assert re.search(r"time      an epoch of 21 updates takes \S+ m?s at most, 30 of them \S+ m?s \(estimate", out)
    assert re.search(r"disk      \d+ kB a checkpoint, 3 are kept", out) and "Epoch" not in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.slow
def test_a_run_that_is_there_is_left_as_it_is(trainlab_command, tmp_path):
    assert trainlab_command("train", *SHORT, "--run_dir", "a")[0] == 0
    before = everything_in(tmp_path / "a")
    assert trainlab_command("train", *DRY, "--run_dir", "a")[0] == 0
    assert everything_in(tmp_path / "a") == before
    status, _, err = trainlab_command("train", *DRY, "--run_dir", "a", "--resume=never")
    assert status == 1 and "holds a run already" in ours(err)[0]  # as the run itself would be refused


@pytest.mark.slow
def test_callbacks_are_made_and_not_called(trainlab_command, tmp_path):
    more = ["--set", "run.callbacks = [@CSVLogger(), @EarlyStopping()]", "--set", "CSVLogger.filename = 'log.csv'"]
    more += ["--set", "run.tensorboard = True", "--set", "EarlyStopping.monitor = 'val_acc'"]
    status, _, err = trainlab_command("train", *DRY, *more)
    [line] = ours(err)
    assert status == 0 and list(tmp_path.iterdir()) == []
    assert line.startswith("trainlab: warning: EarlyStopping.monitor = 'val_acc': is not among the logs, which are accuracy")
    assert trainlab_command("train", *DRY, "--set", "run.callbacks = [@CSVLogger()]")[0] == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "run.loss = 'categorical_crossentropy'"], "loss categorical_crossentropy does not fit"),
        (["--set", "mlp.hidden_sizes = 64"], "must be a sequence of positive integers"),
        (["--set", "run.validation_data = @nosuch_held_out()"], "unknown name 'nosuch_held_out'"),
    ],
)
def test_what_is_wrong_is_said_as_by_the_run(trainlab_command, tmp_path, more, message):
    status, _, err = trainlab_command("train", *DRY, *more)
    assert status == 1 and message in ours(err)[-1] and list(tmp_path.iterdir()) == []


def test_bad_test_data_are_found(trainlab_command, tmp_path):
    (tmp_path / "own_bad_test.py").write_text(
        "import numpy as np\nfrom trainlab.datasets import Data\nx, y = np.ones((40, 4), 'float32'), np.arange(40) % 2\n"
        "def data():\n    return Data('bad', (x, y), (x * np.inf, y))\n"
    )
    more = ["--set", "import own_bad_test", "--set", "run.data = @own_bad_test.data()"]
    status, _, err = trainlab_command("train", *DRY, *more)
    assert status == 1 and "test data: x" in ours(err)[-1]


@pytest.mark.slow
def test_an_update_of_several_batches(trainlab_command):
    status, out, _ = trainlab_command(
        "train", "--dry-run", "--config", CONFIGS / "accumulate_heun.gin", "--set", "run.steps = 50"
    )
    assert status == 0 and "an epoch of 21 updates" in out and "of them" not in out


@pytest.mark.slow
def test_of_several_workers_it_says_that_one_process_tries_alone(trainlab_command, tmp_path, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    status, out, err = trainlab_command("train", *DRY, "--set", "run.distribute = 'workers'")
    [line] = ours(err)
    assert status == 0 and "device    CPU\n" in out and list(tmp_path.iterdir()) == []
    assert line.startswith(
        "trainlab: warning: run.distribute = 'workers': tried as one process alone does it: device, memory and"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0001, "0.1 ms"), (0.25, "250 ms"), (2.26, "2.3 s"), (90, "1.5 min"), (7200, "2 h"), (1e6, "278 h")]
)
def test_times_in_words(seconds, text):
    assert _time(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(12, "12 bytes"), (38440, "38 kB"), (1.5e6, "1.5 MB"), (732e6, "732 MB"), (2e12, "2000 GB")]
)
def test_sizes_in_words(number, text):
    assert _size(number) == text


def test_keras_is_as_before(trainlab_command):
    policy = keras.config.dtype_policy()
    trainlab_command("train", *DRY)
    assert keras.config.dtype_policy() == policy
