"""At a non-finite value the run stops at the last good update, or goes on without the bad one."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from fragile import KINDS, bad_at, examples, fragile_model, put_back, state, stream
from small import assert_same, classifier, compiled, dense_model, differ, labelled, regression
from tables import STRATEGIES

from trainlab import SGD, NonFiniteError, Step, Trainer
from trainlab.loop import nonfinite
from trainlab.loop.loop import Loop

MODES = {
    "eager": {"run_eagerly": True, "jit_compile": False},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
}


def product():
    quick = {("sgd", "graph"), ("heun", "xla"), ("accumulate_2_sam", "graph")}
    for name in STRATEGIES:
        for mode in MODES:
            yield pytest.param(name, mode, marks=[] if (name, mode) in quick else pytest.mark.slow, id=f"{name}-{mode}")


@pytest.mark.parametrize(("name", "mode"), product())
def test_every_kind_under_every_strategy_stops_and_is_skipped(name, mode):
    case = STRATEGIES[name]
    trainer = Trainer(fragile_model(), case.make(), steps_per_execution=4, **MODES[mode])
    per_update = 4 * case.batches
    x, y = examples(4 * per_update)
    trainer.fit(stream(x, y), verbose=0)  # builds, and leaves no buffer at zero
    start, num_traces = state(trainer), trainer.num_traces

    def run(x, y, on_nonfinite="stop", **kwargs):
        put_back(trainer, start)
        trainer.on_nonfinite = on_nonfinite
        trainer.fit(stream(x, y), verbose=0, **kwargs)
        return state(trainer)

    bad = 3 * per_update - 2  # example 2 of the last batch of update 3 of 4
    clean = run(x, y, steps=2)
    assert differ(run(x, y, steps=3), clean)  # control
    kept = np.r_[0 : 2 * per_update, 3 * per_update : 4 * per_update]
    without = run(x[kept], y[kept])
    place = "its batch" if case.batches == 1 else f"batch {case.batches} of its {case.batches}"
    for kind, (_, reason) in KINDS.items():
        if kind == "second gradient" and case.evaluations == 1:
            run(*bad_at(kind, x, y, bad))  # control: that evaluation is never made
            continue
        pattern = re.escape("update 7 (number 3 of epoch 1)") + ".*"
        # An adaptive step makes as many as the losses ask for, and a loss that is none asks for ever smaller steps.
        pattern += reason.format(place=place, evaluations=r"\d+" if name.startswith("adaptive") else case.evaluations)
        with pytest.raises(NonFiniteError, match=pattern) as caught:
            run(*bad_at(kind, x, y, bad))
        assert "the model is at update 6, the last good one" in str(caught.value)
        assert caught.value.iteration == trainer.iterations == 6
        assert_same(state(trainer), clean)
        with pytest.warns(UserWarning, match=pattern):
            skipped = run(*bad_at(kind, x, y, bad), on_nonfinite="skip")
        assert_same(skipped, without)
    assert mode == "eager" or trainer.num_traces == num_traces


class TestLabels:
    @pytest.mark.slow
    @pytest.mark.parametrize("mode", MODES)
    def test_out_of_range(self, mode):
        x, y = labelled(80)
        trainer = Trainer(classifier(), steps_per_execution=20, **MODES[mode])
        trainer.fit(stream(x, y), steps=1, verbose=0)
        start = state(trainer)
        trainer.fit(stream(x, y), steps=10, verbose=0)
        good = state(trainer)
        for label in (4, -1):
            bad = y.copy()
            bad[41] = label
            put_back(trainer, start)
            trainer.on_nonfinite = "stop"
            line = rf"update 12 \(.*\): in its batch, y holds the label {label} in example 1: labels must be whole numbers"
            with pytest.raises(NonFiniteError, match=line):
                trainer.fit(stream(x, bad), verbose=0)
            assert_same(state(trainer), good)
            trainer.on_nonfinite = "skip"
            with pytest.warns(UserWarning, match="holds the label"):
                trainer.fit(stream(x, bad), verbose=0)
            assert trainer.iterations == 11 + 19

    def test_other_errors_stay_what_they_are(self):
        x, y = regression(40)
        x[22, 0] = 100.0

        def check(x):
            if (x == 100.0).any():
                raise ValueError("the layer failed")
            return x

        class Checks(keras.layers.Layer):
            def call(self, x):
                return tf.ensure_shape(tf.numpy_function(check, [x], tf.float32), x.shape)

        model = compiled(dense_model(lambda: Checks(), lambda: keras.layers.Dense(1)))
        trainer = Trainer(model, steps_per_execution=10, on_nonfinite="skip")
        with pytest.raises(tf.errors.InvalidArgumentError, match="the layer failed"):
            trainer.fit(stream(x, y), verbose=0)
        assert trainer.iterations == 5


class TestSkipping:
    def bad_batches(self, *numbers, num_batches=40):
        x, y = examples(4 * num_batches)
        return stream(*bad_at("gradient", x, y, *(4 * np.array(numbers))))

    @pytest.mark.parametrize("steps_per_execution", [pytest.param(1, marks=pytest.mark.slow), 40])
    def test_ten_in_a_row_and_no_more(self, steps_per_execution):
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=steps_per_execution)
        assert nonfinite.MAX_SKIPS == 10
        with pytest.warns(UserWarning, match=r"skipped \(10 so far\)"):
            trainer.fit(self.bad_batches(*range(5, 15), *range(16, 26)), verbose=0)
        assert trainer.iterations == 20
        with pytest.raises(NonFiniteError, match="10 updates before it were skipped in a row, no more are") as caught:
            trainer.fit(self.bad_batches(*range(5, 16)), verbose=0)
        assert trainer.iterations == caught.value.iteration == 25
        assert "on_nonfinite" not in str(caught.value)

    @pytest.mark.slow
    def test_the_batches_are_used_and_hooks_come_as_ever(self):
        heard = []
        hook = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: heard.append((batch, trainer.iterations)))
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=8)
        with pytest.warns(UserWarning, match="skipped"):
            trainer.fit(self.bad_batches(3, 4, 17), verbose=0, callbacks=[hook])
        assert heard == [(7, 6), (15, 14), (23, 21), (31, 29), (39, 37)]

    @pytest.mark.slow
    def test_says_it_once_and_then_at_every_tenfold(self):
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=60)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(self.bad_batches(*range(0, 60, 3), num_batches=60), verbose=0)
        lines = [str(w.message) for w in caught if "skipped" in str(w.message)]
        assert len(lines) == 2
        assert lines[0].startswith("update 1 (number 1 of epoch 1): evaluation 1 of 1")
        assert lines[1].startswith("update 19 (number 28 of epoch 1)") and lines[1].endswith("skipped (10 so far)")
        assert trainer.iterations == 40

    @pytest.mark.slow
    def test_few_updates_are_made_twice(self, monkeypatch):
        attempted = []

        def attempt(self, source, block, really=Loop._attempt):
            attempted.append(block.num_updates)
            return really(self, source, block)

        monkeypatch.setattr(Loop, "_attempt", attempt)
        monkeypatch.setattr(nonfinite, "MAX_SKIPS", 200)
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=200)
        done = 0
        for gap in (1, 2, 10, 100):
            attempted.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(self.bad_batches(*range(0, 200, gap), num_batches=200), verbose=0)
            done += 200 - 200 // gap
            assert trainer.iterations == done
            assert sum(attempted) < 200 + 4 * 200
            assert len(attempted) < 20 + 4 * 200 / gap * (1 + np.log2(gap))

    def test_another_word_is_refused(self):
        x, y = regression()
        with pytest.raises(ValueError, match='on_nonfinite must be "stop" or "skip", not \'go on\''):
            Trainer(compiled(), on_nonfinite="go on")


@pytest.mark.slow
def test_an_eager_first_update_that_is_bad_leaves_no_log():
    class Logs(SGD):
        def step(self, objective, state):
            here = objective(state.parameters)
            return Step(here.gradient, at=here, logs={"norm": here.gradient.norm()})

    x, y = bad_at("gradient", *examples(40), 0)
    trainer = Trainer(fragile_model(), Logs(), on_nonfinite="skip", run_eagerly=True)
    with pytest.warns(UserWarning, match="skipped"):
        history = trainer.fit(stream(x, y), verbose=0)
    assert np.isfinite(history.history["norm"][0])
    assert trainer.iterations == 9
