"""`--print-config`: what would run, with the place of every value, as a config that runs the same."""

import re

import pytest
from commands import CONFIGS, HEUN, ours

from trainlab.cli.configs.effective import effective
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.configs.reading import load

HEUN_FILE, BASE = CONFIGS / "heun.gin", CONFIGS / "base.gin"


def values(files, bindings=()):
    return {value.name: value for value in effective(load(files, bindings))}


def test_every_value_has_its_place(clean):
    found = values([HEUN_FILE], ["run.epochs = %n", "n = 5", "run.keep = 7"])
    assert found["run.keep"][1:3] == ("7", "--set") and found["run.epochs"][1:3] == ("%n", "--set")
    assert found["n"][1:3] == ("5", "--set")
    for name, text in (("run.batch_size", "64"), ("mlp.hidden_sizes", "(128,)"), ("keras.optimizers.SGD.learning_rate", "0.2")):
        line = next(i for i, line in enumerate(BASE.read_text().splitlines(), 1) if line.startswith(f"{name} "))
        assert found[name][1:3] == (text, f"{BASE}:{line}"), name
    assert found["run.strategy"].where == f"{HEUN_FILE}:4"
    for name, text in (
        ("run.steps", "None"),
        ("digits.test_fraction", "0.2"),
        ("mlp.dropout", "0.0"),
        ("run.validation_split", "0.1"),
    ):
        assert found[name][1:3] == (text, "default"), name
    assert found["mlp.input_shape"].where == "given by the run"
    assert "cnn.filters" not in found and "Accumulate.num_batches" not in found


def test_what_is_inside_something_is_there_too_and_scopes_have_their_own(clean):
    bindings = ["run.strategy = @Accumulate()", "Accumulate.num_batches = 2", "Accumulate.inner = @Heun()"]
    bindings += [
        "run.optimizer = @Adam()",
        "Adam.learning_rate = @slow/ExponentialDecay()",
        "slow/ExponentialDecay.decay_rate = 0.5",
    ]
    bindings += ["ExponentialDecay.decay_steps = 10", "ExponentialDecay.initial_learning_rate = 0.1"]
    found = values([HEUN_FILE], bindings)
    begin = "slow/keras.optimizers.schedules.ExponentialDecay"
    assert found[f"{begin}.decay_rate"].text == "0.5" and found[f"{begin}.decay_steps"].text == "10"
    assert found[f"{begin}.staircase"].where == "default" and found["Accumulate.num_batches"].text == "2"
    assert found["keras.optimizers.SGD.learning_rate"].where.endswith("nothing uses it")


def test_what_monitors_the_run_says_by_what(clean):
    bindings = ["run.callbacks = [@EarlyStopping(), @own/ModelCheckpoint()]", "run.monitor = ('max', 'val_accuracy')"]
    bindings += ["own/ModelCheckpoint.filepath = 'a.keras'", "own/ModelCheckpoint.monitor = 'loss'"]
    found = values([HEUN_FILE], bindings)
    assert found["keras.callbacks.EarlyStopping.monitor"].text == "'val_accuracy'"
    assert found["keras.callbacks.EarlyStopping.monitor"].where.startswith("run.monitor, --set")
    assert found["keras.callbacks.EarlyStopping.mode"].text == "'max'"
    assert found["own/keras.callbacks.ModelCheckpoint.monitor"].text == "'loss'"
    assert found["own/keras.callbacks.ModelCheckpoint.mode"][1:3] == ("'auto'", "default")


def test_what_is_missing_is_said(clean):
    for binding, message in (("run.data = @npz()", "npz needs path: add npz.path"), ("", "run needs data: add run.data")):
        with pytest.raises(ConfigError, match=message):
            list(effective(load([HEUN_FILE] if binding else [], [binding] if binding else ["run.epochs = 1"])))


def test_what_is_printed_is_a_config_that_comes_to_the_same(trainlab_command, tmp_path):
    given = [*HEUN, "--set", "run.epochs = 3", "--set", "run.callbacks = [@EarlyStopping()]", "--set", "run.monitor = 'loss'"]
    status, out, err = trainlab_command("train", "--print-config", *given)
    assert (status, ours(err)) == (0, []) and out.startswith("# --run_dir runs/heun\n")
    assert "Epoch" not in out and list(tmp_path.iterdir()) == []  # nothing was trained, and nothing is left
    (tmp_path / "printed.gin").write_text(out)
    again = trainlab_command("train", "--print-config", "--config", "printed.gin", "--run_dir", "runs/heun")[1]

    def bindings(text):
        return [re.sub(r" *(#.*)?$", "", line) for line in text.splitlines() if line and not line.startswith("#")]

    assert bindings(again) == bindings(out) and len(bindings(out)) > 40
    assert "# default" not in again.replace("# printed.gin", "")  # now every value is of the file


def test_a_module_keeps_the_name_that_the_config_gives_it(trainlab_command, tmp_path):
    (tmp_path / "own_to_print.py").write_text("import trainlab\n\nclass Mine(trainlab.Heun):\n    pass\n")
    (tmp_path / "c.gin").write_text(f"include '{HEUN_FILE}'\nimport own_to_print as own\nrun.strategy = @own.Mine()\n")
    status, out, err = trainlab_command("train", "--print-config", "--config", "c.gin")
    assert (status, ours(err)) == (0, []) and "import own_to_print as own\n" in out, out
    (tmp_path / "printed.gin").write_text(out)
    status, again, err = trainlab_command("train", "--print-config", "--config", "printed.gin")
    assert (status, ours(err)) == (0, []) and again.count("own.Mine") == out.count("own.Mine")
