"""TensorFlow Datasets, Hugging Face's and Grain: trained on as arrays, stopped and gone on with; and what is refused."""

import json
import subprocess
import sys

import grain as pygrain
import numpy as np
import pytest
from drawing import assert_goes_on_everywhere, numbers, take
from from_files import NUM, PIXELS, X, Y, assert_goes_on, differ, fitted, linear

import trainlab as tl
from trainlab.data import StreamSource
from trainlab.datasets import Batches, Data, grain, hugging_face, tfds

SCALED = PIXELS.astype("float32") / np.float32(255)


# tfds


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a data set that TensorFlow Datasets has prepared."""
    import tensorflow_datasets as builders

    folder = tmp_path_factory.mktemp("tfds")

    class TinyDigits(builders.core.GeneratorBasedBuilder):
        """The digits."""

        VERSION = builders.core.Version("1.0.0")
        pkg_dir_path = builders.core.Path(folder)  # where it would look for a description

        def _info(self):
            kinds = {"image": builders.features.Image(shape=(8, 8, 1)), "label": builders.features.ClassLabel(num_classes=10)}
            features = builders.features.FeaturesDict(kinds | {"ink": np.float32})
            return self.dataset_info_from_configs(features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(0, 40), "test": self._generate_examples(40, NUM)}

        def _generate_examples(self, first, last):
            for i in range(first, last):
                yield i, {"image": PIXELS[i], "label": int(Y[i]), "ink": PIXELS[i].mean()}

    TinyDigits(data_dir=folder).download_and_prepare()
    return folder


def in_order_of(found, all_of_them=SCALED):
    """Where each is: TensorFlow Datasets shuffles what it writes."""
    return [int(np.flatnonzero((all_of_them == image).all(axis=(1, 2, 3)))[0]) for image in found]


def test_tfds_trains_as_arrays(tiny, tmp_path):
    data = tfds("tiny_digits", data_dir=tiny)
    order = in_order_of(data.train[0])
    assert sorted(order) == list(range(40)) and len(data.test[1]) == 8
    assert (data.name, data.num_outputs, data.task, data.input_shape) == ("tiny_digits", 10, "classification", (8, 8, 1))
    assert not differ(fitted(data), fitted(Data("arrays", (SCALED[order], Y[order]))))
    assert_goes_on(lambda: tfds("tiny_digits", data_dir=tiny), tmp_path / "run")


def test_tfds_takes_features_by_name_and_splits(tiny):
    data = tfds("tiny_digits", train="train[:50%]", test=None, x=["image", "label"], y="ink", data_dir=tiny)
    assert (data.task, data.num_outputs, data.test, len(data.train[1])) == ("regression", 1, None, 20)
    assert data.input_shape == {"image": (8, 8, 1), "label": ()}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "no_such_digits"}, r"^tfds\('no_such_digits'\): cannot be loaded \("),
        ({"train": "trains"}, r"^tfds\('tiny_digits'\): cannot be loaded \(.*trains"),
        ({"y": "age"}, "^tiny_digits: has no feature 'age'; it has image, ink, label"),
    ],
)
def test_mistakes_with_tfds_get_one_line(tiny, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        tfds(**{"name": "tiny_digits", "data_dir": tiny} | arguments)
    assert "\n" not in str(error.value)


# Hugging Face


@pytest.fixture
def saved(tmp_path):
    """A function that saves columns to the disk, and gives the folder."""
    import datasets as library

    def save(columns, others=None):
        data = library.Dataset.from_dict(columns)
        if others is not None:
            data = library.DatasetDict({"train": data, "test": library.Dataset.from_dict(others)})
        data.save_to_disk(str(tmp_path / "saved"))
        return tmp_path / "saved"

    return save


def test_hugging_face_trains_as_arrays(saved, tmp_path):
    folder = saved({"image": X, "label": Y, "unused": ["a"] * NUM}, {"image": X[:5], "label": Y[:5], "unused": ["b"] * 5})
    data = hugging_face(folder, x="image", y="label")
    np.testing.assert_array_equal(data.train[0], X)
    np.testing.assert_array_equal(data.test[1], Y[:5])
    assert (data.name, data.num_outputs, data.train[1].dtype) == ("saved", 10, np.int32)
    assert not differ(fitted(data), fitted(Data("arrays", (X, Y))))
    assert_goes_on(lambda: hugging_face(folder, x="image", y="label"), tmp_path / "run")


def test_hugging_face_without_splits_draws_a_test_part(saved):
    folder = saved({"a": X[:, 0, 0, 0], "b": np.arange(NUM), "y": np.arange(NUM) / 2})
    data = hugging_face(folder, x=["a", "b"], y="y", test_fraction=0.25, seed=2)
    assert (data.task, len(data.test[1]), data.input_shape) == ("regression", 12, {"a": (), "b": ()})
    assert sorted([*data.train[1], *data.test[1]]) == list(np.arange(NUM) / 2) and list(data.train[1]) == sorted(data.train[1])
    assert hugging_face(folder, x="a", y="y", test_fraction=None).test is None


def test_images_and_classes_of_hugging_face(tmp_path):
    import datasets as library
    from PIL import Image

    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list("abc"))})
    columns = {"image": [Image.fromarray(pixels[..., 0]) for pixels in PIXELS[:6]], "label": [0, 1, 0, 1, 0, 1]}
    library.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "images"))
    data = hugging_face(tmp_path / "images", x="image", y="label", test_fraction=None)
    np.testing.assert_array_equal(data.train[0], SCALED[:6])
    assert data.num_outputs == 3 and data.vocabularies == {"y": ("a", "b", "c")}


STORED = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")


@pytest.mark.parametrize("dtype", STORED)
def test_every_stored_dtype_is_that_of_the_arrays(dtype, tmp_path):
    """The library's own arrays are int64 and float32: bytes of images were then none, and float64 was rounded."""
    import datasets as library

    array = np.arange(3 * 8).reshape(3, 2, 2, 2)
    array = (array % 3 == 0) if dtype == "bool" else (array / 3).astype(dtype) if "float" in dtype else array.astype(dtype)
    numbers, value = array[:, 0, 0, 0], library.Value(dtype)
    features = {"number": value, "list": library.List(library.List(value)), "y": library.Value("int64")}
    columns = {"number": numbers, "list": array[:, 0].tolist(), "y": [0, 1, 2]}
    if dtype not in ("float16", "bool"):  # of which the library makes no such arrays
        features |= {"array": library.Array3D((2, 2, 2), dtype), "any": library.Array2D((None, 2), dtype)}
        columns |= {"array": array, "any": [*array[:, 0]]}
    stored = library.Dataset.from_dict(columns, features=library.Features(features))
    stored.select([2, 0, 1]).save_to_disk(str(tmp_path / "stored"))  # a selection is of rows that lie elsewhere
    x = [name for name in features if name != "y"]
    found = hugging_face(tmp_path / "stored", x=x, y="y", test_fraction=None).train[0]
    wanted = {"number": numbers, "list": array[:, 0], "array": array, "any": array[:, 0]}
    for name in x:
        exact = wanted[name][[2, 0, 1]]
        if dtype == "uint8" and exact.ndim > 2:  # images
            exact = exact.reshape(3, 2, 2, -1).astype("float32") / np.float32(255)
        assert found[name].dtype == exact.dtype, name
        np.testing.assert_array_equal(found[name], exact)


