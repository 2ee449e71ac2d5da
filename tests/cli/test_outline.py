"""What is read off the sources agrees with the live objects, and knows nothing where it cannot read."""

import inspect

import gin
import keras
import pytest
from commands import CONFIGS
from keras.src import losses, metrics

from trainlab.cli.configs import gin_internals, names, outline, reading

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def unreadable(monkeypatch):
    """A Keras whose sources are not where they were."""

    def nowhere():
        raise OSError("there is no Keras")

    monkeypatch.setattr(outline, "_keras", nowhere)
    for cached in (outline.places, outline.parameters):
        cached.cache_clear()
    yield
    for cached in (outline.places, outline.parameters):
        cached.cache_clear()


def live(selector):
    return inspect.signature(gin_internals.original(selector)).parameters.values()


def ours_and_keras(registered):
    return {name for name in registered if name.startswith(("trainlab.", "keras.")) and name not in names.SETTINGS}


def test_it_lists_exactly_what_can_be_built():
    classes = {
        f"keras.{package}.{name}"
        for package, base in (("callbacks", keras.callbacks.Callback), ("metrics", keras.Metric))
        for name, item in vars(getattr(keras, package)).items()
        if inspect.isclass(item) and issubclass(item, base) and item is not base
    }
    classes -= {f"keras.callbacks.{name}" for name in ("CallbackList", "History", "ProgbarLogger")}  # `fit` makes these itself
    assert set(outline.places()) == ours_and_keras(gin_internals.registered()) | classes


def test_parameters_are_those_of_the_live_objects():
    known = {selector: outline.parameters(selector) for selector in outline.places()}
    for selector in known:  # callbacks and metrics are registered as they are used
        assert names.full_name(selector, {}) == selector
    for selector, parameters in known.items():
        if parameters is not None:
            assert list(parameters) == [p.name for p in live(selector) if p.kind is not p.VAR_KEYWORD], selector
    assert known["trainlab.Accumulate"] == ("num_batches", "inner")
    unknown = {selector for selector, parameters in known.items() if parameters is None}
    without = {f"trainlab.{name}" for name in ("Extragradient", "Heun", "OptimisticGradient", "SGD")}  # which have no `__init__`
    assert {name for name in unknown if not name.startswith("keras.")} == without
    assert not {name for name in unknown if name.startswith(("keras.optimizers", "keras.losses"))}
    assert outline.parameters("trainlab.nosuch") is None


@pytest.mark.parametrize("package, table", [("metrics", metrics.ALL_OBJECTS_DICT), ("losses", losses.ALL_OBJECTS_DICT)])
def test_no_name_that_keras_takes_is_unknown(package, table):
    assert len(table) > 30 and set(table) <= outline.names_given(package)


@pytest.mark.parametrize(
    "package, name",
    [("metrics", name) for name in ("accuracy", "ACC", "mae", "AUC", "top_k_categorical_accuracy")]
    + [("losses", name) for name in ("crossentropy", "CE", "MSE", "CategoricalCrossentropy", "kld")],
)
def test_the_names_that_compile_takes_are_known(package, name):
    assert outline.is_given(package, name)
    assert not outline.is_given(package, f"x{name}")
    model = keras.Sequential([keras.Input([3]), keras.layers.Dense(6, "softmax")])
    model.compile(loss=name if package == "losses" else "mse", metrics=[name if package == "metrics" else "mae"])
    x = keras.ops.ones([2, 3]), keras.ops.one_hot([0, 1], 6)
    assert len(model.evaluate(*x, verbose=0)) == 2  # Keras takes it


def test_what_cannot_be_read_is_not_refused(unreadable):
    assert outline.places() == {} and outline.names_given("metrics") == outline.names_given("losses") == frozenset()
    assert outline.parameters("keras.optimizers.SGD") is None
    assert names.outlined("nosuch") == "nosuch"
    reading.look_over([CONFIGS / "heun.gin"], ["run.metrics = ['nosuch']", "run.strategy = @nosuch()", "nosuch.a = 1"])
    with pytest.raises(reading.ConfigError, match="run has no parameter 'epoch'"):  # this is ours alone
        reading.look_over([CONFIGS / "heun.gin"], ["run.epoch = 1"])
    with pytest.raises(reading.ConfigError, match="unknown name 'nosuch'"):  # and later all is found
        reading.load([CONFIGS / "heun.gin"], ["run.strategy = @nosuch()"])


def test_a_source_that_is_no_python_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def f(:")
    monkeypatch.setattr(outline, "places", lambda: {"a.f": outline.Place(tmp_path / "broken.py", "f")})
    assert outline.parameters.__wrapped__("a.f") is None
    monkeypatch.setattr(outline, "places", lambda: {"a.f": outline.Place(tmp_path / "missing.py", "f")})
    assert outline.parameters.__wrapped__("a.f") is None


@pytest.mark.parametrize("config", sorted(path.name for path in CONFIGS.glob("*.gin") if path.name != "base.gin"))
def test_what_is_right_is_passed(config):
    before = gin.config_str()
    reading.look_over([CONFIGS / config], ["run.epochs = 3", "n = 4", "run.seed = %n", "SGDish/run.epochs = -1"])
    assert gin.config_str() == before  # it binds nothing


@pytest.mark.parametrize(
    "name",
    [
        "Heun",
        "trainlab.Heun",
        "keras.optimizers.Adam",
        "Adam",
        "optimizers.Adam",
        "npz",
        "EarlyStopping",
        "AUC",
        "metrics.MeanSquaredError",
    ],
)
def test_names_are_found_as_gin_finds_them(name):
    assert names.outlined(name) == names.full_name(name, {})


def test_an_ambiguous_name_is_left_to_gin():
    assert names.outlined("SGD") == "SGD"
    with pytest.raises(names.NotKnown, match="ambiguous"):
        names.full_name("SGD", {})
