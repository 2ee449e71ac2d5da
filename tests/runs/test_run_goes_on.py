"""Runs go on from any of their checkpoints, on arrays and on streams, to the last bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from resuming import only, small, split_off_run
from small import assert_same, compiled, dense_model, differ, everything, regression
from tables import MODELS, STRATEGIES

import trainlab as tl
from trainlab.runs import resuming

NUM_EXAMPLES, BATCH_SIZE, EPOCHS = 22, 4, 4  # the last batch and, under accumulation, the last update are smaller


def trainer_of(strategy, directory=None, **kwargs):
    """On a CNN with BatchNorm and Dropout; Adam, a schedule, an average of the weights."""
    keras.utils.clear_session(free_memory=False)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 40)
    model = MODELS["cnn"].compiled(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9))
    run, settings = split_off_run(directory, kwargs)
    return tl.Trainer(model, strategy, run=run, **settings)


def fit(trainer, epochs=EPOCHS, **kwargs):
    """Trains, validates and stops early; returns all there is to compare."""
    x, y = MODELS["cnn"].arrays(NUM_EXAMPLES)
    x_test, y_test = MODELS["cnn"].arrays(10, seed=8)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = trainer.fit(
        x, y, BATCH_SIZE, epochs, 0, [stopping], validation_data=(x_test, y_test), validation_batch_size=4, **kwargs
    )
    values = [np.array(v) for v in trainer._loops.made.loop.update.variables.values()]
    return values, {"history": history.history, "epoch": history.epoch, "stopping": (stopping.wait, stopping.best)}


def assert_equal(a, b):
    assert_same(a[0], b[0])
    assert a[1] == b[1]


def every_checkpoint(strategy, directory, **kwargs):
    """An uninterrupted run, and a checkpoint after each of its updates."""
    whole = fit(trainer_of(strategy))
    saving = fit(trainer_of(strategy, directory, save_steps=1, keep=1000, **kwargs))
    assert_equal(saving, whole)  # saving changes nothing
    return whole, sorted((directory / "checkpoints").iterdir())


def test_a_run_goes_on_from_some_step(tmp_path):
    case = STRATEGIES["accumulate_3_heun"]
    whole, checkpoints = every_checkpoint(case.make(), tmp_path / "all")
    trainer = trainer_of(case.make(), only(checkpoints[2], tmp_path / "one"), save_seconds=None)
    assert_equal(fit(trainer), whole)
    assert trainer.resumed_at == int(checkpoints[2].name.rpartition("-")[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_goes_on_from_every_step(name, tmp_path):
    case = STRATEGIES[name]
    whole, checkpoints = every_checkpoint(case.make(), tmp_path / "all")
    updates = -(-NUM_EXAMPLES // (BATCH_SIZE * case.batches))
    assert len(checkpoints) >= 3 * updates
    for i, path in enumerate(checkpoints):
        assert_equal(fit(trainer_of(case.make(), only(path, tmp_path / str(i)), save_seconds=None)), whole)


@pytest.mark.slow
def test_without_the_seeds_it_would_differ(tmp_path, monkeypatch):
    whole, checkpoints = every_checkpoint(tl.SGD(), tmp_path / "all")
    real = resuming.variables

    def without_seeds(loaded):
        values = real(loaded)
        return {name: v for name, v in values.items() if not (v.dtype.kind in "iu" and v.shape == (2,))}

    monkeypatch.setattr(resuming, "variables", without_seeds)
    assert fit(trainer_of(tl.SGD(), only(checkpoints[3], tmp_path / "a"), save_seconds=None))[1] != whole[1]


@pytest.mark.parametrize("run_eagerly, jit_compile", [(True, False), (False, True)], ids=["eager", "XLA"])
def test_it_goes_on_eagerly_and_under_xla(run_eagerly, jit_compile, tmp_path):
    def make(directory=None, **kwargs):
        model = compiled(dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)), metrics=["mae"])
        strategy = STRATEGIES["heavy_ball"].make()
        run, _ = split_off_run(directory, {"save_seconds": None, **kwargs})
        return tl.Trainer(model, strategy, run_eagerly=run_eagerly, jit_compile=jit_compile, run=run)

    x, y = regression()
    whole = make(tmp_path / "all", save_steps=3, keep=100)
    history = whole.fit(x, y, 4, 3, verbose=0)
    path = sorted((tmp_path / "all" / "checkpoints").iterdir())[1]
    again = make(only(path, tmp_path / "one"))
    assert again.fit(x, y, 4, 3, verbose=0).history == history.history and again.resumed_at == 6
    assert_same(everything(again.model), everything(whole.model))


def shuffled_dataset():
    x, y = regression(22)
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(10, seed=4).batch(4).prefetch(2)


class Numbered:
    """A generator of batches, which nobody can save."""

    def __iter__(self):
        x, y = regression(22)
        while True:
            for i in range(0, 22, 4):
                yield x[i : i + 4], y[i : i + 4]


STREAMS = {
    "tf.data": (shuffled_dataset, {}, None),
    "tf.data, unseeded, shuffled whole": (
        lambda: tf.data.Dataset.from_tensor_slices(regression(22)).shuffle(22).batch(4),
        {},
        None,
    ),
    "tf.data without an end": (
        lambda: tf.data.Dataset.from_tensor_slices(regression(22)).repeat().shuffle(7).batch(4),
        {"steps_per_epoch": 4},
        None,
    ),
    "a shuffle repeated": (lambda: shuffled_dataset().repeat(), {"steps_per_epoch": 4}, "repeats what it shuffles"),
    "from_generator": (
        lambda: (
            tf.data.Dataset.from_generator(
                lambda: zip(*regression(22), strict=True),
                output_signature=(tf.TensorSpec([3]), tf.TensorSpec([1])),
            )
            .batch(4)
            .repeat()
        ),
        {"steps_per_epoch": 4},
        "cannot be saved",
    ),
    "generator": (lambda: iter(Numbered()), {"steps_per_epoch": 4}, "cannot be saved"),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("strategy", [tl.SGD(), pytest.param(tl.Accumulate(4, tl.Heun()), marks=pytest.mark.slow)], ids=repr)
def test_streams_go_on_where_they_were(name, strategy, tmp_path, recwarn):
    make, kwargs, warning = STREAMS[name]

    def trained(directory=None, **saving):
        run, _ = split_off_run(directory, {"save_seconds": None, **saving})
        trainer = tl.Trainer(compiled(metrics=["mae"]), strategy, run=run)
        history = trainer.fit(make(), epochs=3, verbose=0, **kwargs)
        return trainer, everything(trainer.model), history.history

    _, whole, history = trained()
    assert_same(trained(tmp_path / "all", save_steps=1, keep=100)[1], whole)
    assert any("cannot be saved where it stands" in str(w.message) for w in recwarn) == (warning is not None)
    checkpoints = sorted((tmp_path / "all" / "checkpoints").iterdir())
    resumed = set()
    for i, path in enumerate(checkpoints[:: 1 if len(checkpoints) < 8 else 4]):
        trainer, values, again = trained(only(path, tmp_path / str(i)))
        assert_same(values, whole)
        assert again == history
        resumed.add(trainer.resumed_at)
    assert len(resumed) > 2


@pytest.mark.slow
def test_what_is_read_ahead_does_not_keep_a_checkpoint_by_time_from_being_written(tmp_path):
    def trained(directory=None, **saving):
        trainer = small(directory, steps_per_execution=2, **saving)
        trainer.fit(STREAMS["tf.data without an end"][0](), steps=300, verbose=0)
        return trainer, everything(trainer.model)

    _, whole = trained()
    assert_same(trained(tmp_path / "all", save_seconds=1e-6, keep=100)[1], whole)
    before_the_end = [p for p in sorted((tmp_path / "all" / "checkpoints").iterdir()) if not p.name.endswith("-300")]
    assert len(before_the_end) >= 2
    for i, path in enumerate(before_the_end[:: len(before_the_end) // 2]):
        trainer, values = trained(only(path, tmp_path / str(i)))
        assert 0 < trainer.resumed_at < 300
        assert_same(values, whole)


def test_a_finished_run_is_left_as_it_is(tmp_path, capsys):
    x, y = regression()
    first = small(tmp_path)
    history = first.fit(x, y, epochs=3, verbose=2)
    assert "begun" in capsys.readouterr().out
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}
    again = small(tmp_path)
    assert again.fit(x, y, epochs=3, verbose=2).history == history.history
    out = capsys.readouterr().out
    assert "finished at update 3" in out and "Epoch" not in out
    assert_same(everything(again.model), everything(first.model))
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("ema", [False, True])
def test_a_longer_run_is_what_it_would_have_been(tmp_path, ema):
    x, y = regression()

    def make(directory):
        return small(directory, optimizer=keras.optimizers.Adam(0.1, use_ema=ema, ema_momentum=0.5))

    make(tmp_path / "a").fit(x, y, 8, epochs=2, verbose=0)
    longer, whole = make(tmp_path / "a"), make(None)
    assert longer.fit(x, y, 8, epochs=4, verbose=0).history == whole.fit(x, y, 8, epochs=4, verbose=0).history
    assert longer.resumed_at == 6
    assert_same(everything(longer.model), everything(whole.model))


def swapped(directory, data=None, **length):
    """A fit with averages that take the weights' place at the end of each epoch."""
    x, y = regression()
    trainer = small(directory, optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), save_seconds=None)
    callbacks = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)]
    data = {"x": x, "y": y, "batch_size": 8} if data is None else {"x": data}
    history = trainer.fit(**data, **length, verbose=0, callbacks=callbacks)
    return history, trainer


