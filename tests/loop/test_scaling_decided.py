"""Which updates a loss scale that moves leaves out: every evaluation that an update uses counts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scaled import MODES, Far, Masking, Positive, half, scaling, steep
from small import assert_same, compiled, dense_model, everything, regression

import trainlab as tl


class Signs(Far):
    """The signs of the gradient far away, and 0 where it is not finite."""

    def step(self, objective, state):
        step = super().step(objective, state)
        return step._replace(gradient=step.gradient.map(lambda g: tf.where(tf.math.is_finite(g), tf.sign(g), tf.zeros_like(g))))


class Remembered(Far):
    """Keeps the signs of the gradient far away for the next update."""

    def init(self, parameters):
        return {"signs": parameters * 0.0}

    def step(self, objective, state):
        there = Signs(self.distance).step(objective, state)
        return tl.Step(there.at.gradient * 1e-3, at=there.at, memory={"signs": there.gradient})


class InALoop(Far):
    """Finds the gradient far away in a loop of its own."""

    def step(self, objective, state):
        here = objective(state.parameters)

        def again(i, gradient):
            del gradient
            return i + 1, objective(state.parameters.map(lambda leaf: leaf + self.distance)).gradient

        _, gradient = tf.while_loop(lambda i, _: i < 1, again, (tf.constant(0), here.gradient * 1.0))
        return tl.Step(gradient, at=here)


class Looking(Far):
    """Plain, but for a look at what the loss is far away."""

    def step(self, objective, state):
        here, there = objective(state.parameters), objective(state.parameters.map(lambda leaf: leaf + self.distance))
        return tl.Step(here.gradient, at=here, logs={"there": there.loss})


class Zero(tl.StepStrategy):
    """Divides by zero."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient / 0.0, at=here)


def fit(strategy, optimizer=None, mode="graph", bound=500.0):
    x, y = regression(400)
    model = steep(bound, optimizer)
    return model, tl.Trainer(model, strategy, **MODES[mode]).fit(np.abs(x), y, 4, verbose=0).history


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("strategy", [Signs(), Remembered(), InALoop(), tl.Accumulate(2, Signs())], ids=repr)
def test_a_gradient_that_overflows_is_no_update_whatever_is_made_of_it(strategy, mode):
    before = steep().get_weights()
    with pytest.raises(tl.NonFiniteError, match="loss scale has fallen .* evaluation 2 of . gave a non-finite gradient"):
        fit(strategy, mode=mode)
    model, history = fit(strategy, mode=mode, bound=1e9)  # control: where it does not overflow it is made
    assert history["skipped"] == [0] and not np.array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("mode", ["graph", "xla"])  # eagerly there is no telling
def test_what_an_update_does_not_use_does_not_count(mode):
    """It would not even be computed."""
    _, history = fit(Looking(), mode=mode)
    assert history["skipped"] == [0] and history["loss_scale"] == [2.0**8]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        (Far(3e38), "evaluation 2 of 2 gave a loss of (inf|nan)"),
        (tl.Accumulate(2, Far(3e38)), "evaluation 2 of 2 gave a loss of (inf|nan)"),
        (Zero(), "the step made of finite evaluations a non-finite gradient of .*kernel'"),
    ],
    ids=repr,
)
def test_what_is_no_matter_of_the_scale_is_named(strategy, reason, mode):
    """As it is where nothing is scaled, and the scale stays."""
    x, y = regression(24)
    lines = []
    for optimizer in (scaling(), keras.optimizers.SGD(0.01)):
        model = compiled(dense_model(lambda: keras.layers.Dense(1, name="only")), optimizer)
        before = everything(model)[:2]
        with pytest.raises(tl.NonFiniteError, match=f"^update 1 [^;]*: {reason}") as caught:
            tl.Trainer(model, strategy, **MODES[mode]).fit(x, y, 4, verbose=0)
        lines.append(str(caught.value).replace(model.name, ""))
        assert_same(everything(model)[:2], before)
    assert lines[0] == lines[1] and "scale" not in lines[0]


@pytest.mark.parametrize("mode", MODES)
def test_an_overflow_spoils_what_comes_after_it(mode):
    """The second evaluation's loss is not finite only because the first gradient was not."""
    x, y = regression(24)
    model = half(scaling(2.0**30))
    history = tl.Trainer(model, tl.Heun(), **MODES[mode]).fit(x, y, 4, epochs=4, verbose=0).history
    assert 0 < sum(history["skipped"]) < 24


@pytest.mark.slow
@pytest.mark.parametrize("where", ["the same fit", "another fit"])
@pytest.mark.parametrize("mode", MODES)
def test_data_that_a_model_masks_excuse_no_others(mode, where):
    """The first update overflows on a number that is masked; one that is not is named all the same, at whatever scale."""
    x, y = regression(96)
    x[1, 0] = np.nan
    bad = x.copy()
    bad[82, 1] = np.nan

    def fit(*data):
        model = half(scaling(2.0**24), lambda: Masking(1), lambda: keras.layers.Dense(4), Positive, lambda: keras.layers.Dense(1))
        trainer, histories = tl.Trainer(model, **MODES[mode]), []
        for each in data:
            histories.append(trainer.fit(each, y, 4, shuffle=False, verbose=0, check_data=False).history)
        return histories

    last = 1 if where == "the same fit" else 2
    with pytest.raises(tl.NonFiniteError, match=r"number 21 of epoch 1\): in its batch, x holds NaN in example 2"):
        fit(*[x, bad][-last:])
    skipped = [history["skipped"][0] for history in fit(*[x, x][-last:])]  # control
    assert 0 < skipped[0] < 20 and skipped[1:] in ([], [0])
