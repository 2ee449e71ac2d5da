import io
import pickle
import subprocess
import sys
from importlib import resources

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainlab import datasets


def test_import_needs_no_tensorflow():
    code = (
        "import sys, trainlab.datasets\n"
        "assert trainlab.datasets.digits().input_shape == (8, 8, 1)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Data

X, Y = np.ones((6, 4), "float32"), np.arange(6) % 2


def stream(*arrays, batch=2):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch)


@pytest.mark.parametrize(
    "train, shape, is_arrays",
    [
        ((X, Y), (4,), True),
        ((X.tolist(), Y.tolist()), (4,), True),
        (({"a": X, "b": X[:, :1]}, Y), {"a": (4,), "b": (1,)}, True),
        (((X, X[:, :1]), Y), ((4,), (1,)), True),
        (([X, X[:, :1]], {"out": Y}), ((4,), (1,)), True),
        ((tf.constant(X), tf.constant(Y)), (4,), True),
        (stream(X, Y), (4,), False),
        (stream({"a": X, "b": X[:, :1]}, Y), {"a": (4,), "b": (1,)}, False),
        (stream((X, X[:, :1]), Y, np.ones(6)), ((4,), (1,)), False),
    ],
)
def test_data_know_the_shape_of_an_example_however_they_are_given(train, shape, is_arrays):
    data = datasets.Data("own", train, (X, Y), 2)
    assert (data.input_shape, data.is_arrays) == (shape, is_arrays)
    if is_arrays:
        assert data.num_examples == 6 and data.described_sizes == "6 training and 6 test examples"


def test_data_sets_are_described_by_their_batches():
    endless = stream(X, Y).repeat()
    assert datasets.Data("own", endless, stream(X, Y, batch=6), 2).described_sizes == (
        "a data set to train on and a data set of 1 batch to test, examples"
    )
    assert datasets.Data("own", (X, Y), stream(X, Y), 2).described_sizes == (
        "6 examples to train on and a data set of 3 batches to test, examples"
    )


@pytest.mark.parametrize(
    "part, exception, message",
    [
        ((i for i in range(3)), TypeError, "must be a pair (x, y) of arrays, or a tf.data.Dataset of batches, not a generator"),
        (X, TypeError, "not a ndarray"),
        ((X,), TypeError, "not 1 things"),
        ((X, Y, Y, Y), TypeError, "not 4 things"),
        ("digits", TypeError, "not a str"),
        (tf.data.Dataset.from_tensor_slices(X).batch(2), TypeError, "each element of the data set must be a batch (x, y)"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), ValueError, "one example and no batch: did you forget .batch(32)?"),
        (tf.data.Dataset.from_tensor_slices(({"a": X}, {"y": Y})), ValueError, "did you forget .batch(32)?"),
    ],
)
@pytest.mark.parametrize("which", ["train", "test"])
def test_what_is_no_data_is_refused_in_a_line(part, exception, message, which):
    parts = {"train": (X, Y), "test": (X, Y)} | {which: part}
    with pytest.raises(exception) as error:
        datasets.Data("own", **parts, num_classes=2)
    assert str(error.value).startswith(f"Data.{which}") and message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_rank_is_said():
    unknown = stream(X, Y).map(lambda x, y: (tf.ensure_shape(tf.py_function(lambda a: a, [x], tf.float32), None), y))
    with pytest.raises(ValueError, match="the shape of x is not known, not even its rank"):
        datasets.Data("own", unknown, (X, Y), 2).input_shape  # noqa: B018


# digits


def test_digits_shapes_dtypes_and_range():
    data = datasets.digits()
    assert (data.name, data.num_classes, data.input_shape) == ("digits", 10, (8, 8, 1))
    for (x, y), num in ((data.train, 1438), (data.test, 359)):
        assert (x.shape, x.dtype) == ((num, 8, 8, 1), np.float32)
        assert (y.shape, y.dtype) == ((num,), np.int32)
        assert (x.min(), x.max()) == (0.0, 1.0)
        assert set(y) == set(range(10))


