"""Non-finite values are found wherever they come from, at the right update, and lawful ones are let be."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from fragile import bad_at, examples, fragile_model, put_back, state, stream
from small import assert_same, compiled, dense_model, labelled, regression, weights

from trainlab import NonFiniteError, Step, StepStrategy, Trainer
from trainlab.data import array_source
from trainlab.loop import nonfinite


class TestWhereItIsFound:
    @pytest.mark.parametrize("steps_per_execution", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 60))])
    def test_at_the_same_update_however_many_a_call_makes(self, steps_per_execution):
        x, y = examples(240)
        model = fragile_model()
        trainer = Trainer(model, steps_per_execution=steps_per_execution)
        trainer.fit(stream(x, y), verbose=0)
        start = state(trainer)
        for at in (0, 1, 33, 59):
            put_back(trainer, start)
            with pytest.raises(NonFiniteError, match=re.escape(f"(number {at + 1} of epoch 1)")):
                trainer.fit(stream(*bad_at("gradient", x, y, 4 * at)), verbose=0)
            assert trainer.iterations == 60 + at
            found = state(trainer)
            put_back(trainer, start)
            model.reset_metrics()
            if at:
                trainer.fit(stream(x, y), steps=at, verbose=0)
            assert_same(found, state(trainer))
        assert trainer.num_traces == 1

    @pytest.mark.slow
    def test_in_arrays_on_the_device_and_training_goes_on_from_there(self):
        x, y = examples(120)
        trainer, reference = (Trainer(fragile_model(), steps_per_execution=30) for _ in range(2))
        for each in (trainer, reference):
            each.fit(x, y, batch_size=4, steps=3, verbose=0)
        bad_x, bad_y = bad_at("gradient", x, y, 50)
        with pytest.raises(NonFiniteError, match=r"\(number \d+ of epoch 1\)"):
            trainer.fit(bad_x, bad_y, batch_size=4, verbose=0)
        reference.fit(x.copy(), y.copy(), batch_size=4, steps=trainer.iterations - 3, verbose=0)
        assert_same(state(trainer), state(reference))
        # The same arrays, mended in place: the pass goes on behind the last good update.
        bad_x[50, 3] = 0
        trainer.fit(bad_x, bad_y, batch_size=4, epochs=1, verbose=0)
        assert trainer.iterations == 3 + 30

    @pytest.mark.slow
    def test_in_arrays_that_are_streamed(self, monkeypatch):
        monkeypatch.setattr(array_source, "RESIDENT_SHARE", 0.0)
        x, y = bad_at("gradient", *examples(120), 50)
        trainer = Trainer(fragile_model(), steps_per_execution=30, on_nonfinite="skip")
        with pytest.warns(UserWarning, match=r"\(number \d+ of epoch 1\).*skipped"):
            trainer.fit(x, y, batch_size=4, epochs=2, verbose=0)
        assert trainer.iterations == 58

    def test_an_activation_hides_it_from_the_losses(self, monkeypatch):
        def model():
            def relu(z):
                return keras.ops.where(z > 0, z, 0.0)

            return compiled(dense_model(lambda: keras.layers.Dense(5, relu), lambda: keras.layers.Dense(1)))

        x, y = regression(40)
        x[20] = np.nan
        with pytest.raises(NonFiniteError, match=r"number 6 .* x holds NaN in example 0; evaluation 1 of 1 gave a non-finite"):
            Trainer(model()).fit(stream(x, y), verbose=0)
        monkeypatch.setattr(nonfinite.Watch, "is_surely_finite", lambda self: tf.constant(True))
        trainer = Trainer(model())
        history = trainer.fit(stream(x, y), epochs=2, verbose=0)
        assert np.isfinite(history.history["loss"]).all()  # and yet:
        assert np.isnan(weights(trainer.model)[0]).any()

    def test_the_optimizer_alone(self):
        x, y = regression()

        def steep(y_true, y_pred):
            return 1e20 * keras.ops.abs(y_true - y_pred)  # its gradient is finite, the gradient's square is not

        model = compiled(optimizer=keras.optimizers.RMSprop(0.01), loss=steep)
        with pytest.raises(NonFiniteError, match=r"update 1 \(.*: it left '.*velocity.*' non-finite"):
            Trainer(model).fit(x, y, verbose=0)

    def test_what_the_strategy_made_of_it(self):
        class Normalized(StepStrategy):
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient / (here.gradient.norm() * 0), at=here)

        x, y = regression()
        with pytest.raises(NonFiniteError, match="the step made of finite evaluations a non-finite gradient of '.*out/kernel'"):
            Trainer(compiled(), Normalized()).fit(x, y, verbose=0)

    def test_the_memory(self):
        class Remembers(StepStrategy):
            def init(self, parameters):
                return {"best": tf.constant(np.inf), "worst": tf.constant(0.0)}

            def step(self, objective, state):
                here = objective(state.parameters)
                worst = tf.where(state.iteration == 4, np.inf, state.memory["worst"])
                memory = {"best": tf.minimum(state.memory["best"], here.loss), "worst": worst}
                return Step(here.gradient, at=here, memory=memory, logs={"nothing": np.nan})

        x, y = regression()
        with pytest.raises(NonFiniteError, match=r"update 5 .*: it left memory\['worst'\] non-finite"):
            Trainer(compiled(), Remembers()).fit(x, y, batch_size=2, verbose=0)

    @pytest.mark.slow
    def test_an_evaluation_inside_a_loop_of_the_strategy(self):
        class Walks(StepStrategy):
            evaluations = 3

            def step(self, objective, state):
                here = objective(state.parameters)

                def walk(i, parameters):
                    return i + 1, parameters - 0.1 * objective(parameters).gradient

                _, end = tf.while_loop(lambda i, _: i < 2, walk, (0, state.parameters))
                return Step(objective(end).gradient, at=here)

        x, y = examples(40)
        trainer = Trainer(fragile_model(), Walks())
        with pytest.raises(NonFiniteError, match="evaluation 3 of 4 gave a non-finite gradient"):
            trainer.fit(stream(*bad_at("second gradient", x, y, 20)), verbose=0)
        assert trainer.iterations == 5

    @pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16", "bfloat16"], indirect=True)
    def test_in_other_precisions(self, precision):
        x, y = regression()
        trainer = Trainer(compiled(optimizer=keras.optimizers.SGD(1e30)))
        with pytest.raises(NonFiniteError, match="the last good one"):
            trainer.fit(x, y, epochs=100, verbose=0)
        assert all(np.isfinite(w.astype("float64")).all() for w in weights(trainer.model))


class Masked(keras.layers.Layer):
    """Adds a constant weight."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def build(self, shape):
        self.mask = self.add_weight(shape=(4,), initializer="zeros", trainable=False, name="mask")
        self.mask.assign([0.0, 0.0, 0.0, self.value])

    def call(self, x):
        return x + self.mask