def test_examples_without_a_value_are_refused(tmp_path):
    import datasets as library

    columns = {"whole": [1.0, None], "some": [1, None], "rows": [[1.0], None], "y": [0, 1]}
    library.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "gaps"))
    for name in ("some", "rows"):
        with pytest.raises(ValueError, match=f"some examples of column '{name}' have no value: fill or drop them"):
            hugging_face(tmp_path / "gaps", x=name, y="y", test_fraction=None)
    np.testing.assert_array_equal(hugging_face(tmp_path / "gaps", x="whole", y="y", test_fraction=None).train[0], [1.0, np.nan])


@pytest.mark.parametrize("y, dtype", [([5_000_000_000, 1, 2], "int64"), ([-(2**31), 1, 2**31 - 1], "int32")])
def test_integers_that_int32_does_not_hold_stay_what_they_are(y, dtype, tmp_path):
    import datasets as library

    library.Dataset.from_dict({"x": [1.0, 2.0, 3.0], "y": y}).save_to_disk(str(tmp_path / "large"))
    data = hugging_face(tmp_path / "large", "x", "y", test_fraction=None, task="regression")
    assert data.train[1].tolist() == y and data.train[1].dtype == dtype


def test_mistakes_with_hugging_face_get_one_line(saved, tmp_path):
    folder = saved({"x": [[1.0], [1.0, 2.0]], "y": [0, 1]}, {"x": [[1.0]], "y": [1]})
    (tmp_path / "empty").mkdir()
    for arguments, exception, message in [
        ((tmp_path / "none", "x", "y"), FileNotFoundError, "no such folder; `save_to_disk`"),
        ((tmp_path / "empty", "x", "y"), ValueError, "empty: cannot be loaded ("),
        ((folder, "z", "y"), ValueError, "has no column 'z'; it has x, y"),
        ((folder, "x", "y", "trains"), ValueError, "has no split 'trains'; it has train, test"),
        ((folder, "x", "y"), ValueError, "the examples of column 'x' differ in shape"),
    ]:
        with pytest.raises(exception) as error:
            hugging_face(*arguments)
        assert message in str(error.value) and "\n" not in str(error.value)


