"""Runs that go on from their checkpoints, to the last bit."""

import os
import shutil
import signal
import sys
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, everything, labelled, regression
from tables import MODELS, STRATEGIES

import trainlab as tl
from trainlab import jit
from trainlab import run as runs
from trainlab.manifest import OtherRun

NUM_EXAMPLES, BATCH_SIZE, EPOCHS = 22, 4, 4  # the last batch and, under accumulation, the last update are smaller


def trainer_of(strategy, run_dir=None, **kwargs):
    """On a CNN with BatchNorm and Dropout; Adam, a schedule, an average of the weights."""
    keras.utils.clear_session(free_memory=False)
    rate = keras.optimizers.schedules.CosineDecay(0.05, 40)
    model = MODELS["cnn"].compiled(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9))
    return tl.Trainer(model, strategy, run_dir=run_dir, **kwargs)


def fit(trainer, epochs=EPOCHS, **kwargs):
    """Trains, validates and stops early; returns all there is to compare."""
    x, y = MODELS["cnn"].arrays(NUM_EXAMPLES)
    x_test, y_test = MODELS["cnn"].arrays(10, seed=8)
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = trainer.fit(
        x, y, BATCH_SIZE, epochs, 0, [stopping], validation_data=(x_test, y_test), validation_batch_size=4, **kwargs
    )
    values = [np.array(v) for v in trainer._update.variables.values()]
    return values, {"history": history.history, "epoch": history.epoch, "stopping": (stopping.wait, stopping.best)}


def assert_equal(a, b):
    assert_same(a[0], b[0])
    assert a[1] == b[1]


def only(checkpoint, directory):
    """A run's directory that holds this checkpoint and no other: a run killed right after it."""
    shutil.copytree(checkpoint, directory / "checkpoints" / checkpoint.name)
    return directory


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
    real = runs._variables

    def without_seeds(loaded):
        values = real(loaded)
        return {name: v for name, v in values.items() if not (v.dtype.kind in "iu" and v.shape == (2,))}

    monkeypatch.setattr(runs, "_variables", without_seeds)
    assert fit(trainer_of(tl.SGD(), only(checkpoints[3], tmp_path / "a"), save_seconds=None))[1] != whole[1]


@pytest.mark.parametrize("run_eagerly, jit_compile", [(True, False), (False, True)], ids=["eager", "XLA"])
def test_it_goes_on_eagerly_and_under_xla(run_eagerly, jit_compile, tmp_path):
    def make(directory=None, **kwargs):
        model = compiled(dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1)), metrics=["mae"])
        strategy = STRATEGIES["heavy_ball"].make()
        return tl.Trainer(
            model, strategy, run_eagerly=run_eagerly, jit_compile=jit_compile, run_dir=directory, save_seconds=None, **kwargs
        )

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
        trainer = tl.Trainer(compiled(metrics=["mae"]), strategy, run_dir=directory, save_seconds=None, **saving)
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


def small(directory, strategy=None, seed=0, optimizer=None, **kwargs):
    model = compiled(dense_model(lambda: keras.layers.Dropout(0.2), lambda: keras.layers.Dense(1)), optimizer)
    return tl.Trainer(model, strategy, run_dir=directory, seed=seed, **kwargs)


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


class Stopping(keras.callbacks.Callback):
    """Sends a signal to its own process, somewhere."""

    def __init__(self, when, signum=signal.SIGINT, hook="on_train_batch_end"):
        super().__init__()
        self.calls, self.when, self.signum = 0, when, signum
        setattr(self, hook, self.hear)

    def hear(self, *args, **kwargs):
        self.calls += 1
        if self.calls == self.when:
            os.kill(os.getpid(), self.signum)

    def get_state(self):
        return None

    def set_state(self, state):
        pass


HOOKS = ["on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_test_batch_end", "on_epoch_end"]


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
    from trainlab import checkpoint

    x, y = regression()
    real = checkpoint._write

    def slow(*args):
        os.kill(os.getpid(), signal.SIGTERM)
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


