"""Keras' callbacks hear the same hooks in the same order as in Keras' fit, and work."""

import csv

import keras
import numpy as np
import pytest
from listening import BatchListener, Listener
from small import assert_same, compiled, differ, regression, weights

from trainlab import Accumulate, NonFiniteError, Trainer
from trainlab.runs.epochs import hears_every_update

callbacks = keras.callbacks


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Listener, BatchListener])
def test_the_same_hooks_in_the_same_order_as_keras(kind):
    (x, y), validation = regression(22), regression(8, seed=2)
    heard = []
    for fit in (keras.Model.fit, lambda model, *args, **kwargs: Trainer(model).fit(*args, **kwargs)):
        listener = kind()
        model = compiled(metrics=["mae"])
        fit(model, x, y, batch_size=5, epochs=2, validation_data=validation, callbacks=[listener], verbose=0)
        heard.append(listener.heard)
    assert heard[1] == heard[0]
    assert any(line.startswith("batch 4") for line in heard[1]) == (kind is BatchListener)


def test_a_batch_is_an_update():
    x, y = regression(40)
    listener = BatchListener()
    Trainer(compiled(), Accumulate(4)).fit(x, y, batch_size=4, callbacks=[listener], verbose=0)
    begun = [line for line in listener.heard if line.startswith("batch") and "begin" in line]
    assert begun == ["batch 0 begin", "batch 1 begin", "batch 2 begin"]


def test_who_hears_every_update():
    assert hears_every_update(BatchListener())
    assert hears_every_update(callbacks.TerminateOnNaN())
    assert hears_every_update(callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None))
    assert not hears_every_update(callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None))
    set_on_the_object = callbacks.Callback()
    set_on_the_object.on_train_batch_end = lambda batch, logs=None: None
    assert hears_every_update(set_on_the_object)
    for quiet in (Listener(), callbacks.EarlyStopping(), callbacks.History(), callbacks.ProgbarLogger()):
        assert not hears_every_update(quiet)


