"""Passes over data, where a fit or an epoch ends in the middle of one."""

import keras
import numpy as np
import pytest
from by_keras import seeded
from keras import layers
from moving import Sliced

import trainlab as tl

X, Y = np.random.default_rng(0).normal(size=[12, 5]), np.random.default_rng(1).normal(size=[12, 1])


@pytest.mark.parametrize("other", [{"validation_split": 0.0}, {"shuffle": False}], ids=str)
def test_where_a_fit_stopped_in_a_pass_is_no_place_in_another_pass(other):
    x, y = np.tile(X, [10, 1]), np.tile(Y, [10, 1])
    model = seeded(lambda: keras.Sequential([keras.Input([5]), layers.Dense(1)]))()
    trainer, fit = tl.Trainer(model), {"batch_size": 10, "validation_split": 0.5, "verbose": 0}
    trainer.fit(x, y, steps=4, **fit)
    trainer.fit(x, y, **fit)  # the rest of the pass
    assert trainer.iterations == 6
    trainer.fit(x, y, steps=4, **fit)
    trainer.fit(x, y, **{**fit, **other})  # a pass of its own
    assert trainer.iterations == 10 + (12 if "validation_split" in other else 6)


class Growing(Sliced):
    """Counts the passes that it is told of; it may have no end."""

    def __init__(self, number=3):
        super().__init__(X, Y)
        self._number, self.begun = number, 0

    num_batches = property(lambda self: self._number)

    def __getitem__(self, index):
        return super().__getitem__(index % 3)

    def on_epoch_begin(self):
        self.begun += 1


@pytest.mark.parametrize(
    ("number", "fit"),
    [(None, {"steps_per_epoch": 2}), (3, {"steps_per_epoch": 2}), (3, {"validate_every": 2}), (None, {"steps": 4})],
    ids=str,
)
def test_hooks_of_data_whose_passes_are_no_epochs_are_told(number, fit):
    trainer = tl.Trainer(seeded(lambda: keras.Sequential([keras.Input([5]), layers.Dense(1)]))())
    epochs = {} if "steps" in fit else {"epochs": 2}
    with pytest.warns(UserWarning, match="^an epoch is no pass over x: on_epoch_begin of Growing is called once a pass, and not"):
        trainer.fit(Growing(number), verbose=0, **epochs, **fit)


@pytest.mark.filterwarnings("error:an epoch is no pass")
def test_hooks_of_data_whose_passes_are_epochs_need_no_warning():
    data = Growing()
    trainer = tl.Trainer(seeded(lambda: keras.Sequential([keras.Input([5]), layers.Dense(1)]))())
    trainer.fit(data, epochs=2, verbose=0)
    trainer.fit(data, epochs=2, steps_per_epoch=3, verbose=0)
    assert data.begun == 4
    trainer.fit(Sliced(X, Y), epochs=2, steps_per_epoch=2, verbose=0)
