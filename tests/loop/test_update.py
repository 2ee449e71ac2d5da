import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, differ, everything, regression, weights

from trainlab import SGD, Accumulate, Step, StepStrategy, Trainer, Vector


def strategy(step, init=None):
    """A strategy from functions."""
    members = {"step": lambda self, objective, state: step(objective, state)}
    if init is not None:
        members["init"] = lambda self, parameters: init(parameters)
    return type("Mine", (StepStrategy,), members)()


def plain(objective, state):
    here = objective(state.parameters)
    return Step(here.gradient, at=here)


def with_(**changes):
    return lambda objective, state: plain(objective, state)._replace(**changes)


def other_models():
    return Vector([tf.zeros([5, 5])])


WRONG = {
    "nothing": (lambda objective, state: None, TypeError, "^Mine.step returned NoneType; it must return Step"),
    "a gradient": (lambda objective, state: plain(objective, state).gradient, TypeError, "^Mine.step returned Vector; it must"),
    "an evaluation": (lambda objective, state: objective(state.parameters), TypeError, "^Mine.step returned Evaluation; it must"),
    "a tuple": (lambda objective, state: tuple(plain(objective, state)), TypeError, "^Mine.step returned tuple; it must"),
    "no vector": (with_(gradient=0.0), TypeError, "^Mine.step returned as gradient float; it must be a Vector"),
    "another model's": (
        with_(gradient=other_models()),
        ValueError,
        "^Mine.step returned as gradient a Vector of 1 leaves, but this model has 2 trainable variables: is it another",
    ),
    "another shape": (
        with_(gradient=Vector([tf.zeros([3, 2]), tf.zeros([1])])),
        ValueError,
        r"^Mine.step returned as gradient a Vector whose leaf for '.*/out/kernel' has shape \(3, 2\), not \(3, 1\)",
    ),
    "at another model": (
        lambda objective, state: Step(state.parameters, at=objective(other_models())),
        ValueError,
        "^the objective was called with a Vector of 1 leaves",
    ),
    "a list": (
        lambda objective, state: objective(list(state.parameters.leaves)),
        TypeError,
        "^the objective was called with list; it must be a Vector, such as state.parameters",
    ),
    "at": (with_(at=3.0), TypeError, "^Mine.step returned at=float; it must be an Evaluation"),
    "memory unasked for": (with_(memory={"a": 1.0}), ValueError, r"memory with the keys \['a'\]; init shaped \[\]"),
    "logs": (
        with_(logs={"all": tf.ones([3])}),
        ValueError,
        r"logs\['all'\] as .* of shape \(3,\); it must be a scalar number$",
    ),
    "logs with a metric's name": (
        with_(logs={"loss": 1.0}),
        ValueError,
        r"^Mine.step returned logs\['loss'\], which is the name of a metric: choose another$",
    ),
    "logs that are no numbers": (with_(logs={"text": "a"}), (TypeError, ValueError), r"logs\['text'\]"),
    "not written": (lambda objective, state: StepStrategy().step(objective, state), NotImplementedError, "must define step"),
}


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_named_and_moves_nothing(name, run_eagerly):
    step, exception, message = WRONG[name]
    x, y = regression()
    model = compiled()
    before = weights(model)
    with pytest.raises(exception, match=message) as error:
        Trainer(model, strategy(step), run_eagerly=run_eagerly).fit(x, y, verbose=0)
    assert "\n" not in str(error.value)
    assert_same(weights(model), before)


def test_a_right_strategy_can_take_a_wrong_ones_place():
    x, y = regression()
    model = compiled()
    before = weights(model)
    trainer = Trainer(model, strategy(WRONG["another model's"][0]))
    with pytest.raises(ValueError, match="is it another model's"):
        trainer.fit(x, y, verbose=0)
    trainer.strategy = strategy(plain)
    trainer.fit(x, y, verbose=0)
    assert differ(weights(model), before)
    assert trainer.iterations == 1


