"""Schedules and optimizers that Keras cannot write into a file: they train, and their runs go on, compared by what they are."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, everything, regression

from trainlab import Accumulate, Heun, Run, Trainer
from trainlab.runs import manifest
from trainlab.runs.manifest.plain import Reader

X, Y = regression(24)
Schedule = keras.optimizers.schedules.LearningRateSchedule


class Warmup(Schedule):
    """As in the Transformer tutorial: no more than a `__call__`."""

    def __init__(self, d_model, warmup=4):
        super().__init__()
        self.d_model, self.warmup = tf.cast(d_model, tf.float32), warmup

    def __call__(self, step):
        step = tf.cast(step, tf.float32) + 1.0
        return tf.math.rsqrt(self.d_model) * tf.math.minimum(tf.math.rsqrt(step), step * self.warmup**-1.5)


class NotForFiles(keras.optimizers.Adam):
    def get_config(self):
        raise NotImplementedError("not for files")


class Own(keras.optimizers.Optimizer):
    """Calls nothing of the base class but what it must."""

    def __init__(self, rate, by=1.0):
        super().__init__(learning_rate=rate)
        self._by = [by]

    def update_step(self, gradient, variable, learning_rate):
        self.assign_sub(variable, gradient * keras.ops.cast(learning_rate, variable.dtype) * self._by[0])


OPTIMIZERS = {
    "a schedule": lambda: keras.optimizers.Adam(Warmup(64)),
    "a schedule, clipped": lambda: keras.optimizers.SGD(Warmup(64), momentum=0.9, clipnorm=1.0),
    "an optimizer": lambda: NotForFiles(0.01),
    "an optimizer with a schedule": lambda: NotForFiles(Warmup(64)),
    "an optimizer of one's own": lambda: Own(0.05, by=0.5),
    "one of one's own with a schedule": lambda: Own(Warmup(64)),
}
CHANGED = {
    "a schedule": lambda: keras.optimizers.Adam(Warmup(128)),
    "a schedule, clipped": lambda: keras.optimizers.SGD(Warmup(64), momentum=0.9, clipnorm=2.0),
    "an optimizer": lambda: NotForFiles(0.02),
    "an optimizer with a schedule": lambda: NotForFiles(Warmup(64, warmup=5)),
    "an optimizer of one's own": lambda: Own(0.05, by=0.25),
    "one of one's own with a schedule": lambda: Own(Warmup(65)),
}


@pytest.mark.parametrize("strategy", [None, Heun(), Accumulate(2)], ids=repr)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_trains_as_in_keras(name, strategy):
    model = compiled(optimizer=OPTIMIZERS[name]())
    Trainer(model, strategy).fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == (6 if isinstance(strategy, Accumulate) else 12)
    if strategy is None:
        other = compiled(optimizer=OPTIMIZERS[name]())
        other.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        np.testing.assert_allclose(model.get_weights()[0], other.get_weights()[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_run_goes_on_and_another_one_is_refused(name, tmp_path):
    whole = compiled(optimizer=OPTIMIZERS[name]())
    Trainer(whole).fit(X, Y, batch_size=4, epochs=4, verbose=0)
    Trainer(compiled(optimizer=OPTIMIZERS[name]()), run=Run(tmp_path)).fit(X, Y, batch_size=4, epochs=2, verbose=0)
    with pytest.raises(manifest.OtherRun, match="optimizer|learning_rate"):
        Trainer(compiled(optimizer=CHANGED[name]()), run=Run(tmp_path)).fit(X, Y, batch_size=4, epochs=4, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all of it could be compared
        trainer = Trainer(compiled(optimizer=OPTIMIZERS[name]()), run=Run(tmp_path))
        trainer.fit(X, Y, batch_size=4, epochs=4, verbose=0)
    assert trainer.resumed_at == 12
    assert_same(everything(trainer.model), everything(whole))


def test_what_cannot_be_compared_is_said(tmp_path):
    class Draws(Schedule):
        def __init__(self):
            self.generator = tf.random.Generator.from_seed(1)

        def __call__(self, step):
            return 0.1

    def trainer():
        return Trainer(compiled(optimizer=keras.optimizers.SGD(Draws())), run=Run(tmp_path))

    trainer().fit(X, Y, batch_size=4, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match=r"what cannot be compared must be as it was: .*learning_rate.*generator"):
        trainer().fit(X, Y, batch_size=4, epochs=2, verbose=0)


def test_an_installed_object_whose_config_fails_is_not_taken_for_equal():
    read = Reader().read(keras.optimizers.SGD(Warmup(64)))
    assert read["get_config"] == {"not compared": "it raises NotImplementedError"}
    assert "get_config" not in Reader().read(keras.optimizers.SGD(0.1))
    assert "get_config" not in Reader().read(Warmup(64))  # whose attributes are compared
