import itertools
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, differ, everything, regression, weights

from trainlab import Accumulate, Heun, Trainer
from trainlab.data.iterators import Puller
from trainlab.data.stream import Stream
from trainlab.loop.programs import Pace


def noisy_model():
    """Dropout, BatchNorm and momentum: every kind of state that a step changes."""
    model = dense_model(
        lambda: keras.layers.BatchNormalization(),
        lambda: keras.layers.Dropout(0.3),
        lambda: keras.layers.Dense(1),
    )
    return compiled(model, keras.optimizers.SGD(0.01, momentum=0.9))


class TestTraces:
    @pytest.mark.parametrize(
        ("num_examples", "strategy", "num_traces"),
        [
            (20, None, 1),
            (22, None, 2),  # the last batch is smaller
            (3, None, 1),
            (40, Accumulate(2), 1),
            (45, Accumulate(2), 2),  # 10 + 10, 10 + 10, 5
            (35, Accumulate(2), 2),  # 10 + 10, 10 + 5
            (40, Accumulate(2, Heun()), 1),
        ],
    )
    def test_arrays_one_for_each_shape_of_an_update(self, num_examples, strategy, num_traces):
        # Accumulating traces its loop body once more to learn what the loop carries; that is inside one trace of the update.
        x, y = regression(num_examples)
        trainer = Trainer(compiled(), strategy)
        trainer.fit(x, y, batch_size=10, verbose=0)
        assert trainer.num_traces == num_traces
        trainer.fit(x, y, batch_size=10, epochs=5, verbose=0)
        trainer.fit(x.copy(), y.copy(), batch_size=10, steps=7, verbose=0)
        assert trainer.num_traces == num_traces
        # Control: another batch size is another shape.
        trainer.fit(x, y, batch_size=1, steps=1, verbose=0)
        assert trainer.num_traces == num_traces + 1

    @pytest.mark.parametrize(("kind", "num_traces"), [("static", 1), ("None", 1), ("ragged last", 1), ("padded", 1)])
    def test_tf_data_one_for_all_shapes_that_the_specs_admit(self, kind, num_traces):
        x, y = regression(22)
        data = tf.data.Dataset.from_tensor_slices((x, y))
        model = compiled()
        if kind == "padded":
            lengths = tf.data.Dataset.range(2, 10)
            data = lengths.map(lambda n: (tf.ones([tf.cast(n, tf.int32), 3]), tf.ones([1]))).padded_batch(2)
            inputs = keras.Input([None, 3])
            model = compiled(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(inputs))))
        else:
            data = data.batch(4, drop_remainder=kind == "static") if kind != "None" else data.take(20).batch(4)
        trainer = Trainer(model)
        trainer.fit(data, verbose=0)
        assert trainer.num_traces == num_traces
        trainer.fit(data, epochs=3, verbose=0)
        assert trainer.num_traces == num_traces

    def test_tf_data_accumulated_one_more_for_what_is_left(self):
        x, y = regression(25)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
        trainer = Trainer(compiled(), Accumulate(2))
        trainer.fit(data, verbose=0)
        assert trainer.num_traces == 2
        trainer.fit(data, epochs=3, verbose=0)
        assert trainer.num_traces == 2

    def test_the_strategy_runs_as_often_as_is_traced(self):
        class Counting(Heun):
            calls = 0

            def step(self, objective, state):
                Counting.calls += 1
                return super().step(objective, state)

        x, y = regression(22)
        trainer = Trainer(compiled(), Counting())
        trainer.fit(x, y, batch_size=10, epochs=4, verbose=0)
        assert Counting.calls == trainer.num_traces == 2
        # Control: eagerly it runs at every update.
        Counting.calls = 0
        Trainer(compiled(), Counting(), run_eagerly=True).fit(x, y, batch_size=10, epochs=4, verbose=0)
        assert Counting.calls == 12

    def test_a_learning_rate_is_no_constant_of_the_trace(self):
        x, y = regression()
        trainer = Trainer(compiled())
        trainer.fit(x, y, verbose=0)
        before = weights(trainer.model)
        trainer.model.optimizer.learning_rate = 0.0
        trainer.fit(x, y, verbose=0)
        assert trainer.num_traces == 1
        assert_same(weights(trainer.model), before)
        trainer.model.optimizer.learning_rate = 0.5
        trainer.fit(x, y, verbose=0)
        assert differ(weights(trainer.model), before)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_results_do_not_depend_on_the_updates_a_call(kind, jit_compile):
    x, y = regression(46)
    data, kwargs = (x, y), {"batch_size": 4}
    if kind == "tf.data":
        data, kwargs = (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),), {}
    results, losses = [], []
    for steps_per_execution in (None, 1, 7):
        trainer = Trainer(noisy_model(), steps_per_execution=steps_per_execution, jit_compile=jit_compile)
        history = trainer.fit(*data, epochs=3, verbose=0, **kwargs)
        results.append(everything(trainer.model))
        losses.append(history.history)
    for result, loss in zip(results[1:], losses[1:], strict=True):
        assert_same(result, results[0])
        assert loss == losses[0]
    # Control: one update more does change everything compared here.
    trainer.fit(*data, steps=1, verbose=0, **kwargs)
    assert differ(everything(trainer.model), results[0])


