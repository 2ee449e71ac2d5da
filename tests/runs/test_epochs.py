"""How long a fit trains, where the next one goes on, and what is validated, reported and printed."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from listening import BatchListener, Listener
from small import assert_same, classifier, compiled, dense_model, differ, everything, labelled, regression, weights

from trainlab import Accumulate, Trainer

callbacks = keras.callbacks


@pytest.mark.slow
def test_history_has_keras_keys_and_plain_numbers():
    (x, y), kwargs = regression(), {"epochs": 2, "verbose": 0, "validation_split": 0.25}
    ours = Trainer(compiled(metrics=["mae"], weighted_metrics=["mse"])).fit(x, y, **kwargs)
    theirs = compiled(metrics=["mae"], weighted_metrics=["mse"]).fit(x, y, **kwargs)
    assert set(ours.history) == set(theirs.history) == {"loss", "mae", "mse", "val_loss", "val_mae", "val_mse"}
    assert ours.epoch == theirs.epoch == [0, 1]
    assert all(isinstance(value, float) for values in ours.history.values() for value in values)
    assert ours.params["epochs"] == 2
    assert ours.params["steps"] == 1
    assert ours.model is not None


def test_a_metric_with_several_results():
    class Several(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="several")
            self.count = self.add_weight(shape=(), initializer="zeros", name="count")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.count.assign_add(1.0)

        def result(self):
            return {"once": self.count * 1.0, "twice": self.count * 2.0}

    x, y = regression(20)
    history = Trainer(compiled(metrics=[Several()])).fit(x, y, batch_size=5, verbose=0)
    assert (history.history["once"], history.history["twice"]) == ([4.0], [8.0])


class TestValidation:
    def test_split_holds_out_the_end(self):
        x, y = regression(20)
        ours, theirs = compiled(), compiled()
        split = Trainer(ours).fit(x, y, epochs=2, validation_split=0.3, verbose=0)
        explicit = Trainer(theirs).fit(x[:14], y[:14], epochs=2, validation_data=(x[14:], y[14:]), verbose=0)
        assert split.history == explicit.history
        assert_same(weights(ours), weights(theirs))

    def test_split_cuts_weights_nests_and_lists_alike(self):
        x, y = regression(20)
        weight = np.arange(20.0, dtype="float32")
        inputs = [keras.Input([3]), keras.Input([3])]
        keras.utils.set_random_seed(0)
        model = compiled(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()(inputs))))
        history = Trainer(model).fit([x, x], y, sample_weight=weight, validation_split=0.25, verbose=0)
        expected = model.evaluate([x[15:], x[15:]], y[15:], sample_weight=weight[15:], verbose=0)
        np.testing.assert_allclose(history.history["val_loss"][0], expected, rtol=1e-6)

    @pytest.mark.parametrize(("freq", "epochs"), [(1, [0, 1, 2, 3]), (2, [1, 3]), ([1, 4], [0, 3]), ({3}, [2])])
    def test_freq(self, freq, epochs):
        x, y = regression()
        validated = []
        callback = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: "val_loss" in logs and validated.append(epoch))
        trainer = Trainer(compiled())
        trainer.fit(x, y, epochs=4, validation_data=(x, y), validation_freq=freq, callbacks=[callback], verbose=0)
        assert validated == epochs

    @pytest.mark.parametrize("kind", ["arrays", "weighted", "tf.data"])
    def test_data_steps_and_batch_size(self, kind):
        (x, y), (xv, yv) = regression(), regression(12, seed=5)
        weight = np.arange(12.0, dtype="float32")
        data, size = (xv, yv), 3
        if kind == "weighted":
            data = (xv, yv, weight)
        elif kind == "tf.data":
            data, size = tf.data.Dataset.from_tensor_slices((xv, yv)).batch(3), None
        model, batches = compiled(), []
        counter = callbacks.LambdaCallback()
        counter.on_test_batch_end = lambda batch, logs=None: batches.append(batch)
        kwargs = {"validation_batch_size": size, "validation_steps": 2, "callbacks": [counter], "verbose": 0}
        history = Trainer(model).fit(x, y, validation_data=data, **kwargs)
        assert batches == [0, 1]
        expected = model.evaluate(xv[:6], yv[:6], sample_weight=weight[:6] if kind == "weighted" else None, verbose=0)
        np.testing.assert_allclose(history.history["val_loss"][0], expected, rtol=1e-6)

    def test_an_endless_generator_loses_no_batch_from_epoch_to_epoch(self):
        x, y = regression(12)

        def batches():
            while True:
                for start in (0, 4, 8):
                    yield x[start : start + 4], y[start : start + 4]

        losses = []
        for fit in (keras.Model.fit, lambda model, *args, **kwargs: Trainer(model).fit(*args, **kwargs)):
            kwargs = {"validation_data": batches(), "validation_steps": 2, "epochs": 3, "shuffle": False, "verbose": 0}
            losses.append(fit(compiled(), x, y, **kwargs).history["val_loss"])
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)

    def test_validation_moves_nothing(self):
        x, y = regression()
        models = []
        for validation in (None, (x, y)):
            model = dense_model(keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.5), lambda: keras.layers.Dense(1))
            Trainer(compiled(model)).fit(x, y, batch_size=5, epochs=3, validation_data=validation, verbose=0)
            models.append(weights(model))
        assert_same(*models)


class TestEpochsAndSteps:
    def test_initial_epoch(self):
        x, y = regression()
        model = compiled()
        history = Trainer(model).fit(x, y, epochs=5, initial_epoch=3, verbose=0)
        assert history.epoch == [3, 4]
        assert model.optimizer.iterations == 2
        history = Trainer(model).fit(x, y, epochs=3, initial_epoch=3, verbose=0)
        assert history.epoch == []

    def test_no_epochs_and_no_steps_change_nothing(self):
        x, y = regression()
        model, listener = compiled(), Listener()
        before = weights(model)
        for kwargs in ({"epochs": 0}, {"steps": 0}):
            assert Trainer(model).fit(x, y, callbacks=[listener], verbose=0, **kwargs).history == {}
        assert_same(weights(model), before)
        assert listener.heard == ["train begin", "train end"] * 2

    @pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (5, 1), (6, 2), (12, 3)])
    def test_steps_are_updates_in_all(self, steps, epochs):
        x, y = regression(20)
        model = compiled()
        history = Trainer(model).fit(x, y, batch_size=4, steps=steps, verbose=0)
        assert model.optimizer.iterations == steps
        assert len(history.epoch) == epochs

    @pytest.mark.parametrize("strategy", [None, Accumulate(2)], ids=["SGD", "Accumulate(2)"])
    def test_steps_per_epoch_with_arrays_goes_on_over_passes(self, strategy):
        x, y = regression(24)
        model, other = compiled(), compiled()
        history = Trainer(model, strategy).fit(x, y, batch_size=4, epochs=2, steps_per_epoch=4, verbose=0)
        assert model.optimizer.iterations == 8
        assert len(history.epoch) == 2
        Trainer(other, strategy).fit(x, y, batch_size=4, steps=8, verbose=0)
        assert_same(weights(model), weights(other))

    def test_steps_per_epoch_with_an_endless_data_set(self):
        x, y = regression(20)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat()
        model = compiled()
        history = Trainer(model).fit(data, epochs=3, steps_per_epoch=7, verbose=0)
        assert model.optimizer.iterations == 21
        assert len(history.epoch) == 3
        # The stream goes on from epoch to epoch, as in Keras.
        other = compiled()
        other.fit(data, epochs=3, steps_per_epoch=7, verbose=0)
        np.testing.assert_allclose(weights(model)[0], weights(other)[0], rtol=1e-5)

    def test_an_endless_data_set_needs_an_end(self):
        x, y = regression(20)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat()
        with pytest.raises(ValueError, match="x never ends: give steps_per_epoch, or steps"):
            Trainer(compiled()).fit(data, verbose=0)
        model = compiled()
        Trainer(model).fit(data, steps=11, verbose=0)
        assert model.optimizer.iterations == 11

    def test_steps_per_epoch_of_a_data_set_that_runs_out_warns(self):
        x, y = regression(20)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        model = compiled()
        with pytest.warns(UserWarning, match="x ran out of data after 5 of the 8 updates of this epoch: repeat it, or lower"):
            Trainer(model).fit(data, steps_per_epoch=8, verbose=0)
        assert model.optimizer.iterations == 5

    @pytest.mark.slow
    def test_a_data_set_of_unknown_size(self):
        x, y = regression(20)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).filter(lambda *_: True)
        model = compiled()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            history = Trainer(model).fit(data, epochs=3, verbose=0)
        assert model.optimizer.iterations == 15
        assert history.epoch == [0, 1, 2]
        listener = BatchListener()
        Trainer(compiled(), Accumulate(2)).fit(data, epochs=2, callbacks=[listener], verbose=0)
        assert [line for line in listener.heard if "epoch" in line and "begin" in line] == ["epoch 0 begin", "epoch 1 begin"]
        assert sum("batch" in line and "end" in line for line in listener.heard) == 6

    def test_a_data_set_without_a_batch(self):
        x, y = regression(20)
        model = compiled()
        before = weights(model)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4).take(0)
        with pytest.raises(ValueError, match="x gave no batch: there is nothing to train on"):
            Trainer(model).fit(data, verbose=0)
        assert_same(weights(model), before)


def noisy():
    model = dense_model(keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1))
    return compiled(model, keras.optimizers.SGD(0.01, momentum=0.9))


class TestGoingOn:
    @pytest.mark.slow
    def test_two_fits_of_50_steps_are_one_of_100(self):
        x, y = regression(46)
        once, twice = noisy(), noisy()
        Trainer(once).fit(x, y, batch_size=4, steps=100, verbose=0)
        trainer = Trainer(twice)
        for _ in range(2):
            trainer.fit(x, y, batch_size=4, steps=50, verbose=0)
        assert_same(everything(twice)[: len(twice.variables)], everything(once)[: len(once.variables)])
        assert_same([np.array(v) for v in twice.optimizer.variables], [np.array(v) for v in once.optimizer.variables])
        # Control: a trainer that does not know the position starts the data anew.
        restarted = noisy()
        for _ in range(2):
            Trainer(restarted).fit(x, y, batch_size=4, steps=50, verbose=0)
        assert differ(weights(restarted), weights(once))

    def test_epochs_go_on_too_each_with_an_order_of_its_own(self):
        x, y = regression(20)
        once, twice = noisy(), noisy()
        Trainer(once).fit(x, y, batch_size=4, epochs=4, verbose=0)
        trainer = Trainer(twice)
        trainer.fit(x, y, batch_size=4, epochs=1, verbose=0)
        trainer.fit(x, y, batch_size=4, epochs=4, initial_epoch=1, verbose=0)
        assert_same(weights(twice), weights(once))

    @pytest.mark.slow
    @pytest.mark.parametrize("interrupted_at", [0, 7])
    def test_an_interrupted_fit_continued_is_an_uninterrupted_one(self, interrupted_at):
        x, y = regression(46)
        once, broken = noisy(), noisy()
        Trainer(once).fit(x, y, batch_size=4, epochs=3, verbose=0)

        class Interrupts(callbacks.Callback):
            epoch = 0

            def on_epoch_begin(self, epoch, logs=None):
                self.epoch = epoch

            def on_train_batch_end(self, batch, logs=None):
                if self.epoch == 1 and batch == interrupted_at:
                    raise KeyboardInterrupt

        trainer = Trainer(broken)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(x, y, batch_size=4, epochs=3, callbacks=[Interrupts()], verbose=0)
        assert trainer.iterations == 12 + interrupted_at + 1
        trainer.fit(x, y, batch_size=4, epochs=3, initial_epoch=1, verbose=0)
        assert trainer.iterations == 36
        assert_same(weights(broken), weights(once))
        assert_same([np.array(v) for v in broken.optimizer.variables], [np.array(v) for v in once.optimizer.variables])

    def test_other_data_start_at_their_beginning(self):
        (x, y), (x2, y2) = regression(20), regression(20, seed=3)
        trainer = Trainer(compiled())
        trainer.fit(x, y, batch_size=4, steps=3, verbose=0)
        history = trainer.fit(x2, y2, batch_size=4, verbose=0)
        assert trainer.iterations == 8  # 3 + 5: the whole of them
        assert history.epoch == [0]

    def test_the_order_is_of_the_seed(self):
        x, y = regression(20)
        trained = []
        for seed in (0, 0, 1):
            model = compiled()
            Trainer(model, seed=seed).fit(x, y, batch_size=4, verbose=0)
            trained.append(weights(model))
        assert_same(trained[0], trained[1])
        assert differ(trained[0], trained[2])


class TestProgress:
    def test_silent(self, capsys):
        x, y = regression()
        Trainer(compiled()).fit(x, y, epochs=2, verbose=0)
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""

    @pytest.mark.parametrize("verbose", [1, 2])
    def test_lines_name_epoch_and_metrics(self, capsys, verbose):
        x, y = labelled()
        model = classifier(metrics=["accuracy"])
        Trainer(model, Accumulate(2)).fit(x, y, batch_size=5, epochs=2, validation_data=(x, y), verbose=verbose)
        out = capsys.readouterr().out
        for text in ("Epoch 1/2", "Epoch 2/2", "2/2", "accuracy", "loss", "val_accuracy"):
            assert text in out
        assert ("Accumulate(num_batches=2, inner=SGD()): an update is 10 examples = 2 batches of 5" in out) == (verbose == 1)

    def test_steps_know_how_many_epochs_they_are(self, capsys):
        x, y = regression(20)
        Trainer(compiled()).fit(x, y, batch_size=4, steps=12, verbose=2)
        out = capsys.readouterr().out
        assert "Epoch 3/3" in out
        assert "Epoch 4" not in out


class TestValidationByUpdates:
    """An epoch of callbacks has so many updates, whatever passes begin and end in it."""

    @pytest.mark.parametrize("kind", ["arrays", "a data set", "of unknown size", "endless"])
    def test_it_is_reported_after_so_many_updates(self, kind):
        x, y = regression(20)
        data = tf.data.Dataset.from_tensor_slices((x, y))
        data, how = {
            "arrays": ((x, y), {"batch_size": 4, "epochs": 3}),
            "a data set": ((data.batch(4),), {"epochs": 3}),
            "of unknown size": ((data.filter(lambda x, y: True).batch(4),), {"steps": 15}),
            "endless": ((data.repeat().batch(4),), {"steps": 15}),
        }[kind]
        model, seen = compiled(), []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: seen.append(("begin", epoch)),
            on_epoch_end=lambda epoch, logs: seen.append((epoch, int(model.optimizer.iterations.numpy()), "val_loss" in logs)),
        )
        history = Trainer(model).fit(*data, validation_data=(x, y), validate_every=4, callbacks=[callback], verbose=0, **how)
        assert seen == [
            *(("begin", 0), (0, 4, True), ("begin", 1), (1, 8, True)),
            *(("begin", 2), (2, 12, True), ("begin", 3), (3, 15, True)),
        ]
        assert len(history.history["val_loss"]) == len(history.history["loss"]) == 4

    @pytest.mark.slow
    def test_the_updates_are_those_of_passes(self):
        x, y = regression(22)
        models = []
        for how in ({}, {"validate_every": 4}, {"validate_every": 100}):
            models.append(compiled())
            Trainer(models[-1]).fit(x, y, batch_size=4, epochs=3, verbose=0, **how)
        assert_same(*(weights(model) for model in models[:2]))
        assert_same(*(weights(model) for model in models[1:]))

    def test_who_stops_early_stops_between(self):
        x, y = regression(20)
        stopping = keras.callbacks.EarlyStopping(patience=1, min_delta=10.0)
        model = compiled()
        Trainer(model).fit(
            x, y, batch_size=4, epochs=9, validation_data=(x, y), validate_every=3, callbacks=[stopping], verbose=0
        )
        assert model.optimizer.iterations == 6

    @pytest.mark.slow
    def test_a_run_goes_on(self, tmp_path):
        x, y = regression(20)
        histories, models = [], []
        for name, stops in (("whole", [15]), ("parts", [5, 6, 15])):
            for steps in stops:
                keras.utils.set_random_seed(0)
                model = compiled()
                trainer = Trainer(model, run=tmp_path / name)
                history = trainer.fit(x, y, batch_size=4, steps=steps, validation_data=(x, y), validate_every=4, verbose=0)
            models.append(model)
            histories.append(history.history)
        assert_same(*(weights(model) for model in models))
        assert histories[0]["val_loss"][-1] == histories[1]["val_loss"][-1]

    def test_data_that_run_out_end_it(self):
        x, y = regression(20)

        def batches():
            yield from ((x[i : i + 4], y[i : i + 4]) for i in range(0, 20, 4))

        with pytest.warns(UserWarning, match="ran out of data|no batch"):
            history = Trainer(compiled()).fit(batches(), steps=20, validate_every=3, verbose=0)
        assert len(history.history["loss"]) == 2

    @pytest.mark.parametrize(
        "how, said",
        [
            ({"validate_every": 0}, "validate_every must be"),
            ({"validate_every": 3, "steps_per_epoch": 3}, "give validate_every or steps_per_epoch"),
            ({"validate_every": 3, "initial_epoch": 1, "epochs": 2}, "give validate_every or initial_epoch"),
        ],
    )
    def test_bad_input_is_one_line(self, how, said):
        x, y = regression(20)
        with pytest.raises(ValueError, match=said):
            Trainer(compiled()).fit(x, y, verbose=0, **how)
        data = tf.data.Dataset.from_tensor_slices((x, y)).repeat().batch(4)
        with pytest.raises(ValueError, match="give steps in place of epochs"):
            Trainer(compiled()).fit(data, validate_every=3, verbose=0)
