"""Validation under op determinism: the same numbers as without, and nothing that TensorFlow has to say about it."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_keras import as_keras, fitted, seeded
from sources import ROOT

from trainlab import Accumulate, Trainer

X, Y = np.random.default_rng(0).normal(size=(2, 41, 4))


def plain():
    return keras.Sequential([keras.Input([4]), keras.layers.BatchNormalization(), keras.layers.Dense(4)])


def of_two():
    a, b = keras.Input([4], name="a"), keras.Input([4], name="b")
    return keras.Model([a, b], keras.layers.Dense(4)(keras.layers.Add()([a, b])))


def history(make, data, deterministic, **how):
    keras.utils.set_random_seed(0)
    model = make()
    model.compile("sgd", "mse", metrics=["mae"])
    trainer = Trainer(model, deterministic=deterministic)
    return trainer.fit(*data, epochs=2, validation_data=data, verbose=0, **how).history


@pytest.mark.parametrize(
    "make, data, how",
    [
        (plain, (X, Y), {}),
        (plain, (X, Y), {"validation_batch_size": 7}),
        (plain, (X, Y), {"validation_steps": 2}),
        (plain, (X.astype("float32"), Y), {"batch_size": 41}),
        (of_two, ([X, Y], Y), {}),
        (plain, (tf.constant(X, tf.float32), Y), {}),  # left to Keras
    ],
)
@pytest.mark.slow
def test_validation_is_the_same_under_op_determinism(make, data, how):
    assert history(make, data, True, **how) == history(make, data, None, **how)


@pytest.mark.slow
def test_tensorflow_says_nothing_of_it():
    program = """
import sys, keras, numpy as np, trainlab as tl
model = keras.Sequential([keras.Input([4]), keras.layers.Dense(1)])
model.compile("sgd", "mse")
x, y = np.ones([40, 4]), np.ones([40, 1])
tl.Trainer(model, deterministic=True).fit(x, y, validation_data=(x, y), verbose=0)
print("the control", file=sys.stderr, flush=True)
model.evaluate(x, y, verbose=0)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    ours, control = result.stderr.split("the control")
    assert "use_unbounded_threadpool" not in ours
    assert "use_unbounded_threadpool" in control  # it is said once a process: nobody had said it before


class TestSizeOfBatches:
    """Where nobody gives it, it is what Keras takes."""

    X, Y = np.random.default_rng(0).normal(size=(2, 90, 4))
    FIT = {"batch_size": None, "epochs": 2}

    @pytest.mark.parametrize(
        "given", [{}, *({"steps_per_epoch": n} for n in (1, 7, 8, 90)), {"validation_split": 0.3, "steps_per_epoch": 5}], ids=str
    )
    def test_steps_an_epoch(self, given):
        as_keras(seeded(plain), {"x": self.X, "y": self.Y, **self.FIT, **given})

    def test_a_step_of_several_batches(self):
        make = seeded(lambda: keras.Sequential([keras.Input([4]), keras.layers.Dense(4)]))
        model = make()
        trainer = Trainer(model, Accumulate(3))
        text = trainer.describe_loop(self.X, self.Y, steps_per_epoch=6)
        assert "15 examples = 3 batches of 5" in text
        trainer.fit(self.X, self.Y, steps_per_epoch=6, shuffle=False, verbose=0)
        expected, _ = fitted(make, {"x": self.X, "y": self.Y, "batch_size": 15, "epochs": 1}, use_keras=True)
        for a, b in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:.*[Ll]imit")
    def test_under_keras_limit(self):
        before = keras.config.max_steps_per_epoch()
        keras.config.set_max_steps_per_epoch(4)
        try:
            given = {"x": self.X, "y": self.Y, "validation_data": (self.X[:50], self.Y[:50]), **self.FIT}
            as_keras(seeded(plain), given)
            model = seeded(plain)()
            assert Trainer(model).evaluate(self.X, self.Y, verbose=0) == pytest.approx(
                model.evaluate(self.X, self.Y, verbose=0), rel=1e-5
            )
            assert Trainer(model).predict(self.X, verbose=0).shape == model.predict(self.X, verbose=0).shape == (90, 4)
        finally:
            keras.config.set_max_steps_per_epoch(before)


@pytest.mark.parametrize(
    "loss",
    ["SparseCategoricalCrossentropy", "crossentropy", "ce", keras.losses.SparseCategoricalCrossentropy()],
    ids=["class by name", "short", "shortest", "class"],
)
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "arrays"])
def test_classes_of_elements_are_weighed_however_the_loss_is_spelled(loss, is_stream):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[8, 3, 2]).astype("float32"), rng.integers(0, 2, [8, 3])

    def lost(loss, y):
        model = keras.Sequential([keras.Input([3, 2]), keras.layers.Dense(2, "softmax", kernel_initializer="ones")])
        model.compile("sgd", loss)
        data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(8)} if is_stream else {"x": x, "y": y, "batch_size": 8}
        return Trainer(model).fit(**data, class_weight={0: 1, 1: 10}, verbose=0).history["loss"]

    assert lost(loss, y) == lost("sparse_categorical_crossentropy", y)
    one_hot = np.eye(2, dtype="float32")[y]
    if loss in ("crossentropy", "ce"):  # which takes these too
        np.testing.assert_allclose(lost(loss, one_hot), lost("categorical_crossentropy", one_hot), rtol=1e-6)
