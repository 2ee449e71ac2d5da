"""The command, given a wrong config, wrong data or a wrong command line: one line, and nothing left behind."""

import re
import sys

import numpy as np
import pytest
from commands import CONFIGS, HEUN, SHORT, ours, records, start

from trainlab.cli.verbs import job
from trainlab.runs import Lock
from trainlab.trainer import Trainer

RATE = "keras.optimizers.SGD.learning_rate"


TELLS_MORE = sys.version_info >= (3, 12)  # Python's tokenizer
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
    ("run.loss = 'mse", "a quote is opened and never closed" if TELLS_MORE else "expected a value"),
    ("run.epochs = 1_", "invalid decimal literal" if TELLS_MORE else "more follows after the value"),
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
        (b"run.epochs = \x00", f"c.gin:1: {'cannot be read' if TELLS_MORE else 'expected a value'}"),
        (b"include 'c.gin'", "c.gin:1: "),
        (b"", "run needs data, model, optimizer"),
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
    assert command(*SHORT, "--set", "run.loss = 'categorical_crossentropy'")[0] == 1
    assert list(tmp_path.iterdir()) == []
    assert command(*HEUN, "--set", "run.epochs = 0")[0] == 0
    assert records(tmp_path / "runs" / "heun")[0].keys() == {"epoch", "step", "test_accuracy", "test_loss"}


@pytest.mark.parametrize("name", ["config.gin", "metrics.jsonl", "model.keras", "result.json", "lock"])
@pytest.mark.parametrize("binding", ["run.epochs = 1", "run.loss = 'categorical_crossentropy'", "run.epochs = -1"])
def test_files_of_others_are_left_alone_whether_it_works_or_fails(command, tmp_path, name, binding):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"epoch": 1, "step": 1}\n')
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    status, out, err = command(*HEUN, "--set", binding, "--run_dir", "mine")
    (line,) = ours(err)
    assert status == 1 and out == ""
    if binding != "run.epochs = -1":  # which is found before anybody looks at the directory
        instead = "give another directory with --run_dir mine-2, or move it away"
        assert line == f"trainlab: error: mine/{name}: was not written by a run; {instead}"
    assert {path: path.read_bytes() for path in (tmp_path / "mine").iterdir()} == before


def test_the_config_that_a_user_keeps_in_the_directory_is_not_overwritten(command, tmp_path):
    (tmp_path / "exp").mkdir()
    config = tmp_path / "exp" / "config.gin"
    config.write_text(f"include '{CONFIGS / 'heun.gin'}'\nrun.epochs = 0\n")
    status, _, err = command("--config", "exp/config.gin", "--run_dir", "exp")
    assert status == 1 and "exp/config.gin: was not written by a run; give another directory with --run_dir exp-2" in ours(err)[0]
    assert [path.name for path in (tmp_path / "exp").iterdir()] == ["config.gin"]
    assert command("--config", "exp/config.gin", "--run_dir", "exp-2")[0] == 0
    assert command("--config", "exp-2/config.gin", "--run_dir", "exp-2")[0] == 0  # a run's own is


@pytest.mark.slow
def test_a_failed_start_again_leaves_what_the_first_one_has_written(command, tmp_path, monkeypatch):
    """Killed before its first checkpoint; the second start fails; the third goes on."""
    with monkeypatch.context() as patch:
        patch.setattr(job.RunDirectory, "release", lambda self: None)  # as if it had been killed
        patch.setattr(Trainer, "fit", begun_and_killed)
        assert command(*SHORT, "--run_dir", "run")[0] == 130
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert before == ["config.gin", "lock", "metrics.jsonl"]
    assert command(*SHORT, "--set", "run.loss = 'categorical_crossentropy'", "--run_dir", "run")[0] == 1
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before
    assert command(*SHORT, "--run_dir", "run")[0] == 0
    assert [record["epoch"] for record in records(tmp_path / "run")] == [1, 1]


def begun_and_killed(self, *args, callbacks, **kwargs):
    with Lock(self._keeper.directory / "lock"):
        begin, records = callbacks
        begin.on_train_begin()
        begin.on_epoch_begin(0)
        records.write({"epoch": 1, "step": 1})
    raise KeyboardInterrupt


def test_an_unwritable_run_directory_is_found_before_training(command, tmp_path):
    (tmp_path / "file").write_text("")
    status, out, err = command(*SHORT, "--run_dir", "file/run")
    (line,) = ours(err)
    assert status == 1 and "file/run: cannot be written" in line and out == ""


@pytest.mark.slow  # what is said, and how fast, test_at_once shows
def test_a_bad_config_from_a_shell(tmp_path):
    process = start(*HEUN, "--set", "run.epochs = -1", cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and out == ""
    assert ours(err) == ["trainlab: error: --set 'run.epochs = -1': must be a whole number of at least 0"]
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
    assert re.search(r"the last checkpoint is (/.*/)?runs/c/checkpoints/0*1-step-\d$", line)


@pytest.mark.slow
def test_probabilities_expected_of_logits_is_a_warning(command):
    status, _, err = command(*HEUN, "--set", "run.epochs = 0", "--set", "run.loss = 'sparse_categorical_crossentropy'")
    assert status == 0
    assert any("expects probabilities, but the model returns logits" in line for line in ours(err))
    assert ours(command(*HEUN, "--set", "run.epochs = 0", "--run_dir", "control")[2]) == []


@pytest.mark.slow
def test_less_data_than_an_update_is_told_and_a_warning_where_it_takes_several_batches(command):
    status, out, err = command(*SHORT, "--set", "run.batch_size = 2000")
    assert status == 0 and ours(err) == []
    assert "update    all 1,294 examples, fewer than 2000 examples\n" in out
    several = ["--config", str(CONFIGS / "accumulate.gin"), "--set", "run.batch_size = 500", "--set", "run.epochs = 1"]
    status, out, err = command(*several, "--run_dir", "several")
    (line,) = ours(err)
    assert status == 0 and line.startswith("trainlab: warning: ") and "1294" in line
    assert "update    all 1,294 examples, fewer than 2000 examples = 4 batches of 500\n" in out
