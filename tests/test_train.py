import os
import re
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import CONFIGS, HEUN, SHORT, everything_in, ours, records, start

from trainlab import train

RATE = "keras.optimizers.SGD.learning_rate"


def test_heun_from_a_shell_in_any_directory(tmp_path):
    process = start(*HEUN, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    directory = tmp_path / "runs" / "heun"
    files = ["checkpoints", "config.gin", "lock", "metrics.jsonl", "model.keras", "result.json"]
    assert sorted(file.name for file in directory.iterdir()) == files
    for line in ("Heun(), 2 evaluations an update", "64 examples", "1,438 training and 359 test", "9,610 parameters"):
        assert line in out
    *epochs, last = records(directory)
    assert [record["epoch"] for record in epochs] == list(range(1, 31))
    assert list(last) == ["epoch", "step", "test_accuracy", "test_loss"] and last["step"] == 30 * 23
    assert {"epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy"} <= epochs[0].keys()
    assert last["test_accuracy"] >= 0.95
    assert f"accuracy {last['test_accuracy']:.4f}" in out and str(Path("runs/heun")) in out
    assert ours(err) == []
    assert keras.saving.load_model(directory / "model.keras").count_params() == 9610


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "accumulate", "accumulate_heun", "own_module"])
def test_the_other_examples_learn(command, tmp_path, name):
    status, out, err = command("--config", CONFIGS / f"{name}.gin")
    assert (status, ours(err)) == (0, []), err
    assert records(tmp_path / "runs" / name)[-1]["test_accuracy"] >= 0.95


def test_a_short_run_can_be_repeated_from_what_it_left(command, tmp_path):
    accumulate = ["--config", CONFIGS / "accumulate_heun.gin", "--set", "run.steps = 3"]
    status, out, _ = command(*accumulate)
    assert status == 0
    assert "Accumulate(num_batches=4, inner=Heun()), 2 evaluations an update" in out
    assert "64 examples = 4 batches of 16" in out
    first = tmp_path / "runs" / "accumulate_heun"
    assert records(first)[-1]["step"] == 3
    assert command("--config", first / "config.gin", "--run_dir", "again")[0] == 0
    assert records(tmp_path / "again") == records(first)
    # The control: another seed is another run.
    assert command(*accumulate, "--set", "run.seed = 1", "--run_dir", "other")[0] == 0
    assert records(tmp_path / "other")[-1] != records(first)[-1]


def test_a_finished_run_shows_its_result_and_is_left_alone(command, tmp_path):
    first = command(*SHORT)
    before = everything_in(tmp_path / "runs" / "heun")
    again = command(*SHORT)
    assert (first[0], again[0]) == (0, 0) and ours(again[2]) == []
    assert "finished at update 23" in again[1] and "Epoch" not in again[1]
    test = [line for line in first[1].splitlines() if line.startswith("test ")]
    assert len(test) == 1 and test[0] in again[1]
    assert everything_in(tmp_path / "runs" / "heun") == before


def test_a_longer_run_goes_on_with_a_finished_one(command, tmp_path):
    command(*SHORT, "--run_dir", "a")
    status, out, _ = command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "a")
    assert status == 0 and "resumed at update 23, epoch 2" in out
    command(*HEUN, "--set", "run.epochs = 3", "--run_dir", "b")
    assert records(tmp_path / "a") == records(tmp_path / "b")
    assert (tmp_path / "a" / "result.json").read_text() == (tmp_path / "b" / "result.json").read_text().replace(
        "1-step", "2-step"
    )


