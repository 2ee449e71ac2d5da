"""What is changed between two fits (strategy, settings, optimizer, loss, layers, weights) counts in the second."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, close, compiled, dense_model, differ, everything, regression, weights

from trainlab import Accumulate, Heun, Run, Step, StepStrategy, Trainer

layers = keras.layers


class TestChangingThings:
    def test_a_strategy_redefined_between_fits(self):
        x, y = regression()

        class Mine(StepStrategy):
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient * 0.0, at=here)

        model = compiled()
        before = weights(model)
        trainer = Trainer(model, Mine())
        trainer.fit(x, y, verbose=0)
        assert_same(weights(model), before)

        class Mine(StepStrategy):  # noqa: F811 - as in a notebook's later cell
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient, at=here)

        trainer.strategy = Mine()
        trainer.fit(x, y, verbose=0)
        assert differ(weights(model), before)
        assert trainer.iterations == 2

    @pytest.mark.slow
    def test_a_setting_changed_between_fits(self):
        class Scaled(StepStrategy):
            def __init__(self, scale):
                self.scale = scale

            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(self.scale * here.gradient, at=here)

        x, y = regression()
        model, strategy = compiled(), Scaled(0.0)
        before = weights(model)
        trainer = Trainer(model, Accumulate(1, strategy))
        trainer.fit(x, y, verbose=0)
        assert_same(weights(model), before)
        strategy.scale = 1.0
        trainer.fit(x, y, verbose=0)
        plain = compiled()
        Trainer(plain).fit(x, y, verbose=0)
        close(weights(model), weights(plain))

    def test_a_changed_setting_keeps_the_memory_and_another_strategy_does_not(self):
        class Counting(StepStrategy):
            def __init__(self, by=1.0):
                self.by = by

            def init(self, parameters):
                return {"count": tf.constant(0.0)}

            def step(self, objective, state):
                here, count = objective(state.parameters), state.memory["count"] + self.by
                return Step(here.gradient, at=here, memory={"count": count}, logs={"count": count})

        x, y = regression()
        trainer = Trainer(compiled(), Counting())
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]
        assert trainer.fit(x, y, verbose=0).history["count"] == [2.0]
        trainer.strategy.by = 10.0
        assert trainer.fit(x, y, verbose=0).history["count"] == [12.0]
        trainer.strategy = Counting()
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]

    def test_a_learning_rate_changed_between_fits_and_by_a_schedule(self):
        x, y = regression()
        model = compiled()
        trainer = Trainer(model, Heun())
        trainer.fit(x, y, verbose=0)
        moved = differ(weights(model), weights(compiled()))
        model.optimizer.learning_rate = 0.0
        before = weights(model)
        trainer.fit(x, y, verbose=0)
        assert moved
        assert_same(weights(model), before)
        assert trainer.num_traces == 1

    def test_recompiling(self):
        x, y = regression()
        model = compiled()
        trainer = Trainer(model)
        trainer.fit(x, y, verbose=0)
        model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mae", metrics=["mse"])
        before = weights(model)
        history = trainer.fit(x, y, verbose=0)
        assert set(history.history) == {"loss", "mse"}
        assert_same(weights(model), before)  # the new optimizer's learning rate
        assert trainer.iterations == 1  # and its own count

    def test_recompiling_with_the_same_optimizer(self):
        class Own(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return keras.ops.mean(keras.ops.abs(y - y_pred))

        x, y = regression()
        losses = []
        for use_keras in (True, False):
            keras.utils.set_random_seed(1)
            model, optimizer = Own([keras.Input([3]), layers.Dense(1)]), keras.optimizers.SGD(0.1)
            model.compile(optimizer)
            fit = model.fit if use_keras else Trainer(model).fit
            found = fit(x, y, epochs=2, verbose=0).history["loss"]
            model.compile(optimizer)
            losses.append(found + fit(x, y, epochs=2, verbose=0).history["loss"])
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)

    def test_an_optimizer_of_another_model(self):
        x, y = regression()
        optimizer = keras.optimizers.SGD(0.1)
        Trainer(compiled(optimizer=optimizer)).fit(x, y, verbose=0)
        with pytest.raises(ValueError, match="the optimizer was built for another model's variables: give this model a new one"):
            Trainer(compiled(dense_model(lambda: layers.Dense(1, name="another")), optimizer)).fit(x, y, verbose=0)

    def test_an_attribute_that_is_no_argument_counts_too(self):
        class Scaled(StepStrategy):
            def __init__(self):
                self.scale = 1.0

            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(self.scale * here.gradient, at=here)

        x, y = regression()
        trainer = Trainer(compiled(), Accumulate(1, Scaled()))
        trainer.fit(x, y, verbose=0)
        before = weights(trainer.model)
        trainer.strategy.inner.scale = 0.0
        trainer.fit(x, y, verbose=0)
        assert_same(weights(trainer.model), before)

    @pytest.mark.slow
    def test_another_inner_strategy_gets_a_memory_of_its_own(self):
        class Counting(StepStrategy):
            def init(self, parameters):
                return {"count": tf.constant(0.0)}

            def step(self, objective, state):
                here = objective(state.parameters)
                count = state.memory["count"] + 1
                return Step(here.gradient, at=here, memory={"count": count}, logs={"count": count})

        x, y = regression()
        trainer = Trainer(compiled(), Accumulate(2))
        trainer.fit(x, y, verbose=0)
        trainer.strategy.inner = Counting()
        assert trainer.fit(x, y, verbose=0).history["count"] == [1.0]

    def test_freezing_and_unfreezing_layers(self):
        x, y = regression()
        make = [lambda: layers.Dense(3, name="first"), lambda: layers.Dense(1, name="second")]
        model = compiled(dense_model(*make))
        trainer = Trainer(model)
        trainer.fit(x, y, verbose=0)
        model.get_layer("first").trainable = False
        before = weights(model)
        trainer.fit(x, y, verbose=0)
        after = weights(model)
        assert_same(after[:2], before[:2])
        assert differ(after[2:], before[2:])
        model.get_layer("first").trainable = True
        trainer.fit(x, y, verbose=0)
        assert differ(weights(model)[:2], after[:2])

    def test_weights_set_between_fits(self):
        x, y = regression()
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        trainer = Trainer(model)
        first = trainer.fit(x, y, verbose=0).history["loss"][0]
        model.set_weights([np.zeros_like(w) for w in weights(model)])
        second = trainer.fit(x, y, verbose=0).history["loss"][0]
        assert second == pytest.approx(np.mean(y**2), rel=1e-5) != first

    def test_two_trainers_share_a_model(self):
        x, y = regression()
        alone, shared = compiled(), compiled()
        trainer = Trainer(alone)
        trainer.fit(x, y, epochs=2, shuffle=False, verbose=0)
        for _ in range(2):
            Trainer(shared).fit(x, y, shuffle=False, verbose=0)
        assert_same(everything(alone), everything(shared))


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("what", ["fit", "find_learning_rate"])
def test_another_fit_in_a_callback_is_refused_and_harms_nothing(what, has_run, tmp_path):
    x, y = regression(24)

    class Nested(keras.callbacks.Callback):
        said = None

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                with pytest.raises(ValueError, match="this Trainer is in a fit already, .*: make a second one") as error:
                    getattr(trainer, what)(x, y)
                self.said = str(error.value)

    losses = []
    for callbacks in ([], [nested := Nested()]):
        keras.utils.set_random_seed(1)
        trainer = Trainer(compiled(), run=Run(tmp_path / str(len(callbacks)), save_seconds=None) if has_run else None)
        losses.append(trainer.fit(x, y, 8, epochs=4, verbose=0, callbacks=callbacks).history["loss"])
    assert nested.said and "\n" not in nested.said and losses[0] == losses[1]
    trainer.fit(x, y, 8, verbose=0)  # one after the other they may be
