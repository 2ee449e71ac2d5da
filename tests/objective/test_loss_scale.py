"""The loss scale of an optimizer: true numbers in float32, and what is refused, each in its line."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled, dense_model, regression

from trainlab import Trainer
from trainlab.objective.scaling import LossScale, inner_of, loss_scale_of

LossScaleOptimizer = keras.optimizers.LossScaleOptimizer
SGD = keras.optimizers.SGD


def built(scale):
    optimizer = LossScaleOptimizer(SGD(0.1), initial_scale=scale)
    optimizer.build([keras.Variable([1.0])])
    return optimizer


@pytest.mark.parametrize("optimizer", [lambda: built(1024.0), lambda: SGD(0.1, loss_scale_factor=1024.0)])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_gradient_is_divided_in_float32_at_least(dtype, optimizer):
    scale = loss_scale_of(optimizer())
    true = np.array([3e-5, -1.5, 0.0, 60.0])
    scaled = tf.cast(tf.constant(true * 1024), dtype)
    (found, none) = scale.unscaled([scaled, None])
    wide = "float64" if dtype == "float64" else "float32"
    wanted = tf.cast(tf.cast(scaled, wide) / tf.constant(1024, wide), dtype)
    assert none is None and found.dtype == dtype
    np.testing.assert_array_equal(tf.cast(found, "float64"), tf.cast(wanted, "float64"))
    assert float(tf.cast(scale.scaled(tf.constant(2.0, dtype)), "float32")) == 2048.0


def test_rows_stay_rows():
    slices = tf.IndexedSlices(tf.constant([[4.0], [8.0]]), tf.constant([1, 1]), tf.constant([3, 1]))
    (found,) = loss_scale_of(built(4.0)).unscaled([slices])
    assert isinstance(found, tf.IndexedSlices)
    assert found.values.numpy().tolist() == [[1.0], [2.0]] and found.indices.numpy().tolist() == [1, 1]


def test_what_has_no_scale_and_where_gradients_go():
    plain = SGD(0.1)
    assert loss_scale_of(plain) is None and inner_of(plain) is plain
    optimizer = LossScaleOptimizer(plain)
    assert loss_scale_of(optimizer).is_dynamic and inner_of(optimizer) is plain
    assert not loss_scale_of(SGD(0.1, loss_scale_factor=2.0)).is_dynamic


def test_a_factor_stands_aside_and_comes_back():
    optimizer = SGD(0.1, loss_scale_factor=8.0)
    with LossScale(optimizer).standing_aside():
        assert optimizer.loss_scale_factor is None
    with pytest.raises(KeyError), LossScale(optimizer).standing_aside():
        raise KeyError
    assert optimizer.loss_scale_factor == 8.0


class OwnApply(LossScaleOptimizer):
    def apply(self, grads, trainable_variables=None):
        super().apply(grads, trainable_variables)


class OwnCheck(LossScaleOptimizer):
    def check_finite(self, grads):
        return super().check_finite(grads)


class OwnShrinking(LossScaleOptimizer):
    """Says how the scale falls, in what Keras' apply is made of."""

    def _stateful_handle_non_finite_grads(self):
        super()._stateful_handle_non_finite_grads()


class OwnShrinkingElsewhere(LossScaleOptimizer):
    def _stateless_handle_non_finite_grads(self, optimizer_variables, trainable_variables):
        return super()._stateless_handle_non_finite_grads(optimizer_variables, trainable_variables)


class OwnScaling(SGD):
    """Scales by a number of its own."""

    def scale_loss(self, loss):
        return loss * 4.0


class Delegating(SGD):
    """Has a `scale_loss` that does nothing, as a wrapper has."""

    def scale_loss(self, loss):
        return super().scale_loss(loss)


def nested():
    inner = SGD(0.1)
    optimizer = LossScaleOptimizer(inner)
    inner.loss_scale_factor = 4.0
    return optimizer