# Grain


class Source:
    """Examples by their number, that counts how many were read."""

    def __init__(self, x=X, y=Y):
        self.x, self.y, self.num_read = x, y, 0

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        self.num_read += 1
        return self.x[index], self.y[index]

    def __repr__(self):
        return "Source"


def map_dataset(source, shuffle=True):
    dataset = pygrain.MapDataset.source(source)
    return (dataset.shuffle(seed=3) if shuffle else dataset).batch(8)


def iter_dataset(source, shuffle=True):
    options = pygrain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return map_dataset(source, shuffle).to_iter_dataset(options)


def loader(source, shuffle=True):
    sampler = pygrain.samplers.IndexSampler(len(source), shuffle=shuffle, seed=3, num_epochs=1)
    options = pygrain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    return pygrain.DataLoader(
        data_source=source, sampler=sampler, operations=[pygrain.transforms.Batch(8)], worker_count=0, read_options=options
    )


class OwnLoader(pygrain.DataLoader):
    """Of a class of one's own."""


def own_loader(source, shuffle=True):
    sampler = pygrain.samplers.IndexSampler(len(source), shuffle=shuffle, seed=3, num_epochs=1)
    return OwnLoader(data_source=source, sampler=sampler, operations=[pygrain.transforms.Batch(8)], worker_count=0)


KINDS = {"MapDataset": map_dataset, "IterDataset": iter_dataset, "DataLoader": loader, "own": own_loader}


