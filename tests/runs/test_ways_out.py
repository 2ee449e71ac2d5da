"""However training ends, what was committed is saved, and the same call goes on from there; what ended otherwise says so."""

import datetime
import hashlib
import json
import sys
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from resuming import small
from small import assert_same, everything, regression

import trainlab as tl
from trainlab.runs.disk.checkpoint import Checkpoints, read

X, Y = regression(24)


class Ends(keras.callbacks.Callback):
    """Raises, once, at the n-th call of a hook."""

    def __init__(self, hook=None, number=0, error=None):
        super().__init__()
        self.number, self.error = number, RuntimeError("mine") if error is None else error
        if hook is not None:
            setattr(self, hook, self.end)

    def end(self, *args, **kwargs):
        self.number -= 1
        if self.number == 0 and self.error is not None:
            error, self.error = self.error, None
            raise error

    def get_state(self):
        return None

    def set_state(self, state):
        pass


class Counts(keras.callbacks.Callback):
    """Counts epochs, by a list that it changes in place."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)

    def get_state(self):
        return {"epochs": self.epochs}

    def set_state(self, state):
        self.epochs = list(state["epochs"])


def fit(trainer, callbacks=(), epochs=4, data=None, **kwargs):
    x, y = (X, Y) if data is None else (data, None)
    size = {"batch_size": 4} if data is None else {}
    return trainer.fit(x, y, epochs=epochs, verbose=0, callbacks=[*callbacks], **size, **kwargs)


def seal(checkpoint):
    """Writes the sums of a checkpoint anew, as somebody does who knows how."""
    files = sorted(file for file in checkpoint.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (checkpoint / "SHA256SUMS").write_text("".join(lines))


HOOKS = {
    "on_epoch_begin": (3, 12),
    "on_train_batch_end": (8, 8),
    "on_train_batch_begin": (8, 7),
    "on_epoch_end": (2, 12),
    "on_test_end": (2, 12),
    "on_train_end": (1, 24),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [RuntimeError("mine"), SystemExit(3), KeyboardInterrupt(), MemoryError(), ValueError("x")], ids=repr
)
@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_in_a_callback_costs_nothing(hook, error, tmp_path):
    number, updates = HOOKS[hook]
    if hook != "on_epoch_end" and not isinstance(error, (RuntimeError, SystemExit)):
        pytest.skip("one hook is enough for these")
    whole, counted = small(None), Counts()
    history = fit(whole, [counted], validation_data=(X, Y))
    stopped, counts = small(tmp_path, save_seconds=None), [Counts(), Counts()]
    ends = Ends(hook, number, error)
    with pytest.raises(type(error)):
        fit(stopped, [counts[0], ends, counts[1]], validation_data=(X, Y))
    [newest, *_] = Checkpoints(tmp_path / "checkpoints").paths()
    assert newest.name.endswith(f"-step-{updates}")
    again, fresh = small(tmp_path, save_seconds=None), [Counts(), Counts()]
    result = fit(again, [fresh[0], Ends(), fresh[1]], validation_data=(X, Y))
    assert again.resumed_at == updates
    assert_same(everything(again.model), everything(whole.model))
    assert [counter.epochs for counter in fresh] == [counted.epochs] * 2
    assert result.history == history.history and result.epoch == history.epoch


def test_an_error_before_the_first_update_leaves_no_checkpoint(tmp_path):
    for hook in ("on_train_begin", "on_epoch_begin"):
        with pytest.raises(RuntimeError, match="mine"):
            fit(small(tmp_path), [Ends(hook, 1)])
        assert Checkpoints(tmp_path / "checkpoints").paths() == []


def test_an_error_before_anything_is_restored_leaves_the_checkpoints_alone(tmp_path):
    fit(small(tmp_path, save_steps=5), epochs=2)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    with pytest.raises(RuntimeError, match="mine"):
        fit(small(tmp_path, save_steps=5), [Ends("on_train_begin", 1)])
    assert {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()} == before


def broken(num_good, error):
    """Batches of 4, of which one cannot be read: `num_good` come before it in all."""
    state = {"left": num_good}

    def look(i):
        state["left"] -= 1
        if state["left"] < 0:
            raise error
        return np.int64(i)

    def batch(i):
        i = tf.numpy_function(look, [i], tf.int64)
        i.set_shape([])
        return tf.gather(X, tf.range(4 * i, 4 * i + 4)), tf.gather(Y, tf.range(4 * i, 4 * i + 4))

    return tf.data.Dataset.range(6).map(batch)


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("a bad file"), OSError("gone")], ids=repr)
def test_an_error_in_the_data_costs_nothing(error, tmp_path):
    whole = small(None)
    fit(whole, data=broken(10**6, error))
    with pytest.raises(tf.errors.OpError), pytest.warns(UserWarning):
        fit(small(tmp_path, save_seconds=None), data=broken(15, error))
    again = small(tmp_path, save_seconds=None)
    fit(again, data=broken(10**6, error))
    assert again.resumed_at and again.resumed_at >= 12  # what was read ahead and not trained on is read again
    assert_same(everything(again.model), everything(whole.model))


@pytest.mark.slow
def test_each_end_says_how_to_go_on(tmp_path, capsys):
    def run(directory, callback=None, epochs=6, **how):
        trainer = small(tmp_path / directory)
        try:
            trainer.fit(X, Y, 4, epochs=epochs, verbose=2, callbacks=[callback or Ends()], **how)
        except RuntimeError:
            pass
        return trainer, [line for line in capsys.readouterr().out.splitlines() if line.startswith(("run", "stopped"))]

    _, lines = run("error", Ends("on_epoch_begin", 3))
    assert lines[-1].startswith("stopped by RuntimeError at update 12: saved in")
    assert lines[-1].endswith("00000001-step-12; the same call goes on from there")
    for how in ({"resume": "never", "overwrite": True}, {"resume": "weights"}):  # these would begin anew
        _, lines = run("error", Ends("on_epoch_begin", 3), **how)
        assert lines[-1].endswith("; the same call with resume='auto' goes on from there")
        trainer, _ = run("error")
        assert (trainer.resumed_at, trainer.iterations) == (12, 36)

    class Clock(Ends):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    run("clock", Clock())
    trainer, lines = run("clock")
    assert "stopped by a callback at update 12, epoch 2" in lines[0] and "more epochs go on from there" in lines[0]
    assert trainer.resumed_at == 12 and trainer.iterations == 12
    run("finish", epochs=2)
    _, lines = run("finish", epochs=2)
    assert "finished at update 12" in lines[0]


@pytest.mark.slow
def test_a_run_that_a_callback_stopped_can_be_made_longer(tmp_path):
    class Clock(Ends):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    whole = small(None)
    fit(whole, epochs=5)
    fit(small(tmp_path), [Clock()], epochs=3)
    longer = small(tmp_path)
    fit(longer, [Ends()], epochs=5)
    assert longer.resumed_at == 12 and longer.iterations == 30
    assert_same(everything(longer.model), everything(whole.model))
    again = small(tmp_path)
    fit(again, [Ends()], epochs=5)
    assert_same(everything(again.model), everything(whole.model))


def test_early_stopping_is_over_until_more_is_asked_for(tmp_path):
    def run(epochs):
        trainer = small(tmp_path)
        stopping = keras.callbacks.EarlyStopping("loss", min_delta=10.0, patience=1)
        return trainer, fit(trainer, [stopping], epochs=epochs)

    first, history = run(8)
    assert len(history.epoch) == 2
    for _ in range(2):
        same, history = run(8)
        assert len(history.epoch) == 2
        assert_same(everything(same.model), everything(first.model))
    longer, history = run(9)
    assert len(history.epoch) == 3  # one more, and still no better


class Odd:
    def __str__(self):
        return "odd"


def test_whatever_is_in_the_logs_does_not_end_a_run(tmp_path):
    class Adds(Ends):
        def on_epoch_end(self, epoch, logs=None):
            history = self.model.history.history
            for name, value in {
                "time": datetime.datetime(2026, 1, 1 + epoch),
                "took": datetime.timedelta(seconds=epoch),
                "rate": np.float32(0.1),
                "odd": Odd(),
                "set": {1},
                "day": np.datetime64("2026-01-02"),
                "long": np.longdouble(0.5),
            }.items():
                history.setdefault(name, []).append(value)

    with pytest.warns(UserWarning, match="the logs hold a Odd, which a checkpoint keeps as text"):
        fit(small(tmp_path, save_steps=3), [Adds()], epochs=3)
    trainer = small(tmp_path)
    history = fit(trainer, [Adds()], epochs=3).history
    assert history["time"] == [datetime.datetime(2026, 1, 1 + epoch) for epoch in range(3)]
    assert history["took"][2] == datetime.timedelta(seconds=2) and history["odd"] == ["odd"] * 3
    assert type(history["rate"][0]) is np.float32 and history["rate"][0] == np.float32(0.1)


def test_what_a_callback_cannot_keep_is_named_before_training(tmp_path):
    class Keeps(Ends):
        def get_state(self):
            return {"a": Odd()}

    trainer = small(tmp_path)
    with pytest.raises(TypeError, match="Keeps.*holds a value of type Odd"):
        fit(trainer, [Keeps()])
    assert trainer.iterations == 0


def test_scalars_of_numpy_cost_no_tensor_each(tmp_path):
    class Adds(Ends):
        def on_epoch_end(self, epoch, logs=None):
            self.model.history.history.setdefault("x", []).extend([np.float32(epoch)] * 500)

    trainer = small(tmp_path)
    fit(trainer, [Adds()], epochs=3)
    loaded = read(trainer.last_checkpoint)
    assert len(loaded.state["tensors"]) < 30
    assert sys.getsizeof(json.dumps(loaded.state)) < 10**6


MALFORMED = ["[]", "null", '{"tensors": 3, "iterators": []}', "{", '{"tensors": [1], "iterators": []}', "[" * 10**5]
MALFORMED += ['{"tensors": [], "iterators": []}']
MISSING = [{"fit": "x"}, {"progress": None}, {"progress": {"epochs": 1}}, {"callbacks": 3}, {"callbacks": {"kind": "dict"}}]
MISSING += [{"manifests": []}, {"histories": [{"kind": "array", "name": "nowhere"}]}, {"request": None}]


@pytest.mark.parametrize("state", [*MALFORMED, *MISSING], ids=range(len(MALFORMED) + len(MISSING)))
def test_a_malformed_state_is_a_damaged_checkpoint(state, tmp_path):

    fit(small(tmp_path, save_steps=6, keep=1))
    newest = Checkpoints(tmp_path / "checkpoints").paths()[0]
    file = newest / "state.json"
    file.write_text(state if isinstance(state, str) else json.dumps(json.loads(file.read_text()) | state))
    seal(newest)
    trainer = small(tmp_path, save_steps=6, keep=1)
    with pytest.warns(UserWarning, match="is damaged"):
        fit(trainer, epochs=8)  # and the pruning goes on
    assert trainer.iterations == 48
    assert len(Checkpoints(tmp_path / "checkpoints").paths()) <= 3


def test_a_checkpoint_of_a_later_version_is_left_alone(tmp_path):

    fit(small(tmp_path, save_steps=6))
    newest = Checkpoints(tmp_path / "checkpoints").paths()[0]
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**state, "format": 99}))
    seal(newest)
    trainer = small(tmp_path)
    with pytest.raises(ValueError, match=r"was written by a later version of trainlab \(its format is 99.*update trainlab"):
        fit(trainer)
    assert trainer.iterations == 0


def test_one_of_the_first_format_is_read(tmp_path):
    values = {"variables/model.0": np.arange(6.0).reshape(2, 3), "text": np.array([b"a", b"bc"])}
    folder = tmp_path / "00000001-step-5"
    folder.mkdir()
    tf.train.Checkpoint(tensors={name: tf.Variable(value) for name, value in values.items()}).write(str(folder / "tensors"))
    (folder / "state.json").write_text(json.dumps({"tensors": list(values), "iterators": []}))

    seal(folder)
    arrays = read(folder).arrays
    for name, value in values.items():
        np.testing.assert_array_equal(arrays[name], value)


def test_the_run_is_saved_when_an_update_is_not_finite(tmp_path):
    bad = X.copy()
    data = tf.data.Dataset.from_tensor_slices((np.where(np.arange(24)[:, None] >= 20, np.nan, bad).astype("float32"), Y)).batch(4)
    with pytest.raises(tl.NonFiniteError, match="the last checkpoint is .*-step-5"):
        fit(small(tmp_path, save_seconds=None), data=data, epochs=1)


@pytest.mark.slow
def test_the_best_of_an_old_run_has_no_name(tmp_path):
    fit(small(tmp_path, save_steps=6, keep_best="loss"))
    for path in Checkpoints(tmp_path / "checkpoints").paths():
        state = json.loads((path / "state.json").read_text())
        old = {row: value for row, value in state.items() if row not in ("metric_name", "mode", "run")}  # as 0.1 wrote them
        (path / "state.json").write_text(json.dumps(old))
        seal(path)
    trainer = small(tmp_path, save_steps=1, keep_best="loss")
    fit(trainer, epochs=8)
    assert trainer.iterations == 48
    assert json.loads((tmp_path / "best.json").read_text()).keys() >= {"checkpoint", "epoch"}


def test_a_best_that_cannot_be_noted_costs_no_checkpoint(tmp_path):
    trainer = small(tmp_path, save_steps=6, keep_best="loss")
    with mock.patch("trainlab.runs.best.said_of", side_effect=KeyError("progress")):
        with pytest.warns(UserWarning, match="best.json could not be written .*is the best checkpoint"):
            fit(trainer)
    assert Checkpoints(tmp_path / "checkpoints").paths()