@pytest.mark.slow
def test_a_run_whose_weights_are_swapped_for_averages_may_be_made_longer(tmp_path):
    for length in ({"epochs": 2}, {"epochs": 2}):  # the second time it is finished
        history, trainer = swapped(tmp_path, **length)
        assert history.epoch == [0, 1] and trainer.iterations == 6
    history, longer = swapped(tmp_path, epochs=4)
    expected, whole = swapped(None, epochs=4)
    assert longer.resumed_at == 6 and history.epoch == [0, 1, 2, 3] and history.history == expected.history
    assert_same(everything(longer.model), everything(whole.model))


@pytest.mark.slow
def test_which_epoch_is_the_last_is_known_at_its_end(tmp_path):
    batches = tf.data.Dataset.from_tensor_slices(regression()).batch(8)
    _, whole = swapped(None, batches, epochs=4)
    for data in (batches, batches.filter(lambda *_: True)):  # of the second nobody knows how many there are
        _, trainer = swapped(None, data, steps=12)
        assert_same(everything(trainer.model), everything(whole.model))
    _, other = swapped(None, batches, steps=11)
    assert differ(everything(other.model), everything(whole.model))
    # Another fit begins in the middle of an epoch: its 6 updates are of 3 epochs.
    numbers, callback = [], keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: numbers.append(callback.params["epochs"]))
    x, y = regression()
    trainer = small(None)
    trainer.fit(x, y, 8, steps=1, verbose=0)
    assert trainer.fit(x, y, 8, steps=6, verbose=0, callbacks=[callback]).epoch == [0, 1, 2] and numbers == [2, 3, 3]