def test_two_trainers_on_one_directory(tmp_path):
    x, y = regression()
    gate, refused = threading.Event(), []

    class Second(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                with pytest.raises(OSError, match=rf"another run is writing there \(process {os.getpid()} on ") as error:
                    small(tmp_path).fit(x, y, epochs=3, verbose=0)
                refused.append(error)
                gate.set()

    first, alone = small(tmp_path), small(None)
    first.fit(x, y, epochs=3, verbose=0, callbacks=[Second()])
    alone.fit(x, y, epochs=3, verbose=0)
    assert gate.is_set() and len(refused) == 1
    assert_same(everything(first.model), everything(alone.model))


CHANGES = {
    "model": lambda d: tl.Trainer(compiled(dense_model(lambda: keras.layers.Dense(2), lambda: keras.layers.Dense(1))), run_dir=d),
    "optimizer": lambda d: small(d, optimizer=keras.optimizers.Adam(0.1)),
    "learning_rate": lambda d: small(d, optimizer=keras.optimizers.SGD(0.3)),
    "strategy": lambda d: small(d, tl.Heun()),
    "seed": lambda d: small(d, seed=3),
    "jit_compile": lambda d: small(d, jit_compile=True),
}


@pytest.mark.parametrize("what", [*CHANGES, "data", "batch_size", "shuffle", "steps_per_epoch", "dtypes"])
def test_another_run_is_refused_and_nothing_is_touched(what, tmp_path):
    x, y = regression()
    settings = {"batch_size": 8, "epochs": 2, "verbose": 0}
    small(tmp_path, jit_compile=False).fit(x, y, **settings)
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    if what == "dtypes":
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        trainer = CHANGES.get(what, small)(tmp_path)
        settings |= {
            "batch_size": {"batch_size": 5},
            "shuffle": {"shuffle": False},
            "steps_per_epoch": {"steps_per_epoch": 2},
        }.get(what, {})
        x = x + np.float32(1e-6) if what == "data" else x
        before = everything(trainer.model)
        with pytest.raises(OtherRun, match=rf"is of another run; nothing was touched. It differs in:\n[^$]*{what}"):
            trainer.fit(x, y, **{**settings, "epochs": 5})
        assert_same(everything(trainer.model)[: len(before)], before)
    finally:
        keras.config.set_dtype_policy("float32")
    assert files == {path: path.read_bytes() for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}


def test_a_learning_rate_changed_by_a_callback_is_no_other_run(tmp_path):
    x, y = regression()

    def train(trainer, when=10**9):
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10)
        return trainer.fit(x, y, epochs=6, verbose=0, callbacks=[plateau, Stopping(when)]).history

    whole, stopped = small(None), small(tmp_path)
    history = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 5)
    assert float(stopped.model.optimizer.learning_rate) < 0.1
    assert train(stopped) == history
    assert_same(everything(stopped.model), everything(whole.model))


def test_a_learning_rate_changed_on_purpose(tmp_path):
    x, y = regression()
    small(tmp_path).fit(x, y, epochs=2, verbose=0)
    trainer = small(tmp_path, optimizer=keras.optimizers.SGD(0.3))
    trainer.fit(x, y, epochs=3, verbose=0, override=["learning_rate"])
    assert trainer.resumed_at == 2 and float(trainer.model.optimizer.learning_rate) == pytest.approx(0.3)


