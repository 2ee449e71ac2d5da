"""Models that a pure evaluation might get wrong are refused by name, or train as in Keras."""

import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import assert_same, compiled, dense_model, differ, everything, regression, weights

import trainlab
from trainlab import Accumulate, Heun, Step, StepStrategy, Trainer

layers = keras.layers


class TestRefusals:
    """What a pure evaluation cannot contain is refused in one line that names the layer, and nothing moves."""

    @staticmethod
    def refusal(model, **kwargs):
        x, y = regression()
        model = compiled(model)
        before = everything(model)
        with pytest.raises(ValueError) as error:
            Trainer(model, **kwargs).fit(x, y, verbose=0)
        assert_same(everything(model)[: len(before)], before)
        assert "\n" not in str(error.value)
        return str(error.value)

    @pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
    def test_spectral_normalization(self, run_eagerly):
        make = lambda: layers.SpectralNormalization(layers.Dense(2, name="inner"), name="spectral")  # noqa: E731
        message = self.refusal(dense_model(make, lambda: layers.Dense(1)), run_eagerly=run_eagerly)
        assert "'spectral'" in message
        assert "assigns its trainable variable" in message
        assert message.endswith("train this model without that layer")

    @pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
    def test_a_raw_variable(self, run_eagerly):
        class Raw(layers.Layer):
            def __init__(self):
                super().__init__()
                self.scale = tf.Variable([2.0], name="scale")

            def call(self, x):
                return x * self.scale

        message = self.refusal(dense_model(Raw, lambda: layers.Dense(1)), run_eagerly=run_eagerly)
        assert "raw tf.Variable 'scale:0'" in message
        assert message.endswith("make it with self.add_weight or keras.Variable")

    def test_a_raw_variable_that_is_assigned(self):
        class Raw(layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.count = tf.Variable(0.0, trainable=False, name="count")

            def call(self, x):
                self.count.assign_add(1.0)
                return x

        message = self.refusal(dense_model(lambda: Raw(name="raw"), lambda: layers.Dense(1)))
        assert message.startswith("layer 'raw' assigns a raw tf.Variable in its forward pass")
        assert "self.add_weight(trainable=False)" in message

    @pytest.mark.parametrize("draw", [tf.random.normal, tf.random.uniform, tf.random.truncated_normal])
    def test_tf_random(self, draw):
        class Noise(layers.Layer):
            def call(self, x):
                return x + draw(tf.shape(x))

        message = self.refusal(dense_model(lambda: Noise(name="noise"), lambda: layers.Dense(1)))
        assert message.startswith("layer 'noise' draws random numbers with tf.random")
        assert "keras.random.SeedGenerator" in message

    def test_candidates_of_a_loss(self):
        class Sampled(keras.Model):
            def __init__(self):
                super().__init__()
                self.table, self.bias = self.add_weight([9, 3]), self.add_weight([9])

            def call(self, x):
                return x

            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                y = tf.cast(tf.reshape(y, [-1, 1]), tf.int64)
                return tf.reduce_mean(tf.nn.sampled_softmax_loss(self.table.value, self.bias.value, y, y_pred, 2, 9))

        model = Sampled()
        model.compile(optimizer="sgd")
        message = self.refusal(model)
        assert message.startswith("model 'sampled' (or a loss or metric of it) draws random numbers with tf.random (LogUniform")
        assert message.endswith("(tf.nn.nce_loss and sampled_softmax_loss take them as sampled_values)")

    def test_a_table_that_it_fills(self):
        class Counts(layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, 0)

            def call(self, x):
                self.table.insert(tf.constant([1], tf.int64), tf.constant([2], tf.int64))
                return x

        message = self.refusal(dense_model(lambda: Counts(name="counts"), lambda: layers.Dense(1)))
        assert message.startswith("layer 'counts' changes a lookup table in its forward pass, which is neither in checkpoints")

    @pytest.mark.parametrize("how", ["function", "cond", "while", "map"])
    def test_tf_random_within_functions(self, how):
        class Noise(layers.Layer):
            def call(self, x):
                if how == "function":
                    return x + tf.function(lambda: tf.function(tf.random.normal)([3]))()
                if how == "cond":
                    return x + tf.cond(tf.reduce_sum(x) > 0, lambda: tf.random.normal([]), lambda: 0.0)
                if how == "while":
                    return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, x + tf.random.normal([])), [0, x])[1]
                return tf.map_fn(lambda row: row + tf.random.normal([3]), x)

        message = self.refusal(dense_model(lambda: Noise(name="noise"), lambda: layers.Dense(1)))
        assert message.startswith("layer 'noise' draws random numbers with tf.random")

    def test_tf_random_in_a_generator(self):
        class Noise(layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.generator = tf.random.Generator.from_seed(1)

            def call(self, x):
                return x + self.generator.normal([3])

        message = self.refusal(dense_model(lambda: Noise(name="noise"), lambda: layers.Dense(1)))
        assert "layer 'noise'" in message or "raw tf.Variable" in message

    def test_stateless_draws_are_no_matter(self):
        class Noise(layers.Layer):
            def call(self, x):
                return x + tf.random.stateless_normal(tf.shape(x), [1, 2])

        x, y = regression()
        Trainer(compiled(dense_model(Noise, lambda: layers.Dense(1)))).fit(x, y, verbose=0)

    def test_a_loss_that_is_no_scalar(self):
        class Own(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return keras.ops.mean(keras.ops.square(y - y_pred), axis=-1)

        keras.utils.set_random_seed(1)
        message = self.refusal(Own([keras.Input([3]), layers.Dense(1)]))
        assert message.startswith("the loss must be a scalar, not a tensor of shape (20,)")
        assert "sum_over_batch_size" in message

    def test_compute_loss_may_leave_the_compiled_loss_alone(self):
        class Own(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return 3 * keras.ops.mean(keras.ops.square(y - y_pred))

        x, y = regression()
        keras.utils.set_random_seed(1)
        model = compiled(Own([keras.Input([3]), layers.Dense(1)]))  # with loss="mse", which nobody calls
        expected = 3 * np.mean((y - model.predict(x, verbose=0)) ** 2)
        history = Trainer(model).fit(x, y, batch_size=20, verbose=0)
        assert history.history["loss"] == pytest.approx([expected])

    def test_a_loss_with_no_reduction(self):
        model = compiled(loss=keras.losses.MeanSquaredError(reduction="none"))
        x, y = regression()
        with pytest.raises(ValueError, match="the loss must be a scalar"):
            Trainer(model).fit(x, y, verbose=0)

    def test_compute_loss_that_returns_nothing(self):
        class Own(keras.Sequential):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
                return None

        keras.utils.set_random_seed(1)
        assert "compute_loss returned None" in self.refusal(Own([keras.Input([3]), layers.Dense(1)]))


class TestHardCases:
    """What Keras' fit does, and a pure evaluation might not."""

    @staticmethod
    def assert_trains_as_keras(*layer_fns):
        x, y = regression()
        trained = []
        for use_keras in (True, False):
            model = compiled(dense_model(*layer_fns))
            start = weights(model)
            (model.fit if use_keras else Trainer(model).fit)(x, y, batch_size=5, shuffle=False, verbose=0)
            trained.append(weights(model))
        for theirs, ours, before in zip(*trained, start, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
            assert differ([ours], [before])

    def test_a_function_compiled_within_a_layer(self):
        class Compiled(layers.Layer):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(4)
                self.run = tf.function(self.dense)

            def build(self, shape):
                self.dense.build(shape)

            def call(self, x):
                return self.run(x)

        self.assert_trains_as_keras(Compiled, lambda: layers.Dense(1))

    def test_a_call_compiled_by_its_author(self):
        class Compiled(layers.Layer):
            def build(self, shape):
                self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

            @tf.function
            def call(self, x):
                return x * self.scale

        self.assert_trains_as_keras(Compiled, lambda: layers.Dense(1))

    @pytest.mark.slow
    @pytest.mark.parametrize("num_examples", [16, 17], ids=["even", "ragged"])
    def test_a_metric_compiled_by_its_author_counts_in_training_and_after(self, num_examples):
        class Batches(keras.metrics.Metric):
            def __init__(self):
                super().__init__(name="batches")
                self.count = self.add_weight(name="count", shape=(), initializer="zeros")

            @tf.function
            def update_state(self, y_true, y_pred, sample_weight=None):
                self.count.assign_add(1.0)

            def result(self):
                return self.count * 1.0

        x, y = regression(num_examples)
        num_batches = float(-(-num_examples // 4))
        for strategy, batch_size in ((None, 4), (Accumulate(2), 2)):
            model = compiled(dense_model(), metrics=[Batches()])
            data = {"x": x, "y": y, "batch_size": batch_size, "verbose": 0}
            logs = Trainer(model, strategy).fit(**data, validation_data=(x, y), epochs=2).history
            num = num_batches if strategy is None else -(-num_examples // 2)
            assert logs["batches"] == [num, num]
            assert logs["val_batches"] == [num, num]
            assert model.evaluate(**data, return_dict=True)["batches"] == num
        fresh = compiled(dense_model(), metrics=[Batches()])  # built by the evaluation
        assert Trainer(fresh).evaluate(x, y, batch_size=4, verbose=0, return_dict=True)["batches"] == num_batches

    @pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
    def test_a_model_compiled_by_its_author_predicts_with_what_it_has_learned(self, run_eagerly):
        class Compiled(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(1)

            @tf.function
            def call(self, x):
                return self.dense(x)

        x, y = regression(18)
        model = compiled(Compiled())
        trainer = Trainer(model, run_eagerly=run_eagerly)
        data = {"x": x, "y": y, "batch_size": 4, "verbose": 0}
        logs = trainer.fit(**data, epochs=3, validation_data=(x, y)).history
        predicted = x @ np.array(model.dense.kernel) + np.array(model.dense.bias)
        np.testing.assert_allclose(logs["val_loss"][-1], np.mean((predicted - y) ** 2), rtol=1e-5)
        assert logs["val_loss"][-1] < logs["val_loss"][0]
        for found in (trainer.predict(x, verbose=0), model.predict(x, verbose=0), model(x)):
            np.testing.assert_allclose(found, predicted, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("how", ["cond", "map"])
    def test_state_changed_inside_a_branch_or_a_loop_is_refused_by_name(self, how):
        class Noise(layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.seed_generator = keras.random.SeedGenerator(1)

            def call(self, x):
                if how == "map":
                    return keras.ops.map(lambda row: row + keras.random.normal((3,), seed=self.seed_generator), x)
                return x + keras.ops.cond(
                    keras.ops.sum(x) > 0,
                    lambda: keras.random.normal((3,), seed=self.seed_generator),
                    lambda: keras.ops.zeros((3,)),
                )

        message = TestRefusals.refusal(dense_model(lambda: Noise(name="noise"), lambda: layers.Dense(1)))
        assert message.startswith("layer 'noise' changes its state")

    @pytest.mark.parametrize("strategy", [None, Heun(), Accumulate(2)], ids=["SGD", "Heun", "Accumulate(2)"])
    def test_a_loss_with_state_is_called_once_a_batch(self, strategy):
        class Counting(keras.losses.Loss):
            def __init__(self):
                super().__init__()
                self.count = keras.Variable(0.0, trainable=False)

            def call(self, y_true, y_pred):
                self.count.assign(self.count + 1)
                return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

        x, y = regression()
        model = compiled(loss=Counting())
        Trainer(model, strategy).fit(x, y, batch_size=5, verbose=0)
        assert model.loss.count.value == 4


class UnseededNoise(layers.Layer):
    """Draws from Keras' global generator, and reports what it drew as an added loss."""

    def call(self, x):
        noise = keras.random.normal(())
        self.add_loss(noise)
        return x


class TestUnseededNoise:
    def losses(self, strategy=None, **kwargs):
        x, y = np.zeros([12, 3], "float32"), np.zeros([12, 1], "float32")
        model = compiled(dense_model(UnseededNoise, lambda: layers.Dense(1)), keras.optimizers.SGD(0.0))
        seen = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda batch, logs: model.reset_metrics(),
            on_train_batch_end=lambda batch, logs: seen.append(logs["loss"]),
        )
        Trainer(model, strategy, **kwargs).fit(x, y, batch_size=3, callbacks=[callback], verbose=0)
        return seen

    def test_it_differs_between_steps_and_is_one_within(self):
        seen = self.losses()
        assert len(set(seen)) == len(seen) == 4
        assert self.losses(Heun()) == seen  # the second evaluation of a step draws no number of its own

    def test_eagerly_it_is_the_same(self):
        np.testing.assert_allclose(self.losses(run_eagerly=True), self.losses(), rtol=1e-6)

    def test_both_evaluations_of_a_step_see_the_same_noise(self):
        class Twice(StepStrategy):
            def step(self, objective, state):
                here, again = objective(state.parameters), objective(state.parameters)
                return Step(here.gradient, at=here, logs={"difference": tf.abs(here.loss - again.loss)})

        x, y = np.zeros([12, 3], "float32"), np.zeros([12, 1], "float32")
        model = compiled(dense_model(UnseededNoise, lambda: layers.Dense(1)))
        history = Trainer(model, Twice()).fit(x, y, batch_size=3, verbose=0)
        assert history.history["difference"] == [0.0]
        assert abs(history.history["loss"][0]) > 0

    @pytest.mark.slow
    def test_where_no_generator_exists_yet(self):
        """In a fresh interpreter the first draw makes the global generator, within the trace."""
        program = """
            import keras, numpy as np, trainlab as tl
            class Noise(keras.layers.Layer):
                def call(self, x):
                    return x + keras.random.normal((3,))
            model = keras.Sequential([keras.Input([3]), Noise(), keras.layers.Dense(1)])
            history = tl.Trainer(model, tl.Heun(), loss="mse", optimizer="sgd").fit(
                np.zeros([8, 3]), np.ones([8, 1]), batch_size=2, epochs=2, verbose=0)
            assert np.isfinite(history.history["loss"]).all()
        """
        root = pathlib.Path(trainlab.__file__).parents[1]
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, cwd=root)


def test_seeded_noise_is_one_function_a_step_and_new_at_the_next():
    x, y = regression(12)
    models = []
    for steps in (1, 2):
        model = compiled(dense_model(lambda: layers.GaussianNoise(0.5), lambda: layers.Dense(1)), keras.optimizers.SGD(0.0))
        Trainer(model, Heun()).fit(x, y, batch_size=3, steps=steps, verbose=0)
        models.append(np.array(model.layers[0].seed_generator.state))
    assert differ([models[0]], [models[1]])
