"""Inputs and targets in dictionaries and lists are compared with those of the model that they go to."""

import keras
import numpy as np
import pytest

from trainlab import Trainer


def nested_inputs():
    inputs = [{"b": keras.Input([2], name="b"), "a": keras.Input([5], name="a")}, keras.Input([3], name="c")]
    joined = keras.layers.Concatenate()([inputs[0]["b"], inputs[0]["a"], inputs[1]])
    model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    return model


def test_nested_inputs_are_compared_with_their_own():
    x = [{"b": np.ones([8, 2]), "a": np.ones([8, 5])}, np.ones([8, 3])]
    Trainer(nested_inputs()).fit(x, np.ones([8, 1]), verbose=0)
    x[0]["b"] = np.ones([8, 4])
    with pytest.raises(ValueError, match=r"^x\[0\]\['b'\] has examples of shape \(4,\) but the model's input 'b' takes \(2,\)"):
        Trainer(nested_inputs()).fit(x, np.ones([8, 1]), verbose=0)


def test_labels_of_some_outputs_are_those_of_the_outputs_with_a_loss():
    def model():
        x = keras.Input([2])
        made = keras.Model(x, [keras.layers.Dense(classes, "softmax")(x) for classes in (3, 10, 100)])
        made.compile("sgd", [None, *["sparse_categorical_crossentropy"] * 2])
        return made

    x, few = np.ones([8, 2], "float32"), np.arange(8)
    Trainer(model()).fit(x, [few, np.full([8], 57)], verbose=0)
    with pytest.raises(ValueError, match=r"^y\[0\] holds the label 57 .* from 0 to 9"):
        Trainer(model()).fit(x, [np.full([8], 57), few], verbose=0)
    with pytest.raises(ValueError, match=r"^y\[1\] holds the label 100 .* from 0 to 99"):
        Trainer(model()).fit(x, [few, np.full([8], 100)], verbose=0)


def test_one_array_of_weights_of_elements_is_not_for_several_outputs():
    x = keras.Input([3, 2])
    model = keras.Model(x, [keras.layers.Dense(1)(x), keras.layers.Dense(1)(x)])
    model.compile("sgd", ["mse", "mse"])
    data = np.ones([4, 3, 2], "float32"), [np.ones([4, 3, 1], "float32")] * 2
    for weights in (np.ones([4, 3]), np.ones([4, 3, 1])):
        with pytest.raises(
            ValueError, match=r"^sample_weight of shape \(4, 3.*\) for 2 outputs: one array for all has one weight"
        ):
            Trainer(model).fit(*data, sample_weight=weights, verbose=0)
    for good in (np.ones([4, 1]), [np.ones([4, 3])] * 2):
        Trainer(model).fit(*data, sample_weight=good, verbose=0)
