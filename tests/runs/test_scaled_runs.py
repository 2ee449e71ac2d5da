"""Runs under loss scaling go on from every update, skipped ones too, to the last bit; and other scaling is another run."""

import keras
import numpy as np
import pytest
from resuming import only, split_off_run
from small import assert_same, dense_model, differ, regression
from tables import STRATEGIES

import trainlab as tl
from trainlab.runs import manifest, resuming
from trainlab.runs.manifest import OtherRun

LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


def scaling(scale=2.0**21, growth=2, **settings):
    """Some updates are skipped under it, at the beginning and later."""
    rate = keras.optimizers.schedules.CosineDecay(0.05, 40)
    inner = keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.9, **settings)
    return LossScaleOptimizer(inner, initial_scale=scale, dynamic_growth_steps=growth)


def model_of(optimizer, policy="mixed_float16"):
    keras.utils.clear_session(free_memory=False)
    layers = keras.layers
    keras.config.set_dtype_policy(policy)
    try:
        fns = (lambda: layers.Dense(4, "tanh"), layers.BatchNormalization, lambda: layers.Dropout(0.2), lambda: layers.Dense(1))
        model = dense_model(*fns)
        model.compile(optimizer, "mse", metrics=["mae"])
    finally:
        keras.config.set_dtype_policy("float32")
    return model


def trainer_of(strategy, directory=None, optimizer=None, **kwargs):
    run, settings = split_off_run(directory, kwargs)
    return tl.Trainer(model_of(scaling() if optimizer is None else optimizer), strategy, run=run, **settings)


def fit(trainer, epochs=3, **kwargs):
    x, y = regression(22)
    history = trainer.fit(x, y, 4, epochs=epochs, verbose=0, validation_data=(x, y), **kwargs).history
    return [np.array(v) for v in trainer._loops.made.loop.update.variables.values()], history


def every_checkpoint(strategy, directory):
    whole = fit(trainer_of(strategy))
    saving = fit(trainer_of(strategy, directory, save_steps=1, keep=1000))
    assert_same(saving[0], whole[0])
    assert repr(saving[1]) == repr(whole[1])
    return whole, sorted((directory / "checkpoints").iterdir())


