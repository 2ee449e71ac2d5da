"""`--list` and `--help NAME`: what there is, and what a name stands for, as the live objects have it."""

import inspect

import keras
import pytest

from trainlab.cli.configs import gin_internals, names, outline
from trainlab.cli.configs.descriptions import Description, looked_at, read_off
from trainlab.cli.configs.errors import ConfigError
from trainlab.cli.verbs.listing import explained, listed

pytestmark = pytest.mark.usefixtures("clean")


def test_parameters_and_defaults_are_those_of_the_live_objects():
    found = 0
    for selector in outline.places():
        item = gin_internals.original(names.full_name(selector, {}))
        description, live = read_off(selector), looked_at(item)
        assert description is not None and list(description.parameters) == list(live.parameters), selector
        for name, parameter in inspect.signature(item).parameters.items():
            text = description.parameters.get(name)
            if text is not None and isinstance(parameter.default, (int, float, str, bool, tuple, type(None))):
                assert eval(text, {}) == parameter.default, (selector, name)
                found += 1
    assert found > 300  # there was something to compare


def test_docstrings_are_those_of_the_live_objects():
    for selector in ("trainlab.Heun", "trainlab.models.cnn", "keras.losses.Huber", "keras.callbacks.CSVLogger"):
        item = gin_internals.original(names.full_name(selector, {}))
        assert read_off(selector).text == inspect.getdoc(item)


@pytest.mark.parametrize(
    ("kind", "some", "none"),
    [
        ("strategies", ["Accumulate", "Heun", "trainlab.SGD"], "StepStrategy"),
        ("models", ["mlp", "cnn", "logistic_regression"], "Model"),
        ("data", ["digits", "mnist", "npz"], "Data "),
        ("optimizers", ["Adam", "keras.optimizers.SGD", "LossScaleOptimizer"], "ExponentialDecay"),
        ("schedules", ["CosineDecay", "ExponentialDecay"], "Adam "),
        ("losses", ["BinaryCrossentropy", "Huber"], "AUC"),
        ("metrics", ["AUC", "keras.metrics.BinaryCrossentropy", "Precision"], "Huber"),
        ("callbacks", ["EarlyStopping", "TensorBoard", "CSVLogger"], "History"),
    ],
)
def test_each_kind_is_listed_with_what_it_is(kind, some, none):
    lines = listed(kind).splitlines()
    said = {line.split()[0]: line.split(None, 1)[1:] for line in lines}
    assert set(some) <= set(said) and none.strip() not in said
    assert lines == sorted(lines) and all(len(line) <= 100 for line in lines)
    assert sum(bool(text) for text in said.values()) >= 0.9 * len(said)
    for name in said:  # a config may write every name so
        assert names.full_name(name, {})


def test_a_name_is_explained():
    text = explained("mlp")
    assert text.startswith("trainlab.models.mlp(input_shape, num_classes, hidden_sizes=(64, 64), activation='relu'")
    assert "A multilayer perceptron: flatten" in text and "in a config: run.model = @mlp" in text
    assert "  dropout       = 0.0  Fraction of each hidden layer's outputs" in text
    assert explained("@mlp()") == explained("trainlab.models.mlp") == text
    assert explained("mlp.dropout") == (
        "mlp.dropout = 0.0\nFraction of each hidden layer's outputs that is dropped in training, in [0, 1)."
    )
    assert "in a config: run.callbacks = [@EarlyStopping()]" in explained("EarlyStopping")
    assert "of the same name: keras.metrics.BinaryCrossentropy" in explained("BinaryCrossentropy")
    assert "'ROC'" in explained("AUC")


def test_the_settings_of_the_run_are_explained():
    from trainlab.cli.configs.settings import Settings

    text = explained("run")
    for name in inspect.signature(Settings).parameters:
        assert f"\n  {name} " in text
        assert len(explained(f"run.{name}").splitlines()) >= 2, name  # each is described


OWN = '''
class Uphill:
    """Goes uphill first.

    Args:
        rho: How far
            uphill.
    """

    def __init__(self, rho=0.05, *more, **others):
        pass


def small(input_shape, num_classes, width=8):
    pass
'''


def test_a_name_of_ones_own_module(trainlab_command, tmp_path):
    (tmp_path / "own_to_explain.py").write_text(OWN)
    (tmp_path / "c.gin").write_text("import own_to_explain as own\n")
    status, out, err = trainlab_command("--help", "own_to_explain.Uphill")
    assert (status, err) == (0, "") and out.splitlines()[:2] == ["own_to_explain.Uphill(rho=0.05)", "Goes uphill first."]
    assert "  rho  = 0.05  How far uphill.\n" in out
    for name in ("Uphill", "own.Uphill", "@own.Uphill()"):  # as the config calls it
        assert trainlab_command("train", "--config", "c.gin", "--help", name)[1] == out
    assert trainlab_command("--help", "own_to_explain.small.width")[1].startswith("own_to_explain.small.width = 8\n")
    status, out, err = trainlab_command("--help", "own_to_explain.Uphil")
    assert (status, out) == (2, "") and "unknown name 'own_to_explain.Uphil'" in err and err.count("\n") == 1


def test_a_module_that_fails_is_one_line(trainlab_command, tmp_path):
    (tmp_path / "own_that_fails.py").write_text("1 / 0\n")
    status, out, err = trainlab_command("--help", "own_that_fails.Sam")
    assert (status, out) == (2, "") and "importing own_that_fails failed: ZeroDivisionError" in err
    with pytest.raises(ConfigError):
        explained("own_that_fails.Sam")


def test_what_a_docstring_does_not_say_is_left_out():
    assert Description({"a": None}, "").of_parameter("a") == Description({}, "No arguments.").of_parameter("a") == ""
    assert looked_at(keras.callbacks.EarlyStopping).of_parameter("patience").startswith("Number of epochs with no improvement")
