"""Fits of one Trainer on data that grow: a trace for whole updates and one for what is left, however much that is."""

import gc
import weakref
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, differ, everything, regression
from tables import MODELS, STRATEGIES, take

import trainlab as tl
from trainlab.data import array_source
from trainlab.loop.programs import Programs, programs

QUICK = [17, 23, 12, 30, 25, 18, 31, 20, 27, 22, 29, 16]
MANY = [40 + 7 * i for i in range(40)]
CASES = [("sgd", "mlp_with_penalties", False, QUICK)]
SLOW = [
    ("accumulate_2", "two_outputs", False, QUICK),
    *(
        (strategy, name, jit_compile, MANY if not jit_compile else QUICK)
        for strategy in STRATEGIES
        for name in ("cnn", "mlp_with_penalties", "embedding")
        for jit_compile in (False, True)
    ),
]


def named(cases, **kwargs):
    return [pytest.param(*c, id=f"{c[0]}-{c[1]}-{'xla' if c[2] else 'graph'}-{len(c[3])}", **kwargs) for c in cases]


def grown(case, strategy, jit_compile, lengths, is_one=True, **settings):
    """A model after fits on these many examples, of one Trainer or of one for each; and the traces of the last."""
    model, most = case.compiled(keras.optimizers.SGD(0.05, momentum=0.5)), max(lengths)
    data = (*case.arrays(most), case.weights(most))
    make = STRATEGIES[strategy].make
    trainer = tl.Trainer(model, make(), jit_compile=jit_compile, **settings)
    for n in lengths:
        if not is_one:
            trainer = tl.Trainer(model, make(), jit_compile=jit_compile, **settings)
        x, y, sample_weight = take(data, slice(0, n))
        trainer.fit(x, y, sample_weight=sample_weight, batch_size=4, shuffle=False, verbose=0)
    return everything(model), trainer


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "name", "jit_compile", "lengths"), named(CASES) + named(SLOW, marks=pytest.mark.slow))
def test_they_are_the_fits_of_trainers_of_their_own(strategy, name, jit_compile, lengths):
    case = MODELS[name]
    found, trainer = grown(case, strategy, jit_compile, lengths)
    logs = strategy.endswith("heavy_ball")  # whose first trace makes the variable of a log, and is made once more
    assert trainer.num_traces <= 2 + logs + jit_compile * len({n for n in lengths if n < 4 * STRATEGIES[strategy].batches})
    if trainer._loops.made.loop.update.memory:
        return  # which goes on
    some = lengths[: min(4, len(lengths) - 1)]
    alone, _ = grown(case, strategy, jit_compile, some, is_one=False)
    assert_same(grown(case, strategy, jit_compile, some)[0], alone)
    assert differ(found, alone)  # the control: further fits change something


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sgd", "heun", "accumulate_3_heun", "accumulate_2_accumulate_2_heun"])
@pytest.mark.parametrize("name", ["mlp_with_penalties", "embedding"])
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
def test_they_are_those_of_known_sizes(strategy, name, precision):
    """As each was traced by itself."""
    lengths = [21, 14, 16, 7]
    found, _ = grown(MODELS[name], strategy, False, lengths)
    with mock.patch.object(Programs, "resolved", lambda self, layout, jit_compile: getattr(layout, "static", layout)):
        want, trainer = grown(MODELS[name], strategy, False, lengths)
    assert trainer.num_traces > 2  # the control: they were
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch_size", [1, 3])
def test_in_pieces(micro_batch_size):
    case = MODELS["mlp_with_penalties"]
    found, trainer = grown(case, "accumulate_2", False, QUICK, micro_batch_size=micro_batch_size)
    assert trainer.num_traces == 2
    want, _ = grown(case, "accumulate_2", False, QUICK)
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_xla_compiles_for_few_lengths(monkeypatch):
    """Arrays of 17 to 31 examples are 32 long for it; each length by itself where they are not padded."""
    x, y = regression(31)

    def lengths_seen():
        seen = []
        trainer = tl.Trainer(compiled(), jit_compile=True)
        for n in (17, 23, 31):
            trainer.fit(x[:n], y[:n], batch_size=4, verbose=0)
            block = array_source.ArraySource((x[:n], y[:n], None), 4, True, 0).block(1, 1, by_xla=True)
            seen.append(len(block.tensors[0][0]))
        return seen, everything(trainer.model)

    padded = lengths_seen()
    monkeypatch.setattr(array_source, "MAX_PADDED_BYTES", 0)
    exact = lengths_seen()
    assert (padded[0], exact[0]) == ([32, 32, 32], [17, 23, 31])
    for one, other in zip(padded[1], exact[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


class Fixed(keras.layers.Layer):
    """Asks for the number of examples as a Python number."""

    def call(self, x):
        return keras.ops.reshape(x, [x.shape[0] * 1, -1])


class Fussy(keras.layers.Layer):
    """Takes 4 examples and no others."""

    def call(self, x):
        if x.shape[0] not in (None, 4):
            raise ValueError(f"only batches of 4, not {x.shape[0]}")
        return keras.ops.reshape(x, [4, 3])


def model_with(layer):
    keras.utils.set_random_seed(1)

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.given, self.out = layer, keras.layers.Dense(1)

        def call(self, x):
            return self.out(self.given(x))

    model = Model()
    model(np.ones([4, 3], "float32"))  # where a number is asked for, Keras cannot build it for any
    return compiled(model)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_a_model_that_must_know_its_sizes_is_traced_for_each(jit_compile):
    lengths, x, y = [10, 11, 14, 12, 9], *regression(14)
    model, other = model_with(Fixed()), model_with(keras.layers.Identity())
    trainer, plain = (tl.Trainer(m, jit_compile=jit_compile) for m in (model, other))
    for n in lengths:
        for each in (trainer, plain):
            each.fit(x[:n], y[:n], batch_size=4, verbose=0)
    assert (trainer.num_traces, plain.num_traces) == (4, 2)  # of 4, 2, 3 and 1 examples
    for one, two in zip(everything(model), everything(other), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-7)


def test_the_error_of_a_known_size_is_what_is_seen():
    x, y = regression(10)
    with pytest.raises(ValueError, match="only batches of 4, not 2"):
        tl.Trainer(model_with(Fussy()), jit_compile=False).fit(x, y, batch_size=4, verbose=0)
    trainer = tl.Trainer(model_with(Fussy()), jit_compile=False)
    trainer.fit(x[:8], y[:8], batch_size=4, verbose=0)
    assert trainer.iterations == 2


@pytest.mark.slow
def test_programs_and_arrays_of_old_fits_are_freed():
    trainer, functions, graphs, arrays = tl.Trainer(model_with(Fixed()), jit_compile=False), weakref.WeakSet(), [], []
    most, num_fits, batch_size = 3, 6, 9
    traced = Programs._tried

    def noted(owner, *key):
        function = traced(owner, *key)
        if function is not None:
            functions.add(function)
            graphs.append(weakref.ref(function.graph))
        return function

    with mock.patch.object(Programs, "_tried", noted), mock.patch.object(programs, "MOST", most):
        for i in range(num_fits):
            x, y = regression(batch_size + 1 + i)
            arrays.append(weakref.ref(x))
            trainer.fit(x, y, batch_size=batch_size, verbose=0)
            del x, y
    gc.collect()
    assert trainer.num_traces == num_fits + 1  # a trace for each, and one of whole updates
    assert len(functions) == most == len(list(trainer._loops.made.loop._functions.values()))
    # A shell may be left of a graph, which TensorFlow's table of gradients names.
    assert sum(bool(graph() and graph().get_operations()) for graph in graphs) == most
    assert [reference() is None for reference in arrays] == [True] * num_fits


def _resident_megabytes():
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [None, True], ids=["auto", "xla"])
def test_memory_stays_flat(jit_compile):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2600, 64)).astype("float32"), rng.integers(10, size=2600)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input([64]), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = tl.Trainer(compiled(model, keras.optimizers.Adam(), loss, metrics=["accuracy"]), jit_compile=jit_compile)
    lengths, seen = [1030 + 25 * i for i in range(40)], []
    for n in lengths:
        trainer.fit(x[:n], y[:n], batch_size=32, verbose=0)
        seen.append(_resident_megabytes())
    assert trainer.num_traces <= 2
    assert seen[-1] - seen[9] < 40  # a program for each took 3 to 6, and 10 to 15 under XLA


