"""Fits in a row of one Trainer are traced once: what changes by itself (variables, counters, what Keras keeps) is no setting."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from small import compiled, regression
from tables import MODELS

import trainlab as tl


class Busy(keras.Model):
    """Does in `call` what people do: counts, keeps what it saw, makes a thing when it is first needed."""

    def __init__(self):
        super().__init__()
        self.dense, self.calls, self.seen, self.history_of_losses = layers.Dense(1), 0, [], []

    def call(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        self.last = self.dense(x)
        if not hasattr(self, "late"):
            self.late = np.ones(3)
        return self.last


def _busy():
    keras.utils.set_random_seed(1)
    return compiled(Busy(), keras.optimizers.Adam(0.01), metrics=["mae"])


def _everything_else(model, x, path):
    model.save_weights(path / "a.weights.h5")
    tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(path / "a")
    model.predict(x, verbose=0)
    model.get_config()
    model.set_weights(model.get_weights())
    model.summary(print_fn=lambda *args, **kwargs: None)


@pytest.mark.parametrize(
    ("name", "is_eager"),
    [
        ("busy", False),
        ("busy", True),
        ("text", False),
        ("cnn", False),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in [*MODELS, "recurrent"]),
        pytest.param("cnn", True, marks=pytest.mark.slow),
    ],
)
def test_fits_in_a_row_are_traced_once(name, is_eager, tmp_path):
    if name in MODELS:
        model = MODELS[name].compiled(keras.optimizers.AdamW(0.01, use_ema=True))
        x, y = MODELS[name].arrays(20)
    elif name == "busy":
        model, (x, y) = _busy(), regression()
    elif name == "text":
        x, y = tf.constant([["a b"], ["b c"], ["a"], ["c c c"]] * 5), np.ones([20, 1], "float32")
        text = layers.TextVectorization(output_mode="multi_hot", max_tokens=6, pad_to_max_tokens=True)
        text.adapt(x)
        model = compiled(keras.Sequential([keras.Input([1], dtype="string"), text, layers.Dense(1)]))
    else:
        x, y = np.ones([20, 4, 3], "float32"), np.ones([20, 1], "float32")
        rnn = layers.Bidirectional(layers.LSTM(2, dropout=0.1, recurrent_dropout=0.1))
        model = compiled(keras.Sequential([keras.Input([4, 3]), rnn, layers.Dense(1)]), keras.optimizers.RMSprop(0.01))
    model.run_eagerly = is_eager
    trainer = tl.Trainer(model)
    callbacks = [keras.callbacks.EarlyStopping("loss", patience=9), keras.callbacks.ReduceLROnPlateau("loss", patience=1)]
    for _ in range(3):
        trainer.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=callbacks, validation_data=(x, y))
        made, num_traces = trainer._loops.made.loop, trainer.num_traces
        if not is_eager:
            _everything_else(model, x, tmp_path)
        model.optimizer.learning_rate = 0.005  # a variable's value: no setting
        trainer.fit(x, y, epochs=1, batch_size=8, verbose=0)
        assert trainer._loops.made.loop is made
        assert is_eager or trainer.num_traces == num_traces == 2  # of whole updates, and of the last
