"""Keras' own callbacks leave the same files, and are left in the same state, as by Keras' `fit`; few make a call of an update."""

import keras
import pytest
import tensorflow as tf
from boards import assert_alike, events, files, state
from listening import BatchListener, Listener
from small import regression

import trainlab as tl
from trainlab.loop import loop as loop_module
from trainlab.loop.programs import pace

callbacks = keras.callbacks
NUM_UPDATES, EPOCHS = 10, 2  # of an epoch


class OnlyEpochs(callbacks.TensorBoard):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, {**logs, "twice": 2 * epoch})


class HearsBatches(callbacks.TensorBoard):
    heard = 0

    def on_train_batch_end(self, batch, logs=None):
        self.heard += 1
        super().on_train_batch_end(batch, logs)


def board(**settings):
    return lambda: callbacks.TensorBoard("logs", **settings)


# What makes the callbacks, and how many calls they make of the updates: as many as without them, some more, or one each.
QUIET, SOME, EVERY = "quiet", "some", "every"
CASES = {
    "TensorBoard": (board(), QUIET),
    "TensorBoard, every batch": (board(update_freq="batch"), EVERY),
    "TensorBoard, every 3rd batch": (board(update_freq=3), SOME),
    "TensorBoard, every 7th batch, timed": (board(update_freq=7, write_steps_per_second=True), SOME),
    "TensorBoard, one profiled": (board(profile_batch=2), QUIET),
    "TensorBoard, a range profiled": (board(profile_batch=(13, 14)), SOME),
    "TensorBoard, timed": (board(write_steps_per_second=True), QUIET),
    "TensorBoard, histograms": (board(histogram_freq=1), QUIET),
    "TensorBoard of one's own epochs": (lambda: OnlyEpochs("logs"), QUIET),
    "TensorBoard of one's own batches": (lambda: HearsBatches("logs"), EVERY),
    "ModelCheckpoint": (lambda: callbacks.ModelCheckpoint("{epoch}-{val_loss:.4f}.keras"), QUIET),
    "ModelCheckpoint, every 4 batches": (lambda: callbacks.ModelCheckpoint("{epoch}-{batch}.keras", save_freq=4), SOME),
    "ModelCheckpoint, every 25 batches": (lambda: callbacks.ModelCheckpoint("{epoch}-{batch}.keras", save_freq=25), QUIET),
    "ModelCheckpoint, best": (lambda: callbacks.ModelCheckpoint("{epoch}.keras", "val_mae", save_best_only=True), QUIET),
    "ModelCheckpoint, best batches": (
        lambda: callbacks.ModelCheckpoint("{epoch}-{batch}.weights.h5", "loss", 0, True, True, save_freq=8),
        SOME,
    ),
    "BackupAndRestore": (lambda: callbacks.BackupAndRestore("backup", delete_checkpoint=False), QUIET),
    "BackupAndRestore, every 4 batches": (
        lambda: callbacks.BackupAndRestore("backup", save_freq=4, delete_checkpoint=False),
        SOME,
    ),
    "LambdaCallback": (lambda: callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), QUIET),
    "LambdaCallback of batches": (lambda: callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: None), EVERY),
    "EarlyStopping": (lambda: callbacks.EarlyStopping("loss", patience=1, min_delta=1e3), QUIET),
    "ReduceLROnPlateau": (lambda: callbacks.ReduceLROnPlateau("loss", patience=0, min_delta=1e3), QUIET),
    "LearningRateScheduler": (lambda: callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)), QUIET),
    "CSVLogger": (lambda: callbacks.CSVLogger("log.csv"), QUIET),
    "TerminateOnNaN": (callbacks.TerminateOnNaN, EVERY),
    "SwapEMAWeights, epochs": (lambda: callbacks.SwapEMAWeights(swap_on_epoch=True), QUIET),
    "SwapEMAWeights, evaluations": (callbacks.SwapEMAWeights, QUIET),
    "a listener": (Listener, QUIET),
    "a listener to batches": (BatchListener, EVERY),
    "a list": (lambda: callbacks.CallbackList([callbacks.ModelCheckpoint("{epoch}.keras"), Listener()]), QUIET),
    "a list with a listener": (lambda: callbacks.CallbackList([BatchListener()]), EVERY),
}
QUICK = ("TensorBoard, every 7th batch, timed", "LambdaCallback of batches", "EarlyStopping", "a list")


