"""The user's own code and private attributes in a model: compared wherever Keras takes some, and not what training sets."""

import json
import warnings

import keras
import numpy as np
import own_code
import pytest
from test_manifest import as_saved, model_of, rows_that_differ

import trainlab as tl
from trainlab.runs import manifest

OWN = own_code.in_keras()
ROWS = {"optimizer": "optimizer", "schedule": "learning_rate", "learning": "learning_rate"}
ROWS |= {"loss": "loss and metrics", "metric": "loss and metrics"}


def given(source, value, before=""):
    """A compiled and built model that holds a user's code."""
    space = own_code.run(source.replace("VALUE", str(value)), before=before)
    kind = space.get("model_class", keras.Sequential)
    layers = space.get("layer", keras.layers.Dense(2))
    model = kind([keras.Input([3]), *(layers if isinstance(layers, list) else [layers]), keras.layers.Dense(1)])
    compiling = {"loss": space.get("loss", "mse"), "metrics": space.get("metrics", [])}
    model.compile(optimizer=space.get("optimizer", "adam"), **compiling)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("name", OWN)
def test_the_users_code_is_compared_wherever_keras_takes_some(name):
    source = OWN[name]
    saved = as_saved(manifest.of_model(given(source, 1)))
    same = given(source, 1, before="\n\n\n# Elsewhere.\n")
    assert manifest.differences(saved, manifest.of_model(same)) == []
    row = ROWS.get(name.split()[0].strip(","), "layers' code")
    found = rows_that_differ(saved, manifest.of_model(given(source, 2)))
    assert row in found and set(found) <= {row, "model"}  # Keras writes down some of what a constructor was given
    # Neither does training itself make a difference.
    x, y = np.ones([64, 3], "float32"), np.ones([64, 1], "float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tl.Trainer(same, run_eagerly="private" not in name).fit(x, y, 64, verbose=0)
    assert manifest.differences(saved, manifest.of_model(same)) == []


def test_a_model_of_keras_own_layers_holds_no_code():
    model = model_of("relu", metrics=["mae", keras.metrics.AUC()])
    assert manifest.of_model(model)["layers' code"] == {}
    assert "bytecode" not in json.dumps(manifest.of_model(model))


class Counting(keras.layers.Layer):
    """Counts its traces, caches what it computes, and forgets to say its setting."""

    def __init__(self, by):
        super().__init__()
        self._by, self.calls, self._seen = by, 0, {}

    def get_config(self):
        return {}

    def build(self, shape):
        self.width = shape[-1]
        self.kernel = self.add_weight([shape[-1]], name="kernel")

    def call(self, x):
        self.calls += 1
        self._seen["last"] = x
        return x * self.kernel * self._by


def test_what_a_layer_sets_while_training_does_not_count():
    def compiled(by):
        model = keras.Sequential([keras.Input([3]), Counting(by), keras.layers.Dense(1)])
        model.compile(loss="mse")
        model.optimizer.build(model.trainable_variables)
        return model

    model = compiled(2)
    saved = as_saved(manifest.of_model(model))
    (record,) = saved["layers' code"].values()
    assert record["_by"] == 2 and record["width"] == 3 and "not compared" in record["calls"]
    tl.Trainer(model).fit(np.ones([8, 3]), np.ones([8, 1]), 8, verbose=0)
    assert model.layers[0].calls > 1
    assert manifest.differences(saved, manifest.of_model(model)) == []
    assert rows_that_differ(saved, manifest.of_model(compiled(3))) == ["layers' code"]
