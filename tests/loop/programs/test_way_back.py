"""What a call that tells has found is put back, whatever goes wrong in it, and is not kept for longer than that may be."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, differ, everything, labelled, on_a_cpu

import trainlab as tl
from trainlab.loop.programs import telling, way_back
from trainlab.loop.programs.way_back import NUM_NUMBERS, WayBack
from trainlab.objective import native

X, Y = labelled(40)
TARGETS = Y[:, None]  # as numbers
FAILS_AT = 5  # an update, counted from 1


@pytest.fixture(autouse=True)
def _whatever_else_the_machine_does(monkeypatch):
    monkeypatch.setattr(telling, "MOST_SECONDS", 1e9)  # calls of slow updates do not tell


class Hears(keras.callbacks.Callback):
    """Keeps everything before every update, and may do something at a hook."""

    def __init__(self, **hooks):
        super().__init__()
        self.before = []
        for name, hook in hooks.items():
            setattr(self, name, hook)

    def on_train_batch_begin(self, batch, logs=None):
        self.before.append(everything(self.model))


class Torn(keras.optimizers.SGD):
    """Changes its variables one after the other, and fails before the last of them at one update."""

    fails_at = FAILS_AT

    def update_step(self, gradient, variable, learning_rate):
        first, last = (native(self._trainable_variables[i]) for i in (0, -1))
        if native(variable) is last:
            with tf.control_dependencies([first.read_value()]):  # which is written by then
                check = tf.debugging.assert_less(self.iterations.value, tf.cast(self.fails_at - 1, tf.int64), message="torn")
            with tf.control_dependencies([check]):
                gradient = tf.identity(gradient)
        super().update_step(gradient, variable, learning_rate)


def two_layers(dropout=True):
    between = [lambda: keras.layers.Dropout(0.2)] * dropout
    return dense_model(lambda: keras.layers.Dense(5), *between, lambda: keras.layers.Dense(4))


def torn(**settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(two_layers(), Torn(0.1, momentum=0.9), loss, metrics=["accuracy"], **settings)


STRATEGIES = {"sgd": tl.SGD, "heun": tl.Heun, "accumulate": lambda: tl.Accumulate(2, tl.Heun())}


def data(kind, batches):
    x, y = np.tile(X, [batches, 1]), np.tile(Y, batches)
    return (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),) if kind == "stream" else (x, y, 4)


@pytest.mark.parametrize("kind", ["arrays", "stream"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_call_that_fails_between_two_writes(strategy, kind):
    strategy = STRATEGIES[strategy]()
    trainer, hears = tl.Trainer(torn(), strategy), Hears()
    with pytest.raises(Exception, match="torn"):
        trainer.fit(*data(kind, strategy.batches), verbose=0, callbacks=[hears], shuffle=False)
    assert trainer.iterations == FAILS_AT - 1 == len(hears.before) - 1
    assert_same(everything(trainer.model), hears.before[-1])
    assert differ(hears.before[-1], hears.before[-2])  # the control: an update changes something


@on_a_cpu  # on a GPU nothing is put aside
def test_the_control_without_it_the_same_call_is_torn(monkeypatch):
    monkeypatch.setattr(WayBack, "found", lambda self, number: None)
    trainer, hears = tl.Trainer(torn()), Hears()
    with pytest.raises(Exception, match="torn"):
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears], shuffle=False)
    assert differ(everything(trainer.model), hears.before[-1])


@pytest.mark.slow
def test_a_call_of_several_updates_ends_at_the_same_update():
    trainer, hears = tl.Trainer(torn(steps_per_execution=3)), Hears()
    with pytest.raises(Exception, match="torn"):
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears], shuffle=False)
    # Which of the updates 4 to 6 it is is found with the programs that tell nothing: the one before it is committed.
    assert trainer.iterations == FAILS_AT - 1
    step_by_step = tl.Trainer(torn(), seed=trainer.seed)
    with pytest.raises(Exception, match="torn"):
        step_by_step.fit(X, Y, 4, verbose=0, callbacks=[Hears()], shuffle=False)
    assert_same(everything(trainer.model), everything(step_by_step.model))


def on_the_host(does):
    """A loss that calls a function on the host at every update, with the update's number from 0 on."""
    calls = []

    def call(value):
        calls.append(1)
        does(len(calls) - 1)
        return value

    def loss(y_true, y_pred):
        value = tf.reduce_mean(tf.square(y_pred - tf.cast(y_true, tf.float32)))
        return value + 0.0 * tf.stop_gradient(tf.ensure_shape(tf.numpy_function(call, [value], tf.float32), []))

    return loss