class IsNan(keras.metrics.Metric):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign(np.nan)

    def result(self):
        return self.total * 1.0


class TestWhatIsLawful:
    @pytest.mark.parametrize("value", [-np.inf, -3e38])
    def test_a_mask_kept_as_a_weight(self, value):
        x, y = labelled(20, num_classes=3)
        model = dense_model(lambda: keras.layers.Dense(4), lambda: Masked(value))
        model = compiled(model, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        trainer = Trainer(model)
        trainer.fit(x, y, epochs=2, verbose=0)
        assert trainer.iterations == 2
        # All else is still watched.
        model.optimizer.learning_rate = 1e38
        with pytest.raises(NonFiniteError):
            trainer.fit(x, y, epochs=50, verbose=0)

    def test_a_metric_that_is_nan(self):
        x, y = regression()
        history = Trainer(compiled(metrics=[IsNan()])).fit(x, y, verbose=0)
        assert np.isnan(history.history["is_nan"][0]) and np.isfinite(history.history["loss"][0])

    def test_numbers_whose_sum_overflows(self):
        x, y = regression()
        model = dense_model(lambda: Masked(3e38), lambda: keras.layers.Dense(1), num_features=4)
        model.layers[0].mask.assign([3e38] * 4)
        model.layers[0].call = lambda x: x  # kept, and not used
        Trainer(compiled(model)).fit(np.ones([20, 4], "float32"), y, verbose=0)

    def test_a_trained_variable_that_holds_nan_is_not(self):
        x, y = regression()
        model = compiled()
        model.layers[0].kernel.assign(np.full([3, 1], np.nan))
        with pytest.raises(NonFiniteError, match="'.*out/kernel' holds NaN before the first update"):
            Trainer(model).fit(x, y, verbose=0)

    def test_a_mean_of_losses_that_another_run_left(self):
        x, y = regression()
        trainer = Trainer(compiled())
        trainer.fit(x, y, verbose=0)
        trainer.model._loss_tracker.update_state(np.nan)
        trainer.fit(x, y, verbose=0)
        with pytest.raises(NonFiniteError):  # and it is still watched
            trainer.model.optimizer.learning_rate = 1e30
            trainer.fit(x, y, epochs=9, verbose=0)
