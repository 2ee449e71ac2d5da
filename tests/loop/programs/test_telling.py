"""Calls that tell what is reported after them change nothing but the time: weights, logs, and what is taken back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, everything, labelled, regression

import trainlab as tl
from trainlab.loop.programs import telling
from trainlab.parameters import tensorflow_internals


class Logs(keras.callbacks.Callback):
    """Keeps the logs of every update, and may do something at one of them."""

    def __init__(self, at=None, does=None):
        super().__init__()
        self.seen, self._at, self._does = [], at, does

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(dict(logs))
        if len(self.seen) == self._at:
            self._does(self.model)


class Several(keras.metrics.Metric):
    """A metric of several results, one of them a vector."""

    def __init__(self):
        super().__init__(name="several")
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(1.0)

    def result(self):
        return {"z": self.count * 1.0, "a": self.count * tf.ones([2])}


class Reporting(keras.Model):
    """Its `compute_metrics` returns more than the metrics' results."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4)

    def call(self, x):
        return self.dense(x)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {**super().compute_metrics(x, y, y_pred, sample_weight), "largest": keras.ops.max(y_pred)}


class Logging(tl.SGD):
    def step(self, objective, state):
        step = super().step(objective, state)
        return tl.Step(step.gradient, at=step.at, logs={"norm": step.gradient.norm()})


def reporting():
    keras.utils.set_random_seed(1)
    return compiled(Reporting(), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))


MODELS = {
    "accuracy": lambda: classifier(metrics=["accuracy"]),
    "no metrics": classifier,
    "dropout, Adam": lambda: compiled(
        dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(4)),
        keras.optimizers.Adam(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "several results": lambda: classifier(metrics=[Several()]),
    "reports": reporting,
}


def fitted(make, few, monkeypatch, strategy=None, callback=None, stream=False, **arguments):
    monkeypatch.setattr(telling, "FEWEST_CALLS", few)
    monkeypatch.setattr(telling, "MOST_SECONDS", 1e9)  # whatever else the machine does
    callback = Logs() if callback is None else callback
    trainer = tl.Trainer(make(), strategy, **arguments)
    x, y = labelled(46)
    data = (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),) if stream else (x, y, 4)
    trainer.fit(*data, epochs=3, verbose=0, callbacks=[callback])
    return everything(trainer.model), callback.seen, trainer.num_traces


NEVER = 10**9


@pytest.fixture
def told(monkeypatch):
    """How many calls have told."""
    counted, call = [], telling.Telling.__call__
    monkeypatch.setattr(telling.Telling, "__call__", lambda self, arguments: counted.append(1) or call(self, arguments))
    return counted


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["arrays", "stream"])
@pytest.mark.parametrize("model", MODELS)
def test_weights_and_logs_are_the_same_bits(model, stream, monkeypatch, told):
    without = fitted(MODELS[model], NEVER, monkeypatch, Logging(), stream=stream)
    assert not told
    values, seen, num_traces = fitted(MODELS[model], 3, monkeypatch, Logging(), stream=stream)
    assert len(told) > 20 and num_traces == without[2]
    assert_same(values, without[0])
    assert len(seen) == len(without[1]) == 36
    for ours, theirs in zip(seen, without[1], strict=True):
        assert list(ours) == list(theirs) == sorted(ours)
        for name, value in ours.items():
            assert type(value) is type(theirs[name])
            np.testing.assert_array_equal(value, theirs[name])
    assert type(seen[-1]["loss"]) is float


@pytest.mark.slow
def test_what_a_hook_changes_counts_in_the_next_call(monkeypatch, told):
    def change(model):
        model.set_weights([np.full_like(w, 0.5) for w in model.get_weights()])
        model.reset_metrics()
        model.optimizer.learning_rate = 0.01

    found = [fitted(MODELS["accuracy"], few, monkeypatch, callback=Logs(20, change)) for few in (NEVER, 3)]
    assert told
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.parametrize("reason", ["interrupt", "not finite", "an error in the call"])
def test_a_call_that_tells_is_taken_back(reason, monkeypatch, told):
    monkeypatch.setattr(telling, "FEWEST_CALLS", 3)
    monkeypatch.setattr(telling, "MOST_SECONDS", 1e9)
    x, y = labelled(40)
    model = classifier(metrics=["accuracy"])
    trainer, callback, values = tl.Trainer(model), Logs(), []
    if reason == "interrupt":
        call = telling.Telling.__call__

        def interrupted(self, arguments):
            result = call(self, arguments)
            if len(told) == 5:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(telling.Telling, "__call__", interrupted)
        error = KeyboardInterrupt
    elif reason == "not finite":
        x[32], error = np.inf, tl.NonFiniteError
    else:
        y[32], error = 99, Exception
    callback.on_train_batch_begin = lambda batch, logs=None: values.append(everything(model))
    with pytest.raises(error):
        trainer.fit(x, y, 4, verbose=0, callbacks=[callback], shuffle=False, check_data=False)
    done = 7 if reason == "interrupt" else 8
    assert (len(told), trainer.iterations, len(callback.seen)) == (done + 1 - 3, done, done)
    assert_same(everything(model), values[-1])  # as before the last call


def test_a_concrete_function_called_flat():
    variable = tf.Variable(2.0)
    function = tf.function(lambda x, more: [x * variable, more[0] + more[1]])
    scalar = tf.TensorSpec([], tf.float32)
    concrete = function.get_concrete_function(scalar, [scalar, scalar])
    call = tensorflow_internals.flat_caller(concrete)
    given = [tf.constant(3.0), tf.constant(4.0), tf.constant(5.0)]
    assert [float(tensor) for tensor in call(given)] == [6.0, 9.0]
    variable.assign(3.0)
    with tf.GradientTape() as tape:  # it is recorded as ever
        product, _ = call(given)
    assert float(tape.gradient(product, variable)) == 3.0
    nothing = tensorflow_internals.flat_caller(tf.function(lambda: None).get_concrete_function())
    assert nothing(()) == []


def test_a_slow_update_is_left_alone(monkeypatch, told):
    monkeypatch.setattr(telling, "FEWEST_CALLS", 3)
    monkeypatch.setattr(telling, "MOST_SECONDS", 0.0)
    tl.Trainer(compiled()).fit(*regression(40), batch_size=2, verbose=0, callbacks=[Logs()])
    assert not told
