"""Who is told of every batch, by its hooks and settings; and that who is told of many at once counts as if told of each."""

import keras
import pytest
from boards import state
from listening import BatchListener, Listener

from trainlab.runs import evaluating
from trainlab.runs.listeners import hearing

callbacks = keras.callbacks


def silent(*args, **kwargs):
    return None


def lambdas(*hooks):
    return callbacks.LambdaCallback(**dict.fromkeys(hooks, silent))


def changed(make, **attributes):
    """A callback of a subclass that has these attributes besides."""
    made = make()
    made.__class__ = type("Changed", (type(made),), attributes)
    return made


def board(**settings):
    return callbacks.TensorBoard("logs", write_graph=False, **settings)


def saving(**settings):
    return callbacks.ModelCheckpoint("model.keras", **settings)


UPDATES, TESTS, PREDICTIONS = "updates", "tests", "predictions"
# What hears every batch of what; the rest hears none.
HEARD = {
    "Callback": (callbacks.Callback, set()),
    "Listener": (Listener, set()),
    "BatchListener": (BatchListener, {UPDATES}),
    "ProgbarLogger": (callbacks.ProgbarLogger, set()),
    "ProgbarLogger that prints more": (lambda: changed(callbacks.ProgbarLogger, on_train_batch_end=silent), {UPDATES}),
    "ProgbarLogger that draws otherwise": (
        lambda: changed(callbacks.ProgbarLogger, _update_progbar=silent),
        {UPDATES, TESTS, PREDICTIONS},
    ),
    "History": (callbacks.History, set()),
    "EarlyStopping": (callbacks.EarlyStopping, set()),
    "ReduceLROnPlateau": (callbacks.ReduceLROnPlateau, set()),
    "LearningRateScheduler": (lambda: callbacks.LearningRateScheduler(silent), set()),
    "CSVLogger": (lambda: callbacks.CSVLogger("log.csv"), set()),
    "RemoteMonitor": (callbacks.RemoteMonitor, set()),
    "SwapEMAWeights": (callbacks.SwapEMAWeights, set()),
    "TerminateOnNaN": (callbacks.TerminateOnNaN, {UPDATES}),
    "LambdaCallback": (lambda: lambdas("on_epoch_begin", "on_epoch_end"), set()),
    "LambdaCallback, update begins": (lambda: lambdas("on_train_batch_begin"), {UPDATES}),
    "LambdaCallback, old name": (lambda: lambdas("on_batch_end"), {UPDATES}),
    "LambdaCallback, tests": (lambda: lambdas("on_test_batch_begin"), {TESTS}),
    "LambdaCallback, predictions": (lambda: lambdas("on_predict_batch_end"), {PREDICTIONS}),
    "TensorBoard": (board, set()),
    "TensorBoard, profiled": (lambda: board(profile_batch=(2, 5)), set()),
    "TensorBoard, batch": (lambda: board(update_freq="batch"), {UPDATES}),
    "TensorBoard, 1": (lambda: board(update_freq=1), {UPDATES}),
    "TensorBoard, 3": (lambda: board(update_freq=3), set()),
    "TensorBoard, 2.5": (lambda: board(update_freq=2.5), {UPDATES}),
    "TensorBoard of epochs": (lambda: changed(board, on_epoch_end=silent, mine=1), set()),
    "TensorBoard of updates": (lambda: changed(board, on_train_batch_end=silent), {UPDATES}),
    "TensorBoard of tests": (lambda: changed(board, on_test_batch_end=silent), {TESTS}),
    "TensorBoard with a writer of its own": (lambda: changed(board, _push_writer=silent), {UPDATES, TESTS}),
    "ModelCheckpoint": (saving, set()),
    "ModelCheckpoint, 1": (lambda: saving(save_freq=1), {UPDATES}),
    "ModelCheckpoint, 5": (lambda: saving(save_freq=5), set()),
    "ModelCheckpoint that saves otherwise": (lambda: changed(saving, _save_model=silent), set()),
    "ModelCheckpoint with a rule of its own": (lambda: changed(saving, _should_save_on_batch=silent), {UPDATES}),
    "BackupAndRestore": (lambda: callbacks.BackupAndRestore("backup"), set()),
    "BackupAndRestore, 4": (lambda: callbacks.BackupAndRestore("backup", 4), set()),
    "BackupAndRestore, False": (lambda: callbacks.BackupAndRestore("backup", False), {UPDATES}),
    "CallbackList": (lambda: callbacks.CallbackList([board(), saving()]), set()),
    "CallbackList with a listener": (lambda: callbacks.CallbackList([board(), BatchListener()]), {UPDATES}),
    "CallbackList in another": (
        lambda: callbacks.CallbackList([callbacks.CallbackList([lambdas("on_test_batch_end")])]),
        {TESTS},
    ),
    "CallbackList of one's own": (lambda: changed(callbacks.CallbackList, on_train_batch_end=silent), {UPDATES}),
    "ours, round an evaluation": (lambda: evaluating.EndsEvaluation(bool), set()),
}
ASKED = {
    UPDATES: hearing.hears_every_update,
    TESTS: hearing.hears_every_test_batch,
    PREDICTIONS: hearing.hears_every_predict_batch,
}


