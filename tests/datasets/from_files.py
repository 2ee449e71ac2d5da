"""The digits as files are made of them, and training on a data set, stopped in the middle of an epoch or not."""

import keras
import numpy as np
import pytest
from resuming import Stopping

import trainlab as tl
from trainlab.datasets import digits

NUM = 48
X, Y = (part[:NUM] for part in digits().train)
PIXELS = np.round(X * 16).astype("uint8")  # as they are stored


def linear(data):
    """A linear model, of one input."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input(data.input_shape), keras.layers.Flatten(), keras.layers.Dense(data.num_outputs)])
    model.compile(keras.optimizers.SGD(0.1), data.default_loss(), metrics=data.default_metrics())
    return model


def fitted(data, model=linear, run=None, stop_after=None, **settings):
    """The weights after two epochs; the run is interrupted after so many updates."""
    made = model(data)
    trainer = tl.Trainer(made, seed=0, jit_compile=False, run=run)
    x, y = data.train if data.is_arrays else (data.train, None)
    settings = {"epochs": 2, "verbose": 0, **({"batch_size": 8} if data.is_arrays else {})} | settings
    if stop_after is None:
        trainer.fit(x, y, **settings)
    else:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(x, y, callbacks=[Stopping(stop_after)], **settings)
        assert trainer.iterations == stop_after
    return made.get_weights()


def assert_goes_on(make, directory, stop_after=4, model=linear):
    """A run that is stopped in the middle of an epoch, and gone on with by new data, ends with the bits of one that was not."""
    whole = fitted(make(), model)
    stopped = fitted(make(), model, directory, stop_after)
    assert differ(whole, stopped)
    gone_on = fitted(make(), model, directory)
    assert not differ(whole, gone_on)


def differ(a, b):
    """Whether any bit does."""
    assert len(a) == len(b)
    return any((here != there).any() for here, there in zip(a, b, strict=True))
