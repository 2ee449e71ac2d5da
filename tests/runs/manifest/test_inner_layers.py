"""The settings of layers that Keras does not write down: those inside a subclassed model, or inside a layer of the user's."""

import keras
import numpy as np
import pytest
from test_manifest import as_saved

import trainlab as tl
from trainlab.runs import manifest


class Net(keras.Model):
    def __init__(self, rate=0.1):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(4, "relu"), keras.layers.Dense(1)
        self.drop = keras.layers.Dropout(rate, seed=1)

    def call(self, x, training=False):
        return self.out(self.drop(self.hidden(x), training=training))


class Block(keras.layers.Layer):
    """Forgets to say its rate; two of them have inner layers of one name."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.drop = keras.layers.Dropout(rate, seed=1, name="drop")

    def call(self, x, training=False):
        return self.drop(x, training=training)

    def get_config(self):
        return {"name": self.name}


def net(rate=0.1):
    return built(Net(rate))


def graph(rate=0.1, second=0.1):
    x = keras.Input([3])
    backbone = keras.Sequential([keras.layers.Dense(4), keras.layers.BatchNormalization()])
    return built(keras.Model(x, keras.layers.Dense(1)(Block(second)(Block(rate)(backbone(x))))))


def nested():
    """A subclassed model around a graph of layers."""

    class Around(keras.Model):
        def __init__(self):
            super().__init__()
            self.inside = graph()

        def call(self, x, training=False):
            return self.inside(x, training=training)

    return built(Around())


def built(model):
    model(np.ones([2, 3], "float32"))
    model.compile(optimizer="sgd", loss="mse")  # that keeps nothing for a variable
    model.optimizer.build(model.trainable_variables)
    return model


CHANGES = {
    "a rate": (net, lambda m: setattr(m.drop, "rate", 0.5), "inner layers dropout#0.rate: saved 0.1, now 0.5"),
    "an activation": (net, lambda m: setattr(m.hidden, "activation", keras.activations.tanh), "saved 'relu', now 'tanh'"),
    "frozen": (net, lambda m: setattr(m.hidden, "trainable", False), "inner layers dense#0.trainable: saved True, now False"),
    "in a second block": (graph, lambda m: setattr(m.layers[3].drop, "rate", 0.5), "inner layers drop#0 (2).rate: saved 0.1"),
    "a block is frozen": (graph, lambda m: setattr(m.layers[2], "trainable", False), "block#1.trainable: saved True"),
    "a graph inside is frozen": (nested, lambda m: setattr(m.inside.layers[1], "trainable", False), "dense#0.trainable: saved T"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_settings_of_layers_inside_others_are_compared(name):
    make, change, words = CHANGES[name]
    saved, other = as_saved(manifest.of_model(make())), make()
    assert manifest.differences(saved, manifest.of_model(other)) == []  # the control: built again, it is the same
    change(other)
    found = [str(difference) for difference in manifest.differences(saved, manifest.of_model(other))]
    assert found and all(line.startswith("inner layers") for line in found)
    assert any(words in line for line in found)


def test_what_a_constructor_forgets_to_say_is_compared():
    saved = as_saved(manifest.of_model(graph()))
    (found,) = manifest.differences(saved, manifest.of_model(graph(second=0.5)))
    assert str(found).startswith("inner layers drop#0 (2).rate: saved 0.1, now 0.5")


def test_of_a_model_that_keras_writes_whole_nothing_is_said_twice():
    layers = [keras.layers.Dense(2), keras.Sequential([keras.layers.Dropout(0.5), keras.layers.BatchNormalization()])]
    rows = manifest.of_model(built(keras.Sequential([keras.Input([3]), *layers])))
    assert rows["inner layers"] == {}
    rows = manifest.of_model(net())
    assert set(rows["inner layers"]) == {"dense#0", "dense#1", "dropout#0"}  # the control


def test_neither_training_nor_the_size_of_the_first_batch_makes_a_difference():
    model = nested()
    saved = as_saved(manifest.of_model(model))
    tl.Trainer(model).fit(np.ones([8, 3], "float32"), np.ones([8, 1], "float32"), 4, verbose=0)
    assert manifest.differences(saved, manifest.of_model(model)) == []
    other = nested()
    other(np.ones([5, 3], "float32"))
    assert manifest.differences(saved, manifest.of_model(other)) == []


def test_a_checkpoint_that_was_written_before_resumes():
    current = manifest.of_model(net(0.5))
    saved = {row: value for row, value in as_saved(manifest.of_model(net())).items() if row != "inner layers"}
    assert manifest.check("a", saved, current, ()) == set()
    with pytest.raises(manifest.OtherRun):
        manifest.check("a", as_saved(manifest.of_model(net())), current, ())