def test_the_end_of_a_run_can_be_done_again(command, tmp_path):
    command(*SHORT)
    directory = tmp_path / "runs" / "heun"
    before = records(directory)
    (directory / "result.json").unlink()  # killed between the last checkpoint and the end
    (directory / "model.keras").unlink()
    assert command(*SHORT)[0] == 0
    assert records(directory) == before and (directory / "model.keras").exists() and (directory / "result.json").exists()


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["--resume=never"], 1, r"holds a run already .*--run_dir r-2, go on with it by --resume=auto"),
        (["--resume=sometimes"], 2, "must be one of auto, must, never, weights"),
        (["--overwrite"], 2, "it goes with --resume=never"),
        (["--override=seed"], 2, "must be one of learning_rate, data, micro_batch_size"),
        (["--set", "run.seed = 5"], 1, r"seed: saved 0, now 5"),
        (["--set", "run.batch_size = 32"], 1, r"batches batch_size: saved 64, now 32"),
        (["--set", "run.strategy = @trainlab.SGD()"], 1, "strategy class: saved 'trainlab.strategies.heun.Heun'"),
        (["--set", "mlp.hidden_sizes = (32, 64)"], 1, r"model layers\[2\].config.units: saved 128, now 32 .* variables"),
    ],
)
def test_another_run_is_refused_and_nothing_is_touched(command, tmp_path, arguments, status, message):
    assert command(*SHORT, "--run_dir", "r")[0] == 0
    before = everything_in(tmp_path / "r")
    got, out, err = command(*HEUN, "--set", "run.epochs = 2", "--run_dir", "r", *arguments)
    assert (got, ours(err)[-1].startswith("trainlab: error: ")) == (status, True)
    assert re.search(message, " ".join(err.split())), err
    assert everything_in(tmp_path / "r") == before