REFUSED = {
    "a factor of 0": (
        lambda: SGD(0.1, loss_scale_factor=0.0),
        "SGD loss_scale_factor=0.0 must be a finite number above 0; None does not scale the loss",
    ),
    "a factor that is negative": (
        lambda: SGD(0.1, loss_scale_factor=-2),
        "SGD loss_scale_factor=-2 must be a finite number above 0; None does not scale the loss",
    ),
    "a factor that is infinite": (
        lambda: keras.optimizers.Adam(0.1, loss_scale_factor=np.inf),
        "Adam loss_scale_factor=inf must be a finite number above 0; None does not scale the loss",
    ),
    "a factor that is no number": (
        lambda: SGD(0.1, loss_scale_factor="dynamic"),
        "SGD loss_scale_factor='dynamic' must be a finite number above 0; None does not scale the loss",
    ),
    "an initial scale of 0": (
        lambda: LossScaleOptimizer(SGD(0.1), initial_scale=0),
        "LossScaleOptimizer initial_scale=0 must be a finite number of at least 2**-24, below which training would stop",
    ),
    "an initial scale that is NaN": (
        lambda: LossScaleOptimizer(SGD(0.1), initial_scale=float("nan")),
        "LossScaleOptimizer initial_scale=nan must be a finite number of at least 2**-24, below which training would stop",
    ),
    "an initial scale that is no number": (
        lambda: LossScaleOptimizer(SGD(0.1), initial_scale=None),
        "LossScaleOptimizer initial_scale=None must be a finite number of at least 2**-24, below which training would stop",
    ),
    "scaled twice": (
        lambda: LossScaleOptimizer(LossScaleOptimizer(SGD(0.1))),
        "a LossScaleOptimizer cannot be inside another LossScaleOptimizer: the loss is scaled once, by the outermost optimizer",
    ),
    "scaled and a factor": (
        nested,
        "LossScaleOptimizer around an optimizer with loss_scale_factor=4.0: the loss is scaled once, leave it None",
    ),
    "inside several": (
        lambda: keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(LossScaleOptimizer(SGD(0.1)))),
        "a LossScaleOptimizer cannot be inside a MultiOptimizer: the loss is scaled once, by the outermost optimizer",
    ),
    "an apply of its own": (
        lambda: OwnApply(SGD(0.1)),
        "OwnApply defines its own apply, which nothing would call, one decision an update being made outside it: use "
        "keras.optimizers.LossScaleOptimizer with its initial_scale and dynamic_growth_steps",
    ),
    "a check of its own": (
        lambda: OwnCheck(SGD(0.1)),
        "OwnCheck defines its own check_finite, which nothing would call, one decision an update being made outside it: use "
        "keras.optimizers.LossScaleOptimizer with its initial_scale and dynamic_growth_steps",
    ),
    "a part of its own": (
        lambda: OwnShrinking(SGD(0.1)),
        "OwnShrinking defines its own _stateful_handle_non_finite_grads, which nothing would call, one decision an update being "
        "made outside it: use keras.optimizers.LossScaleOptimizer with its initial_scale and dynamic_growth_steps",
    ),
    "a scale of its own": (
        lambda: OwnScaling(0.1),
        "OwnScaling scales the loss by a scale_loss of its own, which says not how gradients are divided again: use "
        "keras.optimizers.LossScaleOptimizer around an optimizer, or its loss_scale_factor",
    ),
    "several batches inside": (
        lambda: LossScaleOptimizer(SGD(0.1, gradient_accumulation_steps=3)),
        "optimizer gradient_accumulation_steps=3 would accumulate a second time: leave it None and use strategy=Accumulate(3)",
    ),
    "a learning rate inside": (
        lambda: LossScaleOptimizer(SGD(-0.1)),
        "the learning rate must be finite and at least 0, not -0.1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError) as error:
        Trainer(compiled(optimizer=make()))
    assert str(error.value) == message


@pytest.mark.parametrize("policy", ["mixed_float16", "float32"])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_one_inside_several_that_is_known_only_when_it_is_built(policy, run_eagerly):
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(dense_model(), keras.optimizers.MultiOptimizer(lambda v: LossScaleOptimizer(SGD(0.1))))
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError) as error:
        Trainer(model, run_eagerly=run_eagerly).fit(*regression(), verbose=0)
    assert str(error.value).startswith("a LossScaleOptimizer cannot be inside a MultiOptimizer: the loss is scaled once")


@pytest.mark.parametrize(
    "optimizer",
    [Delegating, lambda rate: LossScaleOptimizer(Delegating(rate)), lambda rate: OwnShrinkingElsewhere(SGD(rate))],
)
def test_what_passes(optimizer):
    assert Trainer(compiled(optimizer=optimizer(0.1))).fit(*regression(), verbose=0).history["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_several_optimizers_inside_have_their_rates_told(run_eagerly):
    """`state.learning_rate` is a Vector there, as without a scale: Heun is what it was."""
    import trainlab as tl

    ends = []
    for wrap in (lambda o: o, lambda o: LossScaleOptimizer(o, initial_scale=2.0**10)):
        slow, fast = SGD(0.01), SGD(0.1)
        optimizer = wrap(keras.optimizers.MultiOptimizer(lambda v, slow=slow, fast=fast: slow if "kernel" in v.path else fast))
        model = compiled(dense_model(), optimizer)
        tl.Trainer(model, tl.Heun(), run_eagerly=run_eagerly).fit(*regression(), verbose=0)
        ends.append(model.get_weights())
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.array_equal(ends[0][1], np.zeros(1))


def test_a_layer_may_compute_in_float16_by_itself():
    """Keras scales the loss of a model whose own policy asks for it; here it is as there."""
    x, y = regression()
    layers = [lambda: keras.layers.Dense(4, dtype="mixed_float16"), lambda: keras.layers.Dense(1)]
    model, reference = (compiled(dense_model(*layers), jit_compile=False) for _ in range(2))
    fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
    assert Trainer(model).fit(x, y, **fit).history == reference.fit(x, y, **fit).history