@pytest.mark.parametrize("name", ["sgd", pytest.param("accumulate_2_heavy_ball", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_run_goes_on_from_every_update(name, tmp_path):
    make = STRATEGIES[name].make
    whole, checkpoints = every_checkpoint(make(), tmp_path / "all")
    skipped = whole[1]["skipped"]
    assert len(skipped) == 3 and skipped[0] > 0 and sum(skipped[1:]) > 0  # in the middle of an epoch, too
    for i, path in enumerate(checkpoints):
        trainer = trainer_of(make(), only(path, tmp_path / str(i)), save_seconds=None)
        resumed = fit(trainer)
        assert_same(resumed[0], whole[0])
        assert repr(resumed[1]) == repr(whole[1])  # a step's own logs are NaN where every update was skipped
        assert trainer.resumed_at == int(path.name.rpartition("-")[2])


@pytest.mark.slow
def test_without_the_scale_it_would_differ(tmp_path, monkeypatch):
    whole, checkpoints = every_checkpoint(tl.SGD(), tmp_path / "all")
    trainer = trainer_of(tl.SGD())
    fit(trainer, epochs=1)
    names = {id(v): name for name, v in trainer._loops.made.loop.update.variables.items()}
    real = resuming.variables
    for variable in (trainer.model.optimizer.dynamic_scale, trainer.model.optimizer.step_counter):
        name = names[id(variable.value)]
        monkeypatch.setattr(resuming, "variables", lambda loaded, name=name: {n: v for n, v in real(loaded).items() if n != name})
        # At some of them the counter is 0, as at the beginning.
        ends = (fit(trainer_of(tl.SGD(), only(path, tmp_path / name / path.name), save_seconds=None)) for path in checkpoints[5:])
        assert any(differ(end[0], whole[0]) for end in ends)


def rows_that_differ(first, second):
    rows = []
    for optimizer in (first, second):
        model = model_of(optimizer, "float32")
        model.optimizer.build(model.trainable_variables)
        rows.append(manifest.of_model(model))
    return sorted({difference.row for difference in manifest.differences(*rows)})


def several(scale):
    slow, fast = keras.optimizers.SGD(0.01), keras.optimizers.SGD(0.1)
    optimizer = keras.optimizers.MultiOptimizer(lambda v: slow if "kernel" in v.path else fast)
    return LossScaleOptimizer(optimizer, initial_scale=scale)


@pytest.mark.parametrize(
    ("other", "rows"),
    [
        (lambda: scaling(), []),
        (lambda: scaling(scale=2.0**20), ["optimizer"]),
        (lambda: scaling(growth=3), ["optimizer"]),
        (lambda: scaling(clipnorm=1.0), ["optimizer"]),
        (lambda: LossScaleOptimizer(keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9), 2.0**21, 2), None),
        (lambda: scaling().inner_optimizer, ["optimizer", "optimizer variables"]),
        (lambda: several(2.0**21), None),
    ],
)
def test_what_tells_two_scalings_apart(other, rows):
    found = rows_that_differ(scaling(), other())
    assert found == rows if rows is not None else "learning_rate" in found


def test_several_optimizers_inside():
    assert rows_that_differ(several(8.0), several(8.0)) == []
    assert rows_that_differ(several(8.0), several(4.0)) == ["optimizer"]


@pytest.mark.parametrize("factor", [None, 64.0])
def test_a_factor_is_a_setting_of_the_optimizer(factor):
    plain, scaled = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1, loss_scale_factor=factor)
    assert rows_that_differ(plain, scaled) == ([] if factor is None else ["optimizer"])


def adam(rate):
    return LossScaleOptimizer(keras.optimizers.Adam(rate), initial_scale=2.0**21, dynamic_growth_steps=2)


@pytest.mark.slow
def test_another_scaling_is_refused_and_another_rate_may_be_asked_for(tmp_path):
    fit(trainer_of(tl.SGD(), tmp_path, adam(0.1)))
    with pytest.raises(OtherRun, match=r"optimizer initial_scale: saved 2097152.0, now 8.0"):
        fit(trainer_of(tl.SGD(), tmp_path, LossScaleOptimizer(keras.optimizers.Adam(0.1), 8.0, 2)), epochs=4)
    with pytest.raises(OtherRun, match="learning_rate: saved 0.1, now 0.01"):
        fit(trainer_of(tl.SGD(), tmp_path, adam(0.01)), epochs=4)
    trainer = trainer_of(tl.SGD(), tmp_path, adam(0.01))
    _, history = fit(trainer, epochs=4, override=["learning_rate"])
    assert trainer.resumed_at == 18 and len(history["loss_scale"]) == 4
    assert float(trainer.model.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.slow
def test_keras_own_wrapping_goes_on_though_names_are_counted_up(tmp_path):
    keras.optimizers.Adam(0.1)
    ends = []
    for directory, epochs in ((None, 4), (tmp_path, 2), (tmp_path, 4)):
        ends.append(fit(trainer_of(tl.SGD(), directory, keras.optimizers.Adam(0.1)), epochs))
    assert_same(ends[0][0], ends[2][0])
    assert ends[0][1] == ends[2][1] and len(ends[2][1]["skipped"]) == 4


@pytest.mark.slow
def test_the_best_may_be_told_by_the_scale(tmp_path):
    with pytest.raises(ValueError, match="'skiped'.*skipped"):
        fit(trainer_of(tl.SGD(), tmp_path / "a", keep_best="skiped"))
    trainer = trainer_of(tl.SGD(), tmp_path / "b", keep_best=("min", "skipped"))
    fit(trainer)
    assert trainer.load_best().exists()