def test_overwriting_begins_anew(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    first = records(tmp_path / "r")
    status, out, _ = command(*SHORT, "--run_dir", "r", "--set", "run.seed = 1", "--resume=never", "--overwrite")
    assert status == 0 and "begun" in out
    again = records(tmp_path / "r")
    assert len(again) == len(first) and again != first
    assert command(*SHORT, "--run_dir", "none", "--resume=must")[0] == 1


def test_a_new_learning_rate_needs_to_be_said(command, tmp_path):
    command(*SHORT, "--run_dir", "r")
    more = [*HEUN, "--set", "run.epochs = 2", "--set", f"{RATE} = 0.01", "--run_dir", "r"]
    assert "learning_rate: saved 0.2, now 0.01" in command(*more)[2]
    status, out, _ = command(*more, "--override=learning_rate")
    assert status == 0 and "resumed at update 23" in out


def test_an_own_strategy_model_and_data_set_need_only_a_module(command, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine_for_test_train.py").write_text(
        """
import keras, numpy as np, trainlab as tl
from trainlab.datasets import Data

class Midpoint(tl.StepStrategy):
    evaluations = 2
    def __init__(self, where=0.5):
        self.where = where
    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(objective(state.parameters - self.where * state.learning_rate * here.gradient).gradient, at=here)

def line(shape, num_classes, scale=1.0):
    return keras.Sequential([keras.Input(shape), keras.layers.Rescaling(scale), keras.layers.Dense(num_classes)])

def two_sides(num=64):
    x = np.linspace(-1, 1, num, dtype="float32")[:, None]
    y = (x[:, 0] > 0).astype("int32")
    return Data("two_sides", (x, y), (x, y), 2)
"""
    )
    config = tmp_path / "mine" / "mine.gin"
    config.write_text(
        """
import mine_for_test_train as mine
run.data = @mine.two_sides()
run.model = @mine.line
run.strategy = @mine.Midpoint()
run.loss = @SparseCategoricalCrossentropy()
run.optimizer = @keras.optimizers.SGD()
run.epochs = 10
mine.line.scale = 3
mine.Midpoint.where = 0.25
SparseCategoricalCrossentropy.from_logits = True
keras.optimizers.SGD.learning_rate = 1
"""
    )
    status, out, err = command("--config", config)
    assert (status, ours(err)) == (0, []), err
    assert "Midpoint(where=0.25), 2 evaluations an update" in out
    assert records(tmp_path / "runs" / "mine")[-1]["test_accuracy"] > 0.9
    assert "mine.Midpoint" in (tmp_path / "runs" / "mine" / "config.gin").read_text()


BAD_BINDINGS = [
    ("run.epoch = 3", "run has no parameter 'epoch'; did you mean epochs?"),
    ("Heum.x = 3", "unknown name 'Heum'; did you mean Heun?"),
    ("Heun.x = 3", "Heun has no parameter 'x'; it has none"),
    ("run.strategy = @Heum()", "unknown name 'Heum'; did you mean Heun?"),
    ("run.optimizer = @adam()", "unknown name 'adam'; did you mean Adam?"),
    ("run.strategy = @SGD()", "ambiguous: write keras.optimizers.SGD or trainlab.SGD"),
    ("run.strategy = @Heun", "the parentheses are missing"),
    ("run.model = @mlp()", "without ()"),
    ("run.data = @npz()", "npz needs path"),
    (f"{RATE} = %lr", "nothing defines the macro %lr; add lr = VALUE"),
    ("epochs = 3", "nothing in this run uses the macro %epochs; did you mean run.epochs?"),
    ("Adam.learning_rate = 0.1", "nothing in this run uses keras.optimizers.Adam.learning_rate"),
    ("wide/mlp.hidden_sizes = (3,)", "nothing in this run uses wide/mlp.hidden_sizes"),
    ("mlp.num_classes = 3", "num_classes is given to mlp by the run itself"),
    (f"{RATE} = '0.1'", "must be a number, like its default 0.01"),
    ("keras.optimizers.SGD.lr = 0.1", "no parameter 'lr'; it has learning_rate, "),
    (f"{RATE} = -0.1", "must be a finite number of at least 0"),
    (f"{RATE} = 1e999", "must be a finite number of at least 0"),
    ("keras.optimizers.SGD.momentum = 2", "`momentum` must be a float between [0, 1]"),
    ("keras.optimizers.SGD.nesterov = 'no'", "must be True or False"),
    ("run.epochs = -1", "must be a whole number of at least 0"),
    ("run.steps = -1", "must be a whole number of at least 0"),
    ("run.epochs = 'x'", "must be a whole number of at least 0"),
    ("run.loss = mse", "text needs quotes ('mse')"),
    ("run.loss = 'mse", "expected a value"),
    ("run.loss = (1,", "never closed"),
    ("run.epochs = 1 + 1", "values are literals, not expressions"),
    ("run.epochs", "expected NAME.PARAMETER = VALUE"),
    ("", "expected NAME.PARAMETER = VALUE"),
    ("mlp.hidden_sizes = 64", "must be a sequence of positive integers"),
    ("run.metrics = ['acuracy']", "acuracy"),
    ("import no_such_module", "cannot import no_such_module"),
    ("include 'none.gin'", "none.gin: no such file"),
]


@pytest.mark.parametrize("binding, message", BAD_BINDINGS, ids=[binding for binding, _ in BAD_BINDINGS])
def test_a_bad_binding_gets_one_line_that_quotes_it(command, tmp_path, binding, message):
    status, out, err = command(*SHORT, "--set", binding)
    (line,) = ours(err)
    assert (status, line.startswith("trainlab: error: "), message in line) == (1, True, True), line
    assert "acuracy" in binding or "npz" in binding or binding in line
    assert "Epoch" not in out and list(tmp_path.iterdir()) == []


def test_a_mistake_in_a_file_is_shown_with_its_line(command, tmp_path):
    file = tmp_path / "c.gin"
    for number, (binding, message) in enumerate(BAD_BINDINGS, start=1):
        if message.startswith(("nothing in this run", "num_classes is given")) or "acuracy" in binding or not binding:
            continue  # in a file the first is a warning; the others name no place
        file.write_text(f"include '{CONFIGS / 'heun.gin'}'\n\n{binding}\n")
        status, _, err = command("--config", file)
        (line,) = ours(err)
        assert status == 1 and message in line, line
        place = r"npz needs path" if "npz" in binding else r"c\.gin:[34]: "  # an open bracket ends with the file
        assert re.search(place, line), (number, line)


def test_what_a_file_binds_in_vain_is_a_warning(command, tmp_path):
    file = tmp_path / "c.gin"
    file.write_text(f"include '{CONFIGS / 'heun.gin'}'\nrun.epochs = 0\nAdam.learning_rate = 0.1\nlerning_rate = 3\n")
    status, _, err = command("--config", file)
    assert status == 0
    first, second = ours(err)
    assert first.startswith(f"trainlab: warning: {file}:3: nothing in this run uses keras.optimizers.Adam.learning_rate")
    assert second.startswith(f"trainlab: warning: {file}:4: nothing in this run uses the macro %lerning_rate")


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "c.gin: no such file"),
        ("directory", "c.gin: is a directory"),
        (b"run.epochs = 1 # \xff", "c.gin: not UTF-8 text (byte 17)"),
        (b"run.epochs = \x00", "c.gin:1: expected a value"),
        (b"include 'c.gin'", "c.gin:1: "),
        (b"", "run needs data, loss, model, optimizer"),
        (b"run.epochs = 1\n   run.seed = 2\n  x", "c.gin:"),
    ],
)
def test_a_file_that_cannot_be_read(command, tmp_path, content, message):
    file = tmp_path / "c.gin"
    if content == "directory":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    status, _, err = command("--config", file)
    (line,) = ours(err)
    assert status == 1 and line.startswith("trainlab: error: ") and message in line, line


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give --config FILE"),
        (["--confg", "x"], "unknown flag --confg; did you mean --config?"),
        (["--epochs=3"], "unknown flag --epochs"),
        (["configs/heun.gin"], "unexpected argument 'configs/heun.gin': write --config configs/heun.gin"),
        ([*HEUN, "run.epochs=3"], "unexpected argument 'run.epochs=3': write --set 'run.epochs=3'"),
        (["--config"], "missing value for flag --config"),
        (["--config", "--run_dir", "x"], "a flag has no value"),
        ([*HEUN, "--debug=x"], "--debug=x"),
    ],
)
def test_a_bad_command_line(command, arguments, message):
    status, _, err = command(*arguments)
    (line,) = ours(err)
    assert status == 2 and line.startswith("trainlab: error: ") and message in line, line