class TestMemory:
    @staticmethod
    def fit(step, init, **kwargs):
        x, y = regression(20)
        model = compiled()
        trainer = Trainer(model, strategy(step, init), **kwargs)
        history = trainer.fit(x, y, batch_size=4, verbose=0)
        return trainer, history.history

    def test_is_what_init_made_and_then_what_step_returned(self):
        def step(objective, state):
            here = objective(state.parameters)
            memory = {"count": state.memory["count"] + 1, "sum": state.memory["sum"] + here.gradient}
            return Step(here.gradient, at=here, memory=memory, logs={"count": state.memory["count"]})

        trainer, logs = self.fit(step, lambda parameters: {"count": tf.constant(10), "sum": parameters * 0.0})
        assert logs["count"] == [12.0]  # the mean of 10, 11, 12, 13, 14
        memory = trainer._loops.made.loop.update.memory
        assert memory["count"].numpy() == 15
        # Plain SGD at 0.1: the weights moved by minus a tenth of the gradients' sum.
        moved = [start - end for start, end in zip(weights(compiled()), weights(trainer.model), strict=True)]
        for total, change in zip(memory["sum"].leaves, moved, strict=True):
            np.testing.assert_allclose(0.1 * total, change, rtol=1e-5, atol=1e-7)

    def test_none_leaves_it(self):
        trainer, _ = self.fit(plain, lambda parameters: {"kept": tf.constant([1.0, 2.0])})
        np.testing.assert_array_equal(trainer._loops.made.loop.update.memory["kept"], [1.0, 2.0])

    def test_goes_on_in_the_next_fit(self):
        def step(objective, state):
            return plain(objective, state)._replace(memory={"count": state.memory["count"] + 1})

        x, y = regression(20)
        trainer = Trainer(compiled(), strategy(step, lambda parameters: {"count": tf.constant(0)}))
        trainer.fit(x, y, batch_size=4, verbose=0)
        trainer.fit(x, y, batch_size=4, verbose=0)
        assert trainer._loops.made.loop.update.memory["count"].numpy() == 10

    def test_goes_back_with_a_failed_call(self):
        fail = [True]

        def check(iteration):
            if fail[0] and iteration == 3:
                raise ArithmeticError("failed")
            return np.float32(1.0)

        def step(objective, state):
            one = tf.ensure_shape(tf.py_function(check, [state.iteration], tf.float32), [])
            here = objective(state.parameters)
            return Step(here.gradient * one, at=here, memory={"count": state.memory["count"] + one})

        x, y = regression(20)
        trainer = Trainer(compiled(), strategy(step, lambda parameters: {"count": tf.constant(0.0)}), steps_per_execution=2)
        with pytest.raises(tf.errors.OpError):
            trainer.fit(x, y, batch_size=4, verbose=0)
        assert trainer._loops.made.loop.update.memory["count"].numpy() == trainer.iterations == 2

    @pytest.mark.parametrize(
        ("init", "message"),
        [
            (lambda parameters: None, "^Mine.init must return a dict of tensors and Vectors by name, not None"),
            (lambda parameters: [1.0], "^Mine.init must return a dict"),
            (lambda parameters: {1: 1.0}, "^Mine.init must return a dict"),
            (lambda parameters: {"a": object()}, r"^Mine.init: memory\['a'\] must be a tensor or a Vector, not object"),
        ],
    )
    def test_a_wrong_init_is_named(self, init, message):
        with pytest.raises(TypeError, match=message) as error:
            self.fit(plain, init)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("init", "memory", "message"),
        [
            ({"a": 0.0, "b": 0.0}, {"a": 1.0}, r"memory with the keys \['a'\]; init shaped \['a', 'b'\]"),
            ({"a": 0.0}, {"a": 1.0, "c": 2.0}, r"memory with the keys \['a', 'c'\]; init shaped \['a'\]"),
            ({"a": 0.0}, {"a": tf.ones([2])}, r"memory\['a'\]"),
            ({"a": 0}, {"a": 0.5}, r"memory\['a'\] with fractions; init made it of whole numbers, .*: give it 0.0"),
            ({"a": 0.0}, {"a": other_models()}, r"memory\['a'\] as a Vector of .*; init made it .*"),
            ({"a": other_models()}, {"a": 1.0}, r"memory\['a'\] as .*; init made it a Vector of .*"),
            ({"a": other_models()}, {"a": Vector([tf.ones([2])])}, r"memory\['a'\]"),
            ({"a": other_models()}, {"a": Vector([tf.ones([5, 5]), tf.ones([2])])}, r"memory\['a'\]"),
        ],
        ids=["missing", "unknown", "shape", "cut off", "vector for scalar", "scalar for vector", "leaf's shape", "leaves"],
    )
    def test_a_wrong_memory_is_named(self, init, memory, message):
        before = weights(compiled())
        x, y = regression(20)
        model = compiled()
        with pytest.raises((TypeError, ValueError), match=message) as error:
            Trainer(model, strategy(with_(memory=memory), lambda parameters: init)).fit(x, y, verbose=0)
        assert "\n" not in str(error.value)
        assert_same(weights(model), before)

    @pytest.mark.parametrize(
        ("returned", "message"),
        [
            ({"memory": [1.0]}, "returned memory as list; it must be a dictionary"),
            ({"memory": {"a": None}}, r"returned memory\['a'\] as a NoneType"),
            ({"logs": None}, "returned logs as NoneType; it must be a dictionary"),
            ({"logs": {"b": object()}}, r"returned logs\['b'\] as a object; it must be a scalar number"),
            ({"logs": {1: 1.0}}, "returned logs by 1, which is no name"),
            ({"then": 3}, "returned then as int; it must be a function"),
            # Of more than one element TensorFlow aborted the process.
            ({"then": lambda point: (point, {}), "when": [True, False]}, r"returned when as a bool tensor of shape \(2,\)"),
        ],
    )
    def test_what_else_is_no_step_is_named(self, returned, message):
        x, y = regression(20)
        with pytest.raises((TypeError, ValueError), match=f"^Mine.step {message}") as error:
            Trainer(compiled(), strategy(with_(**returned), lambda parameters: {"a": 0.0})).fit(x, y, verbose=0)
        assert "\n" not in str(error.value)

    def test_whole_numbers_into_a_memory_of_others_are_right(self):
        x, y = regression(20)
        mine = strategy(with_(memory={"a": 3}), lambda parameters: {"a": 0.0})
        trainer = Trainer(compiled(), mine)
        trainer.fit(x, y, verbose=0)
        assert trainer.model.optimizer.iterations > 0


