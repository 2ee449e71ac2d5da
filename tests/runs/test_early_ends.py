"""Training that ends early: stopped before an update, for want of batches, or by Keras' limits; and what its hooks hear of it."""

import math
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from listening import BatchListener, Listener
from small import compiled, differ, regression, weights

from trainlab import Accumulate, Heun, Run, Trainer

callbacks = keras.callbacks


def fits():
    """Keras' fit and ours, each of a new model."""
    for fit in (keras.Model.fit, lambda model, *args, **kwargs: Trainer(model).fit(*args, **kwargs)):
        model = compiled()
        yield model, lambda *args, fit=fit, model=model, **kwargs: fit(model, *args, **kwargs)


def stopping(hook, at=0):
    """A callback that stops training in one of its hooks, at an epoch if the hook is of one."""
    callback = callbacks.Callback()

    def stop(number=0, logs=None):
        callback.model.stop_training = callback.model.stop_training or number == at

    setattr(callback, hook, stop if hook != "on_train_begin" else lambda logs=None: stop(at))
    return callback


def generator(num_batches):
    x, y = regression(4 * num_batches)
    for i in range(num_batches):
        yield x[4 * i : 4 * i + 4], y[4 * i : 4 * i + 4]


def are_paired(heard):
    """Whether every hook that begins something is followed by the one that ends it."""
    open_ones = []
    for line in (line for line in heard if line.split()[0] in ("train", "epoch", "batch")):
        kind, *number, which = (word for word in line.split(" [")[0].split())
        if which == "begin":
            open_ones.append((kind, number))
        elif not open_ones or open_ones.pop() != (kind, number):
            return False
    return not open_ones


def test_a_pair_that_is_broken_would_be_seen():
    whole = ["train begin", "epoch 0 begin", "batch 0 begin", "batch 0 end ['loss']", "epoch 0 end ['loss']", "train end"]
    assert are_paired(whole)
    for gone in range(len(whole)):
        assert not are_paired(whole[:gone] + whole[gone + 1 :])


class TestStopped:
    @pytest.mark.parametrize("kind", [Listener, BatchListener])
    @pytest.mark.parametrize(
        ("hook", "at"),
        [("on_train_begin", 0), ("on_epoch_begin", 0), ("on_epoch_begin", 2), ("on_train_batch_begin", 0), ("on_epoch_end", 1)],
    )
    def test_hooks_and_updates_are_those_of_keras(self, hook, at, kind):
        found = []
        for model, fit in fits():
            listener = kind()
            fit(*regression(20), batch_size=4, epochs=4, callbacks=[stopping(hook, at), listener], verbose=0)
            found.append((listener.heard, int(model.optimizer.iterations)))
        assert found[1] == found[0]
        assert are_paired(found[1][0]) and found[1][1] == {"on_epoch_begin": 5 * at + 1, "on_epoch_end": 10}.get(hook, 1)

    @pytest.mark.parametrize("strategy", [Heun(), Accumulate(2), Accumulate(2, Heun())], ids=repr)
    def test_the_one_update_is_the_loss_that_is_logged(self, strategy):
        x, y = regression(20)
        model, other = compiled(), compiled()
        history = Trainer(model, strategy).fit(x, y, batch_size=4, epochs=3, callbacks=[stopping("on_epoch_begin")], verbose=0)
        expected = Trainer(other, strategy).fit(x, y, batch_size=4, steps=1, verbose=0)
        assert history.history == expected.history and history.history["loss"][0] > 0
        assert not differ(weights(model), weights(other))

    def test_with_several_updates_a_call_it_is_one_call(self):
        for steps, expected in ((3, 3), (None, 1)):
            trainer = Trainer(compiled(), steps_per_execution=steps)
            trainer.fit(*regression(40), batch_size=4, epochs=3, callbacks=[stopping("on_epoch_begin")], verbose=0)
            assert trainer.iterations == expected

    def test_a_checkpoint_takes_no_epoch_for_the_best_that_made_no_update(self, tmp_path):
        best = callbacks.ModelCheckpoint(tmp_path / "best.keras", monitor="loss", save_best_only=True)
        history = Trainer(compiled()).fit(*regression(20), epochs=3, callbacks=[stopping("on_epoch_begin"), best], verbose=0)
        assert best.best == pytest.approx(history.history["loss"][0]) and best.best > 0

    def test_a_run_stopped_so_is_whole_and_goes_on(self, tmp_path):
        x, y = regression(20)
        trainer = Trainer(compiled(), run=tmp_path)
        trainer.fit(x, y, batch_size=4, epochs=3, callbacks=[stopping("on_epoch_begin", 1)], verbose=0)
        assert trainer.iterations == 6
        again = Trainer(compiled(), run=tmp_path)
        history = again.fit(x, y, batch_size=4, epochs=3, callbacks=[stopping("on_epoch_begin", 1)], verbose=0)
        assert (again.iterations, history.epoch) == (6, [0, 1])  # it was stopped, and is shown


