"""Keras' CSVLogger over a resume: no epoch twice, none missing, nobody else's row lost."""

import csv
import json
import os
import shutil
import warnings

import keras
import pytest
from boards import events
from small import compiled, regression

import trainlab as tl
from trainlab.runs.callback_state import forgotten, get_states, set_states

X, Y = regression()


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def epochs(path):
    return [int(row[0]) for row in rows(path) if row and row[0] != "epoch"]


class Stops(keras.callbacks.Callback):
    """Ends training before an epoch is saved, after it was logged; a second time before the next update."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise RuntimeError("killed")

    get_state, set_state = (lambda self: None), (lambda self, state: None)


def fit(run, log, num, stop=None, separator=",", **kwargs):
    logger = keras.callbacks.CSVLogger(log, separator=separator, append=True)
    callbacks = [logger, Stops(stop)]
    trainer = tl.Trainer(
        compiled(metrics=["mae"]), run=None if run is None else tl.Run(run, save_steps=2, save_seconds=None, keep=9)
    )
    trainer.fit(X, Y, 10, epochs=num, callbacks=callbacks, verbose=0, **kwargs)
    return trainer


def killed(run, log, after=4, of=2, **kwargs):
    """A run whose log has `after` epochs, and whose newest checkpoint `of` (an epoch is two updates)."""
    with pytest.raises(RuntimeError, match="killed"):
        fit(run, log, 6, stop=after, **kwargs)
    for path in (run / "checkpoints").iterdir():
        if path.is_dir() and int(path.name.rpartition("-")[2]) > 2 * of:
            shutil.rmtree(path)


@pytest.fixture
def whole(tmp_path):
    fit(None, tmp_path / "whole.csv", 6)
    return rows(tmp_path / "whole.csv")


@pytest.mark.slow
@pytest.mark.parametrize("after, of", [(4, 2), (3, 3), (5, 1)])
def test_rows_that_are_written_again_are_dropped(tmp_path, whole, after, of):
    log = tmp_path / "log.csv"
    killed(tmp_path / "run", log, after, of)
    assert len(epochs(log)) == after  # the control: rows of epochs that will be trained again
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer = fit(tmp_path / "run", log, 6)
    assert trainer.resumed_at == 2 * of and rows(log) == whole


CHANGES = {
    "LF": lambda text: text.replace("\r\n", "\n"),
    "a column added": lambda text: text.replace("\r\n", ",mine\r\n"),
    "no last line end": lambda text: text[:-2],
    "a row removed": lambda text: "".join(text.splitlines(keepends=True)[:1] + text.splitlines(keepends=True)[2:]),
    "a note": lambda text: text.replace("\r\n0,", "\r\n# a note\r\n0,"),
    "no header": lambda text: text.partition("\r\n")[2],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_file_that_somebody_changed(tmp_path, change):
    log = tmp_path / "log.csv"
    killed(tmp_path / "run", log)
    log.write_bytes(change(log.read_bytes().decode()).encode())
    first = 1 if change is CHANGES["a row removed"] else 0
    is_told = change is not CHANGES["no last line end"]  # of the last row, which is dropped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path / "run", log, 6)
    assert epochs_of_lines(log) == list(range(first, 6))
    assert any("log.csv: changed since the checkpoint" in str(w.message) for w in caught) == is_told


def epochs_of_lines(log):
    return [int(line.partition(",")[0]) for line in log.read_text().splitlines() if line[:1].isdigit()]


@pytest.mark.slow
def test_rows_of_an_earlier_training_stay(tmp_path):
    log = tmp_path / "log.csv"
    fit(None, log, 9)
    killed(tmp_path / "run", log)
    fit(tmp_path / "run", log, 6)
    assert epochs(log) == [*range(9), *range(6)]


@pytest.mark.slow
def test_two_loggers_in_another_order(tmp_path, whole):
    def train(order, stop):
        loggers = [keras.callbacks.CSVLogger(tmp_path / name, append=True) for name in order]
        trainer = tl.Trainer(compiled(metrics=["mae"]), run=tl.Run(tmp_path / "run", save_steps=2, save_seconds=None, keep=9))
        trainer.fit(X, Y, 10, epochs=6, callbacks=[*loggers, *([Stops(stop)] if stop else [])], verbose=0)

    fit(None, tmp_path / "b.csv", 9)
    with pytest.raises(RuntimeError):
        train(["a.csv", "b.csv"], stop=4)
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").glob("0*")))
    train(["b.csv", "a.csv"], stop=None)
    assert rows(tmp_path / "a.csv") == whole and epochs(tmp_path / "b.csv") == [*range(9), *range(6)]


def test_another_separator(tmp_path):
    log = tmp_path / "log.tsv"
    killed(tmp_path / "run", log, separator=";")
    fit(tmp_path / "run", log, 6, separator=";")
    assert [line.split(";")[0] for line in log.read_text().split()] == ["epoch", *"012345"]


@pytest.mark.slow
def test_a_finished_run_is_left_alone_until_it_goes_on(tmp_path):
    log = tmp_path / "log.csv"
    fit(tmp_path / "run", log, 3)
    with open(log, "a") as file:
        file.write("7,mine\r\n")
    before = log.read_bytes()
    fit(tmp_path / "run", log, 3)  # is shown, and nothing is written
    assert log.read_bytes() == before
    fit(tmp_path / "run", log, 5)
    assert epochs(log) == [0, 1, 2, 3, 4]


def test_a_log_that_is_gone_is_begun_anew(tmp_path):
    log = tmp_path / "log.csv"
    killed(tmp_path / "run", log)
    log.unlink()
    fit(tmp_path / "run", log, 6)
    assert rows(log)[0][0] == "epoch" and epochs(log) == [1, 2, 3, 4, 5]  # update 4 is saved before epoch 1 is logged


def test_one_that_does_not_append_is_told_of_with_what_helps(tmp_path):
    log = tmp_path / "log.csv"
    with pytest.warns(
        UserWarning, match=r"CSVLogger\('.*log.csv'\) begins its file anew at every resume.*: give it append=True$"
    ):
        assert forgotten([keras.callbacks.CSVLogger(str(log))]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert forgotten([keras.callbacks.CSVLogger(str(log), append=True)]) == []
    trainer = tl.Trainer(compiled(), run=tmp_path / "run")
    with pytest.warns(UserWarning) as caught:
        trainer.fit(X, Y, callbacks=[keras.callbacks.CSVLogger(str(log))], verbose=0)
    assert not any("get_state" in str(warning.message) for warning in caught)


def test_states_of_a_logger_that_does_not_append_are_none(tmp_path):
    logger = keras.callbacks.CSVLogger(str(tmp_path / "a.csv"))
    assert get_states([logger]) == {}
    appending = keras.callbacks.CSVLogger(str(tmp_path / "a.csv"), append=True)
    set_states([appending], get_states([appending]))  # nothing was written, nothing is lost
    assert not (tmp_path / "a.csv").exists()


class Wanders(keras.callbacks.Callback):
    """Changes the working directory, and ends training at the beginning of an epoch."""

    def __init__(self, to, dies_at, when="on_epoch_begin"):
        super().__init__()
        self.to, self.dies_at = to, dies_at
        if when == "on_train_begin":
            self.on_train_begin = lambda logs=None: os.chdir(to)

    def on_epoch_begin(self, epoch, logs=None):
        os.chdir(self.to)
        if epoch == self.dies_at:
            raise RuntimeError("killed")

    get_state, set_state = (lambda self: None), (lambda self, state: None)


@pytest.mark.slow
@pytest.mark.parametrize("save_steps", [2, 3, 4])  # at the end of an epoch, or within
def test_files_of_relative_names_stay_where_they_were_opened(tmp_path, monkeypatch, whole, save_steps):
    """Looked up elsewhere, the log seemed not to be there at a checkpoint: a resume took all its rows for later ones."""
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    here.mkdir()
    elsewhere.mkdir()
    (elsewhere / "log.csv").write_text("epoch,mine\r\n7,1\r\n8,2\r\n")
    theirs = (elsewhere / "log.csv").read_bytes()
    (here / "log.csv").write_bytes(b"epoch,loss\r\n0,0.5\r\n")  # of an earlier training

    def train(dies_at):
        monkeypatch.chdir(here)
        board = keras.callbacks.TensorBoard("logs", write_graph=False)
        loggers = [keras.callbacks.CSVLogger("log.csv", append=True), tl.callbacks.JsonLines("log.jsonl"), board]
        trainer = tl.Trainer(compiled(metrics=["mae"]), run=tl.Run("run", save_steps=save_steps, save_seconds=None))
        callbacks = [*loggers, Wanders(elsewhere, dies_at)]
        trainer.fit(X, Y, 10, epochs=6, validation_data=(X, Y), callbacks=callbacks, verbose=0)

    with pytest.raises(RuntimeError, match="killed"):
        train(dies_at=4)
    assert epochs(here / "log.csv") == [0, 0, 1, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        train(dies_at=None)
    assert epochs(here / "log.csv") == [0, 0, 1, 2, 3, 4, 5]
    assert [json.loads(line)["epoch"] for line in open(here / "log.jsonl", encoding="utf-8")] == [1, 2, 3, 4, 5, 6]
    found = events(here / "logs")
    for folder in ("train", "validation"):
        assert [step for tag, step, _ in found[folder] if tag == "epoch_loss"] == [0, 1, 2, 3, 4, 5]
    assert not list(here.rglob("superseded.*"))
    assert [path.name for path in elsewhere.iterdir()] == ["log.csv"] and (elsewhere / "log.csv").read_bytes() == theirs


def test_a_log_is_where_the_process_was_when_it_was_opened(tmp_path, monkeypatch):
    """Not where it was when the run was: a callback before it has changed the directory."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def train(dies_at):
        monkeypatch.chdir(tmp_path)
        callbacks = [Wanders(elsewhere, dies_at, "on_train_begin"), keras.callbacks.CSVLogger("log.csv", append=True)]
        trainer = tl.Trainer(compiled(metrics=["mae"]), run=tl.Run("run", save_steps=2, save_seconds=None))
        trainer.fit(X, Y, 10, epochs=6, callbacks=callbacks, verbose=0)

    with pytest.raises(RuntimeError, match="killed"):
        train(dies_at=4)
    train(dies_at=None)
    assert epochs(elsewhere / "log.csv") == [0, 1, 2, 3, 4, 5] and not (tmp_path / "log.csv").exists()


def test_a_file_of_two_runs_loses_nothing(tmp_path):
    """Its rows do not say whose they are: those of the other run went with the own ones that are made again."""
    log = tmp_path / "all.csv"
    with pytest.raises(RuntimeError):
        fit(tmp_path / "a", log, 5, stop=3)
    shutil.rmtree(sorted((tmp_path / "a" / "checkpoints").iterdir())[-1])  # the last row is newer than what is left
    fit(tmp_path / "b", log, 4)
    before = log.read_bytes()
    with pytest.warns(UserWarning, match="some begin anew, as another run's do; all dropped, .* kept as all"):
        fit(tmp_path / "a", log, 5)
    assert (tmp_path / "all.csv.1").read_bytes() == before and epochs(log) == [0, 1, 2, 3, 4]


def test_a_file_of_one_run_is_not_kept_twice(tmp_path):
    log = tmp_path / "own.csv"
    with pytest.raises(RuntimeError):
        fit(tmp_path / "a", log, 5, stop=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(tmp_path / "a", log, 5)
    assert epochs(log) == [0, 1, 2, 3, 4] and sorted(path.name for path in tmp_path.iterdir()) == ["a", "own.csv"]
