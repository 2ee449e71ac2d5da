"""Data sets of one's own on the command line: of batches, of several inputs, and what is refused of them."""

import h5py
import pytest
from commands import ours, records

from trainlab import Trainer

OWN = """
import keras, numpy as np, tensorflow as tf
from trainlab.datasets import Data

X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = (X.sum(1) > 0).astype("int32")

def batches(size=8, num_classes=2):
    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = data.batch(size) if size else data
    return Data("batches", data, data, num_classes)

def arrays(num_classes=2):
    return Data("arrays", (X, Y), (X, Y), num_classes)

def named():
    x = {"a": X[:, :1], "b": X[:, 1:]}
    return Data("named", (x, Y), (x, Y), 2)

def pair():
    x = X[:, :1], X[:, 1:]
    return Data("pair", (x, Y), (x, Y), 2)

def mixed():
    return Data("mixed", (X, Y), batches().test, 2)

def generator():
    return Data("generator", (pair for pair in [(X, Y)]), (X, Y), 2)

def rows():
    return Data("rows", (X, np.eye(2, dtype="float32")[Y]), (X, np.eye(2, dtype="float32")[Y]), 2)

def one(input_shape, num_classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(max(2, num_classes))])

def several(input_shape, num_classes):
    shapes = input_shape.values() if isinstance(input_shape, dict) else input_shape
    inputs = [keras.Input(shape, name=name) for shape, name in zip(shapes, "ab")]
    x = keras.layers.Concatenate()(inputs)
    given = dict(zip("ab", inputs)) if isinstance(input_shape, dict) else inputs
    return keras.Model(given, keras.layers.Dense(num_classes)(x))

class Holding(keras.Model):
    # has no get_config, and is made with what Keras does not know how to write
    def __init__(self, thing, num_outputs):
        super().__init__()
        self.dense = keras.layers.Dense(num_outputs)

    def call(self, x):
        return self.dense(x)

def holding(input_shape, num_classes):
    return Holding(object(), num_classes)

class Weights(keras.Model):
    def __init__(self):
        super().__init__()
        self.w = self.add_weight(shape=(4, 2), initializer="zeros")

    def call(self, x):
        return keras.ops.softmax(x @ self.w)

def weights(input_shape, num_classes):
    return Weights()

def half(input_shape, num_classes):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return one(input_shape, num_classes)
    finally:
        keras.config.set_dtype_policy("float32")
"""


@pytest.fixture
def own(command, tmp_path):
    """The command on a config whose data and model are of a module beside it."""
    (tmp_path / "own_data_for_tests.py").write_text(OWN)

    def run(data, model, *bindings, flags=()):
        text = f"import own_data_for_tests as own\nrun.data = @own.{data}()\nrun.model = @own.{model}\n"
        text += "run.loss = @SparseCategoricalCrossentropy()\nSparseCategoricalCrossentropy.from_logits = True\n"
        text += "run.optimizer = @keras.optimizers.SGD()\nrun.batch_size = 8\nrun.epochs = 2\n" + "\n".join(bindings)
        (tmp_path / "c.gin").write_text(text)
        return command("--config", "c.gin", *flags)

    return run


@pytest.mark.slow
def test_a_data_set_of_batches_trains_as_its_arrays_do(own, tmp_path, monkeypatch):
    results = {}
    # Arrays are shuffled, and a data set is taken as it comes.
    fit = Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **kwargs: fit(self, *args, **kwargs, shuffle=False))
    for data in ("batches", "arrays"):
        status, out, err = own(data, "one", "run.validation_data = 'test'", flags=["--run_dir", data])
        assert (status, ours(err)) == (0, []), err
        results[data] = records(tmp_path / data)
        said = (
            "a data set of 5 batches to train on, a data set of 5 batches to validate with and a data set of 5 batches to test"
            if data == "batches"
            else "40 training, 40 validation and 40 test"
        )
        assert said in out and ("update    1 batch of the data set\n" in out) == (data == "batches")
    for ours_, theirs in zip(results["batches"], results["arrays"], strict=True):
        assert ours_ == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "data, model, shape", [("named", "several", "{'a': (1,), 'b': (3,)}"), ("pair", "several", "((1,), (3,))")]
)
def test_several_inputs(own, tmp_path, data, model, shape):
    status, out, err = own(data, model)
    assert (status, ours(err)) == (0, []), err
    assert f"36 training, 4 validation and 40 test examples of shape {shape}, 2 classes" in out
    assert records(tmp_path / "runs" / "c")[-1]["step"] == 10


@pytest.mark.parametrize(
    ("model", "bindings", "scale"),
    [
        ("half", [], 2.0**15),
        (
            "one",
            ["run.optimizer = @LossScaleOptimizer()", "LossScaleOptimizer.inner_optimizer = @keras.optimizers.SGD()"],
            2.0**15,
        ),
        (
            "half",
            [
                "run.optimizer = @LossScaleOptimizer()",
                "LossScaleOptimizer.inner_optimizer = @Adam()",
                "LossScaleOptimizer.initial_scale = 8.0",
                "LossScaleOptimizer.dynamic_growth_steps = 4",
            ],
            32.0,
        ),
    ],
)
@pytest.mark.slow
def test_loss_scaling_is_told(own, tmp_path, model, bindings, scale):
    status, out, err = own("arrays", model, *bindings)
    assert (status, ours(err)) == (0, []), err
    assert "loss_scale: " in out and "skipped: " in out
    *epochs, _ = records(tmp_path / "runs" / "c")
    assert [record["skipped"] for record in epochs] == [0, 0] and epochs[-1]["loss_scale"] == scale
    status, _, err = own("arrays", model, *bindings)  # finished
    assert (status, ours(err)) == (0, []), err