def test_the_compiled_models_own_choice_counts():
    model = compiled()
    model.compile(optimizer="sgd", loss="mse", steps_per_execution=5)
    heard = []
    x, y = regression(20)
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: heard.append(batch))
    Trainer(model).fit(x, y, batch_size=2, verbose=0, callbacks=[callback])
    assert heard == [4, 9]
    heard.clear()
    Trainer(model, steps_per_execution=2).fit(x, y, batch_size=2, verbose=0, callbacks=[callback])
    assert heard == [1, 3, 5, 7, 9]


class Fails(keras.layers.Layer):
    """Passes its input on; in a forward pass of training whose number is `at`, counted from 1, it raises."""

    def __init__(self, at=None, **kwargs):
        super().__init__(**kwargs)
        self.at, self.count = at, 0

    def _pass(self, x):
        self.count += 1
        if self.count == self.at:
            raise ArithmeticError("the layer failed")
        return x

    def call(self, x, training=False):
        if not training or isinstance(x, keras.KerasTensor):
            return x
        y = tf.py_function(self._pass, [x], x.dtype)
        return tf.ensure_shape(y, x.shape)


def failing_model(at=None):
    keras.utils.set_random_seed(1)
    fails = Fails(at)
    inputs = keras.Input([3])
    x = keras.layers.Dropout(0.3)(keras.layers.BatchNormalization()(inputs))
    outputs = keras.layers.Dense(1)(fails(x))
    model = compiled(keras.Model(inputs, outputs), keras.optimizers.SGD(0.01, momentum=0.9))
    return model, fails


@pytest.mark.slow
@pytest.mark.parametrize(("steps_per_execution", "fails_in", "committed"), [(1, 10, 9), (4, 12, 8), (20, 10, 0)])
def test_an_error_in_a_call_takes_the_call_back(steps_per_execution, fails_in, committed):
    x, y = regression(60)
    model, fails = failing_model()
    trainer = Trainer(model, steps_per_execution=steps_per_execution)
    trainer.fit(x, y, batch_size=4, steps=1, verbose=0)  # builds
    start = everything(model)
    fails.at = fails.count + fails_in
    with pytest.raises(tf.errors.OpError, match="the layer failed"):
        trainer.fit(x, y, batch_size=4, steps=20, verbose=0)
    assert trainer.iterations == 1 + committed

    reference, _ = failing_model()
    other = Trainer(reference, steps_per_execution=steps_per_execution)
    other.fit(x, y, batch_size=4, steps=1, verbose=0)
    assert_same(everything(reference), start)
    other.fit(x, y, batch_size=4, steps=committed, verbose=0)
    for ours, theirs in zip(model.trainable_variables, reference.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert_same([np.array(v) for v in model.optimizer.variables], [np.array(v) for v in reference.optimizer.variables])
    # Metrics are set anew at the start of a fit; all else goes on as if nothing had happened.
    trainer.fit(x, y, batch_size=4, steps=20 - committed, verbose=0)
    other.fit(x, y, batch_size=4, steps=20 - committed, verbose=0)
    assert trainer.iterations == 21
    assert_same(everything(model), everything(reference))


@pytest.mark.slow
def test_an_error_in_the_data_keeps_what_was_committed():
    x, y = regression(40)
    broken = [True]

    def check(i):
        if broken[0] and i == 25:
            raise ArithmeticError("example 25 is unreadable")
        return i

    def load(i):
        i = tf.ensure_shape(tf.py_function(check, [i], tf.int64), [])
        return tf.gather(x, i), tf.gather(y, i)

    data = tf.data.Dataset.range(40).map(load).batch(4)
    model = noisy_model()
    trainer = Trainer(model)
    with pytest.raises(tf.errors.OpError, match="example 25 is unreadable"):
        trainer.fit(data, verbose=0)
    assert trainer.iterations == 6  # batches of 4: the seventh holds example 25
    broken[0] = False
    reference = noisy_model()
    Trainer(reference).fit(data, steps=6, verbose=0)
    assert_same(everything(model), everything(reference))
    trainer.fit(data, verbose=0)
    assert trainer.iterations == 16


class Tears(keras.optimizers.SGD):
    """Interrupts itself after it has assigned some variables, at the update of number `at`."""

    at = None

    def apply(self, grads, trainable_variables=None):
        if self.at is not None and int(self.iterations) == self.at:
            trainable_variables[0].assign(trainable_variables[0] * 0.0)
            raise KeyboardInterrupt
        return super().apply(grads, trainable_variables)


def test_an_interrupt_inside_an_update_tears_nothing():
    x, y = regression(40)
    optimizer = Tears(0.1)
    model = compiled(optimizer=optimizer)
    trainer = Trainer(model, run_eagerly=True, steps_per_execution=1)  # a call is what is rolled back
    optimizer.at = 3
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, batch_size=4, verbose=0)
    assert trainer.iterations == 3
    reference = compiled(optimizer=Tears(0.1))
    Trainer(reference, run_eagerly=True).fit(x, y, batch_size=4, steps=3, verbose=0)
    assert_same(everything(model), everything(reference))
    assert np.abs(model.get_weights()[0]).min() > 0
    optimizer.at = None
    trainer.fit(x, y, batch_size=4, verbose=0)
    Trainer(reference).fit(x, y, batch_size=4, verbose=0)
    assert trainer.iterations == 10


