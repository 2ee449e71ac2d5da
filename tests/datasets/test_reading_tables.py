"""CSV and Parquet: the arrays that come of them, by hand; trained on, stopped and gone on with; and what is refused."""

import builtins

import keras
import numpy as np
import pandas as pd
import pytest
from from_files import NUM, X, Y, assert_goes_on, differ, fitted

import trainlab as tl
from trainlab.datasets import Data, abalone, csv, parquet
from trainlab.models import tabular

READERS = {"csv": (csv, lambda table, path: table.to_csv(path, index=False)), "parquet": (parquet, pd.DataFrame.to_parquet)}
PETS = pd.DataFrame(
    {
        "kind": ["dog", "cat", "dog", "bird", "cat", "dog"],
        "weight": [20.0, 4.5, 9.0, 0.1, 3.5, 30.0],
        "legs": [4, 4, 4, 2, 4, 4],
        "tame": [True, True, False, False, True, True],
        "age": [8.0, 3.0, 9.0, 1.0, 2.0, 5.0],
    }
)
GAPS = PETS.assign(
    weight=[20.0, None, 9.0, None, 3.5, 30.0], kind=["dog", None, "dog", "bird", "cat", None], legs=[4.0, None, 4, 2, 4, 4]
)


@pytest.fixture(params=READERS)
def written(request, tmp_path):
    """A function that writes a table and reads it as data."""
    reader, write = READERS[request.param]

    def read(table, others=None, **arguments):
        path = tmp_path / f"table.{request.param}"
        write(table, path)
        if others is not None:
            arguments["test"] = tmp_path / f"others.{request.param}"
            write(others, arguments["test"])
        return reader(path, **arguments)

    return read