def test_what_resume_allows(tmp_path):
    x, y = regression()
    with pytest.raises(FileNotFoundError, match="resume='must' but there is no checkpoint"):
        small(tmp_path / "a").fit(x, y, verbose=0, resume="must")
    first = small(tmp_path / "a")
    first.fit(x, y, epochs=2, verbose=0, resume="never")
    with pytest.raises(FileExistsError, match="holds a run already"):
        small(tmp_path / "a").fit(x, y, verbose=0, resume="never")
    weights = small(tmp_path / "a", optimizer=keras.optimizers.Adam(0.0))  # another optimizer is allowed
    weights.fit(x, y, epochs=1, verbose=0, resume="weights")
    assert weights.resumed_at is None and weights.iterations == 1
    assert_same(weights.model.get_weights(), first.model.get_weights())
    again = small(tmp_path / "a", seed=5)
    again.fit(x, y, epochs=1, verbose=0, resume="never", overwrite=True)
    assert again.resumed_at is None and len(list((tmp_path / "a" / "checkpoints").iterdir())) == 1
    for kwargs, message in [
        ({"resume": "maybe"}, "resume must be one of 'auto', 'must', 'never', 'weights', not 'maybe'"),
        ({"override": ["seed"]}, r"override must be a list of names from \['learning_rate', 'data', 'micro_batch_size'\]"),
        ({"override": "learning_rate"}, "override must be a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            small(tmp_path / "a").fit(x, y, verbose=0, **kwargs)
    with pytest.raises(ValueError, match="resume='must' needs a run's directory"):
        small(None).fit(x, y, verbose=0, resume="must")


def test_a_damaged_checkpoint_is_passed_over_and_said(tmp_path):
    x, y = regression()
    whole = small(tmp_path, save_steps=1)
    whole.fit(x, y, 8, epochs=3, verbose=0)
    paths = sorted((tmp_path / "checkpoints").iterdir())
    for path in paths[2:]:
        (path / "state.json").write_text("{}")
    trainer = small(tmp_path)
    with pytest.warns(UserWarning, match=r"is damaged \(state.json has changed since it was written\): trying the one before"):
        trainer.fit(x, y, 8, epochs=3, verbose=0)
    assert trainer.resumed_at == int(paths[1].name.rpartition("-")[2])
    assert_same(everything(trainer.model), everything(whole.model))
    for path in (tmp_path / "checkpoints").iterdir():
        shutil.rmtree(path)
        path.mkdir()
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no checkpoint can be read"):
        small(tmp_path).fit(x, y, 8, epochs=3, verbose=0)


def test_the_best_is_kept(tmp_path):
    x, y = regression()
    trainer = small(tmp_path, keep=1, keep_best="val_loss", optimizer=keras.optimizers.SGD(2.5), save_seconds=None)
    history = trainer.fit(x, y, 20, epochs=6, verbose=0, validation_data=(x, y)).history["val_loss"]
    best = int(np.argmin(history)) + 1
    kept = [int(path.name.rpartition("-")[2]) for path in (tmp_path / "checkpoints").iterdir()]
    assert best < 6 and best in kept and 6 in kept and len(kept) <= 3
    with pytest.raises(ValueError, match="keep_best='val_los' is not among the logs: loss, val_loss"):
        small(tmp_path / "b", keep_best="val_los").fit(x, y, verbose=0, validation_data=(x, y))


def test_checkpoints_come_as_often_as_was_said(tmp_path):
    x, y = regression(40)
    small(tmp_path / "steps", save_steps=4, save_seconds=None, keep=100).fit(x, y, 4, epochs=2, verbose=0)
    steps = [int(path.name.rpartition("-")[2]) for path in sorted((tmp_path / "steps" / "checkpoints").iterdir())]
    assert steps == [4, 8, 12, 16, 20, 20]  # the last is of the finished run
    small(tmp_path / "always", save_seconds=0, keep=100).fit(x, y, 4, epochs=2, verbose=0)
    assert len(list((tmp_path / "always" / "checkpoints").iterdir())) > 1
    small(tmp_path / "end", save_seconds=None).fit(x, y, 4, epochs=2, verbose=0)
    assert len(list((tmp_path / "end" / "checkpoints").iterdir())) == 1


def test_a_callback_that_forgets_is_named_once(tmp_path):
    class Mine(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = 0

    x, y = regression()
    with pytest.warns(UserWarning, match="Mine: not in checkpoints, and so as new after a resume") as warned:
        small(tmp_path).fit(x, y, epochs=3, verbose=0, callbacks=[Mine()])
    assert len([w for w in warned if "not in checkpoints" in str(w.message)]) == 1
    with pytest.raises(ValueError, match="BackupAndRestore and run_dir both resume"):
        small(tmp_path / "b").fit(x, y, verbose=0, callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "c")])


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = labelled()
    trainer = small(None)
    trainer.fit(*regression(), verbose=0)
    assert list(tmp_path.iterdir()) == [] and trainer.last_checkpoint is None and len(x) == len(y)


def test_a_directory_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file: give a directory"):
        small(tmp_path / "file").fit(*regression(), verbose=0)
    assert sys.platform == "win32" or os.listdir(tmp_path) == ["file"]
