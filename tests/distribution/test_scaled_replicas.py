"""Loss scaling on several replicas: one decision an update, which is that of one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicating import TOLERANCES, assert_same_training, distance, hard_optimizer, mirrored, trained
from small import assert_same, everything
from tables import EXACT_MODELS, STRATEGIES, ModelCase

import trainlab as tl

SCALE, BOUND = 2.0**12, 2.0**7


@keras.saving.register_keras_serializable("test_scaled_replicas")
class Narrow(keras.layers.Layer):
    """Passes on what it is given; a gradient that is larger than a bound becomes infinite, as in float16, at the same number."""

    def call(self, x):
        @tf.custom_gradient
        def narrow(x):
            return tf.identity(x), lambda upstream: tf.where(tf.abs(upstream) > BOUND, tf.constant(np.inf, x.dtype), upstream)

        return narrow(x)


def _case(name):
    case = EXACT_MODELS[name]

    def make():
        model = case.make()
        return keras.Sequential([keras.Input(model.input_shape[1:], dtype=model.input_dtype), *model.layers, Narrow()])

    return ModelCase(make, case.data, case.compile, case.weigh)


CASES = {name: _case(name) for name in ("mlp_with_penalties", "embedding")}


def scaling(scale=SCALE, growth=3):
    return keras.optimizers.LossScaleOptimizer(hard_optimizer(), initial_scale=scale, dynamic_growth_steps=growth)


def decided(model, history):
    """What was decided, and by how much the loss was scaled after every epoch."""
    optimizer = model.optimizer
    ends = [int(optimizer.iterations), int(optimizer.step_counter), float(optimizer.dynamic_scale)]
    return ends, history["skipped"], history["loss_scale"]


_ALL = [
    (name, strategy, (2, 4)[(i + j) % 2], ("float64", "float32")[(i + j) % 4 > 1])
    for i, name in enumerate(CASES)
    for j, strategy in enumerate(STRATEGIES)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy", "replicas", "precision"), _ALL, indirect=["precision"])
def test_several_devices_are_one_through_skips(name, strategy, replicas, precision):
    make = STRATEGIES[strategy].make
    settings = {"num_examples": 26 * make().batches, "epochs": 3}
    one, several = (trained(CASES[name], make(), number, optimizer=scaling(), **settings) for number in (None, replicas))
    assert decided(*several) == decided(*one)
    updates = 3 * -(-26 // 6)
    assert 2 <= sum(one[1]["skipped"]) == updates - int(one[0].optimizer.iterations) < updates  # one decision an update
    assert_same_training(one, several, 4 * TOLERANCES[precision])
    never = trained(CASES[name], make(), optimizer=scaling(1.0, 10**6), **settings)  # control
    assert sum(never[1]["skipped"]) == 0 and distance(one[0], never[0]) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize("trainer", [{"jit_compile": True}, {"run_eagerly": True}, {"micro_batch_size": 3}], ids=str)
def test_settings_of_the_trainer(trainer, precision):
    case, strategy = CASES["mlp_with_penalties"], tl.Accumulate(2, tl.Heun())
    one, several = (
        trained(case, strategy, number, optimizer=scaling(), trainer=given, num_examples=52)
        for number, given in ((None, {}), (4, trainer))
    )
    assert decided(*several) == decided(*one) and sum(one[1]["skipped"]) > 0
    assert_same_training(one, several, 4 * TOLERANCES[precision])


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("strategy", ["heun", "accumulate_2_sam", "heavy_ball"])
def test_mixed_float16(strategy, replicas):
    """A gradient of many examples is rounded to eleven bits, and so are those of shards: near 65504 one may overflow alone."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        case, make = EXACT_MODELS["mlp_with_penalties"], STRATEGIES[strategy].make
        case = ModelCase(
            lambda: keras.Sequential([keras.Input([5]), *map(keras.layers.Dense, (7, 6, 3))]), case.data, case.compile
        )
        settings = {"num_examples": 26 * make().batches, "epochs": 3}
        found = {}
        for scale in (2.0**8, 2.0**20):  # far below what overflows, and far above
            found[scale] = [
                trained(
                    case,
                    make(),
                    number,
                    optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05), scale),
                    **settings,
                )
                for number in (None, replicas)
            ]
        untrained = case.compiled()
    finally:
        keras.config.set_dtype_policy("float32")
    one, several = found[2.0**8]
    assert decided(*several) == decided(*one) and sum(one[1]["skipped"]) == 0
    assert distance(one[0], several[0]) < 2e-3 < 0.02 < distance(one[0], untrained)
    updates = int(one[0].optimizer.iterations)
    skips = []
    for model, history in found[2.0**20]:
        skips.append(sum(history["skipped"]))
        assert skips[-1] == updates - int(model.optimizer.iterations)
        assert float(model.optimizer.dynamic_scale) == 2.0 ** (20 - skips[-1])
        assert all(np.isfinite(value).all() for value in everything(model))
    assert min(skips) > 0 and abs(skips[0] - skips[1]) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["heun", "accumulate_2_heavy_ball"])
def test_going_on_in_the_middle_of_skips(strategy, tmp_path):
    """A run that is stopped between two skips goes on with the same bits: scale, counter and memory too."""
    case, make = CASES["mlp_with_penalties"], STRATEGIES[strategy].make
    num_examples = 26 * make().batches
    x, y = case.arrays(num_examples)
    ends = []
    for name, parts in (("whole", [12]), ("stopped", [1, 2, 9])):
        for number, steps in enumerate(parts):
            model = case.compiled(scaling())
            trainer = tl.Trainer(model, make(), run=str(tmp_path / name), distribute=mirrored(2), jit_compile=False)
            done = sum(parts[:number])
            trainer.fit(x, y, batch_size=6, steps=done + steps, verbose=0)
        ends.append(everything(model))
        assert int(model.optimizer.iterations) < 12
    assert_same(*ends)