class TestCallbacks:
    def test_early_stopping_restores_the_best_weights(self):
        x, y = regression()
        ends = []

        class GetsWorse(callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                ends.append(weights(self.model))
                if epoch == 2:
                    self.model.optimizer.learning_rate = 10.0  # diverges from here

        model = compiled()
        stopping = callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True)
        history = Trainer(model).fit(x, y, epochs=20, callbacks=[GetsWorse(), stopping], verbose=0)
        losses = history.history["loss"]
        assert len(losses) == stopping.best_epoch + 3 < 10
        assert losses[stopping.best_epoch] == min(losses)
        assert_same(weights(model), ends[stopping.best_epoch])
        assert differ(ends[stopping.best_epoch], ends[-1])
        assert len(Trainer(model).fit(x, y, epochs=2, verbose=0).epoch) == 2  # a stopped fit does not stop the next

    def test_model_checkpoint(self, tmp_path):
        (x, y), path = regression(), tmp_path / "{epoch:02d}.keras"
        model = compiled()
        Trainer(model).fit(x, y, epochs=3, callbacks=[callbacks.ModelCheckpoint(str(path))], verbose=0)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["01.keras", "02.keras", "03.keras"]
        loaded = keras.models.load_model(tmp_path / "03.keras")
        assert_same(weights(loaded), weights(model))
        assert loaded.optimizer.iterations == 3
        assert differ(weights(keras.models.load_model(tmp_path / "02.keras")), weights(model))

    def test_model_checkpoint_within_an_epoch(self, tmp_path):
        x, y = regression(20)
        checkpoint = callbacks.ModelCheckpoint(str(tmp_path / "{epoch}-{batch}.keras"), save_freq=3)
        Trainer(compiled()).fit(x, y, batch_size=2, callbacks=[checkpoint], verbose=0)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["1-3.keras", "1-6.keras", "1-9.keras"]

    def test_learning_rate_scheduler(self):
        x, y = regression()
        scheduler = callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (1 + epoch))
        trained = []
        for fit in (keras.Model.fit, lambda model, *args, **kwargs: Trainer(model).fit(*args, **kwargs)):
            model = compiled()
            history = fit(model, x, y, batch_size=20, epochs=3, callbacks=[scheduler], verbose=0)
            np.testing.assert_allclose(history.history["learning_rate"], [0.1, 0.05, 0.1 / 3], rtol=1e-6)
            trained.append(weights(model))
        np.testing.assert_allclose(trained[1][0], trained[0][0], rtol=1e-5)

    def test_reduce_lr_on_plateau(self):
        x, y = regression()
        plateau = callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e9)
        model = compiled()
        Trainer(model).fit(x, y, epochs=4, callbacks=[plateau], verbose=0)
        np.testing.assert_allclose(model.optimizer.learning_rate, 0.1 * 0.5**3, rtol=1e-6)

    def test_terminate_on_nan_is_never_needed(self):
        x, y = regression(60)
        model = compiled(optimizer=keras.optimizers.SGD(1e20))
        with pytest.raises(NonFiniteError, match="gave a loss of inf"):
            Trainer(model).fit(x, y, batch_size=2, epochs=5, callbacks=[callbacks.TerminateOnNaN()], verbose=0)
        assert 0 < model.optimizer.iterations < 10
        assert all(np.isfinite(w).all() for w in model.get_weights())

    def test_csv_logger(self, tmp_path):
        x, y = regression()
        logger = callbacks.CSVLogger(str(tmp_path / "log.csv"))
        model = compiled(metrics=["mae"])
        history = Trainer(model).fit(x, y, epochs=2, validation_data=(x, y), callbacks=[logger], verbose=0)
        with open(tmp_path / "log.csv", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        assert [line["epoch"] for line in lines] == ["0", "1"]
        for name, values in history.history.items():
            assert [float(line[name]) for line in lines] == values

    def test_lambda_callback_sees_the_running_means(self):
        x, y = regression(12)
        seen = []
        callback = callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append((batch, logs["loss"])))
        history = Trainer(compiled()).fit(x, y, batch_size=4, callbacks=[callback], verbose=0)
        assert [batch for batch, _ in seen] == [0, 1, 2]
        assert len({loss for _, loss in seen}) == 3
        assert seen[-1][1] == history.history["loss"][-1]

    def test_a_callback_may_change_weights_and_learning_rate_between_updates(self):
        x, y = regression(12)

        class Freeze(callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.optimizer.learning_rate = 0.0
                self.model.set_weights([np.full_like(w, 7.0) for w in self.model.get_weights()])

        model = compiled()
        Trainer(model).fit(x, y, batch_size=4, callbacks=[Freeze()], verbose=0)
        assert all((w == 7.0).all() for w in weights(model))

    def test_callbacks_come_as_one_as_a_list_or_as_a_callback_list(self):
        x, y = regression()
        model = compiled()
        for wrap in (lambda c: c, lambda c: [c], lambda c: callbacks.CallbackList([c], add_history=True, model=model)):
            listener = Listener()
            Trainer(model).fit(x, y, callbacks=wrap(listener), verbose=0)
            assert listener.heard[0] == "train begin"


class TestStopTraining:
    @pytest.mark.parametrize("steps_per_execution", [None, 3])
    def test_in_the_middle_of_an_epoch(self, steps_per_execution):
        x, y = regression(40)

        def stop(batch, logs):
            model.stop_training = batch >= 4

        model = compiled()
        callback = callbacks.LambdaCallback(on_train_batch_end=stop)
        trainer = Trainer(model, steps_per_execution=steps_per_execution)
        history = trainer.fit(x, y, batch_size=2, epochs=3, callbacks=[callback], verbose=0)
        assert trainer.iterations == (6 if steps_per_execution else 5)
        assert history.epoch == [0]
        # The next fit goes on where this one stopped.
        trainer.fit(x, y, batch_size=2, verbose=0)
        assert trainer.iterations == 20

    def test_at_the_start_and_the_end_of_an_epoch(self):
        x, y = regression(40)
        for hook in ("on_epoch_begin", "on_epoch_end"):
            model = compiled()

            def stop(epoch, logs, model=model):
                model.stop_training = epoch == 1

            history = Trainer(model).fit(x, y, epochs=5, callbacks=[callbacks.LambdaCallback(**{hook: stop})], verbose=0)
            assert history.epoch == [0, 1]
