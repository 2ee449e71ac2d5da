"""A model whose graph holds operations goes on in a process that has built others: Keras counts their names up."""

import keras
import numpy as np
import pytest
from small import assert_same, differ

import trainlab as tl
from trainlab.runs.manifest import of_model

WORDS = np.array([[1, 2, 0], [3, 4, 5], [5, 0, 0], [2, 2, 2]], "int32")
X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")


def added(inputs):
    return keras.layers.Dense(1)(inputs + keras.ops.exp(inputs) + keras.ops.exp(inputs * 2))


def masked(inputs):
    x = keras.layers.Embedding(6, 2, mask_zero=True)(inputs)
    return keras.layers.Dense(1)(keras.layers.LSTM(3)(x))


def nested(inputs):
    inner = keras.Input([3])
    return keras.layers.Dense(1)(keras.Model(inner, keras.ops.tanh(inner) * 2)(inputs))


def sliced(inputs):
    return keras.layers.Dense(1)(keras.ops.concatenate([inputs[:, :1], inputs[:, 1:] - 1], axis=1))


MODELS = {"sums": added, "masks": masked, "a model inside": nested, "slices": sliced}


def build(case, change=lambda x: x):
    keras.utils.set_random_seed(0)
    inputs = keras.Input([3], dtype="int32" if case == "masks" else "float32")
    model = keras.Model(inputs, change(MODELS[case](inputs)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def data(case):
    return (np.tile(WORDS, (3, 1)) if case == "masks" else X), np.arange(12.0)[:, None] / 12


@pytest.mark.parametrize("case", MODELS)
def test_it_goes_on(case, tmp_path):
    whole, first, again = (build(case) for _ in range(3))
    for model, run, epochs in ((whole, None, 2), (first, tmp_path, 1), (again, tmp_path, 2)):
        tl.Trainer(model, seed=0, run=run, jit_compile=False).fit(*data(case), batch_size=4, epochs=epochs, verbose=0)
    assert_same(whole.get_weights(), again.get_weights())
    assert differ(whole.get_weights(), first.get_weights())


@pytest.mark.parametrize("case", MODELS)
def test_another_graph_is_another_model(case):
    assert of_model(build(case))["model"] == of_model(build(case))["model"]
    assert of_model(build(case))["model"] != of_model(build(case, keras.ops.tanh))["model"]
    assert of_model(build(case, keras.ops.sin))["model"] != of_model(build(case, keras.ops.cos))["model"]


@pytest.mark.slow
def test_the_first_of_a_process_is_written_as_ever():
    keras.backend.clear_session()
    first = of_model(build("sums"))["model"]
    names = [layer["name"] for layer in first["layers"] if "ops" in layer["module"]]
    assert names and "exp" in names and "exp_1" in names
    assert of_model(build("sums"))["model"] == first
