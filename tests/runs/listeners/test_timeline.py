"""What a run writes for reports: when it began, each epoch, and why it ended."""

import json
import os
import signal
import warnings

import keras
import pytest
from small import compiled, dense_model, regression, weights

import trainlab as tl
from trainlab.reports import TIMELINE


def fitted(directory, epochs=2, optimizer=None, callbacks=(), batch_size=5, seed=1, loss="mse", strategy=None, **how):
    model = compiled(dense_model(seed=seed), optimizer, loss)
    trainer = tl.Trainer(model, strategy, run=directory)
    x, y = regression()
    trainer.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks), **how)
    return trainer


def lines(directory):
    return [json.loads(line) for line in (directory / TIMELINE).read_text().splitlines()]


def told(records):
    return [(r["event"], r["fit"], r["update"]) for r in records]


class Ending(keras.callbacks.Callback):
    """Ends training at the end of an epoch."""

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def __init__(self, how, epoch=1):
        super().__init__()
        self._how, self._epoch = how, epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            self._how(self)


def test_a_run_says_when_it_began_each_epoch_and_how_it_ended(tmp_path):
    trainer = fitted(tmp_path / "a", strategy=tl.Accumulate(2, tl.Heun()))
    begin, first, second, end = lines(tmp_path / "a")
    assert told([begin, first, second, end]) == [("begin", 0, 0), ("epoch", 0, 2), ("epoch", 0, 4), ("end", 0, 4)]
    assert (begin["epoch"], begin["resumed"], begin["evaluations"], begin["batches"], begin["examples"]) == (0, False, 2, 2, 10)
    assert begin["strategy"] == repr(trainer.strategy) and begin["parameters"] == 4 and begin["optimizer"] == "SGD"
    assert set(begin["versions"]) >= {"trainlab", "tensorflow", "keras", "python"} and begin["host"] and begin["device"]
    assert begin["settings"]["batches.batch_size"] == 5 and begin["settings"]["seed"] == 0
    history = trainer.model.history.history
    assert [epoch["logs"]["loss"] for epoch in (first, second)] == history["loss"]  # to the bit
    assert [epoch["epoch"] for epoch in (first, second)] == [0, 1]
    assert 0 < first["seconds"] <= second["seconds"] <= end["seconds"] and end["why"] == "finished"


def test_without_a_run_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted(None)
    assert list(tmp_path.iterdir()) == []


def test_a_longer_run_and_a_further_fit_are_added(tmp_path):
    fitted(tmp_path, epochs=1)
    trainer = fitted(tmp_path, epochs=2)
    x, y = regression()
    trainer.fit(x, y, batch_size=5, epochs=1, verbose=0)
    events = told(lines(tmp_path))
    assert events[:3] == [("begin", 0, 0), ("epoch", 0, 4), ("end", 0, 4)]
    assert events[3:6] == [("begin", 0, 4), ("epoch", 0, 8), ("end", 0, 8)]
    assert events[6:] == [("begin", 1, 0), ("epoch", 1, 4), ("end", 1, 4)]
    assert [r["resumed"] for r in lines(tmp_path) if r["event"] == "begin"] == [False, True, False]
    fitted(tmp_path, epochs=2)  # is found finished: nothing happens
    assert told(lines(tmp_path)) == events


def test_begun_anew_it_holds_the_new_run_alone(tmp_path):
    fitted(tmp_path)
    fitted(tmp_path, epochs=1, batch_size=10, resume="never", overwrite=True)
    assert told(lines(tmp_path)) == [("begin", 0, 0), ("epoch", 0, 2), ("end", 0, 2)]


def stop(callback):
    callback.model.stop_training = True


def interrupt(callback):
    raise KeyboardInterrupt


def fail(callback):
    raise RuntimeError("mine")


