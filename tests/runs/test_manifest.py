import keras
import numpy as np
import pytest
from small import regression
from tables import Sam

import trainlab as tl
from trainlab.runs import manifest
from trainlab.runs import plain as plain_module
from trainlab.runs.plain import plain


def model_of(*activations, units=4, loss="mse", optimizer=None, names=None, metrics=()):
    names = names or [None] * len(activations)
    layers = [keras.layers.Dense(units, activation=a, name=n) for a, n in zip(activations, names, strict=True)]
    model = keras.Sequential([keras.Input([3]), *layers, keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile(optimizer=optimizer or keras.optimizers.Adam(0.1), loss=loss, metrics=list(metrics))
    model.optimizer.build(model.trainable_variables)
    return model


def rows_that_differ(a, b):
    return sorted({difference.row for difference in manifest.differences(a, b)})


def test_a_model_built_again_is_the_same():
    first, second = model_of("relu", "tanh"), model_of("relu", "tanh")
    assert first.layers[0].name != second.layers[0].name  # Keras counts up
    assert manifest.differences(manifest.of_model(first), manifest.of_model(second)) == []


def step_loss(y, p):
    return keras.ops.mean(keras.ops.abs(y - p))


@pytest.mark.parametrize(
    "change, rows",
    [
        ({"activations": ("tanh", "relu")}, ["model"]),  # swapped
        ({"names": ("b", "a")}, ["model", "variables"]),  # same shapes, other places
        ({"units": 5}, ["model", "optimizer variables", "variables"]),
        ({"loss": "mae"}, ["loss and metrics"]),
        ({"loss": step_loss}, ["loss and metrics"]),
        ({"metrics": ("mae",)}, ["loss and metrics"]),
        ({"optimizer": lambda: keras.optimizers.Adamax(0.1)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, beta_1=0.8)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, clipnorm=1.0)}, ["optimizer"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.2)}, ["learning_rate"]),
        ({"optimizer": lambda: keras.optimizers.Adam(0.1, amsgrad=True)}, ["optimizer", "optimizer variables"]),
    ],
)
def test_what_tells_two_models_apart(change, rows):
    change = dict(change)
    if "optimizer" in change:
        change["optimizer"] = change["optimizer"]()
    settings = {"names": ("a", "b"), "activations": ("relu", "tanh"), **change}
    first = model_of("relu", "tanh", names=("a", "b"))
    second = model_of(*settings.pop("activations"), **settings)
    assert rows_that_differ(manifest.of_model(first), manifest.of_model(second)) == rows


def test_metrics_may_be_made_again():
    a, b = (manifest.of_model(model_of("relu", metrics=[keras.metrics.AUC(), keras.metrics.AUC()])) for _ in range(2))
    assert manifest.differences(a, b) == []


class Subclassed(keras.Model):
    def __init__(self, activation):
        super().__init__()
        self.dense = keras.layers.Dense(1, activation=activation)

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_is_compared_layer_by_layer():
    def built(activation):
        model = Subclassed(activation)
        model.compile(loss="mse")
        model.build((None, 3))
        model.optimizer.build(model.trainable_variables)
        return manifest.of_model(model)

    assert rows_that_differ(built("relu"), built("relu")) == []
    assert rows_that_differ(built("relu"), built("tanh")) == ["model"]


@pytest.mark.parametrize(
    "other",
    [tl.SGD(), Sam(0.1), tl.Accumulate(2, Sam()), tl.Accumulate(3, tl.Heun()), tl.Accumulate(2, tl.Accumulate(2, tl.Heun()))],
    ids=repr,
)
def test_strategies_differ_by_class_and_settings(other):
    saved = {"strategy": plain(tl.Accumulate(2, tl.Heun()))}
    assert manifest.differences(saved, {"strategy": plain(tl.Accumulate(2, tl.Heun()))}) == []
    assert rows_that_differ(saved, {"strategy": plain(other)}) == ["strategy"]
    assert plain(Sam(0.05)) == plain(Sam())


def test_data_are_compared_by_their_bytes(monkeypatch):
    x, y = regression()
    saved = manifest.of_data((x, y, None))
    assert manifest.of_data((x.copy(), y, None)) == saved
    other = x.copy()
    other[7, 1] = np.nextafter(other[7, 1], 9)
    for changed in [(other, y, None), (x[::-1], y, None), (x, y, y), (x.astype("float64"), y, None), (x[:-1], y[:-1], None)]:
        assert manifest.of_data(changed) != saved
    assert manifest.of_data((np.asfortranarray(x), y, None)) == saved
    # Of large data, blocks: the first and the last among them.
    monkeypatch.setattr(plain_module, "_MAX_HASHED", 2**12)
    monkeypatch.setattr(plain_module, "_BLOCK", 2**8)
    large = np.arange(10_000, dtype="int64")
    few = manifest.of_data(large)
    for place in (0, -1):
        changed = large.copy()
        changed[place] += 1
        assert manifest.of_data(changed) != few


def test_every_row_has_a_rule_and_every_difference_a_remedy():
    model = model_of("relu")
    assert set(manifest.of_model(model)) | set(manifest.of_machine()) <= set(manifest.RULES)
    for row, (severity, remedy) in manifest.RULES.items():
        (difference,) = manifest.differences({row: 1}, {row: 2})
        assert str(difference) == f"{row}: saved 1, now 2 ({remedy})"
        refusing, warning = manifest.refusals([difference])
        assert (len(refusing), len(warning)) == ((1, 0) if severity == manifest.REFUSE else (0, 1))
    (difference,) = manifest.differences({"learning_rate": 0.1}, {"learning_rate": 0.2})
    assert manifest.refusals([difference], ["learning_rate"]) == ([], [])


def test_what_is_gone_and_what_is_new_are_differences():
    assert str(manifest.differences({"data": {"a": 1}}, {"data": {"b": float("nan")}})[0]).startswith(
        "data a: saved 1, now nothing"
    )
    assert manifest.differences({"data": {"b": float("nan")}}, {"data": {"b": float("nan")}}) == []