def model(steps_per_execution=1):
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input([3]), keras.layers.Dense(1, name="out")], name="model")
    made.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse", metrics=["mae"], steps_per_execution=steps_per_execution)
    return made


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """How many calls a `fit` without callbacks makes."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        counted = counting_calls(monkeypatch)
        fitted(tl.Trainer(model()).fit, [], tmp_path_factory.mktemp("without") / "calls", monkeypatch)
    assert sum(counted) == NUM_UPDATES * EPOCHS
    return len(counted)


@pytest.fixture
def calls(monkeypatch):
    return counting_calls(monkeypatch)


def counting_calls(monkeypatch):
    """How many updates each call has made, from now on; calls double in size whatever the clock says."""
    counted = []
    run = loop_module.Loop.run

    def counting(self, *args, **kwargs):
        num_updates = run(self, *args, **kwargs)
        counted.append(num_updates)
        return num_updates

    monkeypatch.setattr(pace, "TARGET_SECONDS", 1e9)
    monkeypatch.setattr(loop_module.Loop, "run", counting)
    return counted


def fitted(fit, made, directory, monkeypatch):
    directory.mkdir()
    monkeypatch.chdir(directory)  # so that what callbacks hold names the same files
    given = dict.fromkeys(["shuffle", "verbose"], False) | {"batch_size": 4, "epochs": EPOCHS, "callbacks": made}
    (x, y), validation = regression(4 * NUM_UPDATES), regression(8, seed=2)
    return fit(x, y, validation_data=validation, **given).history


@pytest.fixture
def both(tmp_path, monkeypatch, calls):
    """What Keras leaves of a callback, and what we do: `(history, files, events, state)` each; and the numbers of updates."""

    def run(make, steps_per_execution=1):
        left = []
        for name in ("keras", "ours"):
            made, callback = model(steps_per_execution), make()
            fit = made.fit if name == "keras" else tl.Trainer(made).fit
            history = fitted(fit, [callback], tmp_path / name, monkeypatch)
            left.append([history, files(tmp_path / name), events(tmp_path / name), state(callback)])
        return *left, list(calls)

    return run


@pytest.mark.parametrize("case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES])
def test_files_and_state_are_those_of_keras(case, both, without):
    make, kind = CASES[case]
    theirs, ours, made = both(make)
    assert_alike(ours, theirs)
    num = NUM_UPDATES * EPOCHS
    assert sum(made) == num and without < num / 2
    if kind == QUIET:
        assert len(made) <= without + 2 * ("profiled" in case)
    elif kind == EVERY:
        assert made == [1] * num
    else:
        assert without < len(made) < num


@pytest.mark.slow
def test_a_counter_that_is_wrong_would_be_seen(both, monkeypatch):
    monkeypatch.setattr("trainlab.runs.epochs.count_unheard_updates", lambda *args: None)
    theirs, ours, _ = both(board(update_freq=3))
    with pytest.raises(AssertionError):
        assert_alike(ours[2], theirs[2])
    with pytest.raises(AssertionError):
        assert_alike(ours[3], theirs[3])


@pytest.mark.slow
@pytest.mark.parametrize("case", ["TensorBoard", "TensorBoard, every 3rd batch", "ModelCheckpoint, every 4 batches"])
@pytest.mark.parametrize("steps_per_execution", [3, 5])
def test_several_updates_a_call_are_one_batch(case, steps_per_execution, both):
    theirs, ours, made = both(CASES[case][0], steps_per_execution=steps_per_execution)
    assert_alike(ours[1:], theirs[1:])
    assert max(made) == steps_per_execution


@pytest.mark.slow
def test_a_writer_that_somebody_else_has_opened_hears_every_batch(tmp_path, monkeypatch, calls):
    found = []
    for name, fit in (("keras", model().fit), ("ours", tl.Trainer(model()).fit)):
        with tf.summary.create_file_writer(str(tmp_path / f"{name} own")).as_default():
            fitted(fit, [callbacks.TensorBoard("logs")], tmp_path / name, monkeypatch)
        found.append(events(tmp_path / f"{name} own"))
    assert_alike(found[1], found[0])
    assert len(calls) == len([event for event in found[0]["."] if event[0] == "batch_loss"]) == NUM_UPDATES * EPOCHS
