"""State that nobody declared, and that a step changes: saved, restored, and taken back like any other."""

import contextlib
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import compiled, dense_model, regression

import trainlab as tl

X, Y = regression(24)


class Counting(keras.optimizers.SGD):
    """Its steps grow shorter by a number that stands in no list of variables."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(rate, **kwargs)
        self.hidden = [tf.Variable(1.0, trainable=False)]  # Keras looks for its own variables only

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * tf.cast(self.hidden[0], gradient.dtype), variable, learning_rate)
        self.hidden[0].assign(self.hidden[0] * 0.9)


def counting():
    model = compiled(dense_model(), Counting())
    return model, model.optimizer.hidden[0]


def closing():
    seen = keras.Variable(1.0, trainable=False)

    def loss(y, p):
        seen.assign(seen * 0.9)
        return keras.ops.mean(keras.ops.square(y - p), axis=-1) * seen

    return compiled(dense_model(), loss=loss), seen


def in_a_branch():
    seen = keras.Variable(0.0, trainable=False)

    class Branching(keras.optimizers.SGD):
        def apply(self, gradients, variables=None):
            def add():
                seen.value.assign_add(1.0)
                return tf.zeros([])

            tf.cond(tf.reduce_sum(gradients[0]) < 1e9, add, lambda: tf.zeros([]))
            super().apply([g / (1.0 + seen.value) for g in gradients], variables)

    return compiled(dense_model(), Branching(0.1)), seen


class Remembering(tl.StepStrategy):
    """Keeps a variable of its own, against the rules."""

    def __init__(self):
        self._steps = tf.Variable(0.0, trainable=False)

    def step(self, objective, state):
        here = objective(state.parameters)
        with tf.control_dependencies([self._steps.assign_add(1.0)]):
            return tl.Step(here.gradient / (1.0 + self._steps.read_value()), at=here)


def in_a_strategy():
    strategy = Remembering()
    return compiled(dense_model()), strategy._steps, strategy


MAKE = {"optimizer": counting, "loss": closing, "branch": in_a_branch, "strategy": in_a_strategy}


MODES = {"graph": {"jit_compile": False}, "XLA": {"jit_compile": True}, "eager": {"run_eagerly": True}}


def trained(make, directory, updates, **mode):
    model, hidden, *strategy = make()
    trainer = tl.Trainer(model, *strategy, run=directory and tl.Run(directory, save_seconds=None), **mode)
    trainer.fit(X, Y, 4, steps=updates, verbose=0)
    return trainer, float(tf.convert_to_tensor(hidden)), [np.array(w) for w in model.get_weights()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAKE)
def test_it_is_in_checkpoints(name, mode, tmp_path):
    _, hidden, whole = trained(MAKE[name], None, 9, **MODES[mode])
    trained(MAKE[name], tmp_path, 5, **MODES[mode])
    trainer, again, resumed = trained(MAKE[name], tmp_path, 9, **MODES[mode])
    assert trainer.resumed_at == 5 and again == hidden
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    names = [name for name in trainer._loops.made.loop.update.variables if name.startswith("undeclared")]
    assert names == ([] if name == "loss" else ["undeclared.0"])  # what a forward pass assigns is committed with the step


@pytest.mark.parametrize("num_before", [3, 0])
@pytest.mark.parametrize("mode", ["graph", "eager"])
@pytest.mark.parametrize("name", MAKE)
def test_it_is_taken_back_with_an_update(name, mode, num_before):
    model, hidden, *strategy = MAKE[name]()
    trainer = tl.Trainer(model, *strategy, on_nonfinite="skip", **MODES[mode])
    if num_before:
        trainer.fit(X, Y, 4, steps=num_before, verbose=0)
    before = float(tf.convert_to_tensor(hidden))
    bad = tf.data.Dataset.from_tensors((np.full([4, 3], np.nan, "float32"), Y[:4]))
    with pytest.warns(UserWarning, match="skipped"):
        trainer.fit(bad, verbose=0)
    assert float(tf.convert_to_tensor(hidden)) == before
    trainer.fit(X, Y, 4, steps=1, verbose=0)
    assert float(tf.convert_to_tensor(hidden)) != before


class Late(keras.optimizers.SGD):
    """Makes its number when it is asked for the first time, by a function of its own."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(rate, **kwargs)
        self.hidden, self._shrink = [], tf.function(lambda v: v.assign(v * 0.9), autograph=False)

    def apply(self, gradients, variables=None):
        if not self.hidden:
            with tf.init_scope():
                self.hidden.append(tf.Variable(1.0, trainable=False))
        self._shrink(self.hidden[0])
        super().apply([g * self.hidden[0] for g in gradients], variables)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_what_is_made_late_is_what_it_was_when_it_was_made(mode, tmp_path):
    def make():
        model = compiled(dense_model(), Late())
        return model, model.optimizer.hidden

    def run(directory, updates):
        model, hidden = make()
        trainer = tl.Trainer(model, run=directory and tl.Run(directory, save_seconds=None), **MODES[mode])
        trainer.fit(X, Y, 4, steps=updates, verbose=0)
        return float(hidden[0]), model.get_weights()

    whole, weights = run(None, 9)
    run(tmp_path, 5)
    again, resumed = run(tmp_path, 9)
    assert again == whole == pytest.approx(0.9**9, rel=1e-5)
    for a, b in zip(resumed, weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_what_is_only_read_is_no_state(mode):
    teacher = keras.Variable(np.ones([3], "float32"), trainable=False)

    def loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p), axis=-1) + 0 * keras.ops.sum(teacher)

    trainer = tl.Trainer(compiled(dense_model(), loss=loss), **MODES[mode])
    trainer.fit(X, Y, 4, verbose=0)
    update = trainer._loops.made.loop.update
    assert update.undeclared == [] and [v is teacher.value for v in update.read] == [True]


