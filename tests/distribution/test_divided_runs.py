"""Runs with several replicas: stopped, gone on with as many or others, bad updates, callbacks."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import elastic
import keras
import numpy as np
import pytest
import tensorflow as tf
from elastic import STRATEGIES, X, Y, fit, told, trainer
from fragile import bad_at, examples, fragile_model, state
from replicating import mirrored
from resuming import Stopping
from small import assert_same, compiled, dense_model, everything, regression, weights

import trainlab as tl

HERE = Path(elastic.__file__).parent
sys.path.insert(0, str(HERE.parent / "scripts"))

from workers import start  # noqa: E402


def relative(a, b):
    a, b = (np.concatenate([w.ravel() for w in each]) for each in (a, b))
    return np.linalg.norm(a - b) / np.linalg.norm(a)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_elastic(name, tmp_path):
    """2 replicas, then 4, then one device, each from the checkpoint before; and an unbroken run on one."""
    strategy = STRATEGIES[name]
    part = go_through(strategy, tmp_path / "run")
    unbroken = trainer(None, None, strategy)
    fit(unbroken, steps=22)
    assert relative(weights(unbroken.model), weights(part.model)) < 1e-6
    other = trainer(None, None, strategy, seed=6)
    fit(other, steps=22)
    assert relative(weights(unbroken.model), weights(other.model)) > 1e-3  # the order of the data counts


def go_through(strategy, directory):
    """The last of the trainers of a run that goes on with other numbers of replicas."""
    for replicas, steps in ((2, 7), (4, 15), (None, 22)):
        part = trainer(directory, replicas, strategy)
        lines = told(part, steps=steps)
        assert len(lines) == (replicas != 2)
        assert all("\n" not in line and "in spite of a difference: replicas: saved" in line for line in lines)
        assert part.iterations == steps
    return part


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_elastic_to_several_processes_and_back(name, tmp_path):
    """The same, then two processes, which both end with the same bits, then one device again."""
    strategy = STRATEGIES[name]
    go_through(strategy, tmp_path / "run")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / "elastic.py"), str(tmp_path), name, "29"]
    processes = start(2, command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(2)]
    arrays = [[each[f"arr_{i}"] for i in range(4)] for each in found]
    assert_same(*arrays)
    assert str(found[0]["resumed_at"]) == "22" and ["replicas: saved 1, now 2" in line for line in found[0]["lines"]] == [True]
    unbroken = trainer(None, None, strategy)
    fit(unbroken, steps=29)
    assert relative(weights(unbroken.model), arrays[0]) < 1e-6
    again = trainer(tmp_path / "run", None, strategy)
    assert ["replicas: saved 2, now 1" in line for line in told(again, steps=33)] == [True]
    unbroken = trainer(None, None, strategy)
    fit(unbroken, steps=33)
    assert again.resumed_at == 29 and relative(weights(unbroken.model), weights(again.model)) < 1e-6


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.slow
def test_a_layout_goes_on_with_the_same_bits(replicas, tmp_path):
    unbroken = trainer(None, replicas, tl.Accumulate(2, tl.Heun()), dropout=0.4)
    fit(unbroken, epochs=4)
    broken = trainer(tmp_path / "run", replicas, tl.Accumulate(2, tl.Heun()), dropout=0.4)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, epochs=4, callbacks=[Stopping(when=5)])
    again = trainer(tmp_path / "run", replicas, tl.Accumulate(2, tl.Heun()), dropout=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(again, epochs=4, callbacks=[Stopping(when=10**9)])
    assert 0 < again.resumed_at < 12
    assert_same(everything(unbroken.model), everything(again.model))


@pytest.mark.slow
def test_a_checkpoint_from_before_is_of_one_replica(tmp_path):
    import json

    fit(trainer(tmp_path / "run", None), steps=3)
    for path in tmp_path.rglob("*.json"):
        record = json.loads(path.read_text())
        if "manifest" in record and isinstance(record["manifest"], dict):
            assert record["manifest"].pop("replicas") == 1
            path.write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="replicas: saved 1, now 2"):
        fit(trainer(tmp_path / "run", 2), steps=5)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize("kind", ["data", "loss", "gradient"])
def test_bad_updates_are_skipped_alike(kind, settings):
    x, y = bad_at(kind, *examples(24), 10)
    states = []
    for replicas in (None, 2):
        part = tl.Trainer(
            fragile_model(), on_nonfinite="skip", distribute=mirrored(replicas), **{"jit_compile": False, **settings}
        )
        with pytest.warns(UserWarning, match=r"update 3 \(number 3 of epoch 1\): .*; skipped") as caught:
            part.fit(x, y, batch_size=4, shuffle=False, check_data=False, verbose=0)
        assert part.iterations == 5 and all(np.isfinite(value).all() for value in state(part) if value.dtype.kind == "f")
        states.append([str(w.message) for w in caught if "skipped" in str(w.message)])
    assert states[0] == states[1]


@pytest.mark.slow
def test_a_bad_update_stops_with_the_same_line_and_leaves_what_was():
    x, y = bad_at("second gradient", *examples(24), 10)
    lines = []
    for replicas in (None, 2, 4):
        part = tl.Trainer(fragile_model(), tl.Heun(), distribute=mirrored(replicas), jit_compile=False)
        with pytest.raises(tl.NonFiniteError) as error:
            part.fit(x, y, batch_size=4, shuffle=False, check_data=False, verbose=0)
        lines.append(str(error.value))
        assert error.value.iteration == part.iterations == 2
    assert lines[0] == lines[1] == lines[2] and "evaluation 2 of 2 gave a non-finite gradient of 'norm/gamma'" in lines[0]


@pytest.mark.slow
def test_a_synchronized_one_is_named_too():
    x, y = regression(12)
    x[6, 0] = np.nan
    model = compiled(dense_model(lambda: keras.layers.BatchNormalization(synchronized=True), lambda: keras.layers.Dense(1)))
    part = tl.Trainer(model, distribute=mirrored(2), jit_compile=False)
    with pytest.raises(tl.NonFiniteError, match="update 2 .*x holds NaN in example 2; evaluation 1 of 1 gave a loss of nan"):
        part.fit(x, y, batch_size=4, shuffle=False, check_data=False, verbose=0)


class Memory(keras.layers.Layer):
    """Holds at most three examples at once."""

    def call(self, x):
        if isinstance(x, keras.KerasTensor):
            return x
        return tf.ensure_shape(tf.py_function(self._pass, [x], x.dtype), x.shape)

    def _pass(self, x):
        if len(x) > 3:
            raise MemoryError("the layer's memory is exhausted")
        return x


@pytest.mark.slow
def test_batches_that_do_not_fit(capfd):
    make = lambda: compiled(keras.Sequential([keras.Input([3]), Memory(), keras.layers.Dense(1)]))  # noqa: E731
    part = tl.Trainer(make(), micro_batch_size="auto", distribute=mirrored(2), jit_compile=False)
    part.fit(X, Y, batch_size=12, verbose=0)
    assert part.micro_batch_size == 6  # of which each replica evaluates three
    with pytest.raises(MemoryError, match="a batch of 12 examples does not fit under SGD") as error:
        tl.Trainer(make(), distribute=mirrored(2), jit_compile=False).fit(X, Y, batch_size=12, verbose=0)
    assert "micro_batch_size=6" in str(error.value)


@pytest.mark.slow
def test_callbacks_evaluation_and_prediction():
    heard = []

    class Hearing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            heard.append((batch, dict(logs)))

        def on_epoch_end(self, epoch, logs=None):
            heard.append((epoch, dict(logs)))
            self.model.optimizer.learning_rate = 0.02 / (epoch + 2)

    found = []
    for replicas in (None, 2):
        heard.clear()
        part = trainer(None, replicas)
        fit(part, epochs=2, callbacks=[Hearing(), keras.callbacks.EarlyStopping("loss")], validation_data=(X[:7], Y[:7]))
        found.append((list(heard), part.evaluate(X, Y, verbose=0), part.predict(X, verbose=0), part.model.predict(X, verbose=0)))
    (one, loss, outputs, _), (several, other_loss, other_outputs, by_keras) = found
    assert [batch for batch, _ in one] == [batch for batch, _ in several]
    for (_, logs), (_, other) in zip(one, several, strict=True):
        assert logs.keys() == other.keys()
        np.testing.assert_allclose([logs[n] for n in logs], [other[n] for n in logs], rtol=1e-4)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    np.testing.assert_allclose(outputs, other_outputs, rtol=1e-4)
    np.testing.assert_array_equal(other_outputs, by_keras)
