"""Models with a `train_step`, `compute_loss` or `add_loss` of their own, divided."""

import warnings

import keras
import numpy as np
import pytest
from own_step_cases import OWN_STEPS
from replicating import assert_same_training, distance, mirrored
from small import compiled, regression

import trainlab as tl

# Those whose loss is a mean over examples, and that neither draw nor keep a state for each example.
EXACT = [name for name, case in OWN_STEPS.items() if not case.is_random and not case.needs_full and name != "clipping"]
_QUICK = {"distiller", "byol", "persistent"}


def fit(case, replicas, sizes=(20, 6), strategy=None, **settings):
    model = case.compiled()
    trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), **{"jit_compile": False, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its loss is its own
        return model, trainer.fit(case.dataset(*sizes), epochs=2, verbose=0).history


@pytest.mark.parametrize("settings", [{}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("name", [n if n in _QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXACT])
def test_steps_of_their_own(name, settings):
    one, several = (fit(OWN_STEPS[name], number, **settings) for number in (None, 2))
    assert_same_training(one, several, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["distiller", "averaged"])
def test_shards_that_are_not_of_one_size(name):
    """Of what a step tells a metric, one number a batch, each shard's counts by its examples."""
    one, several = (fit(OWN_STEPS[name], number, (13, 5)) for number in (None, 4))
    assert_same_training(one, several, 2e-6)


@pytest.mark.slow
def test_what_is_done_with_the_new_weights_is_done_once():
    one, several = (fit(OWN_STEPS["byol"], number, strategy=tl.Accumulate(2)) for number in (None, 2))
    assert distance(one[0], several[0]) < 1e-6
    np.testing.assert_allclose(one[1]["distance"], several[1]["distance"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["calls_super", "vae"])
def test_random_ones_repeat(name):
    one, again = (fit(OWN_STEPS[name], 2) for _ in range(2))
    assert distance(one[0], again[0]) == 0 and np.isfinite(again[1]["loss"]).all()


class OwnLoss(keras.Model):
    """Means over examples, by hand; one of them added in a layer's place."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = keras.layers.Dense(4, "tanh", kernel_regularizer="l2"), keras.layers.Dense(1)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 0.1 * keras.ops.mean(keras.ops.abs(y_pred - x[:, :1]))

    def call(self, inputs, training=None):
        outputs = self.out(self.hidden(inputs))
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(outputs)))
        return outputs


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [tl.Heun(), tl.Accumulate(2)], ids=repr)
def test_losses_of_their_own(strategy):
    x, y = regression(22)

    def trained(replicas):
        keras.utils.set_random_seed(1)
        model = compiled(OwnLoss(), metrics=["mae"])
        trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), jit_compile=False)
        return model, trainer.fit(x, y, batch_size=6, epochs=2, verbose=0).history

    assert_same_training(trained(None), trained(4), 2e-6)