BAD_DATA = """
import keras, numpy as np
from trainlab.datasets import Data

def zeros(num=8, num_labels=8, value=0.0, label=0, where="train", width=2, numbers=np.float32):
    good = np.zeros((8, 2), "float32"), np.zeros(8, "int32")
    x, y = np.zeros((num, width), "float32"), np.zeros(num_labels, "int32")
    x[num // 2:], y[num_labels // 2:] = value, label
    return Data("zeros", (x, y), good, 3) if where == "train" else Data("zeros", good, (x, y), 3)

def narrow(input_shape, num_classes):
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(num_classes)])

def nothing(input_shape, num_classes):
    return None

def untrainable(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(num_classes, trainable=False)])

def broken(input_shape, num_classes):
    raise KeyError("a b")
"""


@pytest.mark.parametrize(
    "binding, message",
    [
        ("zeros.num = 0\nbad_data.zeros.num_labels = 0", "empty|no examples|0 examples"),
        ("zeros.num_labels = 7", "7.*8|8.*7"),
        ("zeros.value = 1e999", "[Ii]nf"),
        ("zeros.value = 1e999\nbad_data.zeros.where = 'test'", "[Ii]nf"),
        ("zeros.label = 3", "3"),
        ("zeros.label = -1", "-1"),
        ("zeros.label = 3\nbad_data.zeros.where = 'test'", "3"),
        ("zeros.width = 4\nbad_data.zeros.where = 'test'", "4"),
        ("@narrow", "5"),
        ("@nothing", "must return a keras.Model"),
        ("@untrainable", "train"),
        ("@broken", "KeyError: .*a b"),
    ],
)
def test_bad_data_and_models_are_found_before_the_first_step(command, tmp_path, binding, message):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "bad_data.py").write_text(BAD_DATA)
    model = f"@bad_data.{binding[1:]}" if binding.startswith("@") else "@logistic_regression"
    text = f"import bad_data\nrun.data = @bad_data.zeros()\nrun.model = {model}\nrun.optimizer = @Adam()\n"
    text += "run.loss = @SparseCategoricalCrossentropy()\nSparseCategoricalCrossentropy.from_logits = True\n"
    (tmp_path / "own" / "c.gin").write_text(text + ("" if binding.startswith("@") else f"bad_data.{binding}\n"))
    status, out, err = command("--config", "own/c.gin")
    *warned, line = ours(err)
    assert status == 1 and line.startswith("trainlab: error: "), err
    assert re.search(message, line.partition("error: ")[2]), line
    assert all("warning" in other for other in warned)
    assert "Epoch" not in out and not (tmp_path / "runs").exists()