class TestOutOfBatches:
    @pytest.mark.parametrize("kind", [Listener, BatchListener])
    @pytest.mark.parametrize(
        ("num_batches", "steps_per_epoch", "updates"), [(3, None, [3]), (5, 3, [3, 2]), (7, 2, [2, 2, 2, 1]), (6, 3, [3, 3])]
    )
    def test_a_generator_that_runs_dry_ends_training(self, num_batches, steps_per_epoch, updates, kind):
        listener, model = kind(), compiled()
        with pytest.warns(UserWarning, match=f"for epoch {len(updates) + 1}|in epoch {len(updates) + 1}"):
            history = Trainer(model).fit(
                generator(num_batches), epochs=9, steps_per_epoch=steps_per_epoch, callbacks=[listener], verbose=0
            )
        assert int(model.optimizer.iterations) == num_batches == sum(updates)
        assert are_paired(listener.heard)
        assert all(loss > 0 for loss in history.history["loss"][: len(updates)])
        if kind is BatchListener:
            starts = [i for i, line in enumerate(listener.heard) if line.startswith("epoch") and "begin" in line]
            counts = [
                sum("batch" in line and "end" in line for line in listener.heard[start:end])
                for start, end in zip(starts, [*starts[1:], None], strict=True)
            ]
            assert [count for count in counts if count] == updates

    def test_what_was_seen_of_it_first_is_not_trained_on_again(self):
        seen = []

        class Sees(keras.losses.Loss):
            def call(self, y_true, y_pred):
                tf.py_function(lambda y: seen.append(y.numpy().tolist()), [y_true], [])
                return tf.square(y_true - y_pred)

        model = compiled(loss=Sees())
        with pytest.warns(UserWarning, match="x has no batch left for epoch 2: training ends before it"):
            Trainer(model, run_eagerly=True).fit(generator(4), epochs=3, verbose=0)
        expected = [y.tolist() for _, y in generator(4)]
        assert [batch for batch in seen if batch in expected][-4:] == expected and len(seen) <= 6

    def test_other_data_whose_next_pass_is_empty(self):
        once = generator(4)
        spec = (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]))
        data = tf.data.Dataset.from_generator(lambda: once, output_signature=spec)
        listener, model = BatchListener(), compiled()
        best = callbacks.EarlyStopping(monitor="loss", patience=5, restore_best_weights=True)
        with pytest.warns(UserWarning, match="x gave no batch in epoch 2: training ends before it"):
            history = Trainer(model).fit(data, epochs=5, callbacks=[listener, best], verbose=0)
        assert are_paired(listener.heard) and int(model.optimizer.iterations) == 4
        assert history.epoch == [0, 1] and math.isnan(history.history["loss"][1])  # not 0.0, which would be the best
        assert best.best == history.history["loss"][0]

    def test_the_callbacks_that_keras_has_take_an_epoch_without_a_batch(self, tmp_path):
        once = generator(4)
        spec = (tf.TensorSpec([None, 3]), tf.TensorSpec([None, 1]))
        data = tf.data.Dataset.from_generator(lambda: once, output_signature=spec)
        logger = callbacks.CSVLogger(str(tmp_path / "log.csv"))
        plateau = callbacks.ReduceLROnPlateau(monitor="loss", patience=3)
        checkpoint = callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), monitor="loss", save_best_only=True)
        with pytest.warns(UserWarning, match="x gave no batch"):
            Trainer(compiled()).fit(data, epochs=2, callbacks=[logger, plateau, checkpoint], verbose=0)
        rows = (tmp_path / "log.csv").read_text().split()
        assert rows[2:] == ["1,nan,NA"]

    def test_batch_hooks_of_a_data_set_of_unknown_size_come_in_pairs(self):
        data = tf.data.Dataset.from_tensor_slices(regression(20)).batch(4).filter(lambda *_: True)
        listener = BatchListener()
        Trainer(compiled()).fit(data, epochs=2, callbacks=[listener], verbose=0)
        assert are_paired(listener.heard)


