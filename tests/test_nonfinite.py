"""Non-finite values, wherever they come from: the run stops at the last good update, or goes on without the bad one."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, classifier, compiled, dense_model, differ, labelled, regression, weights
from tables import STRATEGIES

from trainlab import SGD, NonFiniteError, Step, StepStrategy, Trainer, data, nonfinite
from trainlab.loop import Loop

MODES = {
    "eager": {"run_eagerly": True, "jit_compile": False},
    "graph": {"jit_compile": False},
    "xla": {"jit_compile": True},
}
FIRST, SECOND = 1.0, 2.0  # marks, in the last column of x


class ToZero(keras.constraints.Constraint):
    """Where an update starts from, the variable is 0; at a probe it is not."""

    def __call__(self, w):
        return w * 0.0


class BadGradient(keras.layers.Layer):
    """Passes its input on; the gradient is NaN where an example has the mark of this evaluation, the first or a later one."""

    def build(self, shapes):
        self.probe = self.add_weight(shape=(), initializer="zeros", constraint=ToZero(), name="probe")

    def call(self, inputs):
        x, mark = inputs
        is_bad = keras.ops.any(mark == keras.ops.where(self.probe == 0, FIRST, SECOND))

        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: tf.where(is_bad, np.nan * upstream, upstream)

        return identity(x) + 0.1 * self.probe


def fragile_model(optimizer=None):
    """BatchNorm, Dropout, relu, momentum and a metric: every kind of state, and a relu that hides NaN."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([4])
    x = keras.layers.BatchNormalization(name="norm")(inputs[:, :3])
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(5, "relu", name="hidden")(x)
    x = BadGradient(name="bad_gradient")([x, inputs[:, 3:]])
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(x))
    return compiled(model, optimizer or keras.optimizers.SGD(0.01, momentum=0.9), loss=marked_loss, metrics=["mae"])


def marked_loss(y_true, y_pred):
    """NaN for a target of 100, with a gradient that is finite."""
    return tf.reduce_mean(tf.where(y_true == 100.0, np.nan, tf.square(y_pred - y_true)), axis=-1)


def set_feature(value):
    return lambda x, y, i: x.__setitem__((i, 0), value)


# What is done to example `i` of x and y, and the reason that the line must give.
KINDS = {
    "data": (set_feature(np.nan), r"in {place}, x holds NaN in example 2; evaluation 1 of {evaluations} gave a "),
    "loss": (lambda x, y, i: y.__setitem__(i, 100.0), ": evaluation 1 of {evaluations} gave a loss of nan;"),
    "gradient": (
        lambda x, y, i: x.__setitem__((i, 3), FIRST),
        ": evaluation 1 of {evaluations} gave a non-finite gradient of 'norm/gamma';",
    ),
    "second gradient": (
        lambda x, y, i: x.__setitem__((i, 3), SECOND),
        ": evaluation 2 of {evaluations} gave a non-finite gradient of 'norm/gamma';",
    ),
    "statistics": (set_feature(1e25), ": it left 'norm/moving_variance' non-finite;"),
}


def examples(num_examples):
    x, y = regression(num_examples)
    return np.concatenate([x, np.zeros([num_examples, 1], "float32")], axis=1), y


def stream(x, y, batch_size=4):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)


def bad_at(kind, x, y, *at):
    x, y = x.copy(), y.copy()
    for i in at:
        KINDS[kind][0](x, y, i)
    return x, y


def state(trainer):
    """Copies of all that an update may change: weights, statistics, seeds, metrics, the optimizer, memory, logs."""
    return [v.numpy() for v in trainer._update.variables.values()]


def put_back(trainer, values):
    for variable, value in zip(trainer._update.variables.values(), values, strict=True):
        variable.assign(value)


def product():
    quick = {("sgd", "graph"), ("heun", "xla"), ("accumulate_2_sam", "graph")}
    for name in STRATEGIES:
        for mode in MODES:
            yield pytest.param(name, mode, marks=[] if (name, mode) in quick else pytest.mark.slow, id=f"{name}-{mode}")