@pytest.mark.slow
def test_a_resumed_run_takes_the_same_programs(tmp_path):
    """Interrupted before its last update, which is smaller, and in a Trainer that knows another size."""
    x, y = regression(23)
    whole = tl.Trainer(model_with(keras.layers.Identity()), tl.Accumulate(2), jit_compile=False)
    whole.fit(x, y, batch_size=3, steps=6, verbose=0)
    first = tl.Trainer(model_with(keras.layers.Identity()), tl.Accumulate(2), jit_compile=False, run=tmp_path / "run")
    first.fit(x, y, batch_size=3, steps=3, verbose=0)
    second = tl.Trainer(model_with(keras.layers.Identity()), tl.Accumulate(2), jit_compile=False, run=tmp_path / "run")
    second.fit(x, y, batch_size=3, steps=6, verbose=0)
    assert second.resumed_at == 3
    assert_same(everything(second.model), everything(whole.model))


@pytest.mark.slow
@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU gives no error for a label out of range")
def test_bad_data_in_the_last_update_are_told_as_ever():
    x, y = np.ones([10, 3], "float32"), np.zeros([10], int)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = compiled(keras.Sequential([keras.Input([3]), keras.layers.Dense(2)]), loss=loss)
    y[9] = 7
    with pytest.raises(tl.NonFiniteError, match="label"):
        tl.Trainer(model, jit_compile=False).fit(x, y, batch_size=4, shuffle=False, verbose=0, check_data=False)