class Reading(keras.Model):
    """Its loss reads what it does not train."""

    def __init__(self, read):
        super().__init__()
        self.dense, self.read = keras.layers.Dense(1), read
        self.beta = tf.Variable(0.0, trainable=False)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y - y_pred)) + self.read(self, x, y_pred)


def with_teacher(weight=0.5):
    teacher = dense_model()
    teacher.trainable = False
    teacher.set_weights([np.full(w.shape, weight, "float32") for w in teacher.get_weights()])
    model = Reading(lambda _, x, p: keras.ops.mean(keras.ops.square(teacher(x) - p)))
    return model, lambda epoch, logs: teacher.set_weights([w / 2 for w in teacher.get_weights()])


def with_weight(_=None):
    model = Reading(lambda self, x, p: self.beta * keras.ops.mean(keras.ops.square(p)))
    return model, lambda epoch, logs: model.beta.assign(model.beta + 0.25)


def with_keras_variable(_=None):
    weight = keras.Variable(0.0, trainable=False)
    model = Reading(lambda self, x, p: weight * keras.ops.mean(keras.ops.square(p)))
    return model, lambda epoch, logs: weight.assign(weight + 0.25)


def with_constraint(_=None):
    most = tf.Variable(0.05, trainable=False)
    model = Reading(lambda self, x, p: 0.0)
    model.dense.kernel_constraint = lambda w: tf.clip_by_value(w, -most, most)
    return model, lambda epoch, logs: most.assign(most * 2)


# Eagerly TensorFlow reads "keras" in C, where nobody sees it.
READ = {"teacher": with_teacher, "raw": with_weight, "keras": with_keras_variable, "constraint": with_constraint}


class StopAfterTwo(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def read_run(made, directory, *callbacks, epochs=4, **kwargs):
    model, hook = made
    if not model.built:
        model.build([None, 3])
        model.dense.set_weights([np.full([3, 1], 0.125, "float32"), np.zeros(1, "float32")])
        model.compile(optimizer=keras.optimizers.SGD(0.05))
    trainer = tl.Trainer(model, run=directory and tl.Run(directory, save_seconds=None), seed=3, **kwargs)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.fit(X, Y, 4, epochs, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=hook), *callbacks], verbose=0)
    return trainer, [np.array(w) for w in model.get_weights()]