@pytest.mark.parametrize(("name", "mode"), product())
def test_every_kind_under_every_strategy_stops_and_is_skipped(name, mode):
    case = STRATEGIES[name]
    trainer = Trainer(fragile_model(), case.make(), steps_per_execution=4, **MODES[mode])
    per_update = 4 * case.batches
    x, y = examples(4 * per_update)
    trainer.fit(stream(x, y), verbose=0)  # builds, and leaves no buffer at zero
    start, num_traces = state(trainer), trainer.num_traces

    def run(x, y, on_nonfinite="stop", **kwargs):
        put_back(trainer, start)
        trainer.on_nonfinite = on_nonfinite
        trainer.fit(stream(x, y), verbose=0, **kwargs)
        return state(trainer)

    bad = 3 * per_update - 2  # example 2 of the last batch of update 3 of 4
    clean = run(x, y, steps=2)
    assert differ(run(x, y, steps=3), clean)  # control
    kept = np.r_[0 : 2 * per_update, 3 * per_update : 4 * per_update]
    without = run(x[kept], y[kept])
    place = "its batch" if case.batches == 1 else f"batch {case.batches} of its {case.batches}"
    for kind, (_, reason) in KINDS.items():
        if kind == "second gradient" and case.evaluations == 1:
            run(*bad_at(kind, x, y, bad))  # control: that evaluation is never made
            continue
        pattern = re.escape("update 7 (number 3 of epoch 1)") + ".*"
        pattern += reason.format(place=place, evaluations=case.evaluations)
        with pytest.raises(NonFiniteError, match=pattern) as caught:
            run(*bad_at(kind, x, y, bad))
        assert "the model is at update 6, the last good one" in str(caught.value)
        assert caught.value.iteration == trainer.iterations == 6
        assert_same(state(trainer), clean)
        with pytest.warns(UserWarning, match=pattern):
            skipped = run(*bad_at(kind, x, y, bad), on_nonfinite="skip")
        assert_same(skipped, without)
    assert mode == "eager" or trainer.num_traces == num_traces


