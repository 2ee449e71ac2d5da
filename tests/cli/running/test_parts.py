"""What a run trains, validates and tests on; the test data are read once, at the end."""

import dataclasses
import json

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from commands import ours, records

from trainlab import Trainer
from trainlab.cli.configs.settings import Settings
from trainlab.cli.running.parts import with_parts
from trainlab.datasets import Data

OWN = """
import numpy as np, keras, tensorflow as tf
from trainlab.datasets import Data

def arrays(n=40, kind="numpy", weights=False, own=0):
    x = np.arange(4 * n, dtype="float32").reshape(n, 4) / (4 * n)
    y = np.arange(n, dtype="int32") % 2
    if kind == "memmap":
        kept = np.memmap("x.dat", "float32", "w+", shape=x.shape)
        kept[:] = x
        x = kept
    train = (x, y, np.ones(n, "float32")) if weights else (x, y)
    validation = (x[:own], y[:own]) if own else None
    return Data("arrays", train, (x[:6], y[:6]), 2, validation=validation)

def batches():
    x, y = arrays().train
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    return Data("batches", data, data.take(1), 2)

def held(kind="pair"):
    x, y = arrays(n=10).train
    given = {"pair": (x, y), "triple": (x, y, np.ones(10, "float32"))}
    given["data"] = Data("held", (x, y), (x, y), 2)
    given["set"] = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    given["one"] = x
    return given[kind]

def no_test():
    return Data("no_test", arrays().train)

def one(input_shape, num_outputs):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(num_outputs)])
"""


@pytest.fixture
def own(command, tmp_path, monkeypatch):
    """The command on data of one's own; what it trained and validated on, by `fit`, and how often it evaluated the test set."""
    (tmp_path / "own_parts.py").write_text(OWN)
    seen = {"fits": [], "tests": 0}
    fit, evaluate = Trainer.fit, Trainer.evaluate

    def watched_fit(self, *args, **kwargs):
        seen["fits"].append((kwargs["x"], kwargs["validation_data"]))
        return fit(self, *args, **kwargs)

    def watched_evaluate(self, *args, **kwargs):
        seen["tests"] += 1
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", watched_fit)
    monkeypatch.setattr(Trainer, "evaluate", watched_evaluate)

    def run(data, *bindings, flags=()):
        text = f"import own_parts\nrun.data = @own_parts.{data}()\nrun.model = @own_parts.one\nrun.optimizer = @Adam()\n"
        text += "run.batch_size = 8\nrun.epochs = 2\n" + "\n".join(bindings)
        (tmp_path / "c.gin").write_text(text)
        seen["fits"].clear()
        seen["tests"] = 0
        status, out, err = command("--config", "c.gin", *flags)
        return status, out, err, seen

    return run


KINDS = {
    "ragged": lambda x: tf.RaggedTensor.from_row_lengths(np.repeat(x[:, 0], np.arange(40) % 3 + 1), np.arange(40) % 3 + 1),
    "sparse": lambda x: tf.sparse.from_dense(x * (np.arange(4) != 1)),
    "lists": lambda x: x.tolist(),
    "a list in a dictionary": lambda x: {"a": x[:, 0].tolist(), "b": x},
    "arrays": lambda x: x,
    "a frame": pd.DataFrame,
}


def plain(x):
    """As lists of numbers, whatever it is in."""
    if isinstance(x, dict):
        return {name: plain(part) for name, part in x.items()}
    if isinstance(x, tf.SparseTensor):
        x = tf.sparse.to_dense(x)
    return x.to_list() if isinstance(x, tf.RaggedTensor) else x if isinstance(x, list) else np.asarray(x).tolist()


def some(x, which):
    """By hand, of what `plain` gives."""
    return {name: some(part, which) for name, part in x.items()} if isinstance(x, dict) else [x[i] for i in which]


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_the_examples_are_in_is_split_and_cut(kind, listed):
    """Ragged and sparse data ended the command, lists were not split in silence, and of lists numbers were cut."""
    x = KINDS[kind](np.arange(1, 161, dtype="float32").reshape(40, 4))
    y = (np.arange(40) % 2).tolist() if listed else np.arange(40) % 2
    data, optimizer, model = Data("own", (x, y), None, 2), keras.optimizers.SGD(), keras.Sequential()
    settings = Settings(data=data, model=lambda *_: model, optimizer=optimizer)
    found, note = with_parts(settings)
    out = expected(40, 4)
    assert note is None and plain(found.data.validation[0]) == some(plain(x), out)
    assert plain(found.data.train[0]) == some(plain(x), [i for i in range(40) if i not in out])
    assert plain(found.data.validation[1]) == [i % 2 for i in out]
    cut = with_parts(dataclasses.replace(settings, overfit=2, batch_size=5))[0].data
    for part in (cut.train, cut.validation):
        assert plain(part[0]) == some(plain(x), range(10)) and plain(part[1]) == [i % 2 for i in range(10)]