def test_digits_split_is_a_partition_of_the_file():
    with resources.files("trainlab.datasets").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    data = datasets.digits(test_fraction=0.3, seed=5)

    def rows(x, y):
        return sorted((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))

    x, y = (np.concatenate(pair) for pair in zip(data.train, data.test, strict=True))
    assert rows((x * 16).astype(np.uint8), y) == rows(images, labels)
    assert len(data.test[1]) == round(0.3 * 1797)


def test_digits_seed_decides_the_split():
    first, again, other = datasets.digits(seed=1), datasets.digits(seed=1), datasets.digits(seed=2)
    np.testing.assert_array_equal(first.train[0], again.train[0])
    np.testing.assert_array_equal(first.test[1], again.test[1])
    assert (first.test[1] != other.test[1]).any()


def test_digits_file_is_small_and_has_its_source_beside_it():
    folder = resources.files("trainlab.datasets")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 200_000
    text = folder.joinpath("digits.txt").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in text
    assert "CC BY 4.0" in text


@pytest.mark.parametrize("fraction", [0, 1, 0.0, 1.0, -0.1, 1.5, float("nan"), 1e-9, 1 - 1e-9, "0.2", None, True])
def test_digits_refuses_a_bad_fraction(fraction):
    with pytest.raises(ValueError, match=r"^test_fraction=.*example 0\.2$"):
        datasets.digits(test_fraction=fraction)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_digits_refuses_a_bad_seed(seed):
    with pytest.raises(ValueError, match=r"^seed=.*: must be an integer >= 0, for example seed=0$"):
        datasets.digits(seed=seed)


# mnist, fashion_mnist, cifar10