@pytest.mark.parametrize("case", HEARD)
def test_who_hears_every_batch_of_what(case):
    make, heard = HEARD[case]
    assert {what for what, asks in ASKED.items() if asks(make())} == heard


def test_what_is_set_on_the_object_counts():
    for name in ("on_train_batch_end", "_push_writer"):
        callback = board()
        setattr(callback, name, silent)
        assert hearing.hears_every_update(callback), name
    callback = board()
    callback.mine = silent
    assert not hearing.hears_every_update(callback)


@pytest.mark.parametrize(
    ("make", "unheard"),
    [
        (callbacks.Callback, hearing.ANY_NUMBER),
        (BatchListener, 0),
        (board, hearing.ANY_NUMBER),
        (lambda: board(update_freq=3), 2),
        (lambda: board(profile_batch=4), 3),
        (lambda: board(profile_batch=(4, 6), update_freq=2), 1),
        (lambda: saving(save_freq=5), 4),
        (lambda: callbacks.BackupAndRestore("backup", 7), 6),
        (lambda: callbacks.CallbackList([saving(save_freq=5), callbacks.CallbackList([board(update_freq=4)])]), 3),
        (lambda: callbacks.CallbackList([]), hearing.ANY_NUMBER),
    ],
    ids=["none", "all", "board", "board 3", "profile", "both", "checkpoint", "backup", "lists", "empty"],
)
def test_how_many_need_not_be_told(make, unheard):
    assert hearing.updates_unheard(make()) == unheard


class Saves:
    """Writes down at which updates a callback saves, in place of saving."""

    def __init__(self, callback):
        self.at, self.now = [], 0
        callback._save_model = lambda **given: self.at.append(self.now)


def orbax(**settings):
    """An `OrbaxCheckpoint` without its library, of which only the counting is looked at."""
    callback = object.__new__(callbacks.OrbaxCheckpoint)
    vars(callback).update(vars(saving(**settings)), _total_batches_seen=0)
    callback._save_checkpoint = lambda **given: callback._save_model()
    return callback


SAVING = {"ModelCheckpoint": saving, "BackupAndRestore": lambda **kw: callbacks.BackupAndRestore("backup", **kw), "Orbax": orbax}
EPOCHS = {"as long": [10, 10, 10], "ever longer": [3, 5, 11, 20], "ever shorter": [20, 7, 1]}


@pytest.mark.parametrize("lengths", EPOCHS.values(), ids=EPOCHS)
@pytest.mark.parametrize("save_freq", ["epoch", 2, 3, 7, 100])
@pytest.mark.parametrize("make", SAVING.values(), ids=SAVING)
def test_told_of_many_at_once_it_saves_at_the_same_updates(make, save_freq, lengths):
    left = []
    for is_told_of_each in (True, False):
        callback = make(save_freq=save_freq)
        saves, num_told = Saves(callback), 0
        callback._current_epoch = 0
        for length in lengths:
            done = 0
            while done < length:
                unheard = 0 if is_told_of_each else hearing.updates_unheard(callback)
                num = min(unheard or 1, length - done)
                done, saves.now, num_told = done + num, saves.now + num, num_told + 1
                hearing.count_unheard_updates(callback, num - 1, done - 2)
                callback.on_train_batch_end(done - 1, {})
            if isinstance(callback, callbacks.BackupAndRestore):
                callback._last_batch_seen = 0  # as its hook of the epoch's end
        left.append((saves.at, {n: v for n, v in state(callback).items() if not n.startswith("_save")}, num_told))
    assert left[0][:2] == left[1][:2] and left[0][2] == sum(lengths)
    assert left[1][2] < left[0][2] or save_freq == 2
    assert save_freq in (2, 3) or left[1][2] <= 2 * (len(left[0][0]) + len(lengths))
    assert save_freq in ("epoch", 100) or left[0][0]
