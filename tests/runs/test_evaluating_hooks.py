"""`Trainer.evaluate`, and validation: the calls of `keras.Model.evaluate`, and what is left to it."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluation_cases import CROSS_ENTROPY, LABELS, RNG, N, X, classifier, counted_calls, same, slices
from keras import layers

import trainlab as tl
from trainlab.loop import CannotCompile, EvaluationLoop
from trainlab.loop.evaluation.evaluation_loop import CompiledLoop


@pytest.fixture
def calls(monkeypatch):
    """How many batches each compiled call took."""
    return counted_calls(EvaluationLoop, monkeypatch)


class Recorder(keras.callbacks.Callback):
    """Writes down the hooks of evaluations, and what they are told."""

    def __init__(self, stops_after=None):
        super().__init__()
        self.calls, self._stops_after = [], stops_after

    def on_test_begin(self, logs=None):
        self.calls.append("begin")

    def on_test_end(self, logs=None):
        self.calls.append(("end", {name: round(value, 4) for name, value in logs.items()}))


class BatchRecorder(Recorder):
    """Those of batches too."""

    def on_test_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begins", batch))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("batch ends", batch, {name: round(float(value), 4) for name, value in logs.items()}))
        if self._stops_after is not None and batch >= self._stops_after:
            self.model.stop_evaluating = True


@pytest.mark.parametrize("steps_per_execution", [1, 3])
@pytest.mark.parametrize("stops_after", [None, 1])
@pytest.mark.parametrize("kind", [Recorder, BatchRecorder])
def test_hooks_are_those_of_keras(kind, stops_after, steps_per_execution):
    recorded = []
    for evaluate in (keras.Model.evaluate, lambda model, *args, **kwargs: tl.Trainer(model).evaluate(*args, **kwargs)):
        keras.utils.set_random_seed(0)
        recorder = kind(stops_after)
        model = classifier(steps_per_execution=steps_per_execution)
        evaluate(model, X, LABELS, batch_size=4, callbacks=[recorder], verbose=0)
        recorded.append(recorder.calls)
    assert recorded[1] == recorded[0]
    assert len(recorded[0]) > 2 or kind is Recorder


def test_the_progress_bar_ends_with_the_results(capsys):
    trainer = tl.Trainer(classifier(), jit_compile=False)
    result = trainer.evaluate(X, LABELS, batch_size=4, verbose=1, return_dict=True)
    shown = capsys.readouterr().out
    assert "6/6" in shown and f"loss: {result['loss']:.4f}" in shown


def test_data_that_run_out_are_said():
    trainer = tl.Trainer(classifier(), jit_compile=False)
    with pytest.warns(UserWarning, match="ran out after 6 of 9 steps"):
        result = trainer.evaluate(X, LABELS, batch_size=4, steps=9, verbose=0)
    np.testing.assert_allclose(result, trainer.evaluate(X, LABELS, batch_size=4, verbose=0), rtol=1e-6)


class OwnTestStep(keras.Sequential):
    def test_step(self, data):
        return {"own": keras.ops.convert_to_tensor(3.0)}


@pytest.mark.slow
def test_a_test_step_of_its_own_is_left_to_keras_and_said_once(capsys, calls):
    model = OwnTestStep([keras.Input([5]), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True))
    trainer = tl.Trainer(model, jit_compile=False)
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), epochs=2, verbose=2).history
    assert history["val_own"] == [3.0, 3.0]
    assert (
        capsys.readouterr().out.count("evaluation: batch by batch, as Keras does it (OwnTestStep has a test_step of its own)")
        == 1
    )
    assert trainer.evaluate(X, LABELS, return_dict=True, verbose=0) == {"own": 3.0}
    assert not calls


@pytest.mark.parametrize("how", ["the model", "the Trainer"])
def test_eagerly_it_is_left_to_keras(how, calls):
    seen = []

    class Looking(layers.Layer):
        def call(self, x):
            seen.append(tf.executing_eagerly())
            return x

    model = classifier(Looking(), run_eagerly=how == "the model")
    tl.Trainer(model, run_eagerly=None if how == "the model" else True).evaluate(X, LABELS, verbose=0)
    assert not calls and seen


def test_a_model_that_was_not_built_is():
    model = keras.Sequential([layers.Dense(4), layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True), metrics=["accuracy"])
    ours = tl.Trainer(model, jit_compile=False).evaluate(X, LABELS, verbose=0, return_dict=True)
    same(ours, model.evaluate(X, LABELS, verbose=0, return_dict=True))


def test_text_is_not_handed_to_xla():
    words = np.array(["a", "b", "c"])[RNG.integers(3, size=N)]
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")
    model = keras.Sequential([keras.Input([1], dtype="string"), lookup, layers.Dense(3)])
    model.compile("sgd", CROSS_ENTROPY(from_logits=True))
    ours = tl.Trainer(model, jit_compile=True).evaluate(words[:, None], LABELS, verbose=0)
    assert ours == pytest.approx(model.evaluate(tf.constant(words[:, None]), LABELS, verbose=0), rel=1e-6)


def test_bad_input_is_one_line():
    trainer = tl.Trainer(classifier())
    for given, said in {
        "lengths": ((X, LABELS[:-1]), "21"),
        "shapes": ((X[:, :4], LABELS), "4"),
        "nothing": ((None,), "x is missing"),
    }.values():
        with pytest.raises((TypeError, ValueError), match=said) as raised:
            trainer.evaluate(*given, verbose=0)
        assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="steps must be"):
        trainer.evaluate(X, LABELS, steps=0, verbose=0)


def test_an_evaluation_of_nothing_is_not_a_number():
    model = classifier()
    history = None
    with pytest.warns(UserWarning):
        history = (
            tl.Trainer(model)
            .fit(X, LABELS, validation_data=slices(X, LABELS).batch(4).skip(100), validation_steps=2, verbose=0)
            .history
        )
    assert np.isnan(history["val_loss"]).all()


class OnlyInInference(layers.Layer):
    """Has no kernel in XLA, and is not there while training."""

    def call(self, x, training=False):
        if training:
            return x
        return tf.ensure_shape(tf.numpy_function(lambda a: 2 * a, [x], tf.float32), x.shape)


@pytest.mark.slow
def test_what_xla_cannot_compile_in_inference_goes_without_it(calls):
    model = classifier(OnlyInInference())
    model.jit_compile = False  # Keras' own, which on a GPU would be on
    trainer = tl.Trainer(model, jit_compile=True)
    history = trainer.fit(X, LABELS, validation_data=(X, LABELS), batch_size=4, epochs=2, verbose=0).history
    expected = model.evaluate(X, LABELS, batch_size=4, verbose=0, return_dict=True)
    same(trainer.evaluate(X, LABELS, batch_size=4, verbose=0, return_dict=True), expected)
    assert history["val_loss"][-1] == pytest.approx(expected["loss"], rel=2e-6)
    assert sum(calls) == 18


class Large(layers.Layer):
    """Without training it holds at most four examples."""

    def call(self, x, training=False):
        return x if training else tf.ensure_shape(tf.py_function(self._pass, [x], x.dtype), x.shape)

    def _pass(self, x):
        if len(x) > 4:
            raise MemoryError
        return x


@pytest.mark.slow
def test_what_does_not_fit_even_without_training_is_one_line():
    trainer = tl.Trainer(classifier(Large()))
    calls = {
        "evaluate": lambda size: trainer.evaluate(X, LABELS, batch_size=size, verbose=0),
        "predict": lambda size: trainer.predict(X, batch_size=size, verbose=0),
        "fit": lambda size: trainer.fit(X, LABELS, 20, validation_data=(X, LABELS), validation_batch_size=size, verbose=0),
    }
    for call in calls.values():
        with pytest.raises(MemoryError) as raised:
            call(8)
        assert re.fullmatch(r"out of memory: 8 examples at once do not fit, .*: take smaller batches .*", str(raised.value))
        call(4)


def test_who_stops_an_evaluation_before_it_begins_has_stopped_it():
    class Stopping(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            self.model.stop_evaluating = True

    model = classifier()
    result = tl.Trainer(model).evaluate(X, LABELS, batch_size=4, callbacks=[Stopping()], verbose=0)
    assert np.isnan(result).all()


@pytest.mark.parametrize("kind", ["evaluate", "predict"])
def test_a_generator_that_was_looked_at_in_vain_loses_no_batch(kind, monkeypatch):
    def batches():
        yield from ((X[i : i + 4], LABELS[i : i + 4]) for i in range(0, 20, 4))

    def prepare(self, source):
        raise CannotCompile("it is to be tried in vain")

    model = classifier()
    expected = getattr(model, kind)(X[:20], *([LABELS[:20]] if kind == "evaluate" else []), verbose=0)
    monkeypatch.setattr(CompiledLoop, "prepare", prepare)
    np.testing.assert_allclose(getattr(tl.Trainer(model), kind)(batches(), steps=5, verbose=0), expected, rtol=1e-5)


def test_a_board_that_takes_what_a_model_writes_in_a_batch_leaves_evaluations_to_keras(tmp_path, calls):
    model = classifier()
    for update_freq, compiled in ((3, False), ("epoch", True)):
        board = keras.callbacks.TensorBoard(tmp_path / str(update_freq), update_freq=update_freq)
        tl.Trainer(model).fit(X, LABELS, validation_data=(X, LABELS), callbacks=[board], verbose=0)
        assert bool(calls) is compiled
