"""Loss scaling: SGD() is Keras' `fit` to the last bit, strategies see true numbers, and a skipped update never was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tables import MODELS, STRATEGIES, ModelCase, take

import trainlab as tl

pytestmark = pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="sums there have no fixed order")
LossScaleOptimizer = keras.optimizers.LossScaleOptimizer
SIZE = 4
MODES = {"graph": {"jit_compile": False}, "xla": {"jit_compile": True}, "eager": {"run_eagerly": True}}


def _adam():
    return LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**24, dynamic_growth_steps=3)


def _everything():
    settings = {"weight_decay": 0.1, "use_ema": True, "ema_overwrite_frequency": 5, "clipnorm": 0.5}
    rate = keras.optimizers.schedules.ExponentialDecay(0.02, 4, 0.5)
    return LossScaleOptimizer(keras.optimizers.Adam(rate, **settings), initial_scale=3e7, dynamic_growth_steps=4)


def _several():
    kernels, others = keras.optimizers.Adam(0.01), keras.optimizers.SGD(0.1)
    return keras.optimizers.MultiOptimizer(lambda variable: kernels if "kernel" in variable.path else others)


def _mlp(*layer_fns):
    penalty = keras.regularizers.L2(0.02)
    hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=penalty)
    return keras.Sequential([keras.Input([5]), hidden, *(fn() for fn in layer_fns), keras.layers.Dense(3)])


_OF_MLP = MODELS["mlp_with_penalties"]  # whose activity penalty Keras cannot add to a loss of another dtype
CASES = {
    **MODELS,
    "mlp": ModelCase(_mlp, _OF_MLP.data, _OF_MLP.compile),
    "batch_norm": ModelCase(lambda: _mlp(keras.layers.BatchNormalization), _OF_MLP.data, _OF_MLP.compile),
}
# Model, policy, optimizer, and whether updates are skipped.
FITS = {
    "sgd": ("mlp", "mixed_float16", lambda: keras.optimizers.SGD(0.1, momentum=0.9), False),
    "adam, skips": ("mlp", "mixed_float16", _adam, True),
    "batch norm": ("batch_norm", "mixed_float16", lambda: LossScaleOptimizer(keras.optimizers.SGD(0.1), 256.0), False),
    "batch norm, skips": ("batch_norm", "mixed_float16", lambda: keras.optimizers.SGD(0.1), True),
    "batch norm, adam, skips": ("batch_norm", "mixed_float16", _adam, True),
    "two outputs": ("two_outputs", "mixed_float16", lambda: keras.optimizers.SGD(0.1), False),
    "two outputs, adam, skips": ("two_outputs", "mixed_float16", _adam, True),
    "dropout": ("cnn", "mixed_float16", lambda: LossScaleOptimizer(keras.optimizers.Adam(0.01), 256.0), False),
    "decay, clipping, average, schedule": ("mlp", "mixed_float16", _everything, True),
    "embedding": ("embedding", "mixed_float16", lambda: keras.optimizers.SGD(0.1), False),
    "embedding, skips": ("embedding", "mixed_float16", lambda: LossScaleOptimizer(keras.optimizers.SGD(0.1), 2.0**24), True),
    "lstm": ("lstm", "mixed_float16", lambda: keras.optimizers.SGD(0.1), False),
    "transformer": ("transformer", "mixed_float16", _adam, True),
    "several optimizers": ("mlp", "mixed_float16", _several, False),
    "not scaled": ("mlp", "mixed_float16", None, False),
    "float32": ("mlp", "float32", _everything, False),
    "float32, factor": ("batch_norm", "float32", lambda: keras.optimizers.Adam(0.01, loss_scale_factor=100.0), False),
    "mixed_bfloat16": ("mlp", "mixed_bfloat16", _adam, False),
    "mixed_bfloat16, factor": ("cnn", "mixed_bfloat16", lambda: keras.optimizers.SGD(0.1, loss_scale_factor=3.0), False),
    "float16": ("transformer", "float16", lambda: LossScaleOptimizer(keras.optimizers.SGD(0.1), 64.0), False),
}


@pytest.fixture
def policy():
    """Sets the dtype policy, till the end of the test."""
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


def compiled(name, optimizer, **kwargs):
    if optimizer is None:
        return CASES[name].compiled(auto_scale_loss=False, **kwargs)
    return CASES[name].compiled(optimizer(), **kwargs)


def same(ours, theirs):
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(ours, theirs, strict=True))


# These are in the quick suite.
PROMISED = ("sgd", "adam, skips", "batch norm, adam, skips", "two outputs, adam, skips")


@pytest.mark.parametrize("name", [name for name in FITS if name not in PROMISED])
def test_sgd_is_fit_bit_for_bit(name, policy):
    check_fit(name, policy)


@pytest.mark.slow
def test_sgd_is_fit_bit_for_bit_where_that_is_promised(policy):
    for name in PROMISED:
        check_fit(name, policy)


def check_fit(name, policy):
    """Compares a Trainer with Keras' `fit`."""
    model_name, policy_name, optimizer, skips = FITS[name]
    policy(policy_name)
    model, reference = compiled(model_name, optimizer), compiled(model_name, optimizer)
    (x, y), sample_weight = CASES[model_name].arrays(6 * SIZE), CASES[model_name].weights(6 * SIZE)
    fit = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": SIZE, "epochs": 3, "shuffle": False, "verbose": 0}
    trainer = tl.Trainer(model, sum_duplicate_rows=False)
    history, expected = trainer.fit(**fit).history, reference.fit(**fit).history
    own = {"loss_scale", "skipped"} if isinstance(model.optimizer, LossScaleOptimizer) else set()
    assert history.keys() - expected.keys() == own
    assert {key: history[key] for key in expected} == expected
    assert same(model.trainable_variables, reference.trainable_variables)
    assert same(model.optimizer.variables, reference.optimizer.variables)  # the scale, its counter, and iterations
    assert skips or same(model.variables, reference.variables)
    assert trainer.iterations == int(reference.optimizer.iterations)
    if own:
        assert sum(history["skipped"]) == 18 - trainer.iterations and (sum(history["skipped"]) > 0) is skips
        assert history["loss_scale"][-1] == float(model.optimizer.dynamic_scale)


