import keras
import numpy as np
import pytest
import tensorflow as tf
from replicating import mirrored
from small import assert_same, compiled, everything, regression

import trainlab as tl
from trainlab.distribution import ONE, Replicas, replicas_of


def refusal(distribute):
    with pytest.raises((TypeError, ValueError)) as error:
        tl.Trainer(compiled(), distribute=distribute)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "make, named",
    [
        (lambda: tf.distribute.OneDeviceStrategy("CPU:0"), "OneDeviceStrategy"),
        (tf.distribute.experimental.CentralStorageStrategy, "CentralStorageStrategy"),
        (tf.distribute.get_strategy, "_DefaultDistributionStrategy"),
        (lambda: "Mirrored", "'Mirrored'"),
        (lambda: ["CPU:0", "CPU:1"], "list"),
        (lambda: 2, "int"),
        (lambda: True, "bool"),
        (lambda: tf.distribute.MirroredStrategy, "type"),
    ],
)
def test_what_it_is_not(make, named):
    line = refusal(make())
    assert line.startswith('distribute must be a tf.distribute.MirroredStrategy or "mirrored"') and named in line


@pytest.mark.parametrize("names", [["CPU:7"], ["CPU:0", "CPU:9"], ["GPU:0"], ["CPU:1", "GPU:3"]])
def test_devices_that_are_not_there(names):
    assert f"distribute names the device {names[-1]}, which is not there: there are CPU:0, CPU:1" in refusal(
        tf.distribute.MirroredStrategy(names)
    )


def test_what_is_meant():
    assert replicas_of(None) is ONE and not ONE.are_several
    assert replicas_of(mirrored(1)) is ONE  # the device that is used anyway
    two = replicas_of(mirrored(2))
    assert (two.number, two.are_several, str(two)) == (2, True, "2 replicas: CPU:0, CPU:1")
    assert replicas_of("mirrored").number == 4  # all that there are
    assert tl.Trainer(compiled(), distribute=mirrored(2)).device == "2 replicas: CPU:0, CPU:1"


def test_a_model_made_inside_the_scope():
    strategy = mirrored(2)
    with strategy.scope():
        inside = compiled()
    for make in (lambda: tl.Trainer(inside, distribute=strategy), lambda: _inside(strategy)):
        with pytest.raises(ValueError, match=r"outside it; Trainer\(\.\.\., distribute=strategy\) divides") as error:
            make()
        assert "\n" not in str(error.value)


def _inside(strategy):
    model = compiled()
    with strategy.scope():
        tl.Trainer(model, distribute=strategy)


@pytest.mark.slow
def test_one_replica_is_one_device():
    x, y = regression(10)
    models = []
    for distribute in (None, mirrored(1)):
        models.append(compiled())
        tl.Trainer(models[-1], tl.Heun(), distribute=distribute).fit(x, y, batch_size=4, epochs=2, verbose=0)
    assert_same(*map(everything, models))


def test_one_replica_elsewhere():
    x, y = regression(10)
    models, met = [], []

    class Where(keras.layers.Layer):
        def call(self, x):
            met.append(tf.identity(x).device)
            return x

    for distribute in (None, tf.distribute.MirroredStrategy(["CPU:3"])):
        keras.utils.set_random_seed(1)
        models.append(compiled(keras.Sequential([keras.Input([3]), Where(), keras.layers.Dense(1)])))
        met.clear()
        tl.Trainer(models[-1], distribute=distribute, run_eagerly=True).fit(x, y, batch_size=4, verbose=0)
    assert any(device.endswith("CPU:3") for device in met)
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_another_number_is_another_program():
    x, y = regression(12)
    model = compiled()
    trainer = tl.Trainer(model, distribute=mirrored(2), jit_compile=False)
    trainer.fit(x, y, batch_size=4, epochs=3, verbose=0)
    assert trainer.num_traces == 1  # several replicas or one: a trace a shape
    trainer.fit(x, y, batch_size=4, epochs=3, verbose=0)
    assert trainer.num_traces == 1


def test_workers_do_not_find_out_what_fits():
    together = Replicas(("CPU:0",), 2, 0, link=object())
    with pytest.raises(ValueError, match='^micro_batch_size="auto" .* several workers .*: give a number$'):
        together.check("auto")
    assert together.check(None) is together and together.check(8) is together and ONE.check("auto") is ONE
