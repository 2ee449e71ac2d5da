"""Every source of data, and every model, by a config: the same as by Python."""

import grain as pygrain
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from commands import CONFIGS, ours, records, start

from trainlab import datasets
from trainlab.cli.configs.reading import load
from trainlab.datasets import Data

pytestmark = pytest.mark.usefixtures("clean")

REST = "run.optimizer = @keras.optimizers.SGD()\nrun.epochs = 1\nrun.loss = 'mse'\nrun.metrics = []\n"
X, Y = (part[:40] for part in datasets.digits().train)


def built(text, tmp_path):
    file = tmp_path / "config.gin"
    file.write_text(text + REST)
    config = load([file])
    return config.build()


def write_table(tmp_path):
    table = pd.DataFrame(X.reshape(40, 64)[:, 20:30]).rename(columns="p{}".format).assign(kind=np.where(Y > 4, "a", "b"), label=Y)
    table.to_csv(tmp_path / "table.csv", index=False)
    table.to_parquet(tmp_path / "table.parquet")


def write_folders(tmp_path):
    for number, (image, label) in enumerate(zip(X, Y % 2, strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        tf.io.write_file(str(folder / f"{number}.png"), tf.io.encode_png(np.uint8(image * 255)))
        folder = tmp_path / "texts" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(" ".join(f"w{value}" for value in np.uint8(image[3, :, 0] * 4)))


def write_records(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "digits.tfrecord")) as file:
        for image, label in zip(X, Y, strict=True):
            pixels = tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel()))
            number = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)]))
            features = tf.train.Features(feature={"image": pixels, "label": number})
            file.write(tf.train.Example(features=features).SerializeToString())


def write_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "all.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)


def write_saved(tmp_path):
    import datasets as library

    library.Dataset.from_dict({"image": X, "label": Y}).save_to_disk(str(tmp_path / "saved"))


def write_grain(tmp_path):
    (tmp_path / "own_grain.py").write_text(
        "import grain, numpy as np\n"
        "def batches(n=40):\n"
        "    return grain.MapDataset.range(n).map(lambda i: (np.float32([i, 1]), np.float32(2 * i))).batch(8)\n"
    )


def own_grain(n=40):
    return pygrain.MapDataset.range(n).map(lambda i: (np.float32([i, 1]), np.float32(2 * i))).batch(8)


SOURCES = {
    "csv": (write_table, "csv.path = 'table.csv'\ncsv.target = 'label'", lambda: datasets.csv("table.csv", "label")),
    "parquet": (
        write_table,
        "parquet.path = 'table.parquet'\nparquet.target = 'label'\nparquet.columns = ['p1', 'kind']",
        lambda: datasets.parquet("table.parquet", "label", columns=["p1", "kind"]),
    ),
    "image_folder": (
        write_folders,
        "image_folder.path = 'images'\nimage_folder.image_size = (8, 8)\nimage_folder.color_mode = 'grayscale'",
        lambda: datasets.image_folder("images", (8, 8), color_mode="grayscale"),
    ),
    "text_folder": (
        write_folders,
        "text_folder.path = 'texts'\ntext_folder.length = 8",
        lambda: datasets.text_folder("texts", length=8),
    ),
    "tfrecord": (
        write_records,
        "tfrecord.pattern = '*.tfrecord'\ntfrecord.features = {'image': ((8, 8, 1), 'float32'), 'label': ((), 'int64')}\n"
        "tfrecord.x = 'image'\ntfrecord.y = 'label'\ntfrecord.num_classes = 10",
        lambda: datasets.tfrecord("*.tfrecord", {"image": ((8, 8, 1), "float32"), "label": ((), "int64")}, "image", "label", 10),
    ),
    "npy": (write_arrays, "npy.x_train = 'x.npy'\nnpy.y_train = 'y.npy'", lambda: datasets.npy("x.npy", "y.npy")),
    "npz": (write_arrays, "npz.path = 'all.npz'", lambda: datasets.npz("all.npz")),
    "hugging_face": (
        write_saved,
        "hugging_face.path = 'saved'\nhugging_face.x = 'image'\nhugging_face.y = 'label'",
        lambda: datasets.hugging_face("saved", "image", "label"),
    ),
    "grain": (
        write_grain,
        "grain.train = @own_grain.batches()\ngrain.test = @own_grain.batches\nown_grain.batches.n = 24",
        lambda: datasets.grain(own_grain(24), test=own_grain(24)),
    ),
    "mnist_1d": (lambda path: None, "mnist_1d.num_examples = 50", lambda: datasets.mnist_1d(50)),
    "abalone": (lambda path: None, "abalone.seed = 3", lambda: datasets.abalone(seed=3)),
}