@pytest.mark.parametrize("kind", KINDS)
def test_grain_trains_as_arrays(kind):
    make = KINDS[kind]
    data = grain(make(Source(), shuffle=False), test=lambda: make(Source(X[:9], Y[:9])), num_classes=10)
    assert (data.input_shape, data.task, data.num_outputs, data.is_arrays) == ((8, 8, 1), "classification", 10, False)
    assert not differ(fitted(data), fitted(Data("arrays", (X, Y)), shuffle=False))
    assert differ(fitted(data), fitted(grain(make(Source()), num_classes=10)))  # the control: another order
    direct = Data("own", make(Source(), shuffle=False), None, 10)
    assert isinstance(direct.train, Batches) and not differ(fitted(direct), fitted(data))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_grain_goes_on_in_the_middle_of_an_epoch(kind, tmp_path, recwarn):
    assert_goes_on(lambda: grain(KINDS[kind](Source()), num_classes=10), tmp_path / "run", stop_after=8)
    assert not [str(warning.message) for warning in recwarn if "read again" in str(warning.message)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_updates", [1, 2])
def test_grain_goes_on_at_every_place(kind, max_updates):
    def fresh():
        return StreamSource(KINDS[kind](Source(X[:20], Y[:20])), None, False)

    assert assert_goes_on_everywhere(fresh, 3, max_updates) == {None}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_batches_of_grain(kind):
    data = grain(KINDS[kind](Source(), shuffle=False), num_classes=10)
    found = [y for _, y in data.train.take(2)]
    np.testing.assert_array_equal(np.concatenate(found), Y[:16])
    assert assert_goes_on_everywhere(lambda: StreamSource(data.train.take(2), None, False), 2) == {None}


class Unread(Source):
    """One whose first examples must not be read."""

    must_not_read = False

    def __getitem__(self, index):
        assert not (self.must_not_read and index < 16), f"example {index} is read again"
        return super().__getitem__(index)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_again(kind):
    source = Unread()
    stream = StreamSource(KINDS[kind](source, shuffle=False), None, False)
    stream.is_to_be_saved = True
    for _ in range(3):
        stream.advance(stream.block(1, 1))
    state = json.loads(json.dumps(stream.state()))
    assert stream.serialized() == {}
    stream.close()
    again = StreamSource(KINDS[kind](source, shuffle=False), None, False)
    source.must_not_read = True
    again.restore(state, {})
    _, y = numbers(take(again, 1))
    assert y == Y[24:32].tolist()
    again.close()
    source.must_not_read = False
    control = StreamSource(KINDS[kind](source, shuffle=False), None, False)
    source.must_not_read = True
    with pytest.raises(Exception, match="is read again"):  # the control: without that state it is read from the beginning
        control.restore({name: value for name, value in state.items() if name != "iterator"}, {})


def test_a_state_that_is_of_another_loader_is_said_and_read_again():
    first = StreamSource(loader(Source()), None, False)
    first.is_to_be_saved = True
    first.advance(first.block(1, 1))
    state = first.state()
    first.close()

    class Other(Source):
        def __repr__(self):
            return "Other"

    again = StreamSource(loader(Other()), None, False)
    with pytest.warns(UserWarning, match="x does not go where it stood, and is read again up to there: .*Other"):
        again.restore(state, {})
    assert again.place() == (1, 1)
    again.close()


def test_grain_validates_and_tests_too():
    data = grain(map_dataset(Source()), validation=map_dataset(Source(X[:16], Y[:16])), num_classes=10)
    trainer = tl.Trainer(linear(data), seed=0, jit_compile=False)
    history = trainer.fit(data.train, validation_data=data.validation, epochs=1, verbose=0).history
    found = trainer.evaluate(data.validation, verbose=0, return_dict=True)
    exact = trainer.evaluate(X[:16], Y[:16], batch_size=8, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(exact["loss"], rel=1e-6)
    assert history["val_loss"][0] == pytest.approx(exact["loss"], rel=1e-6)


@pytest.mark.parametrize(
    "make, exception, message",
    [
        (lambda: grain((X, Y)), TypeError, "^grain: train must be a grain.DataLoader, .* not a tuple$"),
        (
            lambda: grain(iter(map_dataset(Source()))),
            TypeError,
            "^grain: train: a .*Iterator is an iterator, .* not iter.. of it$",
        ),
        (lambda: StreamSource(iter(loader(Source())), None, True), TypeError, "^a .*Iterator is an iterator, which gives"),
        (lambda: grain(map_dataset(Source()), test=3), TypeError, "^grain: test must be .* not a int$"),
        (lambda: grain(None), TypeError, "^grain: train must be .* not a NoneType$"),
        (lambda: grain(map_dataset(Source(X[:0], Y[:0]))), ValueError, "^grain: train is a .* of no batches"),
        (lambda: grain(pygrain.MapDataset.source(Source())), ValueError, r"did you forget .batch\(32\)"),
    ],
)
def test_mistakes_with_grain_get_one_line(make, exception, message):
    with pytest.raises(exception, match=message) as error:
        make()
    assert "\n" not in str(error.value)


# all


@pytest.mark.parametrize(
    "call, library, extra",
    [
        (lambda: tfds("mnist"), "tensorflow_datasets", "tfds"),
        (lambda: hugging_face("x", "x", "y"), "datasets", "hugging-face"),
        (lambda: grain(None), "grain", "grain"),
    ],
)
def test_a_missing_library_says_what_to_install(call, library, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ModuleNotFoundError, match=rf"^\w+\(\) needs {library}: pip install 'trainlab\[{extra}\]'$"):
        call()


OPTIONAL = {"pandas", "pyarrow", "tensorflow_datasets", "datasets", "grain", "PIL"}


@pytest.mark.parametrize(
    "first, modules",
    [
        ("sys", "trainlab, trainlab.datasets, trainlab.cli"),
        # Keras itself imports pandas and Pillow where they are.
        ("sys, tensorflow, keras", "trainlab.trainer, trainlab.datasets, trainlab.models, trainlab.data, trainlab.cli.verbs.job"),
    ],
)
def test_importing_trainlab_imports_none_of_them(first, modules):
    code = f"import {first}\nbefore = set(sys.modules)\nimport {modules}\nprint(*({OPTIONAL!r} & set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []
    if first == "sys":  # the control
        code = code.replace("\nprint", "\ntrainlab.datasets.abalone()\nimport pandas\nprint")
        assert "pandas" in subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
