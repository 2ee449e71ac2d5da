"""Runs stopped by a signal or an error go on as if nothing had been, with XLA or without as before, in notebooks too."""

import os
import shutil
import signal
import time

import keras
import pytest
import tensorflow as tf
from resuming import Stopping, small
from small import assert_same, everything, regression

import trainlab as tl
from trainlab.loop import jit


def found_out(monkeypatch, jit_compile):
    """As if XLA had been timed: worth it, or not, for a run of any length. None: nobody may find it out."""
    monkeypatch.setattr(jit, "FEWEST_UPDATES", 1)
    choice = None if jit_compile is None else lambda *args: jit.Choice(jit_compile, "as the test wants it", True, 1e-4)
    monkeypatch.setattr(jit, "choose", choice)


class Killed(RuntimeError):
    pass


def killer(hook):
    def die(*args):
        raise Killed

    return keras.callbacks.LambdaCallback(**{hook: die})


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [True, False])
def test_the_choice_of_xla_is_kept_from_the_first_moment(jit_compile, tmp_path, monkeypatch):
    x, y = regression()
    found_out(monkeypatch, jit_compile)
    with pytest.raises(Killed):
        small(tmp_path).fit(x, y, 8, epochs=2, verbose=0, callbacks=[killer("on_epoch_begin")])
    found_out(monkeypatch, None)
    trainer, whole = small(tmp_path), small(None, jit_compile=jit_compile)
    trainer.fit(x, y, 8, epochs=2, verbose=0, resume="must")
    assert (trainer.resumed_at, trainer.jit_compile) == (0, jit_compile)
    whole.fit(x, y, 8, epochs=2, verbose=0)
    assert_same(everything(trainer.model), everything(whole.model))


@pytest.mark.slow
def test_a_run_that_is_made_longer_may_find_out(tmp_path, monkeypatch):
    x, y = regression()
    first, whole = small(tmp_path), small(None)
    for trainer in (first, whole):
        trainer.fit(x, y, 8, epochs=2, verbose=0)
        assert trainer.jit_compile is None
    found_out(monkeypatch, None)
    assert small(tmp_path).fit(x, y, 8, epochs=2, verbose=0).epoch == [0, 1]  # finished: nothing to find out
    found_out(monkeypatch, True)
    with pytest.raises(Killed):
        small(tmp_path).fit(x, y, 8, epochs=4, verbose=0, callbacks=[killer("on_epoch_begin")])
    found_out(monkeypatch, None)
    longer = small(tmp_path)
    assert longer.fit(x, y, 8, epochs=4, verbose=0).epoch == [0, 1, 2, 3]
    assert (longer.resumed_at, longer.jit_compile) == (6, True)
    found_out(monkeypatch, True)
    whole.fit(x, y, 8, epochs=4, initial_epoch=2, verbose=0)
    assert whole.jit_compile is True
    assert_same(everything(longer.model), everything(whole.model))


def test_a_stopped_run_does_not_change_its_mind(tmp_path, monkeypatch):
    x, y = regression()
    with pytest.raises(Killed):
        small(tmp_path, save_steps=1).fit(x, y, 8, epochs=2, verbose=0, callbacks=[killer("on_epoch_end")])
    found_out(monkeypatch, None)
    assert small(tmp_path).fit(x, y, 8, epochs=2, verbose=0, resume="must").epoch == [0, 1]


@pytest.mark.slow
def test_a_notebook_of_several_fits_can_be_run_again(tmp_path):
    x, y = regression()

    def notebook(directory, stop_in=None):
        trainer = small(directory, save_steps=1)
        histories = []
        for number, epochs in enumerate((2, 3)):
            callbacks = [Stopping(4)] if number == stop_in else None
            histories.append(trainer.fit(x, y, 8, epochs=epochs, verbose=0, callbacks=callbacks).history)
        return histories, everything(trainer.model)

    whole, values = notebook(None)
    with pytest.raises(KeyboardInterrupt):
        notebook(tmp_path, stop_in=1)
    histories, again = notebook(tmp_path)
    assert histories == whole
    assert_same(again, values)