class TestSeveralUpdatesACall:
    @pytest.mark.parametrize("size", [2, 3, 4, 7, 30])
    @pytest.mark.parametrize("kind", ["arrays", "data set", "of unknown size", "generator"])
    def test_batch_hooks_have_keras_numbers(self, kind, size):
        x, y = regression(40)
        heard = []
        for fit in (keras.Model.fit, lambda model, *args, **kwargs: Trainer(model).fit(*args, **kwargs)):
            data = {"x": x, "y": y, "batch_size": 4}
            if kind == "generator":
                data = {"x": generator(10), "steps_per_epoch": 10}
            elif kind != "arrays":
                data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(4)}
                data["x"] = data["x"].filter(lambda *_: True) if kind == "of unknown size" else data["x"]
            listener = BatchListener()
            fit(compiled(steps_per_execution=size), callbacks=[listener], verbose=0, **data)
            ended = [line for line in listener.heard if line.startswith("batch") and "end" in line]
            # Of data whose end shows only when it comes Keras begins a batch that there is not.
            begun = [line for line in listener.heard if line.startswith("batch") and "begin" in line][: len(ended)]
            heard.append((begun, ended))
        assert heard[1] == heard[0] and heard[0][1]

    @pytest.mark.parametrize("strategy", [Heun(), Accumulate(2)], ids=repr)
    def test_an_update_of_another_size_shares_the_pair(self, strategy):
        listener = BatchListener()
        trainer = Trainer(compiled(), strategy, steps_per_execution=4)
        trainer.fit(*regression(38), batch_size=4, callbacks=[listener], verbose=0)  # the last batch holds 2
        numbers = [int(line.split()[1]) for line in listener.heard if line.startswith("batch")]
        per_pass = -(-38 // (4 * strategy.batches))
        assert trainer.iterations == per_pass and are_paired_numbers(numbers, 4, per_pass)

    def test_a_checkpoint_in_between_does_not_part_it(self, tmp_path):
        listener = BatchListener()
        trainer = Trainer(compiled(), steps_per_execution=4, run=Run(tmp_path, save_steps=3))
        trainer.fit(*regression(40), batch_size=4, callbacks=[listener], verbose=0)
        numbers = [int(line.split()[1]) for line in listener.heard if line.startswith("batch")]
        assert are_paired_numbers(numbers, 4, 10) and trainer.iterations == 10


def are_paired_numbers(numbers, size, updates):
    return numbers == [n for first in range(0, updates, size) for n in (first, first + size - 1)]


@pytest.fixture
def limits():
    yield keras.config
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


class TestLimits:
    @pytest.mark.parametrize(
        "given",
        [{"epochs": 4}, {"epochs": 1}, {"epochs": 4, "steps_per_epoch": 2}, {"epochs": 5, "initial_epoch": 1}]
        + [{"epochs": 5, "initial_epoch": 3}, {"epochs": 3, "steps_per_epoch": 9}],
        ids=str,
    )
    @pytest.mark.parametrize("kind", ["arrays", "few", "data set", "endless"])
    def test_they_hold_as_in_keras(self, limits, kind, given):
        limits.set_max_epochs(2)
        limits.set_max_steps_per_epoch(3)
        x, y = regression(8 if kind == "few" else 40)
        found = []
        for model, fit in fits():
            data = {"x": x, "y": y, "batch_size": 4}
            if kind not in ("arrays", "few"):
                data = {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat(None if kind == "endless" else 1)}
            if kind == "few" and given.get("steps_per_epoch") == 9:
                continue  # there arrays go on over passes, and a limit of 3 is 3
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                history = fit(**data, **given, verbose=0)
            found.append((int(model.optimizer.iterations), history.epoch))
        assert len(set(map(repr, found))) <= 1

    def test_they_are_said(self, limits):
        limits.set_max_epochs(2)
        limits.set_max_steps_per_epoch(3)
        with pytest.warns(UserWarning) as said:
            Trainer(compiled()).fit(*regression(40), batch_size=4, epochs=4, verbose=0)
        lines = [str(warning.message) for warning in said]
        assert "epochs is limited to 2 by keras.config.set_max_epochs" in lines
        assert "steps_per_epoch is limited to 3 by keras.config.set_max_steps_per_epoch" in lines

    @pytest.mark.parametrize(("given", "updates"), [({"steps": 50}, 6), ({"steps": 4}, 4), ({"steps": 0}, 0)])
    def test_they_hold_for_updates_in_all(self, limits, given, updates):
        limits.set_max_epochs(2)
        limits.set_max_steps_per_epoch(3)
        trainer = Trainer(compiled())
        trainer.fit(*regression(40), batch_size=4, verbose=0, **given)
        assert trainer.iterations == updates

    def test_an_update_counts_as_a_step(self, limits):
        limits.set_max_steps_per_epoch(2)
        trainer = Trainer(compiled(), Accumulate(2))
        trainer.fit(*regression(40), batch_size=4, epochs=3, verbose=0)
        assert trainer.iterations == 6


class Breaks(callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise RuntimeError("broken")


class TestBackup:
    @pytest.mark.parametrize("before", [0, 2])
    @pytest.mark.parametrize(("save_freq", "epoch", "batch"), [(4, 0, 5), (7, 1, 1), (4, 1, 5), ("epoch", 2, 3), (3, 2, 4)])
    def test_weights_epochs_and_data_are_those_of_keras(self, tmp_path, save_freq, epoch, batch, before):
        x, y = regression(40)
        found = []
        for number, fit in enumerate((keras.Model.fit, None)):
            model = compiled()
            trainer = Trainer(model) if fit is None else None
            train = trainer.fit if trainer is not None else model.fit
            backup = callbacks.BackupAndRestore(str(tmp_path / str(number)), save_freq=save_freq)
            settings = {"batch_size": 4, "epochs": 4, "shuffle": False, "verbose": 0}
            if before:
                train(x, y, **settings | {"epochs": before})
            with pytest.raises(RuntimeError, match="broken"):
                train(x, y, **settings, callbacks=[backup, Breaks(epoch, batch)])
            history = train(x, y, **settings, callbacks=[backup])
            found.append((int(model.optimizer.iterations), history.epoch, weights(model)))
        assert found[1][:2] == found[0][:2]
        np.testing.assert_allclose(found[1][2][0], found[0][2][0], rtol=1e-5)

    @pytest.mark.parametrize("before", [0, 2])
    def test_an_epoch_put_back_has_the_order_that_it_had(self, tmp_path, before):
        x, y = regression(40)
        trained = []
        for is_broken in (False, True):
            trainer = Trainer(compiled())
            settings = {"batch_size": 4, "verbose": 0}
            if before:
                trainer.fit(x, y, **settings, epochs=before)
            backup = callbacks.BackupAndRestore(str(tmp_path / str(is_broken)))
            if is_broken:
                with pytest.raises(RuntimeError, match="broken"):
                    trainer.fit(x, y, **settings, epochs=4, callbacks=[backup, Breaks(2, 5)])
            trainer.fit(x, y, **settings, epochs=4, callbacks=[backup])
            trained.append(weights(trainer.model))
        assert not differ(*trained)

    def test_a_later_fit_begins_at_its_own_epoch(self, tmp_path):
        x, y = regression(40)
        trainer = Trainer(compiled())
        with pytest.raises(RuntimeError, match="broken"):
            trainer.fit(x, y, epochs=3, verbose=0, callbacks=[callbacks.BackupAndRestore(str(tmp_path)), Breaks(1, 0)])
        assert trainer.fit(x, y, epochs=3, verbose=0, callbacks=[callbacks.BackupAndRestore(str(tmp_path))]).epoch == [1, 2]
        assert trainer.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]