class TestWhereItIsFound:
    @pytest.mark.parametrize("steps_per_execution", [None, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 60))])
    def test_at_the_same_update_however_many_a_call_makes(self, steps_per_execution):
        x, y = examples(240)
        model = fragile_model()
        trainer = Trainer(model, steps_per_execution=steps_per_execution)
        trainer.fit(stream(x, y), verbose=0)
        start = state(trainer)
        for at in (0, 1, 33, 59):
            put_back(trainer, start)
            with pytest.raises(NonFiniteError, match=re.escape(f"(number {at + 1} of epoch 1)")):
                trainer.fit(stream(*bad_at("gradient", x, y, 4 * at)), verbose=0)
            assert trainer.iterations == 60 + at
            found = state(trainer)
            put_back(trainer, start)
            model.reset_metrics()
            if at:
                trainer.fit(stream(x, y), steps=at, verbose=0)
            assert_same(found, state(trainer))
        assert trainer.num_traces == 1

    def test_in_arrays_on_the_device_and_training_goes_on_from_there(self):
        x, y = examples(120)
        trainer, reference = (Trainer(fragile_model(), steps_per_execution=30) for _ in range(2))
        for each in (trainer, reference):
            each.fit(x, y, batch_size=4, steps=3, verbose=0)
        bad_x, bad_y = bad_at("gradient", x, y, 50)
        with pytest.raises(NonFiniteError, match=r"\(number \d+ of epoch 1\)"):
            trainer.fit(bad_x, bad_y, batch_size=4, verbose=0)
        reference.fit(x.copy(), y.copy(), batch_size=4, steps=trainer.iterations - 3, verbose=0)
        assert_same(state(trainer), state(reference))
        # The same arrays, mended in place: the pass goes on behind the last good update.
        bad_x[50, 3] = 0
        trainer.fit(bad_x, bad_y, batch_size=4, epochs=1, verbose=0)
        assert trainer.iterations == 3 + 30

    @pytest.mark.slow
    def test_in_arrays_that_are_streamed(self, monkeypatch):
        monkeypatch.setattr(data, "RESIDENT_SHARE", 0.0)
        x, y = bad_at("gradient", *examples(120), 50)
        trainer = Trainer(fragile_model(), steps_per_execution=30, on_nonfinite="skip")
        with pytest.warns(UserWarning, match=r"\(number \d+ of epoch 1\).*skipped"):
            trainer.fit(x, y, batch_size=4, epochs=2, verbose=0)
        assert trainer.iterations == 58

    def test_an_activation_hides_it_from_the_losses(self, monkeypatch):
        def model():
            def relu(z):
                return keras.ops.where(z > 0, z, 0.0)

            return compiled(dense_model(lambda: keras.layers.Dense(5, relu), lambda: keras.layers.Dense(1)))

        x, y = regression(40)
        x[20] = np.nan
        with pytest.raises(NonFiniteError, match=r"number 6 .* x holds NaN in example 0; evaluation 1 of 1 gave a non-finite"):
            Trainer(model()).fit(stream(x, y), verbose=0)
        monkeypatch.setattr(nonfinite.Watch, "is_surely_finite", lambda self: tf.constant(True))
        trainer = Trainer(model())
        history = trainer.fit(stream(x, y), epochs=2, verbose=0)
        assert np.isfinite(history.history["loss"]).all()  # and yet:
        assert np.isnan(weights(trainer.model)[0]).any()

    def test_the_optimizer_alone(self):
        x, y = regression()

        def steep(y_true, y_pred):
            return 1e20 * keras.ops.abs(y_true - y_pred)  # its gradient is finite, the gradient's square is not

        model = compiled(optimizer=keras.optimizers.RMSprop(0.01), loss=steep)
        with pytest.raises(NonFiniteError, match=r"update 1 \(.*: it left '.*velocity.*' non-finite"):
            Trainer(model).fit(x, y, verbose=0)

    def test_what_the_strategy_made_of_it(self):
        class Normalized(StepStrategy):
            def step(self, objective, state):
                here = objective(state.parameters)
                return Step(here.gradient / (here.gradient.norm() * 0), at=here)

        x, y = regression()
        with pytest.raises(NonFiniteError, match="the step made of finite evaluations a non-finite gradient of '.*out/kernel'"):
            Trainer(compiled(), Normalized()).fit(x, y, verbose=0)

    def test_the_memory(self):
        class Remembers(StepStrategy):
            def init(self, parameters):
                return {"best": tf.constant(np.inf), "worst": tf.constant(0.0)}

            def step(self, objective, state):
                here = objective(state.parameters)
                worst = tf.where(state.iteration == 4, np.inf, state.memory["worst"])
                memory = {"best": tf.minimum(state.memory["best"], here.loss), "worst": worst}
                return Step(here.gradient, at=here, memory=memory, logs={"nothing": np.nan})

        x, y = regression()
        with pytest.raises(NonFiniteError, match=r"update 5 .*: it left memory\['worst'\] non-finite"):
            Trainer(compiled(), Remembers()).fit(x, y, batch_size=2, verbose=0)

    def test_an_evaluation_inside_a_loop_of_the_strategy(self):
        class Walks(StepStrategy):
            evaluations = 3

            def step(self, objective, state):
                here = objective(state.parameters)

                def walk(i, parameters):
                    return i + 1, parameters - 0.1 * objective(parameters).gradient

                _, end = tf.while_loop(lambda i, _: i < 2, walk, (0, state.parameters))
                return Step(objective(end).gradient, at=here)

        x, y = examples(40)
        trainer = Trainer(fragile_model(), Walks())
        with pytest.raises(NonFiniteError, match="evaluation 3 of 4 gave a non-finite gradient"):
            trainer.fit(stream(*bad_at("second gradient", x, y, 20)), verbose=0)
        assert trainer.iterations == 5

    @pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16", "bfloat16"], indirect=True)
    def test_in_other_precisions(self, precision):
        x, y = regression()
        trainer = Trainer(compiled(optimizer=keras.optimizers.SGD(1e30)))
        with pytest.raises(NonFiniteError, match="the last good one"):
            trainer.fit(x, y, epochs=100, verbose=0)
        assert all(np.isfinite(w.astype("float64")).all() for w in weights(trainer.model))