class TestLogs:
    def test_are_means_over_the_updates_of_an_epoch(self):
        x, y = regression(20)
        mine = strategy(lambda objective, state: plain(objective, state)._replace(logs={"i": state.iteration, "half": 0.5}))
        history = Trainer(compiled(), mine).fit(x, y, batch_size=4, epochs=2, verbose=0)
        assert history.history["i"] == [2.0, 7.0]  # of 0..4 and of 5..9
        assert history.history["half"] == [0.5, 0.5]

    def test_do_not_depend_on_who_listens(self):
        x, y = regression(20)
        mine = strategy(lambda objective, state: plain(objective, state)._replace(logs={"i": state.iteration}))
        heard = []
        callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: heard.append(logs["i"]))
        history = Trainer(compiled(), mine).fit(x, y, batch_size=4, callbacks=[callback], verbose=0)
        assert heard == [0.0, 0.5, 1.0, 1.5, 2.0]
        assert history.history["i"] == [2.0]

    def test_a_gradient_norm(self):
        x, y = regression(20)
        mine = strategy(lambda o, s: (step := plain(o, s))._replace(logs={"gradient_norm": step.gradient.norm()}))
        model = compiled()
        kernel, bias = weights(model)
        error = x @ kernel + bias - y
        expected = np.sqrt(np.sum((2 * x.T @ error / 20) ** 2) + (2 * error.mean()) ** 2)
        history = Trainer(model, mine).fit(x, y, batch_size=20, verbose=0)
        np.testing.assert_allclose(history.history["gradient_norm"], [expected], rtol=1e-5)