def leaves(part):
    if not hasattr(part, "element_spec"):
        return [np.asarray(leaf) for leaf in keras.tree.flatten(part)]
    return [np.asarray(leaf) for batch in part for leaf in keras.tree.flatten(batch)]


@pytest.mark.parametrize("name", SOURCES)
def test_by_a_config_as_by_python(name, tmp_path):
    write, text, make = SOURCES[name]
    write(tmp_path)
    imports = "import own_grain\n" if name == "grain" else ""
    data, other = built(f"{imports}run.data = @{name}()\nrun.model = @mlp\n{text}\n", tmp_path).data, make()
    assert isinstance(data, Data) and str(data.input_shape) == str(other.input_shape)
    assert (data.name, data.task, data.num_outputs, data.vocabularies) == (
        other.name,
        other.task,
        other.num_outputs,
        other.vocabularies,
    )
    for part in ("train", "test"):
        if getattr(other, part) is None:
            assert getattr(data, part) is None
            continue
        found, exact = leaves(getattr(data, part)), leaves(getattr(other, part))
        assert len(found) == len(exact) > 0
        for a, b in zip(found, exact, strict=True):
            np.testing.assert_array_equal(a, b)


MODELS = {
    "tabular": ("abalone", "tabular.hidden_sizes = (8,)"),
    "lstm": ("mnist_1d", "lstm.units = (8,)\nmnist_1d.num_examples = 50"),
    "text_transformer": ("text_folder", "text_transformer.num_layers = 1\ntext_folder.path = 'texts'\ntext_folder.length = 8"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_get_their_sizes_from_the_data(name, tmp_path):
    data, text = MODELS[name]
    write_folders(tmp_path)
    settings = built(f"run.data = @{data}()\nrun.model = @{name}\n{text}\n", tmp_path)
    model = settings.model(settings.data.input_shape, settings.data.num_outputs)
    assert (model.name, model.output_shape) == (name, (None, settings.data.num_outputs))
    x = keras.tree.map_structure(lambda leaf: leaf[:5], settings.data.train[0])
    assert np.isfinite(model(x)).all()


def test_the_example_configs_build(tmp_path):
    write_table(tmp_path)
    for name, bindings in (("abalone", []), ("csv", ["csv.path = 'table.csv'", "csv.target = 'label'"])):
        config = load([CONFIGS / f"{name}.gin"], bindings)
        settings = config.build()
        model = settings.model(settings.data.input_shape, settings.data.num_outputs)
        assert (settings.data.task, model.output_shape) == ("regression", (None, 1))
        assert config.unused() == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["abalone", "csv"])
def test_the_example_configs_train(name, tmp_path):
    write_table(tmp_path)
    bindings = ["run.epochs = 3"] + (["csv.path = 'table.csv'", "csv.target = 'label'"] if name == "csv" else [])
    sets = [argument for binding in bindings for argument in ("--set", binding)]
    process = start("--config", str(CONFIGS / f"{name}.gin"), *sets, "--run_dir", "run", cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "test      " in out and ours(err) == []
    assert records(tmp_path / "run")[-1]["test_mae"] < (2.5 if name == "abalone" else 10)