def test_another_scale_would_be_noticed(policy):
    """Control: the equality above has the bits that half of the scale, or one update more, would leave."""
    policy("mixed_float16")
    (x, y), ends = CASES["batch_norm"].arrays(6 * SIZE), []
    for scale, growth in ((2.0**24, 3), (2.0**23, 3), (2.0**24, 4)):
        inner = keras.optimizers.Adam(0.01)
        model = CASES["batch_norm"].compiled(LossScaleOptimizer(inner, initial_scale=scale, dynamic_growth_steps=growth))
        model.fit(x, y, batch_size=SIZE, epochs=3, shuffle=False, verbose=0)
        ends.append([*model.trainable_variables, *model.optimizer.variables])
    assert not same(ends[0], ends[1]) and not same(ends[0], ends[2])


def run(case, optimizer, strategy, begin=0, mode="graph", updates=4):
    """A model trained with a strategy on updates `begin` to `updates`; and its trainer and history."""
    size = SIZE * strategy.batches
    data = (*case.arrays(updates * size), case.weights(updates * size))
    x, y, sample_weight = (take(part, slice(begin * size, None)) for part in data)
    trainer = tl.Trainer(case.compiled(optimizer), strategy, **MODES[mode])
    history = trainer.fit(x, y, sample_weight=sample_weight, batch_size=SIZE, shuffle=False, verbose=0).history
    return trainer.model, trainer, history


def product(models, quick):
    """Every strategy on these models in every mode; of most the slow suite has them.

    By XLA each on one of them: a process keeps what it compiles, in a thousand memory maps a test, of which it has 65,530.
    """
    for i, strategy in enumerate(STRATEGIES):
        for model in models:
            for mode in MODES:
                if mode == "xla" and model != models[i % len(models)] and (strategy, model, mode) not in quick:
                    continue
                marks = [] if (strategy, model, mode) in quick else pytest.mark.slow
                yield pytest.param(strategy, model, mode, marks=marks, id=f"{strategy}-{model}-{mode}")