class TestState:
    def record(self, seed=0, steps=5, initial_steps=0, **kwargs):
        found = []

        def write(iteration, seed_, rate):
            found.append((int(iteration), tuple(seed_.numpy()), float(rate)))
            return 0.0

        def step(objective, state):
            zero = tf.py_function(write, [state.iteration, state.seed, state.learning_rate], tf.float32)
            here = objective(state.parameters)
            return Step(here.gradient + tf.ensure_shape(zero, []), at=here)

        x, y = regression(20)
        rate = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
        trainer = Trainer(compiled(optimizer=keras.optimizers.SGD(rate)), strategy(step), seed=seed, **kwargs)
        if initial_steps:
            trainer.fit(x, y, batch_size=4, steps=initial_steps, verbose=0)
        trainer.fit(x, y, batch_size=4, steps=steps, verbose=0)
        return found

    def test_iteration_and_learning_rate_are_the_optimizers(self):
        assert [(i, rate) for i, _, rate in self.record()] == [(i, 0.5 ** (i + 1)) for i in range(5)]

    @pytest.mark.slow
    def test_seed_is_new_at_each_iteration_and_the_same_on_a_rerun(self):
        seeds = [seed for _, seed, _ in self.record()]
        assert len(set(seeds)) == 5
        assert [seed for _, seed, _ in self.record()] == seeds
        assert [seed for _, seed, _ in self.record(steps=2, initial_steps=3)] == seeds
        assert [seed for _, seed, _ in self.record(run_eagerly=True)] == seeds
        assert not set(seeds) & {seed for _, seed, _ in self.record(seed=1)}

    def test_noise_from_the_seed_repeats(self):
        def step(objective, state):
            here = objective(state.parameters)
            noise = tf.random.stateless_normal([], state.seed)
            return Step(here.gradient, at=here, logs={"noise": noise})

        x, y = regression(20)
        runs = [Trainer(compiled(), strategy(step)).fit(x, y, batch_size=20, epochs=3, verbose=0).history for _ in range(2)]
        assert runs[0]["noise"] == runs[1]["noise"]
        assert len(set(runs[0]["noise"])) == 3

    def test_a_step_cannot_reach_a_variable(self):
        x, y = regression(20)
        kinds = []

        def step(objective, state):
            kinds.extend(type(leaf) for leaf in tf.nest.flatten([state.parameters.leaves, *state._replace(parameters=0)]))
            return plain(objective, state)

        Trainer(compiled(), strategy(step, lambda parameters: {"m": parameters})).fit(x, y, verbose=0)
        assert kinds
        assert not any(issubclass(kind, (tf.Variable, keras.Variable)) for kind in kinds)


class TestCommit:
    def test_at_decides_what_is_reported_and_kept(self):
        x, y = regression(20)

        def make(at_there):
            def step(objective, state):
                here = objective(state.parameters)
                there = objective(state.parameters + 1.0)
                return Step(here.gradient, at=there if at_there else here)

            return strategy(step)

        norms, losses = [], []
        for at_there in (False, True):
            model = dense_model(lambda: keras.layers.Dense(2), keras.layers.BatchNormalization, lambda: keras.layers.Dense(1))
            compiled(model, keras.optimizers.SGD(0.0))
            history = Trainer(model, make(at_there)).fit(x, y, batch_size=20, verbose=0)
            norms.append(np.array(model.layers[1].moving_mean))
            losses.append(history.history["loss"][0])
        assert losses[0] != losses[1]
        assert differ([norms[0]], [norms[1]])
        # Control: with the same point both are the same.
        np.testing.assert_allclose(norms[1] - norms[0], 0.01 * (1 + x.sum(axis=1).mean()), rtol=1e-3)

    def test_a_zero_gradient_moves_nothing_but_counts(self):
        x, y = regression(20)
        model = compiled()
        before = weights(model)
        mine = strategy(lambda o, s: (step := plain(o, s))._replace(gradient=step.gradient * 0.0))
        Trainer(model, mine).fit(x, y, batch_size=4, verbose=0)
        assert_same(weights(model), before)
        assert model.optimizer.iterations == 5

    @pytest.mark.parametrize("inner", [None, SGD()], ids=["default", "SGD"])
    def test_a_weight_that_no_loss_depends_on_is_left_alone(self, inner):
        inputs = keras.Input([3])
        keras.utils.set_random_seed(1)
        unused = keras.layers.Dense(1, name="unused")
        outputs = keras.layers.Dense(1)(inputs)
        model = keras.Model(inputs, [outputs, unused(inputs)])
        compiled(model, keras.optimizers.SGD(0.1, weight_decay=0.1), loss=["mse", None])
        x, y = regression(20)
        before = np.array(unused.kernel)
        Trainer(model, Accumulate(2, inner)).fit(x, [y, y], batch_size=5, verbose=0)
        np.testing.assert_array_equal(unused.kernel, before)

    def test_everything_that_changes_is_in_the_transaction(self):
        x, y = regression(20)
        model = dense_model(keras.layers.BatchNormalization, lambda: keras.layers.Dropout(0.5), lambda: keras.layers.Dense(1))
        compiled(model, keras.optimizers.Adam(), metrics=["mae"])
        mine = strategy(
            lambda o, s: plain(o, s)._replace(memory={"m": s.memory["m"] + 1}, logs={"one": 1.0}), lambda p: {"m": tf.zeros([])}
        )
        trainer = Trainer(model, mine)
        trainer.fit(x, y, verbose=0)
        known = {id(v) for v in trainer._loops.made.loop.update.variables.values()}
        changed = [*model.variables, *model.optimizer.variables]
        assert all(id(v.value) in known for v in changed)
        assert len(known) >= len(everything(model)) + 2