@pytest.mark.slow
@pytest.mark.parametrize("is_anew", [True, False], ids=["new process", "same objects"])
@pytest.mark.parametrize(
    "name, mode", [(name, mode) for name in READ for mode in ("graph", "eager") if (name, mode) != ("keras", "eager")]
)
def test_what_a_hook_changes_and_a_step_reads_is_in_checkpoints(name, is_anew, mode, tmp_path):
    make, run = READ[name], functools.partial(read_run, **MODES[mode])
    _, whole = run(make(), None)
    _, unchanged = run((make()[0], lambda epoch, logs: None), None)
    assert not np.allclose(whole[0], unchanged[0])  # or what follows would say nothing
    made = make()
    stopped, _ = run(made, tmp_path, StopAfterTwo())
    trainer, resumed = run(make() if is_anew else made, tmp_path)
    assert trainer.resumed_at == 12
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    update = stopped._loops.made.loop.update
    assert len(update.read_only) == (2 if name == "teacher" else 1) and update.undeclared == []
    assert not update.read_only.keys() & update.variables.keys()  # no call reads it for a way back


def test_another_teacher_is_another_run(tmp_path):
    read_run(with_teacher(), tmp_path, StopAfterTwo())
    with pytest.raises(ValueError, match=r"(?s)is of another run; nothing was touched.*teacher.*variables"):
        read_run(with_teacher(weight=0.75), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_usual_model_has_none(mode):
    for optimizer in (keras.optimizers.Adam(0.01, use_ema=True), keras.optimizers.SGD(0.1, momentum=0.9)):
        model = compiled(
            dense_model(
                lambda: keras.layers.BatchNormalization(), lambda: keras.layers.Dropout(0.2), lambda: keras.layers.Dense(1)
            ),
            optimizer,
            metrics=["mae"],
        )
        trainer = tl.Trainer(model, tl.Accumulate(2, tl.Heun()), **MODES[mode])
        trainer.fit(X, Y, 4, verbose=0)
        assert trainer._loops.made.loop.update.undeclared == trainer._loops.made.loop.update.read == []


class Draws(tl.StepStrategy):
    """Adds noise to the gradient."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient * self.draw(state), at=here)


class Shaken(keras.optimizers.SGD):
    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient * tf.cond(tf.random.uniform([]) > 0.5, lambda: 1.0, lambda: 0.5), variable, learning_rate)


class Filled(keras.constraints.Constraint):
    """Counts in what is no variable."""

    table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)

    def __call__(self, w):
        key = tf.constant([1], tf.int64)
        self.table.insert(key, self.table.lookup(key) + 1)
        return w


GENERATOR = tf.random.Generator.from_seed(1)
HIDDEN = {
    "strategy": (lambda: (compiled(dense_model()), Draws(lambda state: tf.random.normal([]))), "tf.random (RandomStandardNormal"),
    "optimizer": (lambda: (compiled(dense_model(), Shaken(0.1)),), "tf.random (RandomUniform"),
    "constraint": (lambda: (compiled(with_constraint(Filled())),), "changes a lookup table outside the model"),
}
SEEN = {
    "seed": lambda: Draws(lambda state: tf.random.stateless_normal([], state.seed)),
    "generator": lambda: Draws(lambda state: GENERATOR.normal([])),
}


def with_constraint(constraint):
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(1, kernel_constraint=constraint)])


@pytest.mark.parametrize("name", HIDDEN)
def test_what_nobody_can_save_is_refused_before_the_first_update(name):
    """A resume went on with other numbers, and nothing was said."""
    make, says = HIDDEN[name]
    model, *strategy = make()
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        tl.Trainer(model, *strategy).fit(X, Y, 4, verbose=0)
    assert says in str(error.value) and str(error.value).startswith("the step ") and "\n" not in str(error.value)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("name", SEEN)
def test_what_can_be_saved_may_be_drawn(name, tmp_path):
    losses = []
    for run, parts in (("whole", [2]), ("stopped", [1, 2])):
        for epochs in parts:
            keras.utils.set_random_seed(1)
            GENERATOR.reset_from_seed(5)
            trainer = tl.Trainer(compiled(dense_model()), SEEN[name](), run=tmp_path / run)
            history = trainer.fit(X, Y, 4, epochs=epochs, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]
