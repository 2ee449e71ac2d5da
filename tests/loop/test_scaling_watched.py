"""Loss scaling and the watch for non-finite values: overflow is normal, bad data are named, a scale that falls for ever ends."""

import itertools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from scaled import MODES, Far, LossScaleOptimizer, Masking, Positive, half, scaling, steep
from small import assert_same, compiled, dense_model, differ, everything, regression
from tables import HeavyBall

import trainlab as tl
from trainlab.loop import jit


@pytest.mark.parametrize("mode", MODES)
def test_overflow_lowers_the_scale_and_says_nothing(mode):
    x, y = regression(24)
    model = half(scaling(2.0**30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = tl.Trainer(model, **MODES[mode])
        history = trainer.fit(x, y, 4, epochs=4, verbose=0).history
    skipped = sum(history["skipped"])
    assert 0 < skipped < 24 and trainer.iterations == 24 - skipped
    assert history["loss_scale"][-1] == float(model.optimizer.dynamic_scale) == 2.0 ** (30 - skipped)
    assert int(model.optimizer.step_counter) <= trainer.iterations


def test_what_keras_says_of_the_update_is_what_is_logged():
    x, y = regression(24)
    seen = []
    model = half(scaling(2.0**17, growth=2))

    def note(batch, logs):
        seen.append((logs["loss_scale"], logs["skipped"], float(model.optimizer.dynamic_scale)))

    history = (
        tl.Trainer(model).fit(x, y, 4, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=note)]).history
    )
    assert [scale for scale, _, _ in seen] == [scale for _, _, scale in seen]
    falls = [after < before for (before, _, _), (after, _, _) in itertools.pairwise([(2.0**17, 0, 0), *seen])]
    assert [skipped for _, skipped, _ in seen] == list(itertools.accumulate(map(int, falls)))
    assert history["skipped"] == [seen[-1][1]] and 0 < seen[-1][1] < 6
    again = tl.Trainer(model).fit(x, y, 4, verbose=0).history  # counted anew in each epoch
    assert again["skipped"][0] < 6


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        ("x", "in its batch, x holds NaN in example 2"),
        ("y", "in its batch, y holds an infinite number in example 2"),
        ("large", "evaluation 1 of 1 gave a loss of nan"),  # an activation, which no scale makes smaller
    ],
)
def test_bad_data_and_losses_are_named_as_ever(poison, reason, mode):
    x, y = regression(24)
    clean = (x.copy(), y.copy())
    if poison == "x":
        x[9 + 1] = np.nan
    elif poison == "y":
        y[10] = np.inf
    else:
        x[10] = 1e30
    model = half()
    trainer = tl.Trainer(model, steps_per_execution=6, **MODES[mode])
    with pytest.raises(tl.NonFiniteError, match=rf"^update 3 \(number 3 of epoch 1\): {reason}") as caught:
        trainer.fit(x, y, 4, shuffle=False, verbose=0, check_data=False)
    assert "\n" not in str(caught.value) and "scale" not in str(caught.value)
    good = half()
    tl.Trainer(good, **MODES[mode]).fit(*clean, 4, shuffle=False, verbose=0, steps=2)
    assert_same(everything(model), everything(good))  # the scale and its counter too
    # Left out, it is as if it had not been there.
    model, good = half(), half()
    with pytest.warns(UserWarning, match=reason):
        tl.Trainer(model, on_nonfinite="skip", **MODES[mode]).fit(x, y, 4, shuffle=False, verbose=0, check_data=False)
    kept = np.r_[0:8, 12:24]
    tl.Trainer(good, **MODES[mode]).fit(clean[0][kept], clean[1][kept], 4, shuffle=False, verbose=0)
    assert_same(everything(model), everything(good))
    assert float(model.optimizer.dynamic_scale) == 2.0**8


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Accumulate(2, tl.Heun())], ids=repr)
def test_bad_data_that_the_loss_does_not_show_are_named(strategy, mode):
    """Where a layer turns NaN into 0, only the gradient of the one before has it, as if it had overflowed."""
    x, y = regression(48)
    bad = x.copy()
    bad[2 * 4 * strategy.batches + 1] = np.nan  # in the third update
    layers = (lambda: keras.layers.Dense(4), Positive, lambda: keras.layers.Dense(1))

    def fit(x, y, **kwargs):
        model = half(None, *layers)
        trainer = tl.Trainer(model, strategy, steps_per_execution=6, **MODES[mode], **kwargs)
        stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
        trainer.fit(stream, verbose=0)
        return everything(model)

    reason = r"^update 3 \(number 3 of epoch 1\): in .*batch.*, x holds NaN in example 1; evaluation 1 of . gave a non-finite"
    with pytest.raises(tl.NonFiniteError, match=reason):
        fit(bad, y)
    kept = np.delete(np.arange(48), np.s_[8 * strategy.batches : 12 * strategy.batches])
    with pytest.warns(UserWarning, match="x holds NaN in example 1"):
        skipped = fit(bad, y, on_nonfinite="skip")
    assert_same(skipped, fit(x[kept], y[kept]))
    assert differ(skipped, fit(x, y))  # control


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_overflow_is_normal_where_a_model_masks_bad_data(mode):
    x, y = regression(24)
    missing = np.where(x > 1, np.nan, x).astype("float32")
    ends = []
    for data in (missing, np.nan_to_num(missing)):
        model = half(scaling(2.0**17, growth=2), Masking, lambda: keras.layers.Dense(1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            history = tl.Trainer(model, steps_per_execution=6, **MODES[mode]).fit(
                data, y, 4, epochs=3, shuffle=False, verbose=0, check_data=False
            )
        ends.append((everything(model), history.history))
    assert_same(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1] and sum(ends[0][1]["skipped"]) > 0


LINE = (
    "update 1 (number 33 of epoch 1): its gradients overflow though the loss scale has fallen to 5.96e-08; evaluation 1 of 1 "
    "gave a non-finite gradient of 'sequential{any}/dense{any}/kernel'; the model is at update 0, the last good one. Lower the "
    'learning rate, clip the gradient (clipnorm), or leave out such updates (on_nonfinite="skip")'
)


@pytest.mark.parametrize("mode", MODES)
def test_a_scale_that_falls_for_ever_stops_the_run(mode):
    x, y = regression(400)
    model = steep()
    trainer = tl.Trainer(model, steps_per_execution=None if mode == "eager" else 32, **MODES[mode])
    with pytest.raises(tl.NonFiniteError) as caught:
        trainer.fit(x, y, 4, verbose=0)
    assert re.fullmatch(re.escape(LINE).replace(re.escape("{any}"), r"\w*"), str(caught.value)), str(caught.value)
    assert float(model.optimizer.dynamic_scale) == 2.0**-24 and trainer.iterations == 0  # 32 were skipped


def test_one_whose_gradient_overflows_now_and_then_does_not_stop():
    x, y = regression(400)
    model = steep(bound=2.2, optimizer=scaling(growth=2))
    history = tl.Trainer(model).fit(x, y, 4, verbose=0).history
    assert 0 < history["skipped"][0] < 60 and float(model.optimizer.dynamic_scale) > 1


def test_it_stops_where_such_updates_are_left_out_too():
    x, y = regression(400)
    with (
        pytest.raises(tl.NonFiniteError, match="10 updates before it were skipped in a row") as caught,
        pytest.warns(UserWarning),
    ):
        tl.Trainer(steep(), on_nonfinite="skip").fit(x, y, 4, verbose=0)
    assert "its gradients overflow though the loss scale has fallen to 5.96e-08" in str(caught.value)


class Signs(tl.StepStrategy):
    """The signs of the gradient, which are finite where it is not."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient.map(tf.sign), at=here)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "bound", "number"),
    [(Far(), 500.0, "2 of 2"), (Signs(), -1e9, "1 of 1"), (tl.Accumulate(2, Far()), 500.0, "2 of 2")],
)
def test_the_gradient_of_the_step_and_that_at_the_point_visited_are_both_looked_at(strategy, bound, number):
    x, y = regression(400)
    model = steep(bound)
    before = model.get_weights()
    with pytest.raises(tl.NonFiniteError, match=f"loss scale has fallen .* evaluation {number} gave a non-finite gradient"):
        tl.Trainer(model, strategy).fit(np.abs(x), y, 4, verbose=0)
    assert_same(model.get_weights(), before)
    tl.Trainer(steep(1e9), strategy).fit(np.abs(x), y, 4, verbose=0)  # control


@pytest.mark.parametrize("scale", [0.0, np.inf, np.nan, -1.0, 2.0**-25])
def test_a_scale_that_is_none_is_told_before_the_first_update(scale):
    x, y = regression()
    model = half()
    tl.Trainer(model).fit(x, y, verbose=0)
    model.optimizer.dynamic_scale.assign(scale)
    before = everything(model)
    message = rf"^the loss scale is {scale:g} before the first update, and must be finite and at least 2\*\*-24: assign optimizer"
    with pytest.raises(tl.NonFiniteError, match=message):
        tl.Trainer(model).fit(x, y, verbose=0)
    assert_same(everything(model), before)
    model.optimizer.dynamic_scale.assign(2.0**15)
    tl.Trainer(model).fit(x, y, verbose=0)


@pytest.mark.slow
def test_the_scale_never_grows_to_infinity():
    """From there no halving leads back, as in Keras, where the same run ends with a scale that is infinite for ever."""
    x, y = np.zeros([400, 3], "float32"), np.zeros([400, 1], "float32")  # a gradient of 0, whatever the scale
    models = [compiled(optimizer=scaling(growth=1)) for _ in range(2)]
    history = tl.Trainer(models[0]).fit(x, y, 1, verbose=0).history
    models[1].fit(x, y, batch_size=1, verbose=0)
    assert float(models[0].optimizer.dynamic_scale) == 2.0**127 and history["skipped"] == [0]
    assert float(models[1].optimizer.dynamic_scale) == np.inf  # control


def test_a_factor_that_overflows_is_named():
    x, y = regression()
    model = half(keras.optimizers.SGD(0.01, loss_scale_factor=1e30))
    model.compile(keras.optimizers.SGD(0.01, loss_scale_factor=1e30), "mse", auto_scale_loss=False)
    with pytest.raises(tl.NonFiniteError, match=r"^update 1 .* gave a non-finite gradient of .*kernel") as caught:
        tl.Trainer(model).fit(x, y, verbose=0)
    assert "loss scale" not in str(caught.value)


class Saying(HeavyBall):
    """Logs under the names that loss scaling uses."""

    def step(self, objective, state):
        return super().step(objective, state)._replace(logs={"loss_scale": 7.0, "speed": 2.0})


@pytest.mark.slow
def test_what_a_strategy_or_a_metric_is_called_is_its_own():
    x, y = regression()
    history = tl.Trainer(half(), Saying()).fit(x, y, 4, verbose=0).history
    assert (history["loss_scale"], history["speed"], history["skipped"]) == ([7.0], [2.0], [0.0])

    def skipped(y_true, y_pred):
        return keras.ops.full_like(y_pred[..., 0], 0.25)

    model = dense_model()
    model.compile(scaling(), "mse", metrics=[skipped])
    history = tl.Trainer(model).fit(x, y, 4, verbose=0).history
    assert history["skipped"] == [0.25] and history["loss_scale"] == [2.0**8]


def test_a_step_that_logs_is_not_counted_where_it_is_skipped():
    x, y = regression(24)
    history = tl.Trainer(half(scaling(2.0**20)), HeavyBall()).fit(x, y, 4, epochs=3, verbose=0).history
    assert history["skipped"][0] == 6 and np.isnan(history["speed"][0])  # none was made in the first epoch
    assert history["skipped"][-1] < 6 and np.isfinite(history["speed"][-1])


def test_a_further_fit_is_not_traced_anew_and_another_setting_is_noticed():
    x, y = regression(24)
    model = half(scaling(8.0, growth=1000))
    trainer = tl.Trainer(model)
    trainer.fit(x, y, 4, verbose=0)
    traces = trainer.num_traces
    trainer.fit(x, y, 4, verbose=0)
    assert trainer.num_traces == traces and float(model.optimizer.dynamic_scale) == 8.0
    model.optimizer.dynamic_growth_steps = int(model.optimizer.step_counter) + 1
    trainer.fit(x, y, 4, verbose=0)
    assert float(model.optimizer.dynamic_scale) == 16.0


@pytest.mark.slow
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_factor_that_is_set_between_two_fits(run_eagerly):
    x, y = regression(24)
    scaled, plain = compiled(), compiled()
    trainers = [tl.Trainer(model, run_eagerly=run_eagerly) for model in (scaled, plain)]
    for factor in (None, 64.0, 2.0, None):
        scaled.optimizer.loss_scale_factor = factor
        for trainer in trainers:
            trainer.fit(x, y, 4, verbose=0)
        assert scaled.optimizer.loss_scale_factor == factor
        assert_same(everything(scaled), everything(plain))


@pytest.mark.parametrize("auto_scale_loss", [True, False])
def test_compiling_again_leaves_the_scaling_as_it_was(auto_scale_loss):
    x, y = regression()
    inner = keras.optimizers.SGD(0.01)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(dense_model(), inner, auto_scale_loss=auto_scale_loss)
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = model.optimizer
    tl.Trainer(model).fit(x, y, verbose=0)
    trainer = tl.Trainer(model, loss="mae")
    assert model.optimizer is optimizer and isinstance(optimizer, LossScaleOptimizer) is auto_scale_loss
    trainer.fit(x, y, verbose=0)
    assert trainer.iterations == 2


def test_a_model_that_trains_nothing_moves_nothing():
    x, y = regression()
    model = half(scaling(growth=2))
    model.trainable = False
    model.compile(scaling(growth=2), "mse")
    with pytest.warns(UserWarning, match="no trainable variables"):
        history = tl.Trainer(model).fit(x, y, 4, verbose=0).history
    assert history["loss_scale"] == [2.0**8] and history["skipped"] == [0] and int(model.optimizer.step_counter) == 0


@pytest.mark.slow
def test_xla_may_be_found_out(monkeypatch):
    """It is timed on copies of the variables, those of the scale among them."""
    monkeypatch.setattr(jit, "FEWEST_UPDATES", 1)
    x, y = regression(24)
    chosen = []
    real = jit.choose
    monkeypatch.setattr(jit, "choose", lambda *args: chosen.append(real(*args)) or jit.Choice(False, "", True))
    ends = []
    for jit_compile in ("auto", False):
        model = half(scaling(2.0**17, growth=2))
        trainer = tl.Trainer(model, jit_compile=jit_compile)
        trainer.fit(x, y, 4, epochs=50, verbose=0)
        ends.append(everything(model))
    assert len(chosen) == 1 and trainer.iterations < 300
    assert_same(*ends)
