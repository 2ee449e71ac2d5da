"""`Trainer.evaluate`, and validation: the numbers and state of `keras.Model.evaluate`, many batches in a call."""

import keras
import numpy as np
import pytest
from evaluation_cases import CASES, LABELS, STREAMS, X, classifier, counted_calls, same
from keras import layers

import trainlab as tl
from trainlab.loop import EvaluationLoop


@pytest.fixture
def calls(monkeypatch):
    """How many batches each compiled call took."""
    return counted_calls(EvaluationLoop, monkeypatch)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["graph", "XLA"])
@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_keras(name, jit_compile, calls):
    make, (x, *rest) = CASES[name]
    model = make()
    y, sample_weight = (*rest, None, None)[:2]
    trainer = tl.Trainer(model, jit_compile=jit_compile)
    for how in ({"batch_size": 6}, {"batch_size": 5, "steps": 3}, {"steps": 4}, {}):
        if name == "sparse" and "steps" in how:  # Keras takes no steps for these
            continue
        given = {"x": x, "y": y, "sample_weight": sample_weight, "verbose": 0, **how}
        theirs = model.evaluate(**given, return_dict=True)
        state = [v.numpy() for v in model.metrics_variables]
        same(trainer.evaluate(**given, return_dict=True), theirs)
        for a, b in zip(model.metrics_variables, state, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-6)
        if not any(np.ndim(value) for value in theirs.values()) and name not in ("a dictionary", "own compute_metrics"):
            np.testing.assert_allclose(trainer.evaluate(**given), model.evaluate(**given), rtol=2e-6)
    assert sum(calls) > 0, "a control: Keras' own evaluation would give the same numbers"


@pytest.mark.parametrize("name", STREAMS)
def test_streams(name, calls):
    make, steps = STREAMS[name]
    model = classifier(weighted_metrics=["accuracy"])
    trainer = tl.Trainer(model, jit_compile=False)
    for _ in range(2):
        theirs = model.evaluate(make(), steps=steps, verbose=0, return_dict=True)
        same(trainer.evaluate(make(), steps=steps, verbose=0, return_dict=True), theirs)
    assert sum(calls) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_validation_on_streams(name, calls):
    make, steps = STREAMS[name]
    histories = []
    for fit in (keras.Model.fit, lambda model, *args, **kwargs: tl.Trainer(model).fit(*args, **kwargs)):
        keras.utils.set_random_seed(0)
        given = {"validation_data": make(), "validation_steps": steps, "epochs": 2, "shuffle": False, "verbose": 0}
        histories.append(fit(classifier(), X, LABELS, **given).history)
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-5, err_msg=key)
    assert sum(calls) > 0


def test_it_is_traced_once_and_many_batches_go_into_a_call(calls):
    model = classifier()
    trainer = tl.Trainer(model, jit_compile=False)
    x, y = np.tile(X, [40, 1]), np.tile(LABELS, 40)  # 880: 146 batches of 6, and one of 4
    for _ in range(8):
        trainer.evaluate(x, y, batch_size=6, verbose=0)
    (made,) = [trainer._evaluations._made]
    assert made.loop.num_traces == 2
    del calls[:]
    trainer.evaluate(x, y, batch_size=6, verbose=0)
    assert sum(calls) == 147 and len(calls) < 20


def test_what_is_changed_counts():
    class Scaled(layers.Layer):
        factor = 1.0

        def call(self, x):
            return x * self.factor

    model = classifier(Scaled())
    trainer = tl.Trainer(model, jit_compile=False)
    before = trainer.evaluate(X, LABELS, verbose=0)
    model.layers[1].factor = 3.0
    after = trainer.evaluate(X, LABELS, verbose=0)
    assert after != before
    model.compile("sgd", model.loss, metrics=["accuracy"])  # Keras keeps what it traced
    np.testing.assert_allclose(after, model.evaluate(X, LABELS, verbose=0), rtol=1e-6)


def test_weights_that_were_trained_or_set_count():
    model = classifier()
    trainer = tl.Trainer(model, jit_compile=False)
    first = trainer.evaluate(X, LABELS, verbose=0)[0]
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), epochs=3, verbose=0).history
    assert trainer.evaluate(X, LABELS, verbose=0)[0] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    assert history["val_loss"][-1] < first