def terminate(callback):
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("how", "raised", "why", "epochs"),
    [
        (stop, None, "stopped by a callback", 2),
        (interrupt, KeyboardInterrupt, "KeyboardInterrupt", 1),
        (fail, RuntimeError, "RuntimeError", 1),
        (terminate, SystemExit, "signal SIGTERM", 2),
    ],
)
def test_why_it_ended(tmp_path, how, raised, why, epochs):
    if raised is None:
        fitted(tmp_path, 5, callbacks=[Ending(how)])
    else:
        with pytest.raises(raised), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted(tmp_path, 5, callbacks=[Ending(how)])
    found = lines(tmp_path)
    assert [r["event"] for r in found] == ["begin", *["epoch"] * epochs, "end"] and found[-1]["why"] == why


def test_an_update_that_is_not_finite_is_why(tmp_path):
    with pytest.raises(tl.NonFiniteError):
        fitted(tmp_path, optimizer=keras.optimizers.SGD(1e30), epochs=9)
    assert lines(tmp_path)[-1]["why"] == "NonFiniteError"


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda: keras.optimizers.SGD(0.25), [0.25, 0.25]),
        (lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.5, 4, 0.5)), [0.25, 0.125]),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.125)), [0.125, 0.125]),
    ],
)
def test_the_learning_rate_is_that_of_the_epochs_end(tmp_path, optimizer, expected):
    fitted(tmp_path, optimizer=optimizer())
    assert [r["learning_rate"] for r in lines(tmp_path) if r["event"] == "epoch"] == pytest.approx(expected)


def test_a_learning_rate_that_a_callback_lowers_is_that_of_the_next_epoch(tmp_path):
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1, min_delta=1e9)
    fitted(tmp_path, epochs=4, callbacks=[plateau])
    rates = [r for r in lines(tmp_path) if r["event"] == "epoch"]
    assert [r["learning_rate"] for r in rates] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert [r["learning_rate"] for r in rates] == pytest.approx([r["logs"]["learning_rate"] for r in rates])


def test_what_json_cannot_hold_is_null_or_text(tmp_path):
    class Adds(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs |= {"gap": float("nan"), "far": float("inf"), "object": object, "pair": [1, 2.5]}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted(tmp_path, epochs=1, callbacks=[Adds()])
    logs = lines(tmp_path)[1]["logs"]
    assert (logs["gap"], logs["far"], logs["pair"]) == (None, None, [1, 2.5]) and logs["object"] == str(object)


def test_a_torn_line_is_left_behind(tmp_path):
    fitted(tmp_path, epochs=1)
    path = tmp_path / TIMELINE
    path.write_bytes(path.read_bytes()[:-10])  # a crash in the middle of the last line
    fitted(tmp_path, epochs=2)
    *_, torn, begin, epoch, end = path.read_text().splitlines()
    assert [json.loads(line)["event"] for line in (begin, epoch, end)] == ["begin", "epoch", "end"]
    with pytest.raises(ValueError):
        json.loads(torn)


def foreign(path):
    path.write_text("my own notes\n")


def linked(path):
    path.symlink_to(path.with_name("elsewhere"))


def folder(path):
    path.mkdir()


@pytest.mark.parametrize("make", [foreign, linked, folder])
def test_what_no_run_has_written_is_left_alone_and_training_goes_on(tmp_path, make):
    make(tmp_path / TIMELINE)
    with pytest.warns(UserWarning, match=rf"{TIMELINE}: was not written by a run.*move it away") as caught:
        trainer = fitted(tmp_path)
    assert sum(TIMELINE in str(warning.message) for warning in caught) == 1  # once
    assert trainer.iterations == 8 and trainer.last_checkpoint is not None
    assert not (tmp_path / "elsewhere").exists()
    assert make is not foreign or (tmp_path / TIMELINE).read_text() == "my own notes\n"


def test_a_disk_that_takes_nothing_is_a_warning_once(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: 3 if b'"event"' in data else write(fd, data))
    with pytest.warns(UserWarning, match=rf"{TIMELINE}: cannot be written \(No space left on device\)") as caught:
        trainer = fitted(tmp_path)
    assert sum(TIMELINE in str(warning.message) for warning in caught) == 1 and trainer.iterations == 8


def test_it_changes_no_bit(tmp_path, monkeypatch):
    kept = weights(fitted(tmp_path / "a").model)
    without = weights(fitted(None).model)
    assert all((a == b).all() for a, b in zip(kept, without, strict=True))