def test_numbers_are_standardised_and_categories_numbered(written):
    data = written(PETS, PETS.iloc[::-1].assign(kind="fish"), target="age")
    numbers = PETS[["weight", "legs", "tame"]].to_numpy("float64")
    exact = (numbers - numbers.mean(0)) / numbers.std(0)
    np.testing.assert_allclose(data.train[0]["numbers"], exact, rtol=1e-6)
    np.testing.assert_array_equal(data.train[0]["kind"], [3, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(data.test[0]["kind"], np.zeros(6))  # the training part knows no fish
    np.testing.assert_allclose(data.test[0]["numbers"], exact[::-1], rtol=1e-6)
    np.testing.assert_array_equal(data.train[1], PETS["age"].astype("float32"))
    assert data.vocabularies == {"kind": ("[unknown]", "bird", "cat", "dog")}
    assert (data.task, data.num_outputs, data.name) == ("regression", 1, "table")
    assert data.input_shape == {"numbers": (3,), "kind": ()} and data.input_shape["kind"].num_values == 4
    assert [part.dtype for part in (*data.train[0].values(), data.train[1])] == ["float32", "int32", "float32"]


def test_gaps_are_filled_by_the_training_part(written):
    data = written(GAPS, PETS.assign(weight=[None] * 3 + [1.0] * 3, kind=None, legs=4), target="age", missing="fill")
    weight = np.array([20, 14.5, 9, 14.5, 3.5, 30])
    legs = np.array([4.0, 4, 4, 2, 4, 4])
    columns = [(weight - weight.mean()) / weight.std(), [0, 1, 0, 1, 0, 0], (legs - legs.mean()) / legs.std(), [0, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(data.train[0]["numbers"][:, :4], np.transpose(columns), rtol=1e-6)
    np.testing.assert_array_equal(data.train[0]["kind"], [3, 4, 3, 1, 2, 4])
    assert data.vocabularies["kind"] == ("[unknown]", "bird", "cat", "dog", "[missing]")
    filled = np.where(np.arange(6) < 3, 14.5, 1.0)
    np.testing.assert_allclose(data.test[0]["numbers"][:, 0], (filled - weight.mean()) / weight.std(), rtol=1e-6)
    np.testing.assert_array_equal(data.test[0]["numbers"][:, 1], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(data.test[0]["kind"], [4] * 6)


def test_statistics_are_of_the_training_part_alone(written):
    table = pd.DataFrame({"a": np.arange(20.0), "y": np.arange(20.0)})
    data = written(table, target="y", test_fraction=0.25, seed=3)
    train, test = (part[1].astype("float64") for part in (data.train, data.test))
    assert len(test) == 5 and sorted([*train, *test]) == list(range(20)) and list(train) == sorted(train)
    np.testing.assert_allclose(data.test[0][:, 0], (test - train.mean()) / train.std(), rtol=1e-5)
    assert list(written(table, target="y", seed=3, test_fraction=0.25).test[1]) == list(data.test[1])
    assert list(written(table, target="y", seed=4, test_fraction=0.25).test[1]) != list(data.test[1])


@pytest.mark.parametrize("values", [[0.1] * 100, [0.1 + 0.2, 0.3] * 50, [1e8 + 0.1] * 100])
def test_a_column_that_says_nothing_is_not_divided_by_what_rounding_left(written, values):
    """The mean of a hundred 0.1 is not 0.1, and their deviation 3e-17: another value in the test part would become 1e16."""
    train = pd.DataFrame({"a": values, "b": np.arange(100.0), "y": np.arange(100.0)})
    data = written(train, train.iloc[:2].assign(a=[values[0], values[0] + 2]), target="y")
    np.testing.assert_allclose(data.train[0][:, 0], 0, atol=1e-15)
    np.testing.assert_allclose(data.test[0][:, 0], [0, 2], atol=1e-7)
    assert data.train[0][:, 1].std() == pytest.approx(1)  # the control


TARGETS = {
    "numbers": ({"target": "age"}, "regression", 1, PETS["age"].astype("float32")),
    "two columns": ({"target": ["age", "weight"]}, "regression", 2, PETS[["age", "weight"]].astype("float32")),
    "text": ({"target": "kind"}, "classification", 3, [2, 1, 2, 0, 1, 2]),
    "integers": ({"target": "legs"}, "classification", 2, [1, 1, 1, 0, 1, 1]),
    "booleans": ({"target": "tame"}, "classification", 2, [1, 1, 0, 0, 1, 1]),
    "integers to regress on": ({"target": "legs", "task": "regression"}, "regression", 1, PETS["legs"].astype("float32")),
    "several labels": ({"target": ["tame", "big"]}, "multilabel", 2, [[1, 1], [1, 0], [0, 0], [0, 0], [1, 0], [1, 1]]),
}


@pytest.mark.parametrize("case", TARGETS)
def test_the_target_tells_the_task(written, case):
    arguments, task, num_outputs, y = TARGETS[case]
    data = written(PETS.assign(big=(PETS["weight"] > 10).astype(int)), test_fraction=None, **arguments)
    assert (data.task, data.num_outputs, data.test) == (task, num_outputs, None)
    np.testing.assert_array_equal(data.train[1], np.asarray(y))


def test_columns_are_chosen_by_name(written):
    data = written(PETS, target="age", columns=["weight", "legs"], categories=["legs"], standardize=False, test_fraction=None)
    np.testing.assert_array_equal(data.train[0]["numbers"], PETS[["weight"]].astype("float32"))
    assert data.vocabularies == {"legs": ("[unknown]", "2", "4")}
    data = written(PETS, target="age", columns=["kind", "tame"], categories=["kind", "tame"], test_fraction=None)
    assert set(data.train[0]) == {"kind", "tame"}


MISTAKES = {
    "no such target": ({"target": "agee"}, "target: {path} has no column 'agee'; it has kind, weight, legs, tame, age"),
    "no such column": ({"columns": ["weight", "x"]}, "columns: {path} has no column 'x'; it has"),
    "no such category": ({"categories": ["x"]}, "categories: {path} has no column 'x'"),
    "one name for a list": ({"columns": "weight"}, "columns='weight': must be a list of names, columns=['weight']"),
    "the target among columns": ({"columns": ["age"]}, "columns: 'age' is the target"),
    "a category that is no column": ({"columns": ["weight"], "categories": ["kind"]}, "categories: 'kind' is not among columns"),
    "text as a number": ({"categories": []}, "{path}: column 'kind' holds {text}, which is no number: name it in categories="),
    "text to regress on": ({"target": "kind", "task": "regression"}, "{path}: target 'kind' holds {text}, and regression needs"),
    "classes in two columns": ({"target": ["age", "legs"], "task": "classification"}, "target=['age', 'legs']: classes have one"),
    "sequences": ({"task": "sequence_labeling"}, 'task="sequence_labeling": a table has one row an example'),
    "no such task": ({"task": "x"}, "Data.task='x': must be"),
    "no such word": ({"missing": "drop"}, 'missing=\'drop\': must be "refuse" or "fill"'),
    "a fraction": ({"test_fraction": 1.0}, "test_fraction=1.0: must be a number in (0, 1)"),
    "a seed": ({"seed": -1}, "seed=-1: must be an integer >= 0"),
    "no columns": ({"columns": []}, "columns: no column is left"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_line(written, case, tmp_path):
    arguments, message = MISTAKES[case]
    with pytest.raises(ValueError) as error:
        written(PETS, **{"target": "age"} | arguments)
    [path] = tmp_path.iterdir()
    for text in ("str", "object", "string"):
        if str(error.value).startswith(message.format(path=path, text=text)):
            break
    else:
        raise AssertionError(str(error.value))
    assert "\n" not in str(error.value)


def test_missing_values_are_said(written):
    with pytest.raises(
        ValueError, match="of 6 rows, missing values: column 'kind' has 2, 'weight' has 2, 'legs' has 1; write missing"
    ):
        written(GAPS, target="age", test_fraction=None)
    with pytest.raises(ValueError, match=r"others.*missing values: column 'kind' has 2"):
        written(PETS, GAPS, target="age")
    with pytest.raises(ValueError, match="missing values: column 'weight' has 2; a target must not"):
        written(GAPS, target="weight", missing="fill", test_fraction=None)
    assert written(GAPS, target="age", columns=["tame"], test_fraction=None).num_examples == 6


def test_a_class_that_was_never_trained_is_said(written):
    with pytest.raises(ValueError, match="target 'kind' has 'fish', a class that the training part does not have"):
        written(PETS, PETS.assign(kind="fish"), target="kind")


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"a,b\n"])
@pytest.mark.parametrize("reader", [csv, parquet])
def test_what_is_no_table_is_said(reader, content, tmp_path):
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        reader(path, target="a")
    assert str(error.value).startswith((f"{path}: ", "target: ")) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no such file$"):
        reader(tmp_path / "none", target="a")


@pytest.mark.parametrize("reader, library", [(csv, "pandas"), (parquet, "pandas"), (parquet, "pyarrow")])
def test_a_missing_library_says_what_to_install(reader, library, monkeypatch):
    real = builtins.__import__
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(ModuleNotFoundError) as error:
        reader("table", target="a")
    assert str(error.value) == f"{reader.__name__}() needs {library}: pip install 'trainlab[tables]'"
    assert builtins.__import__ is real


def digits_table(x, y):
    return pd.DataFrame(x.reshape(len(x), -1)).rename(columns=str).assign(label=y)


def test_digits_train_as_from_arrays(written):
    table = digits_table(X, Y)
    data = written(table, table.iloc[:9], target="label", standardize=False)
    arrays = Data("arrays", (X.reshape(NUM, -1), Y))
    np.testing.assert_array_equal(data.train[0], arrays.train[0])
    assert data.num_outputs == 10 and data.test[0].shape == (9, 64)
    assert not differ(fitted(data), fitted(arrays))
    assert differ(fitted(data), fitted(written(table, target="label", test_fraction=None)))  # the control: standardised


def test_digits_go_on_in_the_middle_of_an_epoch(written, tmp_path):
    table = digits_table(X, Y)
    assert_goes_on(lambda: written(table, target="label", test_fraction=None), tmp_path / "run")


def test_abalones_from_a_file_are_the_shipped_ones(written):
    shipped = abalone()
    names = ["length", "diameter", "height", "whole", "shucked", "viscera", "shell"]
    sexes = np.array(shipped.vocabularies["sex"], object)
    tables = []
    for x, y in (shipped.train, shipped.test):
        tables.append(pd.DataFrame(x["numbers"], columns=names).assign(sex=sexes[x["sex"]], rings=y.astype(int)))
    data = written(*tables, target="rings", task="regression", standardize=False)
    assert data.vocabularies == shipped.vocabularies and data.input_shape == shipped.input_shape
    for part, other in ((data.train, shipped.train), (data.test, shipped.test)):
        for name in other[0]:
            np.testing.assert_array_equal(part[0][name], other[0][name])
        np.testing.assert_array_equal(part[1], other[1])


@pytest.mark.slow
def test_a_table_with_categories_trains_by_name():
    data = abalone()
    keras.utils.set_random_seed(0)
    model = tabular(data.input_shape, data.num_outputs, hidden_sizes=(16,))
    model.compile(keras.optimizers.Adam(0.01), data.default_loss(), metrics=data.default_metrics())
    trainer = tl.Trainer(model, seed=0, jit_compile=False)
    trainer.fit(*data.train, batch_size=64, epochs=4, verbose=0)
    mae = trainer.evaluate(*data.test, verbose=0, return_dict=True)["mae"]
    assert mae < 2.0 < np.abs(data.test[1] - data.train[1].mean()).mean()  # the mean of all is worse