@pytest.mark.slow
def test_arrays_to_train_on_and_a_data_set_to_test(own, tmp_path):
    status, out, err = own("mixed", "one", "run.strategy = @Accumulate()", "Accumulate.num_batches = 2")
    assert (status, ours(err)) == (0, []), err
    assert "update    16 examples = 2 batches of 8\n" in out and records(tmp_path / "runs" / "c")[-1]["step"] == 6


@pytest.mark.slow
def test_a_run_on_a_data_set_goes_on(own, tmp_path):
    assert own("batches", "one")[0] == 0
    status, out, err = own("batches", "one", "run.epochs = 3")
    assert (status, ours(err)) == (0, []) and "resumed at update 10, epoch 3" in out
    assert [record["epoch"] for record in records(tmp_path / "runs" / "c")] == [1, 2, 3, 3]


@pytest.mark.parametrize("data", ["arrays", "batches"])
def test_one_of_a_thing_is_no_plural(own, data):
    status, out, _ = own(data, "one", f"own.{data}.num_classes = 1", "run.epochs = 1")
    assert status == 0
    assert ", 1 class\n" in out and "length    1 epoch\n" in out and "1 evaluation an update" in out


@pytest.mark.parametrize(
    "data, model, bindings, message",
    [
        (
            "batches",
            "one",
            ["own.batches.size = 0"],
            "Data.train: each element of the data set is one example and no batch: did you f",
        ),
        ("generator", "one", [], "Data.train must be a pair (x, y) of arrays, or a tf.data.Dataset of batches, not a generator"),
        (
            "rows",
            "one",
            [],
            "c.gin:4: loss SparseCategoricalCrossentropy does not fit: y has examples of shape (2,), the model's",
        ),
        (
            "arrays",
            "one",
            ["run.loss = 'mse'"],
            "c.gin:9: loss mse does not fit: y has examples of shape (), the model's output (2,)",
        ),
        ("arrays", "one", ["run.metrics = ['recall']"], "c.gin:9: metrics do not fit batches of x (8, 4) and y (8,)"),
    ],
)
def test_what_does_not_fit_is_one_line_that_blames_what_it_is(own, tmp_path, data, model, bindings, message):
    status, out, err = own(data, model, *bindings)
    *warned, line = ours(err)
    assert status == 1 and "Epoch" not in out and all("warning" in other for other in warned)
    assert message in line and line.count("trainlab") == 1 and "{{node" not in line, line
    assert not (tmp_path / "runs").exists()


def test_a_metric_of_several_numbers_is_told_number_by_number(own, tmp_path):
    """All work was done, and the command ended with status 1, again and again: float() takes one number only."""
    more = ["run.loss = 'mse'", "run.metrics = [@F1Score()]"]
    status, out, err = own("rows", "one", *more)
    assert status == 0, err
    last = records(tmp_path / "runs" / "c")[-1]
    first, second = last["test_f1_score"]
    assert f"test      f1_score[0] {first:.4f}, f1_score[1] {second:.4f}, loss {last['test_loss']:.4f}\n" in out
    assert own("rows", "one", *more)[1].splitlines()[-2:-1] == out.splitlines()[-2:-1]  # of the finished run the same


@pytest.mark.slow
def test_a_model_that_cannot_be_saved_whole_is_told_before_and_its_weights_are_kept(own, tmp_path):
    """After hours of training the command failed at the last step, with the test result not told, each time again."""
    whole = "trainlab: warning: the model cannot be saved whole, and its weights alone"
    why = "Object Holding was created by passing non-serializable argument values"
    status, out, err = own("arrays", "holding")
    before, after = ours(err)
    assert status == 0 and before.startswith(f"{whole} will be: {why}")
    assert after.startswith(f"{whole} are: {why}")
    assert "results   runs/c: model.weights.h5, metrics.jsonl" in out and "\ntest      accuracy " in out
    names = {path.name for path in (tmp_path / "runs" / "c").iterdir()}
    assert "model.weights.h5" in names and "model.keras" not in names and "result.json" in names
    with h5py.File(tmp_path / "runs" / "c" / "model.weights.h5") as file:
        shapes = []
        file.visititems(lambda _, item: shapes.append(getattr(item, "shape", None)))
    assert (4, 2) in shapes
    again = own("arrays", "holding")  # finished: what it has said is said again, and nothing written
    assert again[0] == 0 and again[1].splitlines()[-2] == out.splitlines()[-2] and len(ours(again[2])) == 1
    status, _, err = own("arrays", "holding", flags=["--dry-run", "--run_dir", "other"])
    assert status == 0 and ours(err) == [before]


@pytest.mark.slow
def test_a_model_without_layers(own):
    """What its last layer is was looked at, to warn of logits."""
    assert own("arrays", "weights", "run.loss = 'sparse_categorical_crossentropy'", "run.epochs = 1")[0] == 0


@pytest.mark.slow
def test_remedies_are_flags(own):
    assert own("arrays", "one")[0] == 0
    more = ["run.epochs = 3", "keras.optimizers.SGD.learning_rate = 0.5", "run.seed = 3", "run.micro_batch_size = 4"]
    status, _, err = own("arrays", "one", *more)
    assert status == 1
    for remedy in ("--override=learning_rate", "seed: saved 0, now 3 (give back the one that was saved)"):
        assert remedy in err
    for word in ("override=[", "give the Trainer", 'resume="weights"', "call fit"):
        assert word not in err
    status, _, err = own("arrays", "one", "run.keep_best = 'val_nosuch'", flags=["--run_dir", "other"])
    assert status == 1 and "run.keep_best = 'val_nosuch' is not among the logs" in err