@pytest.mark.slow
def test_the_end_of_the_last_epoch_is_not_forgotten(tmp_path):
    """A checkpoint after the last update: what is left to do is the validation, and the hooks."""
    x, y = regression()

    def train(directory, **kwargs):
        trainer = small(directory, **kwargs)
        history = trainer.fit(x, y, 8, steps=6, verbose=0, validation_data=(x, y))
        return history.history, everything(trainer.model), trainer.resumed_at

    whole, values, _ = train(tmp_path / "all", save_steps=3, keep=9)
    (path,) = [p for p in (tmp_path / "all" / "checkpoints").iterdir() if p.name == "00000002-step-6"]
    again, restored, resumed_at = train(only(path, tmp_path / "one"))
    assert (again, resumed_at) == (whole, 6) and len(again["val_loss"]) == 2
    assert_same(restored, values)


@pytest.mark.parametrize("stop", [1, 7])
def test_a_model_that_grew_between_two_fits(stop, tmp_path):
    """The first fit is found finished, and its model has fewer variables than the checkpoint's."""
    x, y = regression()

    class Stops(keras.callbacks.Callback):
        get_state, set_state = (lambda self: None), (lambda self, state: None)

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == stop:
                raise KeyboardInterrupt

    def both(directory, *callbacks):
        keras.utils.set_random_seed(1)
        model = compiled(keras.Sequential([keras.Input([3]), keras.layers.Dense(4), keras.layers.Dense(1)]))
        trainer = tl.Trainer(model, run=tl.Run(directory, save_seconds=None))
        trainer.fit(x, y, 8, epochs=2, verbose=0)
        model.layers[0].enable_lora(2)
        model.compile(keras.optimizers.Adam(0.05), "mse")
        history = trainer.fit(x, y, 8, epochs=4, verbose=0, callbacks=callbacks)
        return history.history["loss"], model.get_weights()

    losses, weights = both(tmp_path / "whole")
    if stop < 4:
        with pytest.raises(KeyboardInterrupt):
            both(tmp_path / "stopped", Stops())
    else:
        both(tmp_path / "stopped")
    with pytest.warns(UserWarning, match="fit 2, which is gone on with, is of a model with other variables"):
        again, resumed = both(tmp_path / "stopped")
    assert again == losses
    assert_same(resumed, weights)