def test_a_failed_start_does_not_block_the_corrected_one(command, tmp_path):
    assert command(*SHORT, "--set", "run.metrics = ['nosuch']")[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert command(*HEUN, "--set", "run.epochs = 0")[0] == 0
    assert records(tmp_path / "runs" / "heun")[0].keys() == {"epoch", "step", "test_accuracy", "test_loss"}


def test_an_unwritable_run_directory_is_found_before_training(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = command(*SHORT, "--run_dir", "file/run")
    (line,) = ours(err)
    assert status == 1 and "file/run: cannot be written" in line and out == ""


def test_debug_shows_the_traceback(command):
    with pytest.raises(ValueError, match="epoch"):
        command(*SHORT, "--set", "run.epoch = 1", "--debug")


def test_help_says_what_a_newcomer_needs(command):
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    for word in ("--config FILE", "--set 'BINDING'", "--run_dir DIR", "--debug", "examples:", "batch_size", "strategy"):
        assert word in out
    assert len(out.splitlines()) < 25


def test_a_bad_config_from_a_shell(tmp_path):
    process = start(*HEUN, "--set", "run.epochs = -1", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert ours(err) == ["trainlab: error: --set 'run.epochs = -1': must be a whole number of at least 0"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
def test_control_c_is_one_line(tmp_path):
    process = start(*HEUN, "--set", "run.epochs = 1000000", cwd=tmp_path)
    metrics = tmp_path / "runs" / "heun" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not metrics.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (line,) = ours(err)
    assert re.fullmatch(
        r"trainlab: error: interrupted; the last checkpoint is runs/heun/checkpoints/0*1-step-\d+; the same command .*", line
    )
    assert len(records(metrics.parent)) > 0


def test_interrupted_before_the_first_update_leaves_nothing(command, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Trainer, "fit", interrupt)
    status, _, err = command(*SHORT)
    assert (status, ours(err)) == (130, ["trainlab: error: interrupted; nothing is saved"])
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_diverges_stops_in_one_line(command, tmp_path):
    values = {"x_train": np.ones((4, 2)), "x_test": np.ones((4, 2)), "y_train": np.arange(4) % 2, "y_test": np.arange(4) % 2}
    np.savez(tmp_path / "d.npz", **values)
    file = tmp_path / "c.gin"
    file.write_text(
        f"include '{CONFIGS / 'sgd.gin'}'\nrun.data = @npz()\nnpz.path = 'd.npz'\n"
        "keras.optimizers.SGD.learning_rate = 1e38\nrun.epochs = 4\n"
    )
    status, _, err = command("--config", file)
    line = ours(err)[-1]
    assert status == 1 and re.match(r"trainlab: error: update \d \(number 1 of epoch \d\): .*the last good one. Lower the", line)
    assert re.search(r"the last checkpoint is runs/c/checkpoints/0*1-step-\d$", line)


def test_probabilities_expected_of_logits_is_a_warning(command):
    status, _, err = command(*HEUN, "--set", "run.epochs = 0", "--set", "run.loss = 'sparse_categorical_crossentropy'")
    assert status == 0
    assert any("expects probabilities, but the model returns logits" in line for line in ours(err))
    assert ours(command(*HEUN, "--set", "run.epochs = 0", "--run_dir", "control")[2]) == []


def test_less_data_than_an_update_is_a_warning(command):
    status, _, err = command(*SHORT, "--set", "run.batch_size = 2000")
    (line,) = ours(err)
    assert status == 0 and line.startswith("trainlab: warning: ") and "1438" in line
