"""Folders of images and texts, TFRecord and .npy files: trained on as arrays, stopped and gone on with; and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from from_files import NUM, PIXELS, X, Y, assert_goes_on, differ, fitted

from trainlab.datasets import Data, image_folder, npy, text_folder, tfrecord
from trainlab.models import lstm, text_transformer


def write_images(folder, pixels=PIXELS, labels=Y):
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / f"digit {label}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(str(path), tf.io.encode_png(image))
    return folder


def by_class(pixels=PIXELS, y=Y):
    x = pixels.astype("float32") / 255
    order = np.argsort(y, kind="stable")
    return x[order], y[order]


def images(folder, **settings):
    return image_folder(folder, image_size=(8, 8), color_mode="grayscale", batch_size=8, **settings)


@pytest.mark.slow
def test_a_folder_of_images_trains_as_arrays(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test", PIXELS[:30], Y[:30])
    data = images(tmp_path / "train", test=tmp_path / "test", shuffle=False)
    assert (data.name, data.task, data.num_outputs, data.input_shape) == ("train", "classification", 10, (8, 8, 1))
    assert data.vocabularies["y"][3] == "digit 3"
    x, y = by_class()
    arrays = Data("arrays", tf.data.Dataset.from_tensor_slices((x, y)).batch(8), None, 10)
    assert not differ(fitted(data), fitted(arrays))
    assert not differ(fitted(data), fitted(Data("arrays", (x, y)), shuffle=False))
    found = np.concatenate([x for x, _ in data.test.as_numpy_iterator()])
    np.testing.assert_array_equal(found, by_class(PIXELS[:30], Y[:30])[0])


def test_a_part_of_the_images_is_drawn_for_the_test(tmp_path):
    write_images(tmp_path / "all")
    data = images(tmp_path / "all", test_fraction=0.25)
    parts = [np.concatenate([y for _, y in part.as_numpy_iterator()]) for part in (data.train, data.test)]
    assert len(parts[1]) == 12 and sorted(np.concatenate(parts)) == sorted(Y)
    assert len(set(parts[1])) > 3  # not the last classes
    assert images(tmp_path / "all", test_fraction=None).test is None


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"shuffle": False, "test_fraction": None}], ids=["shuffled", "in order"])
def test_images_go_on_in_the_middle_of_an_epoch(settings, tmp_path, recwarn):
    write_images(tmp_path / "all")
    assert_goes_on(lambda: images(tmp_path / "all", **settings), tmp_path / "run", stop_after=8)
    assert not [str(warning.message) for warning in recwarn if "read again" in str(warning.message)]


IMAGE_MISTAKES = {
    "no folder": ({"path": "none"}, FileNotFoundError, "none: no such folder"),
    "no classes": ({"path": "{all}/digit 3"}, ValueError, "has no folder of a class; files must lie in"),
    "other classes": ({"test": "{other}"}, ValueError, "has the classes a, and the training part digit 0, "),
    "a size": ({"image_size": (8,)}, ValueError, "image_size=(8,): must be (height, width)"),
    "a size of nothing": ({"image_size": (0, 8)}, ValueError, "image_size[0]=0: must be an integer >= 1"),
    "a batch": ({"batch_size": 0}, ValueError, "batch_size=0: must be"),
    "colors": ({"color_mode": "red"}, ValueError, "color_mode='red': must be 'rgb', 'grayscale', 'rgba'"),
    "a fraction": ({"test_fraction": 2}, ValueError, "test_fraction=2: must be a number in (0, 1)"),
    "unshuffled": ({"shuffle": False}, ValueError, "shuffle=False: unshuffled images come class by class"),
    "no images": ({"path": "{empty}"}, ValueError, "images found in directory"),
}


@pytest.mark.parametrize("case", IMAGE_MISTAKES)
def test_mistakes_with_images_get_one_line(case, tmp_path):
    arguments, exception, message = IMAGE_MISTAKES[case]
    folders = {"all": tmp_path / "all", "other": tmp_path / "other", "empty": tmp_path / "empty"}
    write_images(folders["all"])
    for name in ("other", "empty"):
        (folders[name] / "a").mkdir(parents=True)
    arguments = {name: value.format(**folders) if isinstance(value, str) else value for name, value in arguments.items()}
    with pytest.raises(exception) as error:
        image_folder(**{"path": folders["all"], "image_size": (8, 8)} | arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0\5\x16\7", b"<html>"])
def test_a_file_that_is_no_image_is_named(content, tmp_path):
    write_images(tmp_path / "all")
    path = tmp_path / "all" / "digit 3" / "._1.png"  # as some systems leave them beside a file
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no image, by its first bytes") as error:
        image_folder(tmp_path / "all", (8, 8))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    path.unlink()
    assert image_folder(tmp_path / "all", (8, 8)).num_outputs > 1


def test_a_fraction_of_no_images_is_said(tmp_path):
    write_images(tmp_path / "all")
    with pytest.raises(ValueError, match=r"^test_fraction=0.0001: puts 0 of \d+ examples into the test set"):
        image_folder(tmp_path / "all", (8, 8), test_fraction=1e-4)


@pytest.fixture
def reviews(tmp_path):
    """A folder of two classes, a text in each, and a function that adds one to it and reads all."""

    def read(added):
        for name, content in (("bad/1", b"bad film"), ("good/1", b"good film"), ("good/2", added)):
            path = tmp_path / "reviews" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return text_folder(tmp_path / "reviews", length=2, test_fraction=None)

    return read


def test_a_byte_order_mark_is_no_part_of_a_word(reviews):
    x = reviews("good film".encode("utf-8-sig")).train[0]
    assert x[2].tolist() == x[1].tolist() != x[0].tolist()


def test_a_text_in_another_encoding_is_named(reviews, tmp_path):
    with pytest.raises(ValueError) as error:
        reviews("good café".encode("latin-1"))
    path = tmp_path / "reviews" / "good" / "2.txt"
    assert str(error.value) == f"{path}: is no text in UTF-8 (byte 8): write it so, or remove it"


def test_texts_without_words_are_said(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.txt").write_text(" ?!\n")
    with pytest.raises(ValueError, match="the texts to train on hold no words$"):
        text_folder(tmp_path, test_fraction=None)


TEXTS = {"bad": ["Not good, not good at all.", "bad bad film", ""], "good": ["A good film!", "Very, very good", "good"]}


def write_texts(folder, texts=TEXTS):
    for name, all_of_it in texts.items():
        (folder / name).mkdir(parents=True)
        for number, text in enumerate(all_of_it):
            (folder / name / f"{number}.txt").write_text(text)
    return folder


def test_texts_become_numbered_words(tmp_path):
    data = text_folder(write_texts(tmp_path / "films"), num_words=6, length=4, test_fraction=None)
    assert data.vocabularies == {"x": ("", "[UNK]", "good", "very", "not", "film"), "y": ("bad", "good")}
    exact = [[4, 2, 4, 2], [1, 1, 5, 0], [1, 0, 0, 0], [1, 2, 5, 0], [3, 3, 2, 0], [2, 0, 0, 0]]
    np.testing.assert_array_equal(data.train[0], exact)
    np.testing.assert_array_equal(data.train[1], [0, 0, 0, 1, 1, 1])
    assert (data.input_shape, data.input_shape.num_values, data.num_outputs) == ((4,), 6, 2)
    assert data.train[0].dtype == data.train[1].dtype == np.int32


def test_words_are_those_of_the_training_part(tmp_path):
    test = write_texts(tmp_path / "test", {"bad": ["unheard of"], "good": ["good"]})
    data = text_folder(write_texts(tmp_path / "films"), length=4, test=test)
    np.testing.assert_array_equal(data.test[0], [[1, 1, 0, 0], [2, 0, 0, 0]])
    drawn = text_folder(tmp_path / "films", length=4, test_fraction=0.5, seed=1)
    assert len(drawn.test[1]) == 3 and sorted([*drawn.train[1], *drawn.test[1]]) == [0, 0, 0, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("factory", [lstm, text_transformer])
def test_texts_train_and_go_on(factory, tmp_path):
    write_texts(tmp_path / "films")
    sizes = {"units": (4,)} if factory is lstm else {"num_layers": 1, "embedding_size": 8, "num_heads": 2}

    def model(data):
        keras.utils.set_random_seed(1)
        made = factory(data.input_shape, data.num_outputs, **sizes)
        made.compile(keras.optimizers.SGD(0.1), data.default_loss(), metrics=data.default_metrics())
        return made

    def make():
        return text_folder(tmp_path / "films", num_words=20, length=5, test_fraction=None)

    def train(data, directory=None, stop_after=None):
        return fitted(data, model, directory, stop_after, batch_size=2)

    whole = train(make())
    assert all(np.isfinite(array).all() for array in whole)
    train(make(), tmp_path / "run", 4)
    assert not differ(whole, train(make(), tmp_path / "run"))


def test_mistakes_with_texts_get_one_line(tmp_path):
    with pytest.raises(ValueError, match="^num_words=2: must be an integer >= 3$"):
        text_folder(tmp_path, num_words=2)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match=rf"^{tmp_path}: .*") as error:
        text_folder(tmp_path)
    assert "\n" not in str(error.value)


def feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if np.asarray(value).dtype.kind in "iu":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=np.ravel(value)))
    return tf.train.Feature(float_list=tf.train.FloatList(value=np.ravel(value)))


def write_records(path, examples, compression=""):
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression)) as file:
        for example in examples:
            features = {name: feature(value) for name, value in example.items()}
            file.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


FORMS = {
    "floats": (([8, 8, 1], "float32"), lambda pixels: pixels.astype("float32") / 255),
    "bytes": (([8, 8, 1], "uint8"), lambda pixels: pixels.tobytes()),
    "images": (([8, 8, 1], "image"), lambda pixels: tf.io.encode_png(pixels).numpy()),
    "TensorFlow's own": (tf.io.FixedLenFeature([8, 8, 1], tf.float32), lambda pixels: pixels.astype("float32") / 255),
}


@pytest.fixture
def records(tmp_path):
    """A function that writes the digits in a form and reads them."""

    def make(form="floats", compression="", **settings):
        spec, encode = FORMS[form]
        examples = [{"image": encode(image), "label": int(label)} for image, label in zip(PIXELS, Y, strict=True)]
        for number in range(3):
            write_records(tmp_path / f"{number}.tfrecord", examples[number * 16 : (number + 1) * 16], compression)
        features = {"image": spec, "label": ([], "int64")}
        settings = {"x": "image", "y": "label", "num_classes": 10, "batch_size": 8, "compression": compression} | settings
        return tfrecord(str(tmp_path / "*.tfrecord"), features, **settings)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_records_train_as_arrays(records, form, tmp_path):
    data = records(form, shuffle_buffer=0, test=str(tmp_path / "0.tfrecord"))
    x = PIXELS.astype("uint8" if form == "bytes" else "float32") / (1 if form == "bytes" else np.float32(255))
    assert (data.name, data.input_shape, data.task) == ("0", (8, 8, 1), "classification")
    assert not differ(fitted(data), fitted(Data("arrays", (x, Y)), shuffle=False))
    assert sum(len(y) for _, y in data.test) == 16


@pytest.mark.slow
def test_records_are_shuffled(records):
    data = records()
    first, second = ([int(label) for _, y in data.train for label in y] for _ in range(2))
    assert first != second and sorted(first) == sorted(second) == sorted(Y)
    assert differ(fitted(records()), fitted(records(shuffle_buffer=0)))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"shuffle_buffer": 5}, {"compression": "GZIP"}, {"form": "images"}], ids=str)
def test_records_go_on_in_the_middle_of_an_epoch(records, settings, tmp_path, recwarn):
    assert_goes_on(lambda: records(**settings), tmp_path / "run", stop_after=8)
    assert not [str(warning.message) for warning in recwarn if "read again" in str(warning.message)]


def test_bytes_of_more_than_an_example_are_refused(tmp_path):
    write_records(tmp_path / "a", [{"x": bytes(6), "y": 0}] * 4)  # of a shape of three they would be eight examples
    with pytest.raises(ValueError, match="cannot be read with these features"):
        tfrecord(str(tmp_path / "a"), {"x": ([3], "uint8"), "y": ([], "int64")}, "x", "y", 2)


def test_no_record_is_said_and_an_empty_file_is_none(tmp_path):
    features = {"x": ([], "float32"), "y": ([], "int64")}
    write_records(tmp_path / "a", [])
    with pytest.raises(ValueError, match=r"a: holds no record, nor do those after it$"):
        tfrecord(str(tmp_path / "*"), features, "x", "y", 2)
    write_records(tmp_path / "b", [{"x": 1.0, "y": 0}])
    assert len(list(tfrecord(str(tmp_path / "*"), features, "x", "y", 2).train)) == 1


def test_several_features_become_a_dictionary(tmp_path):
    write_records(tmp_path / "a", [{"a": [1.0 * i, 2.0], "b": i, "y": 3.0 * i} for i in range(4)])
    features = {"a": ([2], "float32"), "b": ([1], "int64"), "y": ([1], "float32"), "unused": ([], "string")}
    data = tfrecord(str(tmp_path / "a"), features, x=["a", "b"], y="y", shuffle_buffer=0, batch_size=3)
    assert data.input_shape == {"a": (2,), "b": (1,)} and (data.task, data.num_outputs) == ("regression", 1)
    x, y = next(iter(data.train))
    np.testing.assert_array_equal(x["a"], [[0, 2], [1, 2], [2, 2]])
    np.testing.assert_array_equal(x["b"], [[0], [1], [2]])
    np.testing.assert_array_equal(y, [[0], [3], [6]])


RECORD_MISTAKES = {
    "a shape": ({"features": {"image": (8, "float32"), "label": ([], "int64")}}, ValueError, "must be (shape, dtype), as in"),
    "a list of features": ({"features": [("image", "float32")]}, ValueError, "must be a dictionary, as in {'x'"),
    "no file": ({"pattern": "none-*"}, FileNotFoundError, "none-*: no file is called so"),
    "no feature": ({"x": "imag"}, ValueError, "x: there is no feature 'imag'; there are image, label"),
    "no target": ({"y": "lab"}, ValueError, "y: there is no feature 'lab'"),
    "a spec": (
        {"features": {"image": "float32", "label": ([], "int64")}},
        ValueError,
        "features['image']='float32': must be (shape",
    ),
    "a dtype": ({"features": {"image": ([8], "int4"), "label": ([], "int64")}}, ValueError, "dtypes are float32, int64, string"),
    "an image": ({"features": {"image": ([8], "image"), "label": ([], "int64")}}, ValueError, "an image has the shape (height"),
    "another shape": ({"features": {"image": ([9], "float32"), "label": ([], "int64")}}, ValueError, "cannot be read with these"),
    "no such record": (
        {"features": {"image": ([8, 8, 1], "float32"), "lab": ([], "int64")}, "y": "lab"},
        ValueError,
        "cannot be read with these features",
    ),
    "compression": ({"compression": "ZIP"}, ValueError, 'compression=\'ZIP\': must be "GZIP", "ZLIB", or ""'),
    "a buffer": ({"shuffle_buffer": -1}, ValueError, "shuffle_buffer=-1: must be an integer >= 0"),
    "no records": ({"pattern": "{folder}/text"}, ValueError, "cannot be read with these features"),
}


@pytest.mark.parametrize("case", RECORD_MISTAKES)
def test_mistakes_with_records_get_one_line(case, tmp_path):
    arguments, exception, message = RECORD_MISTAKES[case]
    write_records(tmp_path / "a", [{"image": X[0], "label": int(Y[0])}])
    (tmp_path / "text").write_text("no records at all, but some text that is long enough")
    given = {"pattern": str(tmp_path / "a"), "features": {"image": ([8, 8, 1], "float32"), "label": ([], "int64")}}
    given = given | {"x": "image", "y": "label"} | arguments
    given["pattern"] = given["pattern"].format(folder=tmp_path)
    with pytest.raises(exception) as error:
        tfrecord(**given)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_npy_files_train_as_arrays_and_go_on(tmp_path):
    for name, array in (("x", X), ("y", Y), ("x_test", X[:5]), ("y_test", Y[:5])):
        np.save(tmp_path / f"{name}.npy", array)
    paths = [tmp_path / f"{name}.npy" for name in ("x", "y", "x_test", "y_test")]
    data = npy(*paths)
    assert isinstance(data.train[0], np.memmap) and (data.name, data.num_outputs, len(data.test[1])) == ("x", 10, 5)
    assert not differ(fitted(data), fitted(Data("arrays", (X, Y))))
    assert_goes_on(lambda: npy(*paths), tmp_path / "run")
    assert len(data.split_off(0.25).validation[1]) == NUM // 4


@pytest.mark.parametrize(
    "names, message",
    [
        (("x", "none"), r"none: no such file; write one with np.save"),
        (("x", "short"), "x_train has 48 examples, y_train 3"),
        (("x", "y", "x"), "^x_test and y_test: give both or none"),
        (("x", "y", "y", "y"), r"x_train and x_test have examples of shape \(8, 8, 1\) and \(\); both must be alike"),
        (("text", "y"), r"text: cannot be read as a .npy file"),
        (("several", "y"), r"several: holds several arrays \(.npz\); use npz\(path\)"),
        (("objects", "y"), r"objects: cannot be read as a .npy file"),
    ],
)
def test_mistakes_with_npy_get_one_line(names, message, tmp_path):
    for name, array in (("x", X), ("y", Y), ("short", Y[:3]), ("objects", np.array([None, "a"]))):
        with open(tmp_path / name, "wb") as file:
            np.save(file, array, allow_pickle=True)
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "several", "wb") as file:
        np.savez(file, a=X)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        npy(*(tmp_path / name for name in names))
    assert "\n" not in str(error.value)