KERAS = {"mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32, 3)}


@pytest.mark.parametrize("name", KERAS)
def test_keras_data_set(name, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (7, *KERAS[name]), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    labels = np.arange(7, dtype=np.uint8)
    stored = labels[:, None] if name == "cifar10" else labels
    parts = (pixels[:5], stored[:5]), (pixels[5:], stored[5:])
    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", lambda: parts)
    data = getattr(datasets, name)()
    shape = (*KERAS[name], 1)[:3]
    assert (data.name, data.num_classes, data.input_shape) == (name, 10, shape)
    for (x, y), part in ((data.train, slice(5)), (data.test, slice(5, None))):
        assert (x.dtype, y.dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(x, (pixels[part].reshape(-1, *shape) / 255).astype(np.float32))
        np.testing.assert_array_equal(y, labels[part])
    assert (data.train[0].min(), data.train[0].max()) == (0.0, 1.0)


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("error", [Exception("URL fetch failure on x: None -- y\nmore"), OSError()])
def test_failed_download_is_one_line(name, error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(getattr(keras.datasets, name), "load_data", fail)
    with pytest.raises(ConnectionError) as caught:
        getattr(datasets, name)()
    message = str(caught.value)
    assert message.startswith(f"{name}() could not be loaded (")
    assert "needs a network; digits() is shipped with the package" in message
    assert "\n" not in message


# npz

GOOD = {
    "x_train": np.arange(24.0).reshape(6, 4),
    "y_train": np.array([0, 1, 2, 0, 1, 2]),
    "x_test": np.ones((2, 4)),
    "y_test": np.array([3, 0]),
}


def write(tmp_path, **changes):
    path = tmp_path / "mine.npz"
    arrays = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize("as_path", [str, lambda path: path])
def test_npz_returns_the_arrays_as_stored(tmp_path, as_path):
    data = datasets.npz(as_path(write(tmp_path)))
    assert (data.name, data.num_classes, data.input_shape) == ("mine", 4, (4,))
    for array, name in zip((*data.train, *data.test), GOOD, strict=True):
        assert array.dtype == GOOD[name].dtype
        np.testing.assert_array_equal(array, GOOD[name])


def test_npz_expands_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path)
    assert datasets.npz("~/mine.npz").num_classes == 4


@pytest.mark.parametrize(
    ("changes", "num_classes", "expected"),
    [
        ({}, None, 4),
        ({}, 7, 7),
        ({}, np.int64(4), 4),
        ({"y_train": GOOD["y_train"][:, None], "y_test": GOOD["y_test"][:, None]}, None, 4),
        ({"y_train": np.eye(6), "y_test": np.eye(6)[:2]}, 6, 6),  # one-hot
        ({"y_train": np.zeros(6), "y_test": np.zeros(2)}, 1, 1),  # regression
        ({"y_train": np.full((6, 3), -1), "y_test": np.full((2, 3), -1)}, 5, 5),  # tokens, padded with -1
    ],
)
def test_npz_num_classes(tmp_path, changes, num_classes, expected):
    assert datasets.npz(write(tmp_path, **changes), num_classes).num_classes == expected


@pytest.mark.parametrize(
    ("changes", "num_classes", "message"),
    [
        (
            {"y_test": None},
            None,
            r"has no array y_test \(it has: x_train, y_train, x_test\); write all of x_train,",
        ),
        ({"x_train": None, "x_test": None}, None, "has no array x_train, x_test .*; write all of"),
        ({"x_train": np.array([None] * 6)}, None, r"x_train is an object array, .* np\.stack"),
        ({"y_test": np.array([1, "a"], object)}, None, "y_test is an object array"),
        ({"x_train": np.array(1.0)}, None, r"x_train has shape \(\); its first axis must hold"),
        (
            {"x_test": np.ones((0, 4)), "y_test": np.ones(0, int)},
            None,
            r"x_test has shape \(0, 4\); its first axis",
        ),
        ({"x_train": np.ones((5, 4))}, None, "x_train has 5 examples, y_train 6; write as many"),
        ({"x_test": np.ones((2, 3))}, None, r"shape \(4,\) and x_test of \(3,\); both must be alike"),
        (
            {"y_train": np.ones(6)},
            None,
            "num_classes=None takes .* but they are float64 .*; pass num_classes",
        ),
        ({"y_train": np.eye(6, dtype=int)}, None, r"one per example, but they are int64 of shape \(6, 6\)"),
        ({"y_test": np.ones(2, "float32")}, None, "but they are float32"),
        ({"y_train": np.array([0, -1, 2, 0, 1, 2])}, None, "label -1: integer labels must be >= 0"),
        ({}, 3, "label 3: must be < num_classes; pass num_classes=4"),
    ],
)
def test_npz_refuses_bad_arrays(tmp_path, changes, num_classes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.npz(path, num_classes)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_classes", [0, -1, 2.0, "4", True])
def test_npz_refuses_a_bad_num_classes(tmp_path, num_classes):
    with pytest.raises(ValueError, match="^num_classes=.*: must be a positive integer, or None"):
        datasets.npz(write(tmp_path), num_classes)


def test_npz_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file; write one with np\.savez\(.*\)$"):
        datasets.npz(tmp_path / "none.npz")


def one_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def damaged(path) -> bytes:
    content = bytearray(path.read_bytes())
    content[80] ^= 0xFF  # inside the first array's compressed bytes
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        lambda good: b"",
        lambda good: b"not an archive",
        lambda good: pickle.dumps([1]),
        lambda good: one_array(),
        lambda good: good.read_bytes()[:200],
        damaged,
    ],
    ids=["empty", "text", "pickle", "npy", "truncated", "damaged"],
)
def test_npz_refuses_an_unreadable_file(tmp_path, content):
    path = write(tmp_path)
    path.write_bytes(content(path))
    with pytest.raises(ValueError, match=r"with np\.savez$") as caught:
        datasets.npz(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_npz_refuses_a_directory(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read as a \.npz file"):
        datasets.npz(tmp_path)


def test_reading_runs_no_code_from_the_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = write(tmp_path, x_train=np.array([Bomb()] * 6, dtype=object))
    with pytest.raises(ValueError, match="object array"):
        datasets.npz(path)
    assert not (tmp_path / "exploded").exists()
    np.load(path, allow_pickle=True)["x_train"]  # the control: unpickled, it does run
    assert (tmp_path / "exploded").exists()