def test_training_goes_on_as_if_nothing_had_failed():
    def fitted(fails_at):
        def fail(number):
            if number == fails_at:
                raise ValueError("once")

        model = dense_model(lambda: keras.layers.Dropout(0.3), lambda: keras.layers.Dense(1))
        trainer, hears = tl.Trainer(compiled(model, loss=on_the_host(fail)), seed=3), Hears()
        if fails_at is not None:
            with pytest.raises(Exception, match="once"):
                trainer.fit(X, TARGETS, 4, verbose=0, callbacks=[hears])
            assert trainer.iterations == fails_at
            assert_same(everything(trainer.model), hears.before[-1])
        trainer.fit(X, TARGETS, 4, steps=10 - trainer.iterations, verbose=0, callbacks=[hears])
        return [np.array(v) for v in trainer.model.trainable_variables]

    assert_same(fitted(3), fitted(None))


@pytest.mark.parametrize("when", ["before the call", "after it"])
def test_an_interrupt_takes_back_this_call_and_no_other(when, monkeypatch):
    call, calls = telling.Telling.__call__, []

    def interrupted(self, arguments):
        calls.append(1)
        if len(calls) == FAILS_AT and when == "before the call":
            raise KeyboardInterrupt
        result = call(self, arguments)
        if len(calls) == FAILS_AT:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(telling.Telling, "__call__", interrupted)
    trainer, hears = tl.Trainer(classifier(metrics=["accuracy"])), Hears()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears])
    assert trainer.iterations == FAILS_AT - 1
    assert_same(everything(trainer.model), hears.before[-1])
    monkeypatch.undo()
    trainer.fit(X, Y, 4, verbose=0, callbacks=[Hears()])
    uninterrupted = tl.Trainer(classifier(metrics=["accuracy"]), seed=trainer.seed)
    uninterrupted.fit(X, Y, 4, verbose=0)
    assert_same(everything(trainer.model)[:2], everything(uninterrupted.model)[:2])


@pytest.mark.slow
def test_every_update_tells_from_the_first_one_on_with_the_traces_of_a_fit_that_nobody_hears(monkeypatch):
    calls, call = [], telling.Telling.__call__
    monkeypatch.setattr(telling.Telling, "__call__", lambda self, arguments: calls.append(1) or call(self, arguments))
    heard, unheard = tl.Trainer(two_layers_compiled()), tl.Trainer(two_layers_compiled())
    heard.fit(X[:38], Y[:38], 4, epochs=2, verbose=0, callbacks=[Hears()])
    assert len(calls) == 20
    unheard.fit(X[:38], Y[:38], 4, epochs=2, verbose=0)
    assert len(calls) == 20 and heard.num_traces == unheard.num_traces == 2
    assert_same(everything(heard.model), everything(unheard.model))


def two_layers_compiled(dropout=True):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(two_layers(dropout), keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])


def test_one_that_is_heard_now_and_then_waits_until_it_pays(monkeypatch, tmp_path):
    calls, call = [], telling.Telling.__call__
    monkeypatch.setattr(telling.Telling, "__call__", lambda self, arguments: calls.append(1) or call(self, arguments))
    monkeypatch.setattr(telling, "FEWEST_CALLS_AMONG_OTHERS", 3)
    saves = keras.callbacks.ModelCheckpoint(tmp_path / "a.weights.h5", save_weights_only=True, save_freq=2)
    tl.Trainer(classifier()).fit(X, Y, 4, epochs=1, verbose=0, callbacks=[saves])
    assert len(calls) == 5 - 3


def sizes(trainer):
    return [int(tf.raw_ops.StageSize(**told._way_back._area)) for told in trainer._loops.made.loop._tellings.made.values()]


