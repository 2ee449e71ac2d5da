"""A `fit` that fails before it trains has touched nothing: no run, no place in the data, no generator."""

import pathlib

import keras
import numpy as np
import pytest
from small import assert_same, compiled, dense_model, everything, regression

import trainlab as tl

X, Y = regression()


class CannotShape(tl.StepStrategy):
    """Fails where it shapes its memory."""

    def init(self, parameters):
        raise RuntimeError("no memory")

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=here)


class SetsInInit(tl.StepStrategy):
    """Keeps something under a public name when it shapes its memory."""

    def init(self, parameters):
        self.num_leaves = len(parameters.leaves)
        return {}

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=here)


class StopsOnce(keras.callbacks.Callback):
    has_stopped = False

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and not self.has_stopped:
            self.has_stopped = True
            raise KeyboardInterrupt

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def test_a_strategy_that_fails_costs_no_run(tmp_path):
    tl.Trainer(compiled(), run=tmp_path / "a").fit(X, Y, 4, verbose=0)
    before = sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file())
    for directory in ("a", "b"):
        trainer = tl.Trainer(compiled(), CannotShape(), run=tmp_path / directory)
        with pytest.raises(RuntimeError, match="no memory"):
            trainer.fit(X, Y, 4, verbose=0, resume="never", overwrite=True)
    assert sorted(path for path in (tmp_path / "a").rglob("*") if path.is_file()) == before
    assert not (tmp_path / "b").exists()


def test_what_a_strategy_sets_when_it_shapes_its_memory_is_no_change(tmp_path):
    def trainer(directory):
        return tl.Trainer(compiled(), SetsInInit(), run=tl.Run(directory, save_steps=2))

    whole, stopped, callback = trainer(tmp_path / "a"), trainer(tmp_path / "b"), StopsOnce()
    whole.fit(X, Y, 4, epochs=4, verbose=0)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X, Y, 4, epochs=4, verbose=0, callbacks=[callback])
    stopped.fit(X, Y, 4, epochs=4, verbose=0, callbacks=[callback])
    assert stopped.resumed_at
    assert_same(everything(stopped.model), everything(whole.model))


def test_a_fit_that_is_refused_leaves_the_place_in_the_data(tmp_path):
    def trained(disturb):
        trainer = tl.Trainer(compiled(), run=tmp_path / str(disturb))
        trainer.fit(X, Y, 4, steps=7, verbose=0)
        if disturb:
            backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
            with pytest.raises(ValueError, match="BackupAndRestore"):
                trainer.fit(X.copy(), Y, 4, verbose=0, callbacks=[backup])
        trainer.fit(X, Y, 4, steps=3, verbose=0)
        return everything(trainer.model)

    assert_same(trained(disturb=True), trained(disturb=False))


def test_a_model_that_cannot_be_built_takes_nothing_from_a_generator():
    class Fails(keras.Model):
        def call(self, x):
            raise ValueError("not today")

    batches = iter([(X[:4], Y[:4])] * 3)
    with pytest.raises(ValueError, match="not today"):
        tl.Trainer(Fails(), loss="mse", optimizer="sgd").fit(X, Y, verbose=0, validation_data=batches)
    assert len(list(batches)) == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"run_dir": "a"}, r"run_dir: .* write run=tl.Run\('a'\)$"),
        ({"run_dir": "a", "keep": 5, "save_steps": 2}, r"run_dir, save_steps, keep: .*=tl.Run\('a', save_steps=2, keep=5\)$"),
        ({"run_dir": None}, "run_dir: .*: without a run leave them out$"),
        ({"save_seconds": None}, "save_seconds: .*: without a run leave them out$"),
        ({"optimiser": "sgd"}, "Trainer has no argument 'optimiser'; did you mean optimizer?"),
        ({"xyz": 1}, "Trainer has no argument 'xyz'; it has model, strategy, optimizer"),
    ],
)
def test_arguments_that_there_are_none_of(arguments, line):
    model = dense_model()
    with pytest.raises(TypeError, match=line.replace("?", r"\?")):
        tl.Trainer(model, loss="mse", **arguments)
    assert not model.compiled
    assert np.isfinite(model.get_weights()[0]).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"save_seconds": -1}, "save_seconds must be a number of seconds of at least 0, or None, not -1"),
        ({"save_seconds": True}, "save_seconds must be a number of seconds"),
        ({"save_steps": 0}, "save_steps must be at least 1, not 0"),
        ({"keep": 1.5}, "keep must be a whole number"),
        ({"keep_best": 3}, "keep_best must be a name in the logs"),
        ({"directory": 7}, "directory must be a path, not 7"),
        (
            {"directory": "gs://bucket/a"},
            "one of a file system, not 'gs://bucket/a': .*, which gs:// does not have; mount",
        ),
        ({"directory": pathlib.Path("hdfs://a/b")}, "must be one of a file system, not 'hdfs:/a/b': "),
    ],
)
def test_a_run_says_what_is_wrong_with_it(arguments, line):
    with pytest.raises((TypeError, ValueError), match=line):
        tl.Run(**{"directory": "runs/a", **arguments})


@pytest.mark.slow
def test_a_run_is_a_directory_or_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in ("a", tmp_path / "b", tl.Run("c"), tl.Run(tmp_path / "d")):
        trainer = tl.Trainer(compiled(), run=run)
        trainer.fit(X, Y, verbose=0)
        assert trainer.last_checkpoint is not None
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c", "d"}
    with pytest.raises(TypeError, match='run must be a directory, such as "runs/a", or a tl.Run, not 5'):
        tl.Trainer(compiled(), run=5)