class Masked(keras.layers.Layer):
    """Adds a constant weight."""

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = value

    def build(self, shape):
        self.mask = self.add_weight(shape=(4,), initializer="zeros", trainable=False, name="mask")
        self.mask.assign([0.0, 0.0, 0.0, self.value])

    def call(self, x):
        return x + self.mask


class IsNan(keras.metrics.Metric):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign(np.nan)

    def result(self):
        return self.total * 1.0


class TestWhatIsLawful:
    @pytest.mark.parametrize("value", [-np.inf, -3e38])
    def test_a_mask_kept_as_a_weight(self, value):
        x, y = labelled(20, num_classes=3)
        model = dense_model(lambda: keras.layers.Dense(4), lambda: Masked(value))
        model = compiled(model, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        trainer = Trainer(model)
        trainer.fit(x, y, epochs=2, verbose=0)
        assert trainer.iterations == 2
        # All else is still watched.
        model.optimizer.learning_rate = 1e38
        with pytest.raises(NonFiniteError):
            trainer.fit(x, y, epochs=50, verbose=0)

    def test_a_metric_that_is_nan(self):
        x, y = regression()
        history = Trainer(compiled(metrics=[IsNan()])).fit(x, y, verbose=0)
        assert np.isnan(history.history["is_nan"][0]) and np.isfinite(history.history["loss"][0])

    def test_numbers_whose_sum_overflows(self):
        x, y = regression()
        model = dense_model(lambda: Masked(3e38), lambda: keras.layers.Dense(1), num_features=4)
        model.layers[0].mask.assign([3e38] * 4)
        model.layers[0].call = lambda x: x  # kept, and not used
        Trainer(compiled(model)).fit(np.ones([20, 4], "float32"), y, verbose=0)

    def test_a_trained_variable_that_holds_nan_is_not(self):
        x, y = regression()
        model = compiled()
        model.layers[0].kernel.assign(np.full([3, 1], np.nan))
        with pytest.raises(NonFiniteError, match="'.*out/kernel' holds NaN before the first update"):
            Trainer(model).fit(x, y, verbose=0)

    def test_a_mean_of_losses_that_another_run_left(self):
        x, y = regression()
        trainer = Trainer(compiled())
        trainer.fit(x, y, verbose=0)
        trainer.model._loss_tracker.update_state(np.nan)
        trainer.fit(x, y, verbose=0)
        with pytest.raises(NonFiniteError):  # and it is still watched
            trainer.model.optimizer.learning_rate = 1e30
            trainer.fit(x, y, epochs=9, verbose=0)


class TestLabels:
    @pytest.mark.parametrize("mode", MODES)
    def test_out_of_range(self, mode):
        x, y = labelled(80)
        trainer = Trainer(classifier(), steps_per_execution=20, **MODES[mode])
        trainer.fit(stream(x, y), steps=1, verbose=0)
        start = state(trainer)
        trainer.fit(stream(x, y), steps=10, verbose=0)
        good = state(trainer)
        for label in (4, -1):
            bad = y.copy()
            bad[41] = label
            put_back(trainer, start)
            trainer.on_nonfinite = "stop"
            line = rf"update 12 \(.*\): in its batch, y holds the label {label} in example 1: labels must be whole numbers"
            with pytest.raises(NonFiniteError, match=line):
                trainer.fit(stream(x, bad), verbose=0)
            assert_same(state(trainer), good)
            trainer.on_nonfinite = "skip"
            with pytest.warns(UserWarning, match="holds the label"):
                trainer.fit(stream(x, bad), verbose=0)
            assert trainer.iterations == 11 + 19

    def test_other_errors_stay_what_they_are(self):
        x, y = regression(40)
        x[22, 0] = 100.0

        def check(x):
            if (x == 100.0).any():
                raise ValueError("the layer failed")
            return x

        class Checks(keras.layers.Layer):
            def call(self, x):
                return tf.ensure_shape(tf.numpy_function(check, [x], tf.float32), x.shape)

        model = compiled(dense_model(lambda: Checks(), lambda: keras.layers.Dense(1)))
        trainer = Trainer(model, steps_per_execution=10, on_nonfinite="skip")
        with pytest.raises(tf.errors.InvalidArgumentError, match="the layer failed"):
            trainer.fit(stream(x, y), verbose=0)
        assert trainer.iterations == 5


class TestSkipping:
    def bad_batches(self, *numbers, num_batches=40):
        x, y = examples(4 * num_batches)
        return stream(*bad_at("gradient", x, y, *(4 * np.array(numbers))))

    @pytest.mark.parametrize("steps_per_execution", [pytest.param(1, marks=pytest.mark.slow), 40])
    def test_ten_in_a_row_and_no_more(self, steps_per_execution):
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=steps_per_execution)
        assert nonfinite.MAX_SKIPS == 10
        with pytest.warns(UserWarning, match=r"skipped \(10 so far\)"):
            trainer.fit(self.bad_batches(*range(5, 15), *range(16, 26)), verbose=0)
        assert trainer.iterations == 20
        with pytest.raises(NonFiniteError, match="10 updates before it were skipped in a row, no more are") as caught:
            trainer.fit(self.bad_batches(*range(5, 16)), verbose=0)
        assert trainer.iterations == caught.value.iteration == 25
        assert "on_nonfinite" not in str(caught.value)

    def test_the_batches_are_used_and_hooks_come_as_ever(self):
        heard = []
        hook = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: heard.append((batch, trainer.iterations)))
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=8)
        with pytest.warns(UserWarning, match="skipped"):
            trainer.fit(self.bad_batches(3, 4, 17), verbose=0, callbacks=[hook])
        assert heard == [(7, 6), (15, 14), (23, 21), (31, 29), (39, 37)]

    def test_says_it_once_and_then_at_every_tenfold(self):
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=60)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(self.bad_batches(*range(0, 60, 3), num_batches=60), verbose=0)
        lines = [str(w.message) for w in caught if "skipped" in str(w.message)]
        assert len(lines) == 2
        assert lines[0].startswith("update 1 (number 1 of epoch 1): evaluation 1 of 1")
        assert lines[1].startswith("update 19 (number 28 of epoch 1)") and lines[1].endswith("skipped (10 so far)")
        assert trainer.iterations == 40

    @pytest.mark.slow
    def test_few_updates_are_made_twice(self, monkeypatch):
        attempted = []

        def attempt(self, source, block, really=Loop._attempt):
            attempted.append(block.num_updates)
            return really(self, source, block)

        monkeypatch.setattr(Loop, "_attempt", attempt)
        monkeypatch.setattr(nonfinite, "MAX_SKIPS", 200)
        trainer = Trainer(fragile_model(), on_nonfinite="skip", steps_per_execution=200)
        done = 0
        for gap in (1, 2, 10, 100):
            attempted.clear()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(self.bad_batches(*range(0, 200, gap), num_batches=200), verbose=0)
            done += 200 - 200 // gap
            assert trainer.iterations == done
            assert sum(attempted) < 200 + 4 * 200
            assert len(attempted) < 20 + 4 * 200 / gap * (1 + np.log2(gap))

    def test_another_word_is_refused(self):
        x, y = regression()
        with pytest.raises(ValueError, match='on_nonfinite must be "stop" or "skip", not \'go on\''):
            Trainer(compiled(), on_nonfinite="go on")


def test_an_eager_first_update_that_is_bad_leaves_no_log():
    class Logs(SGD):
        def step(self, objective, state):
            here = objective(state.parameters)
            return Step(here.gradient, at=here, logs={"norm": here.gradient.norm()})

    x, y = bad_at("gradient", *examples(40), 0)
    trainer = Trainer(fragile_model(), Logs(), on_nonfinite="skip", run_eagerly=True)
    with pytest.warns(UserWarning, match="skipped"):
        history = trainer.fit(stream(x, y), verbose=0)
    assert np.isfinite(history.history["norm"][0])
    assert trainer.iterations == 9
