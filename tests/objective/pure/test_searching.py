"""Gradients of models in which TensorFlow looks for variables itself: those of Keras' `fit`, and of a loop by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import groups, relative, train
from keras import layers
from searching import EMBEDDED, SEARCHING, Remat, has_channels_first, stack
from small import compiled, weights
from tables import STRATEGIES

import trainlab as tl

every_model = pytest.mark.parametrize("name", [*SEARCHING, *EMBEDDED])
QUICK = (
    "remat of normalization",
    "custom_gradient",
    "penalty on the gradient",
    "Conv3D, channels first",
    "remat of an embedding",
)
mostly_slow = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in [*SEARCHING, *EMBEDDED]]
)


def made(name):
    """The model, and data for it."""
    if name == "Conv2D, channels first" and not has_channels_first():
        pytest.skip("TensorFlow cannot train with channels first on this processor, nor can Keras")
    model = {**SEARCHING, **EMBEDDED}[name]()
    rng = np.random.default_rng(5)
    shape = model.input_shape[1:] if isinstance(model, keras.Sequential) else (5,)
    x = rng.integers(11, size=(20, *shape)) if name in EMBEDDED else rng.normal(size=(20, *shape)).astype("float32")
    return model, x, rng.normal(size=(20, 1)).astype("float32")


def fitted(name, fit=None, eager=False, jit_compile=False, optimizer=None):
    """The trained weights after two epochs; Keras' own `remat` updates statistics twice."""
    model, x, y = made(name)
    optimizer = keras.optimizers.SGD(0.02, momentum=0.9) if optimizer is None else optimizer
    compiled(model, optimizer, run_eagerly=eager, jit_compile=False)
    train = model.fit if fit == "keras" else tl.Trainer(model, jit_compile=jit_compile).fit
    train(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    return trained_weights(model)


def trained_weights(model):
    """Copies of the trainable ones."""
    return [v.numpy() for v in model.trainable_variables]


@pytest.mark.slow
@every_model
def test_training_is_that_of_keras(name):
    want = fitted(name, "keras")
    model, x, _ = made(name)
    model(x)
    assert relative(trained_weights(model), want) > 1e-3  # control: it trains
    assert relative(fitted(name), want) < 2e-6
    assert relative(fitted(name, eager=True), want) < 2e-6


@pytest.mark.slow
@mostly_slow
def test_xla_agrees(name):
    assert relative(fitted(name, jit_compile=True), fitted(name)) < 2e-6


@pytest.mark.slow
@mostly_slow
@pytest.mark.parametrize("strategy", ["heun", "accumulate_2", "accumulate_2_sam"])
def test_every_evaluation_sees_its_own_point(name, strategy):
    case = STRATEGIES[strategy]
    model, x, y = made(name)
    reference, _, _ = made(name)
    for m in (model, reference):
        compiled(m, keras.optimizers.SGD(0.02))
        m(x)
    tl.Trainer(model, case.make(), jit_compile=False).fit(x, y, batch_size=4, shuffle=False, verbose=0)
    train(reference, case, groups((x, y, None), 4, case.batches), 0.02)
    assert relative(trained_weights(model), trained_weights(reference)) < 5e-6


@pytest.mark.slow
def test_what_is_computed_again_is_the_same():
    """A dropout mask too, which Keras' own draws anew for the backward pass."""

    def make(inner):
        model = stack(lambda: layers.Dense(6, "tanh"), lambda: inner(layers.Dropout(0.5, seed=3)))()
        return compiled(model)

    def trained(inner):
        model, (x, y) = make(inner), made("remat")[1:]
        tl.Trainer(model, jit_compile=False).fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return weights(model)

    def by_keras(inner):
        model, (x, y) = make(inner), made("remat")[1:]
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return weights(model)

    plain = trained(lambda layer: layer)
    assert relative(trained(Remat), plain) < 1e-6
    assert relative(by_keras(lambda layer: layer), plain) < 1e-6
    assert relative(by_keras(Remat), plain) > 1e-3  # control


def test_statistics_are_left_once_by_what_is_computed_twice():
    model, x, y = made("remat of normalization")
    compiled(model)
    tl.Trainer(model, jit_compile=False).fit(x, y, batch_size=20, shuffle=False, verbose=0)
    reference, _, _ = made("remat of normalization")
    hidden = reference.layers[0].inner[0](x)
    norm = model.layers[0].inner[1]
    np.testing.assert_allclose(norm.moving_mean, 0.01 * np.mean(hidden, axis=0), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_what_is_computed_again_is_not_kept():
    """The activations of a rematerialized block are not among what the gradient reads."""

    def kept(inner):
        model = stack(lambda: inner(*(layers.Dense(64, "tanh") for _ in range(4))), shape=(64,))()
        compiled(model)
        trainer = tl.Trainer(model, jit_compile=False)
        trainer.fit(np.ones([8, 64], "float32"), np.ones([8, 1], "float32"), batch_size=8, verbose=0)
        graph = next(iter(trainer._loops.made.loop._functions.values())).graph
        return [op.type for g in _graphs(graph) for op in g.get_operations()].count("Tanh")

    assert kept(Remat) == 2 * 4 and kept(lambda *inner: keras.Sequential(list(inner))) == 4


def _graphs(graph):
    yield graph
    for function in graph._functions.values():
        if hasattr(function, "graph"):
            yield from _graphs(function.graph)


@pytest.mark.slow
def test_a_function_that_asks_for_xla_stays_compiled():
    model, x, y = made("Conv3D, channels first")
    compiled(model)
    trainer = tl.Trainer(model, jit_compile=False)
    trainer.fit(x, y, batch_size=8, verbose=0)
    graph = next(iter(trainer._loops.made.loop._functions.values())).graph
    calls = [op for g in _graphs(graph) for op in g.get_operations() if "PartitionedCall" in op.type]
    assert any("_XlaMustCompile" in op.node_def.attr for op in calls)


def test_other_functions_are_inlined_as_ever():
    class Inlined(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(6, "tanh")

        def build(self, shape):
            self.inner.build(shape)

        @tf.function
        def product(self, x):
            return self.inner(x)

        def call(self, x):
            return self.product(x)

    model = stack(Inlined)()
    x, y = made("remat")[1:]
    before = weights(compiled(model))
    tl.Trainer(model, tl.Heun(), jit_compile=False).fit(x, y, verbose=0)
    assert all(np.any(a != b) for a, b in zip(before, weights(model), strict=True))
