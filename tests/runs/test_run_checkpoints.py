"""Which checkpoints a run writes and keeps, which it may go on from, and which it refuses."""

import os
import shutil
import sys
import threading

import keras
import numpy as np
import pytest
from resuming import Stopping, small
from small import assert_same, compiled, dense_model, everything, labelled, regression

import trainlab as tl
from trainlab.runs.manifest import OtherRun


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
    "model": lambda d: tl.Trainer(compiled(dense_model(lambda: keras.layers.Dense(2), lambda: keras.layers.Dense(1))), run=d),
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


def decay(rate=0.3):
    return keras.optimizers.schedules.ExponentialDecay(rate, 1, 0.5)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("first", [0.1, None])
def test_a_schedule_in_place_of_a_rate_and_a_rate_in_its_place(first, scaled, tmp_path):
    """All but the rate goes on: the moments are those of the checkpoint."""
    x, y = regression()

    def made(rate):
        optimizer = keras.optimizers.Adam(decay() if rate is None else rate)
        return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0) if scaled else optimizer

    before = small(tmp_path, optimizer=made(first))
    before.fit(x, y, epochs=2, verbose=0)
    moments = [np.array(v) for v in before.model.optimizer.variables if len(v.shape)]
    trainer = small(tmp_path, optimizer=made(None if first else 0.3))
    with pytest.raises(OtherRun, match="learning_rate"):
        trainer.fit(x, y, epochs=3, verbose=0)
    seen = []
    looks = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: (
            seen or seen.extend(np.array(v) for v in trainer.model.optimizer.variables if len(v.shape))
        )
    )
    trainer.fit(x, y, epochs=3, verbose=0, override=["learning_rate"], callbacks=[looks])
    assert trainer.resumed_at == before.iterations and trainer.iterations == 3 * before.iterations // 2
    assert_same(seen, moments)
    rate = float(trainer.model.optimizer.learning_rate)
    assert rate == pytest.approx(0.3 * 0.5**trainer.iterations if first else 0.3)


def several(slow=0.1, fast=0.2):
    one, two = keras.optimizers.SGD(slow), keras.optimizers.Adam(fast)
    return keras.optimizers.MultiOptimizer(lambda v: one if "kernel" in v.path else two)


def rates(trainer):
    return sorted({round(float(one.learning_rate), 6) for one in trainer.model.optimizer.optimizers})


@pytest.mark.slow
def test_the_rates_of_several_optimizers_may_be_changed(tmp_path):
    x, y = regression()

    def train(trainer, when=10**9, **kwargs):
        def lower(epoch, logs=None):
            for one in trainer.model.optimizer.optimizers:
                one.learning_rate = one.learning_rate / 2

        lowering = keras.callbacks.LambdaCallback(on_epoch_end=lower)
        return trainer.fit(x, y, epochs=6, verbose=0, callbacks=[lowering, Stopping(when)], **kwargs).history

    whole, stopped = small(None, optimizer=several()), small(tmp_path, optimizer=several())
    history = train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, 5)
    assert rates(stopped)[0] < 0.1
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    with pytest.raises(
        OtherRun, match=r"learning_rate: saved \[0.2, 0.1\], now \[0.2, 0.05\]|saved \[0.1, 0.2\], now \[0.05, 0.2\]"
    ):
        train(small(copy, optimizer=several(0.05)))
    assert train(stopped) == history  # in the notebook, though a callback has lowered them
    assert_same(everything(stopped.model), everything(whole.model))
    changed = small(copy, optimizer=several(3.2e-4, 6.4e-4))
    (updates,) = {int(path.name.rpartition("-")[2]) for path in [changed.last_checkpoint]}
    changed.fit(x, y, epochs=6, verbose=0, override=["learning_rate"])
    assert changed.resumed_at == updates and rates(changed) == [3.2e-4, 6.4e-4]


@pytest.mark.slow
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
        ({"overwrite": True}, "overwrite=True removes the run that is there: it goes with resume='never', not resume='auto'"),
        ({"overwrite": True, "resume": "must"}, "it goes with resume='never', not resume='must'"),
        ({"override": ["seed"]}, r"override must be a list of names from \['learning_rate', 'data', 'micro_batch_size', 'on_"),
        ({"override": "learning_rate"}, "override must be a list"),
    ]:
        with pytest.raises(ValueError, match=message):
            small(tmp_path / "a").fit(x, y, verbose=0, **kwargs)
    with pytest.raises(ValueError, match="resume='must' needs a run's directory"):
        small(None).fit(x, y, verbose=0, resume="must")


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("is_next_whole", [True, False])
def test_those_of_another_run_are_not_taken_for_this_ones_though_its_newest_cannot_say_whose_it_is(is_next_whole, tmp_path):
    x, y = regression()
    small(tmp_path).fit(x, y, 8, epochs=1, verbose=0)
    trainer = small(tmp_path, save_steps=1, keep=2)
    trainer.fit(x, y, 8, epochs=2, verbose=0, resume="weights")
    *_, other, second, newest = sorted((tmp_path / "checkpoints").iterdir())
    shutil.rmtree(second)
    (newest / "state.json").write_text("{")
    if not is_next_whole:
        (other / "tensors.index").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        again = small(tmp_path)
        if is_next_whole:
            again.fit(x, y, 8, epochs=2, verbose=0)
            assert again.resumed_at == int(other.name.rpartition("-")[2])
        else:
            with pytest.raises(ValueError, match="no checkpoint can be read"):
                again.fit(x, y, 8, epochs=2, verbose=0)


def test_the_best_is_kept(tmp_path):
    x, y = regression()
    trainer = small(tmp_path, keep=1, keep_best="val_loss", optimizer=keras.optimizers.SGD(2.5), save_seconds=None)
    history = trainer.fit(x, y, 20, epochs=6, verbose=0, validation_data=(x, y)).history["val_loss"]
    best = int(np.argmin(history)) + 1
    kept = [int(path.name.rpartition("-")[2]) for path in (tmp_path / "checkpoints").iterdir()]
    assert best < 6 and best in kept and 6 in kept and len(kept) <= 3
    with pytest.raises(ValueError, match="keep_best='val_los' is not among the logs: loss, val_loss"):
        small(tmp_path / "b", keep_best="val_los").fit(x, y, verbose=0, validation_data=(x, y))


@pytest.mark.slow
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
    with pytest.raises(ValueError, match="BackupAndRestore and a run both resume"):
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