@pytest.mark.slow
def test_each_fit_of_a_notebook_may_be_another(tmp_path):
    x, y = regression()

    def notebook(directory, when=10**9):
        trainer = small(directory, save_seconds=None)
        trainer.fit(x, y, 8, epochs=2, verbose=0)
        trainer.strategy = tl.Heun()
        trainer.model.compile(keras.optimizers.Adam(0.1), "mse")
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(9, seed=2).batch(4)
        history = trainer.fit(data, epochs=2, verbose=0, callbacks=[Stopping(when)])
        return history.history, everything(trainer.model), trainer.resumed_at

    whole, values, _ = notebook(None)
    with pytest.raises(KeyboardInterrupt):
        notebook(tmp_path, 3)
    again, restored, resumed_at = notebook(tmp_path)
    assert (again, resumed_at) == (whole, 3)
    assert_same(restored, values)


HOOKS = ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_test_batch_end", "on_epoch_end"]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_signal_stops_in_good_order_and_the_run_goes_on(hook, signum, tmp_path, capsys, monkeypatch):
    x, y = regression()
    monkeypatch.setattr(signal, "default_int_handler", signal.default_int_handler)
    before = signal.getsignal(signum)

    def train(trainer, *callbacks):
        kwargs = {"validation_data": (x, y), "validation_batch_size": 4, "verbose": 0, "callbacks": list(callbacks)}
        return trainer.fit(x, y, 8, epochs=3, **kwargs).history

    when = 1 if hook == "on_train_begin" else 2
    whole = small(None)
    history = train(whole, Stopping(10**9))
    stopped = small(tmp_path, save_seconds=None)
    with pytest.raises(KeyboardInterrupt if signum == signal.SIGINT else SystemExit) as error:
        train(stopped, Stopping(when, signum, hook))
    assert signum == signal.SIGINT or error.value.code == 143
    assert signal.getsignal(signum) == before
    updates = stopped.iterations
    assert 0 < updates < 9 and f"stopped by a signal at update {updates}: saved in" in capsys.readouterr().out
    # In the same process, as after an interrupt in a notebook; and in another.
    directory = shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + "-copy"))
    for trainer in (stopped, small(directory, save_seconds=None)):
        assert train(trainer, Stopping(10**9)) == history
        assert trainer.resumed_at == updates
        assert_same(everything(trainer.model), everything(whole.model))


def test_a_signal_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    from trainlab.runs.disk import checkpoint

    x, y = regression()
    real, written = checkpoint._write, []

    def slow(*args):
        if not written:  # a second signal, more than half a second later, would end at once
            os.kill(os.getpid(), signal.SIGTERM)
        written.append(args)
        time.sleep(0.2)
        real(*args)

    monkeypatch.setattr(checkpoint, "_write", slow)
    trainer = small(tmp_path, save_steps=2)
    with pytest.raises(SystemExit):
        trainer.fit(x, y, 4, epochs=50, verbose=0)
    assert trainer.last_checkpoint is not None
    assert int(trainer.last_checkpoint.name.rpartition("-")[2]) == trainer.iterations


@pytest.mark.parametrize("hook", ["on_train_end", "set_state"])
def test_a_signal_that_comes_too_late_ends_the_process_all_the_same(hook, tmp_path):
    x, y = regression()
    if hook == "set_state":
        small(tmp_path).fit(x, y, epochs=1, verbose=0, callbacks=[Stopping(9)])
    with pytest.raises(SystemExit):
        small(tmp_path).fit(x, y, epochs=1, verbose=0, callbacks=[Stopping(1, signal.SIGTERM, hook)])
    again = small(tmp_path)
    again.fit(x, y, epochs=1, verbose=0, callbacks=[Stopping(9)])
    assert again.resumed_at == again.iterations == 1
