"""`assert_resumes` passes what resumes, and names what does not."""

import doctest

import keras
import pytest
import tensorflow as tf
from small import regression

import trainlab as tl
from trainlab.testing import assert_resumes, resuming


def make_trainer(directory, *layers, strategy=None, **settings):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input([3]), *[make() for make in layers], keras.layers.Dense(1)])
    return tl.Trainer(model, strategy, optimizer=keras.optimizers.Adam(0.01), loss="mse", run=directory, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layer", [lambda: keras.layers.Dropout(0.5, seed=3), keras.layers.BatchNormalization], ids=["dropout", "norm"]
)
def test_what_resumes(layer):
    x, y = regression(20)
    assert_resumes(lambda directory: make_trainer(directory, layer, strategy=tl.Sam()), x, y, steps=4, batch_size=6)


@pytest.mark.slow
def test_a_stream_made_for_each_run():
    x, y = regression(20)
    stream = lambda: tf.data.Dataset.from_tensor_slices((x, y)).shuffle(20, seed=1).batch(6)  # noqa: E731
    assert_resumes(make_trainer, stream, steps=4)
    assert_resumes(make_trainer, tf.data.Dataset.from_tensor_slices((x, y)).batch(6), steps=3)  # the same each time it is read


class Forgetful(keras.callbacks.Callback):
    """Changes the learning rate by a count of its own, which no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.calls += 1
        self.model.optimizer.learning_rate = 0.1 / self.calls


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Forgetful")
def test_what_does_not():
    x, y = regression(20)
    with pytest.raises(
        AssertionError, match=r"^stopped after update 1 of 3 and gone on with: weight 0 \(kernel\) differs from the unbroken run$"
    ):
        assert_resumes(make_trainer, x, y, steps=3, batch_size=6, callbacks=lambda: [Forgetful()])


def test_arguments():
    x, y = regression(20)
    with pytest.raises(ValueError, match="steps = 1: must be a whole number of at least 2"):
        assert_resumes(make_trainer, x, y, steps=1)
    with pytest.raises(ValueError, match="must give the Trainer its run"):
        assert_resumes(lambda directory: make_trainer(None), x, y)


@pytest.mark.slow
def test_docstring_examples():
    result = doctest.testmod(resuming)
    assert result.attempted > 0 and result.failed == 0
