"""A step of one's own may return what a metric says of each class."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import trainlab as tl


class Own(keras.Model):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        for metric in self.metrics:
            metric.update_state(*((loss,) if metric.name == "loss" else (y, y_pred)))
        return {metric.name: metric.result() for metric in self.metrics}


@pytest.mark.slow
def test_as_keras_tells_it():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=[12, 2]).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, 12)]

    def made():
        keras.utils.set_random_seed(0)
        inputs = keras.Input([2])
        model = Own(inputs, keras.layers.Dense(3, "softmax")(inputs))
        model.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.F1Score()])
        return model

    found = tl.Trainer(made()).fit(x, y, batch_size=4, shuffle=False, epochs=2, verbose=0).history
    expected = made().fit(x, y, batch_size=4, shuffle=False, epochs=2, verbose=0).history
    np.testing.assert_allclose(found["f1_score"], expected["f1_score"], rtol=1e-6)
    assert np.shape(found["f1_score"]) == (2, 3)