@pytest.mark.parametrize(
    "strategy, name, mode",
    product(
        ("mlp", "cnn", "embedding", "two_outputs"),
        {
            ("heun", "cnn", "graph"),
            ("sam", "embedding", "graph"),
            ("heavy_ball", "mlp", "xla"),
            ("accumulate_3_heun", "two_outputs", "graph"),
            ("accumulate_2", "embedding", "graph"),
            ("midpoint", "mlp", "eager"),
        },
    ),
)
def test_strategies_see_true_numbers(strategy, name, mode):
    """By a power of two nothing is rounded: it is as if nothing were scaled."""
    case, make = CASES[name], STRATEGIES[strategy].make
    scaled = LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**20, dynamic_growth_steps=2)
    model, _, history = run(case, scaled, make(), mode=mode)
    factor, *_ = run(case, keras.optimizers.SGD(0.1, loss_scale_factor=512.0), make(), mode=mode)
    plain, _, expected = run(case, keras.optimizers.SGD(0.1), make(), mode=mode)
    assert history["loss_scale"] == [2.0**22] and history["skipped"] == [0]
    for key, values in expected.items():
        assert history[key] == pytest.approx(values, rel=1e-6)
    for variable, of_factor, wanted in zip(model.variables, factor.variables, plain.variables, strict=True):
        np.testing.assert_allclose(variable.numpy(), wanted.numpy(), rtol=1e-5, atol=2e-7)
        np.testing.assert_allclose(of_factor.numpy(), wanted.numpy(), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize(
    "strategy, name, mode",
    product(
        ("mlp", "cnn", "two_outputs", "embedding"),
        {
            ("sgd", "cnn", "graph"),
            ("heun", "cnn", "graph"),
            ("sam", "mlp", "xla"),
            ("midpoint", "two_outputs", "graph"),
            ("heavy_ball", "cnn", "graph"),
            ("accumulate_2_heavy_ball", "cnn", "graph"),
            ("accumulate_3_heun", "embedding", "graph"),
            ("accumulate_2_accumulate_2_heun", "mlp", "eager"),
        },
    ),
)
def test_a_skipped_update_never_was(strategy, name, mode, policy):
    """Who began with half the scale, and without the first update's data, has the same bits everywhere."""
    policy("mixed_float16")
    case, make = CASES[name], STRATEGIES[strategy].make

    def optimizer(scale):
        return LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=scale, dynamic_growth_steps=2)

    def state(trainer):
        memory = tf.nest.flatten(list(trainer._loops.made.loop.update.memory.values()), expand_composites=True)
        return [*trainer.model.variables, *trainer.model.optimizer.variables, *memory]

    _, skipping, history = run(case, optimizer(2.0**25), make(), mode=mode)
    _, without, expected = run(case, optimizer(2.0**24), make(), begin=1, mode=mode)
    assert same(state(skipping), state(without))
    assert history["loss_scale"] == expected["loss_scale"]
    assert history["skipped"][0] == expected["skipped"][0] + 1  # one decision, whatever the number of evaluations and batches
    assert skipping.iterations == 4 - history["skipped"][0]
    _, control, history = run(case, optimizer(16.0), make(), mode=mode)  # control: an update that was made has left something
    assert history["skipped"] == [0] and not same(state(control), state(run(case, optimizer(8.0), make(), begin=1, mode=mode)[1]))


def test_a_skipped_update_is_reported(policy):
    """Its batches count in the losses and metrics, as in Keras: on the first batch alone both are what a plain model has."""
    policy("mixed_float16")
    case = CASES["mlp"]
    model = case.compiled(LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**40))
    (x, y), before = case.arrays(2 * SIZE), model.get_weights()
    seen = []
    told = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(dict(logs)))
    history = tl.Trainer(model).fit(x, y, batch_size=SIZE, shuffle=False, verbose=0, callbacks=[told]).history
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert [(logs["skipped"], logs["loss_scale"]) for logs in seen] == [(1, 2.0**39), (2, 2.0**38)]
    expected = case.compiled(auto_scale_loss=False).evaluate(x, y, batch_size=SIZE, verbose=0, return_dict=True)
    for name, value in expected.items():
        assert history[name] == pytest.approx([value], rel=1e-3)