@on_a_cpu  # on a GPU nothing is put aside
def test_nothing_is_kept_while_something_else_lasts_nor_afterwards():
    seen = []
    hears = Hears(on_test_begin=lambda logs=None: seen.append(sizes(trainer)))
    hears.on_train_batch_end = lambda batch, logs=None: seen.append(sizes(trainer))
    trainer = tl.Trainer(classifier())
    trainer.fit(X, Y, 4, verbose=0, callbacks=[hears], validation_data=(X, Y))
    assert seen == [[1]] * 10 + [[0]]  # the control: what the last call found is kept until the next
    assert sizes(trainer) == [0]

    def fails(batch, logs=None):
        raise RuntimeError("a hook")

    hears.on_train_batch_end = fails
    with pytest.raises(RuntimeError, match="a hook"):
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears])
    assert sizes(trainer) == [0]


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_taken_back_and_the_program_for_smaller_pieces_is_another(monkeypatch):
    call, told = telling.Telling.__call__, []

    def exhausted(self, arguments):
        told.append(self)
        result = call(self, arguments)
        if len(told) == FAILS_AT:
            raise tf.errors.ResourceExhaustedError(None, None, "too large")
        return result

    def fitted(**settings):
        trainer, hears = tl.Trainer(two_layers_compiled(dropout=False), seed=1, **settings), Hears()
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears])
        return trainer, hears

    plain, _ = fitted()
    monkeypatch.setattr(telling.Telling, "__call__", exhausted)
    trainer, hears = fitted(micro_batch_size="auto")
    assert (trainer.micro_batch_size, trainer.iterations, len(hears.before)) == (2, 10, 10)
    assert len(told) == 11 and len(dict.fromkeys(map(id, told))) == 2
    assert [int(tf.raw_ops.StageSize(**one._way_back._area)) for one in dict.fromkeys(told)] == [0, 0]
    for ours, theirs in zip(everything(trainer.model), everything(plain.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_another_thread_is_told_what_is_committed_while_a_call_is_under_way():
    is_in, go_on, found = threading.Event(), threading.Event(), []

    def look():
        assert is_in.wait(60)
        found.append({name: np.array(value) for name, value in trainer._loops.made.loop.committed.items()})
        go_on.set()

    def wait(number):
        if number == 2:
            is_in.set()
            go_on.wait(60)

    trainer, hears = tl.Trainer(compiled(loss=on_the_host(wait))), Hears()
    thread = threading.Thread(target=look)
    thread.start()
    trainer.fit(X, TARGETS, 4, verbose=0, callbacks=[hears], shuffle=False)
    thread.join()
    assert len(found) == 1 and trainer._loops.made.loop.committed is None
    names = {id(v): name for name, v in trainer._loops.made.loop.update.variables.items()}
    model = trainer.model
    values = zip((*model.variables, *model.optimizer.variables), hears.before[2], strict=True)
    before = {names[id(native(v))]: value for v, value in values}
    assert len(before) > 3 and set(before) <= set(found[0])
    for name, value in before.items():
        np.testing.assert_array_equal(found[0][name], value)


def test_what_is_on_no_host_is_read_before_the_call_as_ever(monkeypatch):
    monkeypatch.setattr(telling, "may_put_aside", lambda variables: False)
    trainer, hears = tl.Trainer(torn()), Hears()
    with pytest.raises(Exception, match="torn"):
        trainer.fit(X, Y, 4, verbose=0, callbacks=[hears], shuffle=False)
    assert_same(everything(trainer.model), hears.before[-1])
    with tf.device("CPU:0"):
        assert way_back.may_put_aside({"a": tf.Variable(1.0)})


class TestWayBack:
    def test_every_kind_of_write_leaves_what_was_found(self):
        variables = {"a": tf.Variable([1.0, 2.0]), "b": tf.Variable(3, dtype=tf.int64), "c": tf.Variable([True, False])}
        back = WayBack(variables)

        @tf.function
        def call(number):
            with tf.control_dependencies([back.put_aside(number)]):
                variables["a"].scatter_nd_update([[0]], [9.0])
                variables["a"].assign_add([1.0, 1.0])
                variables["b"].assign(4)
                variables["c"].assign([False, False])

        call(tf.constant(1))
        variables["a"].assign([7.0, 7.0])  # and afterwards
        found = {name: value.numpy().tolist() for name, value in back.found(1).items()}
        assert found == {"a": [1.0, 2.0], "b": 3, "c": [True, False]}

    def test_only_of_the_call_that_is_asked_for(self):
        variable = tf.Variable(0.0)
        back, other = WayBack({"a": variable}), WayBack({"a": variable})

        @tf.function
        def call(number):
            with tf.control_dependencies([back.put_aside(number)]):
                variable.assign_add(1.0)

        assert back.found(0) is None
        for number in range(2 * NUM_NUMBERS):
            call(tf.constant(number % NUM_NUMBERS))
            assert float(back.found(number % NUM_NUMBERS)["a"]) == number
            assert back.found((number + 1) % NUM_NUMBERS) is None is other.found(number % NUM_NUMBERS)
        back.clear()
        assert back.found((2 * NUM_NUMBERS - 1) % NUM_NUMBERS) is None