def test_parts_of_different_lengths_are_left_for_fit_to_refuse():
    data = Data("own", ({"a": np.zeros([40, 1]), "b": [0.0] * 39}, np.arange(40) % 2), None, 2)
    settings = Settings(data=data, model=lambda *_: None, optimizer=keras.optimizers.SGD())
    assert with_parts(settings)[0].data is data and data.lengths == {39, 40}


def rows(x):
    """Which of the 40 examples these are."""
    return [int(number) for number in np.round(np.asarray(x)[:, 0] * 40)]


def expected(n, number):
    """The held-out examples, by the rule: the first of a permutation by seed 0."""
    return sorted(np.random.default_rng(0).permutation(n)[:number].tolist())


@pytest.mark.slow
def test_a_tenth_is_drawn_by_a_seed_of_its_own_and_kept_in_order(own):
    status, out, err, seen = own("arrays")
    assert (status, ours(err)) == (0, []), err
    [(x, validation)] = seen["fits"]
    assert rows(validation[0]) == expected(40, 4) and rows(x) == [i for i in range(40) if i not in expected(40, 4)]
    assert "arrays: 36 training, 4 validation and 6 test examples of shape (4,), 2 classes" in out and seen["tests"] == 1
    assert not np.shares_memory(x, validation[0])
    status, _, _, seen = own("arrays", "run.seed = 7", flags=["--run_dir", "other"])  # judged by the same
    assert rows(seen["fits"][0][1][0]) == expected(40, 4)


@pytest.mark.parametrize(("share", "number"), [(0.25, 10), (0.001, 1), (0.5, 20)])
def test_the_share_is_as_said(own, share, number):
    status, out, _, seen = own("arrays", f"run.validation_split = {share}", "run.epochs = 0")
    assert status == 0 and rows(seen["fits"][0][1][0]) == expected(40, number) and f"{number} validation" in out


def test_none_is_held_out_where_none_is_asked_for(own, tmp_path):
    status, out, _, seen = own("arrays", "run.validation_split = 0")
    assert status == 0 and seen["fits"][0][1] is None and "40 training and 6 test" in out
    assert not any(name.startswith("val_") for name in records(tmp_path / "runs" / "c")[0])


@pytest.mark.slow
def test_a_memmap_gives_its_end_and_is_not_copied(own):
    status, out, err, seen = own("arrays", "own_parts.arrays.kind = 'memmap'")
    assert status == 0, err
    [(x, validation)] = seen["fits"]
    assert rows(x) == list(range(36)) and rows(validation[0]) == list(range(36, 40))
    assert isinstance(x, np.memmap) and isinstance(validation[0], np.memmap)


@pytest.mark.slow
def test_weights_go_with_their_examples(own):
    status, _, err, seen = own("arrays", "own_parts.arrays.weights = True")
    assert status == 0 and len(seen["fits"][0][1]) == 3, err


def test_a_part_of_the_datas_own_is_used(own):
    status, out, _, seen = own("arrays", "own_parts.arrays.own = 5")
    assert status == 0 and rows(seen["fits"][0][1][0]) == list(range(5)) and "40 training, 5 validation and 6 test" in out


@pytest.mark.parametrize(("kind", "num"), [("pair", "10"), ("triple", "10"), ("data", "10"), ("set", "a data set of 2 batches")])
def test_data_to_validate_on_are_given(own, tmp_path, kind, num):
    status, out, err, seen = own("arrays", "run.validation_data = @own_parts.held()", f"own_parts.held.kind = '{kind}'")
    assert (status, ours(err)) == (0, []), err
    assert len(seen["fits"][0][0]) == 40 and num in out and "val_loss" in records(tmp_path / "runs" / "c")[0]


@pytest.mark.slow
def test_the_test_set_is_validated_on_where_that_is_said(own, tmp_path):
    status, _, _, seen = own("arrays", "run.validation_data = 'test'")
    *epochs, last = records(tmp_path / "runs" / "c")
    assert status == 0 and len(seen["fits"][0][0]) == 40
    assert last["test_loss"] == pytest.approx(epochs[-1]["val_loss"])
    status, _, _, _ = own("arrays", flags=["--run_dir", "default"])  # the control
    *epochs, last = records(tmp_path / "default")
    assert status == 0 and last["test_loss"] != pytest.approx(epochs[-1]["val_loss"])


@pytest.mark.slow
def test_a_data_set_is_not_split_and_a_line_says_so_once(own, tmp_path):
    status, out, err, seen = own("batches")
    assert (status, ours(err)) == (0, []) and seen["fits"][0][1] is None
    line = "validate  nothing, since a data set of batches cannot be split: give run.validation_data\n"
    assert out.count("validate") == 1 and line in out
    assert "val_loss" not in records(tmp_path / "runs" / "c")[0]
    out = own("batches", "run.validation_data = @own_parts.held()", flags=["--run_dir", "other"])[1]
    assert "cannot be split" not in out
    assert "cannot be split" not in own("batches", "run.validation_split = 0.0", flags=["--run_dir", "third"])[1]