@pytest.mark.parametrize("steps_per_execution", [None, 1, 4])
def test_an_interrupt_from_a_callback_leaves_a_committed_step(steps_per_execution):
    x, y = regression(60)

    def interrupt(batch, logs):
        if batch >= 5:
            raise KeyboardInterrupt

    model, reference = noisy_model(), noisy_model()
    trainer = Trainer(model, steps_per_execution=steps_per_execution)
    with pytest.raises(KeyboardInterrupt):
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
        trainer.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    assert trainer.iterations == (8 if steps_per_execution == 4 else 6)
    Trainer(reference).fit(x, y, batch_size=4, steps=trainer.iterations, verbose=0)
    assert_same(everything(model), everything(reference))


@pytest.mark.parametrize("reads_ahead", [True, False])
def test_the_next_batches_are_read_while_a_call_runs(reads_ahead, monkeypatch):
    reads, calls, found = [], [], []
    pull = Puller.__call__

    def counted(self, iterator, *sizes):
        reads.append(sizes)
        return pull(self, iterator, *sizes)

    monkeypatch.setattr(Puller, "__call__", counted)
    if not reads_ahead:
        monkeypatch.setattr(Stream, "read_ahead", lambda *args: None)

    def wait():
        calls.append(len(reads))
        until = time.monotonic() + (30 if reads_ahead else 0.3)
        while len(reads) <= len(calls) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        found.append(len(reads) > len(calls))

    def loss(y, y_pred):
        tf.numpy_function(wait, [], [])
        return keras.losses.mean_squared_error(y, y_pred)

    trainer = Trainer(compiled(loss=loss), jit_compile=False, steps_per_execution=1)
    trainer.fit(tf.data.Dataset.from_tensor_slices(regression(20)).batch(4), steps=3, verbose=0)
    assert found == [reads_ahead, reads_ahead, False]  # and nothing is read that will not be used
    assert reads == [(1, 1)] * 3


@pytest.mark.parametrize(("fixed", "first", "others"), [(None, 2, [4, 8, 16, 32, 64, 64, 64]), (64, 64, [64, 64, 62])])
def test_training_waits_for_few_batches_of_a_stream_and_reads_more_and_more(fixed, first, others, monkeypatch):
    sizes = []
    pull = Puller.__call__

    def counted(self, iterator, max_updates, batches):
        sizes.append(max_updates)
        return pull(self, iterator, max_updates, batches)

    trainer = Trainer(compiled(), jit_compile=False, steps_per_execution=fixed)
    data = tf.data.Dataset.from_tensor_slices(regression(1016)).batch(4)
    trainer.fit(data, steps=1, verbose=0)
    trainer._loops.made.loop._pace.size = 64
    monkeypatch.setattr(Pace, "allows", lambda *_: True)  # as if these batches were known
    clock = itertools.count(0.0, 0.075)  # no time tells it to make more of them a call, or fewer
    monkeypatch.setattr("trainlab.loop.loop.time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(Puller, "__call__", counted)
    history = trainer.fit(data, epochs=2, verbose=0).history
    assert trainer.iterations == 1 + 2 * 254 and len(history["loss"]) == 2
    assert sizes == [first, *others] * 2
