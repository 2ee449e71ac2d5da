"""One update a step: the optimizer counts, decays, averages, clips and constrains updates, whatever a step is made of."""

import keras
import numpy as np
import pytest
from by_hand import parameters, relative
from keras import layers, ops
from tables import MODELS, STRATEGIES

import trainlab as tl

NUM_BATCHES = 7


class Weights(keras.Model):
    """A vector of weights whose loss is given: `loss(w, x)` is averaged over the examples."""

    def __init__(self, start, loss, **kwargs):
        super().__init__()
        self.start, self.loss_of = np.asarray(start, keras.config.floatx()), loss
        self.w = self.add_weight(shape=self.start.shape, initializer=lambda shape, dtype: ops.cast(self.start, dtype), **kwargs)

    def call(self, x):
        return self.loss_of(self.w, x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(y_pred)


def slope(w, x):
    """A loss whose gradient is the mean of x, everywhere."""
    return ops.sum(w * x, axis=-1)


def fit(model, optimizer, strategy, x=None, epochs=1, batch_size=1, **kwargs):
    """Trains on `NUM_BATCHES` batches of ones, or on x; returns the weights."""
    model.compile(optimizer=optimizer, jit_compile=False)
    x = np.ones([NUM_BATCHES * batch_size, *model.start.shape]) if x is None else np.asarray(x)
    trainer = tl.Trainer(model, strategy, run_eagerly=True)
    trainer.fit(x, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **kwargs)
    return model.w.numpy()


class Recorder(keras.callbacks.Callback):
    """Appends the weights after every update to a list."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.w.numpy())


def num_updates(strategy):
    return -(-NUM_BATCHES // strategy.batches)


every_strategy = pytest.mark.parametrize("case", STRATEGIES.values(), ids=STRATEGIES)
float64 = pytest.mark.parametrize("precision", ["float64"], indirect=True)
# Strategies whose direction is the gradient itself where it is the same everywhere.
DISHONEST = ("heavy_ball", "adaptive", "lookahead")
HONEST = {name: case for name, case in STRATEGIES.items() if not any(part in name for part in DISHONEST)}
# `Lookahead` takes back a part of what the optimizer did: its own tests say what of decay and momentum is left.
FORWARD = {name: case for name, case in STRATEGIES.items() if "lookahead" not in name}
every_forward_strategy = pytest.mark.parametrize("case", FORWARD.values(), ids=FORWARD)
every_honest_strategy = pytest.mark.parametrize("case", HONEST.values(), ids=HONEST)


@every_strategy
def test_iterations_count_updates(case):
    model = Weights([0.0], slope)
    fit(model, keras.optimizers.SGD(0.1), case.make(), epochs=2)
    assert model.optimizer.iterations.numpy() == 2 * num_updates(case)


@float64
@every_honest_strategy
def test_schedules_count_updates(case, precision):
    schedule = keras.optimizers.schedules.InverseTimeDecay(0.5, decay_steps=1, decay_rate=1)
    end = fit(Weights([0.0], slope), keras.optimizers.SGD(schedule), case.make())
    rates = 0.5 / (1 + np.arange(NUM_BATCHES))
    assert end[0] == pytest.approx(-rates[: num_updates(case)].sum(), rel=1e-6)  # a schedule is computed in float32
    if case.batches > 1:
        assert abs(end[0] + rates.sum()) > 0.1  # control


@float64
def test_a_strategy_sees_the_rate_of_this_update(precision):
    class Rate(tl.StepStrategy):
        def step(self, objective, state):
            here = objective(state.parameters)
            return tl.Step(here.gradient * (1 / state.learning_rate), at=here)

    schedule = keras.optimizers.schedules.InverseTimeDecay(0.5, decay_steps=1, decay_rate=1)
    end = fit(Weights([0.0], slope), keras.optimizers.SGD(schedule), Rate())
    assert end[0] == pytest.approx(-NUM_BATCHES, rel=1e-6)


@float64
@every_honest_strategy
def test_the_moving_average_counts_updates(case, precision):
    optimizer = keras.optimizers.SGD(0.25, use_ema=True, ema_momentum=0.5)
    end = fit(Weights([2.0], slope), optimizer, case.make())
    w = average = 2.0
    averages = []
    for i in range(NUM_BATCHES):
        w -= 0.25
        average = w if i == 0 else 0.5 * average + 0.5 * w
        averages.append(average)
    # At the end of training the average takes the weights' place.
    assert end[0] == pytest.approx(averages[num_updates(case) - 1], rel=1e-14)
    assert end[0] != pytest.approx(2.0 - 0.25 * num_updates(case), rel=1e-3)  # control: the average is not the weights


@float64
@every_forward_strategy
def test_weight_decay_counts_updates(case, precision):
    end = fit(Weights([3.0], lambda w, x: 0 * slope(w, x)), keras.optimizers.SGD(0.5, weight_decay=0.25), case.make())
    by_updates = [3.0 * (1 - 0.5 * 0.25) ** n for n in range(NUM_BATCHES + 1)]
    assert end[0] == pytest.approx(by_updates[num_updates(case)], rel=1e-14)
    assert len(set(by_updates)) == NUM_BATCHES + 1  # control


CLIPS = {
    "clipnorm": lambda g: g * min(1, 1 / np.linalg.norm(g)),
    "global_clipnorm": lambda g: g * min(1, 1 / np.linalg.norm(g)),
    "clipvalue": lambda g: np.clip(g, -1, 1),
}


@float64
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("case", [c for c in HONEST.values() if c.batches > 1], ids=[n for n in HONEST if "acc" in n])
def test_clipping_sees_the_averaged_gradient(case, clip, precision):
    x = np.random.default_rng(0).normal(size=(case.batches, 3)) * [4, 4, 1]
    end = fit(Weights(np.zeros(3), slope), keras.optimizers.SGD(1.0, **{clip: 1.0}), case.make(), x)
    np.testing.assert_allclose(-end, CLIPS[clip](x.mean(axis=0)), rtol=1e-12)
    mean_of_clipped = np.mean([CLIPS[clip](row) for row in x], axis=0)
    assert np.linalg.norm(end + mean_of_clipped) > 0.01  # control


MODES = {"eager": {"run_eagerly": True}, "graph": {}, "xla": {"jit_compile": True}}


@pytest.mark.parametrize("batches", [1, 4])
@pytest.mark.parametrize(
    "clip, mode",
    [(clip, "eager") for clip in CLIPS] + [("clipnorm", "graph"), ("global_clipnorm", "xla")],
)
def test_clipping_sees_duplicate_rows_summed(clip, batches, mode):
    """Four examples name one row; each slice's norm is under the limit, their sum's is not."""

    def compiled():
        model = keras.Sequential([keras.Input([1], dtype="int32"), layers.Embedding(3, 1, embeddings_initializer="zeros")])
        optimizer = keras.optimizers.SGD(1.0, **{clip: 1.0})
        model.compile(optimizer, loss=keras.losses.MeanSquaredError(reduction="sum"), jit_compile=False)
        return model

    # Each gradient is -2 * 0.4; summed, -3.2.
    x, y = np.full([4, 1], 2), np.full([4, 1, 1], 0.4, "float32")
    model = compiled()
    tl.Trainer(model, tl.Accumulate(batches), **MODES[mode]).fit(x, y, batch_size=4 // batches, verbose=0)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], [0, 0, 1], rtol=1e-6)
    # Control: Keras clips the slices one by one, and applies their sum.
    keras_model = compiled()
    keras_model.fit(x, y, batch_size=4, verbose=0)
    assert np.linalg.norm(keras_model.get_weights()[0]) > 1.5


CONSTRAINTS = {
    "nonneg": (keras.constraints.NonNeg(), lambda w: (w >= 0).all()),
    "maxnorm": (keras.constraints.MaxNorm(1.0, axis=0), lambda w: (np.linalg.norm(w, axis=0) <= 1 + 1e-6).all()),
    "unitnorm": (keras.constraints.UnitNorm(axis=0), lambda w: np.allclose(np.linalg.norm(w, axis=0), 1, atol=1e-6)),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@every_strategy
def test_constraints_hold_after_every_step(case, name):
    constraint, holds = CONSTRAINTS[name]
    rng = np.random.default_rng(0)
    x, start = rng.normal(size=(NUM_BATCHES, 4)), [0.5, 0.5, 0.5, 0.5]
    for given, expected in ((constraint, True), (None, False)):
        model = Weights(start, lambda w, x: ops.sum(ops.square(w - 3 * x), axis=-1), constraint=given)
        seen = []
        fit(model, keras.optimizers.SGD(0.4), case.make(), x, callbacks=[Recorder(seen)])
        assert len(seen) == num_updates(case)
        assert all(holds(w) for w in seen) == expected  # without it, it does not hold: the control


@float64
@pytest.mark.parametrize("case", [c for c in FORWARD.values() if c.batches > 1], ids=[n for n in FORWARD if "acc" in n])
def test_momentum_runs_over_updates(case, precision):
    model_case = MODELS["mlp_with_penalties"]
    x, y = model_case.arrays(12)
    inner = case.make()
    while hasattr(inner, "inner"):
        inner = inner.inner

    def train(strategy, batch_size):
        model = model_case.compiled(keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
        start = parameters(model)
        fit = {"batch_size": batch_size, "epochs": 2, "shuffle": False, "verbose": 0}
        tl.Trainer(model, strategy, run_eagerly=True).fit(x, y, **fit)
        return parameters(model) - start

    assert relative(train(case.make(), 12 // case.batches), train(inner, 12)) < 1e-13
    assert relative(train(inner, 12 // case.batches), train(inner, 12)) > 1e-2  # control