@pytest.mark.slow
def test_overfitting_trains_and_validates_on_so_many_batches(own, tmp_path):
    status, out, _, seen = own("arrays", "run.overfit = 2", "run.epochs = 3")
    [(x, validation)] = seen["fits"]
    assert status == 0 and rows(x) == rows(validation[0]) == list(range(16))
    assert "overfit   trains and validates on 2 batches alone" in out
    assert [record["step"] for record in records(tmp_path / "runs" / "c")] == [2, 4, 6, 6]
    status, _, _, seen = own("batches", "run.overfit = 1", flags=["--run_dir", "batches"])
    assert status == 0 and [int(part.cardinality()) for part in seen["fits"][0]] == [1, 1]


@pytest.mark.slow
def test_data_without_a_test_part(own, tmp_path):
    status, out, err, seen = own("no_test")
    assert (status, ours(err)) == (0, []) and "test      nothing: the data have no test part" in out and seen["tests"] == 0
    assert json.loads((tmp_path / "runs" / "c" / "result.json").read_text())["test"] == {}
    assert own("no_test")[0] == 0  # finished
    status, _, err, _ = own("no_test", "run.validation_data = 'test'", flags=["--run_dir", "other"])
    assert status == 1 and "run.validation_data = 'test': the data have no test part" in ours(err)[-1]


@pytest.mark.slow
def test_loss_and_metrics_are_those_of_the_data_where_none_are_named(own, tmp_path):
    status, out, err, _ = own("arrays")
    assert (status, ours(err)) == (0, []) and "accuracy: " in out  # of logits: no warning
    assert own("arrays", "run.metrics = []", flags=["--run_dir", "none"])[0] == 0
    assert "accuracy" not in records(tmp_path / "none")[0]


@pytest.mark.parametrize(
    ("data", "bindings", "message"),
    [
        ("arrays", ["run.validation_split = 1.0"], "must be a number of at least 0 and less than 1"),
        ("arrays", ["run.validation_split = -0.1"], "must be a number of at least 0 and less than 1"),
        ("arrays", ["run.validation_split = 'a'"], "must be a number of at least 0 and less than 1"),
        ("arrays", ["run.validation_split = True"], "must be a number of at least 0 and less than 1"),
        ("arrays", ["run.validation_split = 0.99"], "validation_split"),
        ("arrays", ["own_parts.arrays.n = 1"], "holds out 1 of 1 example, which leaves none to train on: write"),
        ("arrays", ["run.validation_data = 'tests'"], "must be 'test', or a function that returns (x, y)"),
        ("arrays", ["run.validation_data = 3"], "must be 'test', or a function that returns (x, y)"),
        ("arrays", ["run.validation_data = @own_parts.held"], "the parentheses are missing"),
        ("arrays", ["run.validation_data = @own_parts.held()", "own_parts.held.kind = 'one'"], "Data.validation must be a pair"),
        ("arrays", ["run.overfit = 0"], "must be a whole number of at least 1"),
        ("arrays", ["run.overfit = 'a'"], "must be a whole number of at least 1"),
        ("arrays", ["run.monitor = 3"], "must be the name of a metric, as in 'val_loss'"),
        ("arrays", ["run.monitor = ('most', 'loss')"], "must be the name of a metric, as in 'val_loss'"),
        ("arrays", ["run.keep_best = False"], "must be the name of a metric, as in 'val_loss'"),
        ("arrays", ["run.tensorboard = 'yes'"], "must be True or False"),
        ("arrays", ["run.callbacks = @EarlyStopping()"], "must be a list, as in run.callbacks = [@EarlyStopping()]"),
        ("arrays", ["run.callbacks = [@EarlyStopping]"], "callbacks[0] = @EarlyStopping: must be a Keras callback"),
        ("arrays", ["run.callbacks = ['EarlyStopping']"], "callbacks[0] = 'EarlyStopping': must be a Keras callback"),
        ("arrays", ["run.callbacks = [@Adam()]"], "must be a Keras callback, as in"),
        ("arrays", ["run.callbacks = [@EarlyStoping()]"], "unknown name 'EarlyStoping'; did you mean EarlyStopping?"),
        ("arrays", ["run.callbacks = [@EarlyStopping()]", "EarlyStopping.patients = 3"], "did you mean patience?"),
        ("arrays", ["run.metrics = [@BinaryCrossentropy()]"], "is a loss; write @keras.metrics.BinaryCrossentropy()"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left(own, tmp_path, data, bindings, message):
    status, out, err, _ = own(data, *bindings)
    [line] = ours(err)
    assert status == 1 and line.startswith("trainlab: error: ") and message in line, line
    assert "Epoch" not in out and not (tmp_path / "runs").exists()
