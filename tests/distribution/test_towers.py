import keras
import pytest
import tensorflow as tf
from replicating import TOLERANCES, assert_same_training, mirrored, trained
from small import close, compiled, dense_model, regression
from tables import EXACT_MODELS, STRATEGIES

import trainlab as tl
from trainlab.loop import jit
from trainlab.loop import loop as loop_module

_QUICK = {("mlp_with_penalties", "sgd")}
_ALL = [
    pytest.param(*case, marks=[] if case in _QUICK else pytest.mark.slow)
    for i, m in enumerate(EXACT_MODELS)
    for j, s in enumerate(STRATEGIES)
    for case in [(m, s)]
    if (i + j) % 3 == 0  # a process keeps all that XLA compiles
]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64"], indirect=True)
@pytest.mark.parametrize(("model", "strategy"), _ALL)
def test_xla_compiles_what_each_evaluates(model, strategy, precision):
    case, make = EXACT_MODELS[model], STRATEGIES[strategy].make
    one, several = trained(case, make()), trained(case, make(), 4, trainer={"jit_compile": True})
    assert_same_training(one, several, TOLERANCES[precision])


@pytest.mark.slow
def test_it_is_xla_that_does_it(monkeypatch):
    compiled_by_xla = []

    def counting(fn):
        compiled_by_xla.append(fn.__qualname__)
        return tf.function(fn, jit_compile=True, autograph=False)

    monkeypatch.setattr(loop_module, "_JIT", counting)
    trained(EXACT_MODELS["mlp_with_penalties"], tl.Heun(), 4, num_examples=24, trainer={"jit_compile": True})
    # Each of the two evaluations, of shards of two examples and of one.
    assert compiled_by_xla == ["Towers._traced.<locals>.evaluate"] * 4
    compiled_by_xla.clear()
    trained(EXACT_MODELS["mlp_with_penalties"], tl.Heun(), None, num_examples=24, trainer={"jit_compile": True})
    assert len(compiled_by_xla) == 1 and "ArrayLayout" in compiled_by_xla[0]


@pytest.mark.parametrize("wins", [True, False])
@pytest.mark.slow
def test_auto_times_this_form(wins, monkeypatch, capsys):
    monkeypatch.setattr(jit, "_race", lambda *args: [(2.0, 1.0) if wins else (1.0, 2.0)] * 5)
    monkeypatch.setattr(jit, "SHARE", 1e9)
    x, y = regression(12)
    trainer = tl.Trainer(compiled(metrics=["mae"]), distribute=mirrored(2), jit_compile="auto")
    trainer.fit(x, y, batch_size=6, steps=1000, verbose=2)
    assert trainer.jit_compile is wins
    assert ("with XLA: " if wins else "without XLA: ") in capsys.readouterr().out


@pytest.mark.slow
def test_what_xla_cannot_reach_is_told():
    teacher = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    teacher.trainable = False

    def loss(y, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred - teacher(keras.ops.ones([1, 3]))), axis=-1)

    x, y = regression(8)
    with pytest.raises(ValueError, match="jit_compile=True: the model or its loss reads .*kernel.* on another device") as error:
        tl.Trainer(compiled(loss=loss), distribute=mirrored(2), jit_compile=True).fit(x, y, batch_size=4, verbose=0)
    assert "\n" not in str(error.value)
    tl.Trainer(compiled(loss=loss), distribute=mirrored(2), jit_compile=False).fit(x, y, batch_size=4, verbose=0)


class ByStep(keras.Model):
    """One whose step scales its loss itself."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(keras.ops.mean(keras.ops.square(self.dense(x) - y)))
        self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
        return {"loss": loss / self.optimizer.scale_loss(1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("make", [dense_model, ByStep])
@pytest.mark.parametrize("strategy", [tl.SGD(), tl.Accumulate(2, tl.Heun())], ids=repr)
def test_a_loss_scale_that_moves_is_handed_to_each(make, strategy):
    """It is read once an update, where variables are: what XLA compiles for another device could not."""
    x, y = regression(16)

    def fit(optimizer, replicas):
        keras.utils.set_random_seed(1)
        model = compiled(make(), optimizer)
        trainer = tl.Trainer(model, strategy, distribute=mirrored(replicas), jit_compile=True)
        trainer.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        return model

    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**8, dynamic_growth_steps=1)
    several, one = fit(scaled, 2), fit(keras.optimizers.SGD(0.1), None)
    close(several.get_weights(), one.get_weights())
    assert float(scaled.dynamic_scale) == 2.0 ** (8 + 4 // strategy.batches)


class Traced(keras.layers.Layer):
    """Counts how often it is traced."""

    times = 0

    def call(self, x):
        if not isinstance(x, keras.KerasTensor):
            Traced.times += 1
        return x


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_tracing_does_not_grow_with_the_number_of_replicas(jit_compile):
    x, y = regression(16)

    def times(replicas):
        model = compiled(keras.Sequential([keras.Input([3]), Traced(), keras.layers.Dense(1)]))
        Traced.times = 0
        trainer = tl.Trainer(model, tl.Accumulate(2), distribute=mirrored(replicas), jit_compile=jit_compile)
        trainer.fit(x, y, batch_size=4, verbose=0)
        return Traced.times

    assert times(4) == times(2) <= times(None) + 3
