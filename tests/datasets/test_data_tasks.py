"""What `Data` finds out from labels, and what it gives for that; how a validation part is split off."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from trainlab import Trainer
from trainlab.datasets import Data
from trainlab.models import lstm

X = np.arange(24, dtype="float32").reshape(6, 4)
TOKENS = np.array([[0, 3, -1], [2, 2, -1], [1, 0, 4]] * 2)
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]] * 2)
ONE_HOT = np.eye(3)[[0, 2, 1, 1, 0, 2]]
LABELS = {
    "integers": (np.array([0, 4, 1, 2, 3, 0]), "classification", 5),
    "a column of integers": (np.array([[0], [4], [1], [2], [3], [0]], "uint8"), "classification", 5),
    "a list": ([0, 1, 1, 0, 1, 0], "classification", 2),
    "booleans": (np.array([True, False] * 3), "classification", 2),
    "a tensor": (tf.constant([0, 4, 1, 2, 3, 0]), "classification", 5),
    "a series": (pd.Series([0, 4, 1, 2, 3, 0]), "classification", 5),
    "one-hot floats": (ONE_HOT, "classification", 3),
    "one-hot integers": (ONE_HOT.astype(int), "classification", 3),
    "several labels": (SEVERAL, "multilabel", 3),
    "several labels, floats": (SEVERAL.astype("float32"), "multilabel", 3),
    "several labels, booleans": (SEVERAL.astype(bool), "multilabel", 3),
    "floats": (np.linspace(0, 1, 6), "regression", 1),
    "a column of zeros and ones": (np.array([[0.0], [1.0]] * 3, "float16"), "regression", 1),
    "two columns": (X[:, :2], "regression", 2),
    "an image each": (np.ones([6, 4, 4, 3], "float32"), "regression", 48),
    "a label a position": (TOKENS, "sequence_labeling", 5),
}
LOSSES = {
    "classification": keras.losses.SparseCategoricalCrossentropy,
    "multilabel": keras.losses.BinaryCrossentropy,
    "regression": keras.losses.MeanSquaredError,
    "sequence_labeling": keras.losses.SparseCategoricalCrossentropy,
}


@pytest.mark.parametrize("case", LABELS)
def test_the_task_is_found_out(case):
    y, task, num_outputs = LABELS[case]
    data = Data("own", (X, y))
    assert (data.task, data.num_outputs, data.num_classes) == (task, num_outputs, None)
    loss = data.default_loss()
    one_hot = case.startswith("one-hot")
    assert type(loss) is (keras.losses.CategoricalCrossentropy if one_hot else LOSSES[task])
    assert loss.get_config().get("from_logits", True) is True
    # What is given counts.
    assert Data("own", (X, y), None, 7, task="regression").num_outputs == 7
    assert Data("own", (X, y), None, 7, task="regression").default_metrics() == ["mae"]


def test_a_task_that_is_given_counts():
    assert type(Data("own", (X, X[:, :2]), task="classification").default_loss()) is keras.losses.CategoricalCrossentropy
    assert type(Data("own", (X, ONE_HOT), task="multilabel").default_loss()) is keras.losses.BinaryCrossentropy
    assert Data("own", (X, np.arange(6)), task="regression").num_outputs == 1
    with pytest.raises(ValueError, match=r"^Data.task='classes': must be 'classification', .* or None to find it out$"):
        Data("own", (X, SEVERAL), task="classes")


@pytest.mark.parametrize(
    "y, num_classes, task",
    [
        (np.arange(6), 6, "classification"),
        (ONE_HOT, 3, "classification"),
        (ONE_HOT, 1, "regression"),
        (np.linspace(0, 1, 6), None, "regression"),
        (X, None, "regression"),
        (TOKENS, 5, "sequence_labeling"),
    ],
)
def test_of_batches_dtype_and_shape_tell(y, num_classes, task):
    data = Data("own", tf.data.Dataset.from_tensor_slices((X, y)).batch(2), None, num_classes)
    assert data.task == task
    assert data.num_outputs == (num_classes or (1 if y.ndim == 1 else 4))


def test_classes_of_batches_must_be_given():
    data = Data("own", tf.data.Dataset.from_tensor_slices((X, np.arange(6))).batch(2))
    with pytest.raises(ValueError, match="^Data.num_classes: must be given with a data set of batches"):
        data.num_outputs  # noqa: B018


@pytest.mark.parametrize("y", [{"a": np.arange(6), "b": np.arange(6)}, (np.arange(6), X), np.array(list("abcdef"))])
def test_of_other_labels_nothing_is_known(y):
    data = Data("own", (X, y))
    assert data.task is None
    for what in (data.default_loss, data.default_metrics, lambda: data.num_outputs):
        with pytest.raises(ValueError, match="^Data.(task is None|num_classes: cannot be read off)") as error:
            what()
        assert "\n" not in str(error.value)


def test_the_largest_class_may_be_anywhere():
    assert Data("own", (X, np.zeros(6, int)), (X, np.arange(6)), validation=(X, np.full(6, 8))).num_outputs == 9


@pytest.mark.parametrize("case", LABELS)
def test_a_model_trains_with_what_is_given(case):
    y, task, num_outputs = LABELS[case]
    shape = np.shape(y)[1:] if task == "regression" and np.ndim(y) > 2 else ()
    length = 3 if task == "sequence_labeling" else 1
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(length * num_outputs)])
    if length > 1 or shape:
        model.add(keras.layers.Reshape(shape or (length, num_outputs)))
    data = Data("own", (X / 24, y))
    model.compile("sgd", data.default_loss(), metrics=data.default_metrics())
    loss = model.evaluate(np.asarray(X) / 24, np.asarray(y), verbose=0, return_dict=True)
    assert np.isfinite(loss["loss"]) and len(loss) > 1


def test_positions_without_a_class_do_not_count():
    logits = np.random.default_rng(0).normal(size=[6, 3, 5]).astype("float32")
    valid = TOKENS >= 0
    exact = -np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[valid, TOKENS[valid]]
    ours = float(Data("own", (X, TOKENS)).default_loss()(TOKENS, logits))
    assert ours == pytest.approx(exact.mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_positions_are_trained_and_counted(weighted):
    x = np.array([[1, 2, 0], [4, 5, 0], [3, 2, 5]] * 2, "int32")
    weight = np.arange(1.0, 19, dtype="float32").reshape(6, 3)
    data = Data("own", (x, TOKENS, weight) if weighted else (x, TOKENS), vocabularies={"x": [""] * 6})
    model = lstm(data.input_shape, data.num_outputs, units=(8,), return_sequences=True)
    kind = "weighted_metrics" if weighted else "metrics"
    model.compile(keras.optimizers.Adam(0.05), data.default_loss(), **{kind: data.default_metrics()})
    trainer = Trainer(model, seed=0, jit_compile=False)
    history = trainer.fit(*data.train[:2], sample_weight=weight if weighted else None, batch_size=4, epochs=25, verbose=0).history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    given = {"sample_weight": weight} if weighted else {}
    found = trainer.evaluate(x, TOKENS, batch_size=4, verbose=0, return_dict=True, **given)["accuracy"]
    right, valid = model.predict(x, verbose=0).argmax(-1) == TOKENS, TOKENS >= 0
    assert found == pytest.approx(np.average(right, weights=valid * (weight if weighted else 1)), rel=1e-5)
    assert 0 < right.sum() < right.size  # the control: not all alike


def test_parts_are_counted():
    y = np.arange(6) % 2
    data = Data("own", (X, y), validation=(X[:2], y[:2]), test=(X[:1], y[:1]))
    assert data.described_sizes == "6 training, 2 validation and 1 test examples"
    assert Data("own", (X, y)).described_sizes == "6 training examples"
    batches = tf.data.Dataset.from_tensor_slices((X, y)).batch(4)
    assert Data("own", batches, None, 2, validation=batches).described_sizes == (
        "a data set of 2 batches to train on and a data set of 2 batches to validate with, examples"
    )


FORMS = {
    "arrays": lambda x: x,
    "lists": lambda x: x.tolist(),
    "tensors": tf.constant,
    "a frame": pd.DataFrame,
    "dictionaries": lambda x: {"a": x, "b": x[:, 0]},
    "tuples": lambda x: (x, x[:, 0]),
    "ragged": lambda x: tf.RaggedTensor.from_tensor(x),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_validation_part_is_drawn(form):
    x = np.arange(40, dtype="float32").reshape(20, 2)
    y, weight = np.arange(20), np.arange(20) / 10
    data = Data("own", (FORMS[form](x), y, weight), (x, y)).split_off(0.25, seed=3)

    def first(part):
        part = part["a"] if isinstance(part, dict) else part[0] if isinstance(part, tuple) else part
        return np.asarray(part.to_tensor() if hasattr(part, "to_tensor") else part)

    which = data.validation[1]
    assert len(which) == 5 and sorted([*which, *data.train[1]]) == list(range(20))
    for part in (data.train, data.validation):
        np.testing.assert_array_equal(first(part[0]), x[part[1]])
        np.testing.assert_array_equal(part[2], weight[part[1]])
        assert list(part[1]) == sorted(part[1])
    again, other = (Data("own", (x, y)).split_off(0.25, seed=seed).validation[1] for seed in (3, 4))
    assert list(again) == list(which) != list(other)
    assert data.task == "classification" and data.test is not None


def test_of_files_the_end_is_taken_as_a_view(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = Data("own", (x, np.arange(6))).split_off(1 / 3)
    assert isinstance(data.train[0], np.memmap) and isinstance(data.validation[0], np.memmap)
    np.testing.assert_array_equal(data.validation[0], X[4:])
    assert list(data.train[1]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "parts, arguments, message",
    [
        ({}, {"fraction": 0}, r"^fraction=0: must be a number in \(0, 1\)"),
        ({}, {"fraction": 1.0}, "^fraction=1.0: "),
        ({}, {"fraction": 0.01}, "^fraction=0.01: puts 0 of 6 examples into the validation set"),
        ({}, {"fraction": 0.5, "seed": -1}, "^seed=-1: must be an integer >= 0"),
        ({"validation": (X, np.arange(6))}, {"fraction": 0.5}, "^own: has a validation part"),
        (
            {"train": tf.data.Dataset.from_tensor_slices((X, np.arange(6))).batch(2)},
            {"fraction": 0.5},
            "^own: only arrays can be split, not a data set of batches",
        ),
    ],
)
def test_what_cannot_be_split_is_said(parts, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        Data("own", **{"train": (X, np.arange(6))} | parts).split_off(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_classes", [0, -1, "3", 2.0, True])
def test_a_number_of_classes_is_a_whole_one(num_classes):
    with pytest.raises(ValueError, match=f"^Data.num_classes={num_classes!r}: must be an integer >= 1$"):
        Data("own", (X, np.arange(len(X)) % 2), num_classes=num_classes)
