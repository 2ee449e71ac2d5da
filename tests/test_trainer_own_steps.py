"""What a Trainer does besides training works for models with a `train_step` of their own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import relative
from keras import ops
from own_step_cases import OWN_STEPS
from own_steps import mlp
from small import assert_same, differ, everything, weights
from tables import Sam

import trainlab as tl


@pytest.mark.parametrize("name", [pytest.param("byol", marks=pytest.mark.slow), "persistent"])
def test_micro_batches_are_the_batch(name):
    """A mean over examples, evaluated in pieces, is the mean over all; the target follows once an update."""
    case = OWN_STEPS[name]
    models = [case.compiled(), case.compiled()]
    for model, size in zip(models, (None, 3), strict=True):
        trainer = tl.Trainer(model, tl.Heun(), micro_batch_size=size)
        trainer.fit(case.dataset(10, 5), epochs=2, verbose=0)
    assert relative([v.numpy() for v in models[1].variables], [v.numpy() for v in models[0].variables]) < 1e-6


class Poisoned(keras.Model):
    """Follows its weights; one batch of the data is not finite. The loss is kept in a mean of its own."""

    def __init__(self):
        super().__init__()
        self.body, self.shadow, self.mean = mlp(4, 3, 1), mlp(4, 3, 1), keras.metrics.Mean(name="mean")
        self.shadow.trainable = False

    @property
    def metrics(self):
        return [self.mean]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(ops.cast(self.body(x), y.dtype) - y))
        variables = self.body.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        for ours, theirs in zip(variables, self.shadow.weights, strict=True):
            theirs.assign(0.5 * theirs + 0.5 * ours)
        self.mean.update_state(loss)
        return {"mean": self.mean.result(), "last": loss}


def poisoned():
    keras.utils.set_random_seed(1)
    model = Poisoned()
    model.compile(keras.optimizers.SGD(0.1))
    return model


def batches(*numbers):
    """A data set of batches of 4, the one of number None not finite."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 4, 4)).astype("float32"), rng.normal(size=(8, 4, 1)).astype("float32")
    parts = [(x[0] * np.nan, y[0]) if number is None else (x[number], y[number]) for number in numbers]
    return tf.data.Dataset.from_tensor_slices(tuple(np.stack(part) for part in zip(*parts, strict=True)))


@pytest.mark.slow
def test_an_update_that_is_not_finite_is_left_out_and_the_shadow_with_it():
    models = poisoned(), poisoned()
    tl.Trainer(models[0], on_nonfinite="skip").fit(batches(0, 1, None, 2), verbose=0)
    tl.Trainer(models[1]).fit(batches(0, 1, 2), verbose=0)
    assert_same(everything(models[0]), everything(models[1]))


@pytest.mark.slow
def test_it_is_found_and_named():
    model = poisoned()
    with pytest.raises(tl.NonFiniteError, match="update 2"):
        tl.Trainer(model, tl.Heun()).fit(batches(0, None, 1), verbose=0)
    reference = poisoned()
    tl.Trainer(reference, tl.Heun()).fit(batches(0), verbose=0)
    assert_same(weights(model), weights(reference))


@pytest.mark.slow
def test_callbacks_see_the_logs_that_only_the_step_returns(tmp_path):
    seen = []
    callbacks = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", monitor="last", save_best_only=True, mode="min"),
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs["last"])),
    ]
    model, reference = poisoned(), poisoned()
    fit = {"x": batches(0, 1), "epochs": 3, "verbose": 0}
    history = tl.Trainer(model).fit(**fit, callbacks=callbacks).history
    expected = []
    by_keras = [keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: expected.append(logs["last"]))]
    reference.fit(**fit, callbacks=by_keras)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    best = 1 + int(np.argmin(history["last"]))
    assert (tmp_path / f"{best}.weights.h5").exists()


@pytest.mark.slow
def test_the_best_by_a_log_that_only_the_step_returns(tmp_path):
    model = poisoned()
    trainer = tl.Trainer(model, run=tl.Run(tmp_path, keep_best=("min", "last")))
    history = trainer.fit(batches(0, 1), epochs=3, verbose=0).history
    trainer.load_best()
    assert min(history["last"]) == history["last"][-1]
    other = poisoned()
    tl.Trainer(other).fit(batches(0, 1), epochs=3, verbose=0)
    assert_same(weights(model), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diffusion", "distiller_frozen"])
def test_validation_by_a_test_step_of_its_own(name):
    case = OWN_STEPS[name]
    model, reference = case.compiled(), case.compiled()
    data = {"x": case.dataset(12, 4), "validation_data": case.dataset(8, 4), "epochs": 2, "verbose": 0}
    keras.utils.set_random_seed(4)
    history = tl.Trainer(model).fit(**data).history
    keras.utils.set_random_seed(4)
    expected = reference.fit(**data).history
    assert history.keys() == expected.keys() and any(name.startswith("val_") for name in history)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


class Batched(keras.utils.PyDataset):
    def __init__(self, dataset):
        super().__init__()
        self.parts = [tuple(part.numpy() for part in element) for element in dataset]

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


@pytest.mark.slow
@pytest.mark.parametrize("source", ["generator", "pydataset", "arrays"])
def test_sources(source):
    model, reference = poisoned(), poisoned()
    data = batches(0, 1, 2)
    tl.Trainer(reference).fit(data, verbose=0)
    if source == "arrays":
        x, y = (np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True))
        tl.Trainer(model).fit(x, y, batch_size=4, shuffle=False, verbose=0)
    else:
        x = (element for element in Batched(data).parts) if source == "generator" else Batched(data)
        tl.Trainer(model).fit(x, shuffle=False, verbose=0)
    assert_same(weights(model), weights(reference))


@pytest.mark.parametrize("shape", ["one_tuple", "four", "dictionary"])
def test_elements_that_are_not_x_and_y_are_handed_on_as_they_are(shape):
    """A step may take what no model takes: `(x,)`, four things, a dictionary."""
    names = ("x", "y", "weight", "offset")

    class Takes(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = mlp(4, 1)

        def train_step(self, data):
            if shape == "dictionary":
                data = tuple(data[name] for name in names)
            x, y, weight, offset = (data[0],) * 4 if shape == "one_tuple" else data
            with tf.GradientTape() as tape:
                loss = ops.mean(weight * ops.square(self.body(x) + offset - y))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss, "rank": float(len(x.shape))}

    rng = np.random.default_rng(0)
    arrays = tuple(rng.normal(size=(8, 4)).astype("float32") for _ in names)
    elements = {"one_tuple": arrays[:1], "four": arrays, "dictionary": dict(zip(names, arrays, strict=True))}[shape]
    data = tf.data.Dataset.from_tensor_slices(elements).batch(4)
    results = []
    for make in (lambda model: model, tl.Trainer):
        keras.utils.set_random_seed(0)
        model = Takes()
        model.compile(keras.optimizers.SGD(0.1))
        results.append((make(model).fit(data, epochs=2, verbose=0).history, weights(model)))
    assert results[0][0]["rank"] == results[1][0]["rank"] == [2.0, 2.0]
    np.testing.assert_allclose(results[1][0]["loss"], results[0][0]["loss"], rtol=1e-6)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float64", "mixed_bfloat16"], indirect=True)
def test_precisions(precision):
    model, reference = poisoned(), poisoned()
    data = batches(0, 1).map(lambda x, y: (tf.cast(x, keras.config.floatx()), tf.cast(y, keras.config.floatx())))
    history = tl.Trainer(model).fit(data, epochs=2, verbose=0).history
    expected = reference.fit(data, epochs=2, verbose=0).history
    for a, b in zip(everything(model), everything(reference), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-13 if precision == "float64" else 1e-6)
    np.testing.assert_allclose(history["last"], expected["last"], rtol=1e-6)
    tl.Trainer(poisoned(), tl.Accumulate(2, tl.Heun())).fit(data, verbose=0)


@pytest.mark.slow
def test_a_second_fit_goes_on_and_traces_nothing_and_another_strategy_does():
    model, reference = poisoned(), poisoned()
    data = batches(0, 1, 2)
    trainer = tl.Trainer(model, tl.Heun())
    trainer.fit(data, epochs=2, verbose=0)
    assert trainer.num_traces == 1
    trainer.fit(data, epochs=1, verbose=0)
    assert trainer.num_traces == 1
    tl.Trainer(reference, tl.Heun()).fit(data, epochs=3, verbose=0)
    assert_same(everything(model), everything(reference))
    trainer.strategy = Sam()
    trainer.fit(data, verbose=0)
    assert trainer.num_traces == 1 and trainer.iterations == 12
    tl.Trainer(reference, Sam()).fit(data, verbose=0)
    assert_same(weights(model), weights(reference))


def test_python_runs_a_step_a_few_times_and_not_in_a_second_epoch_or_fit():
    calls = []

    class Counting(Poisoned):
        def train_step(self, data):
            calls.append(1)
            return super().train_step(data)

    model = Counting()
    model.compile(keras.optimizers.SGD(0.1))
    trainer = tl.Trainer(model)
    trainer.fit(batches(0, 1), verbose=0)
    first = len(calls)
    assert first <= 4  # to build, to see what comes late, to evaluate, and what comes late
    trainer.fit(batches(0, 1), epochs=3, verbose=0)
    assert len(calls) == first


@pytest.mark.slow
def test_sam_is_sam():
    case = OWN_STEPS["persistent"]
    data = next(iter(case.dataset(4, 4)))
    model, reference = case.compiled(), case.compiled()
    tl.Trainer(model, Sam()).fit(case.dataset(4, 4), verbose=0)
    taken = []
    reference.optimizer.apply = lambda gradients, variables: taken.append([tf.convert_to_tensor(g) for g in gradients])
    variables = reference.left.trainable_variables + reference.right.trainable_variables
    start = [v.numpy() for v in variables]
    reference.train_step(data)
    norm = tf.linalg.global_norm(taken[0])
    for variable, gradient in zip(variables, taken[0], strict=True):
        variable.assign_add(0.05 * gradient / norm)
    reference.train_step(data)
    expected = [w - 0.1 * g.numpy() for w, g in zip(start, taken[1], strict=True)]
    moved = [v.numpy() for v in model.left.trainable_variables + model.right.trainable_variables]
    assert relative(moved, expected) < 1e-6
    assert relative(moved, [w - 0.1 * g.numpy() for w, g in zip(start, taken[0], strict=True)]) > 1e-5  # control


@pytest.mark.slow
def test_a_resume_with_another_step_is_refused(tmp_path):
    class Other(Poisoned):
        pass

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.abs(self.body(x) - y))
        variables = self.body.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"last": loss}

    def train(steps):
        keras.utils.set_random_seed(1)
        model = Other()
        model.compile(keras.optimizers.SGD(0.1))
        tl.Trainer(model, run=tmp_path).fit(batches(0, 1, 2), steps=steps, verbose=0)
        return model

    first = train(2)
    Other.train_step = train_step
    with pytest.raises(ValueError, match="is of another run; nothing was touched"):
        train(4)
    del Other.train_step
    assert differ(weights(train(4)), weights(first))  # control: as it was, it goes on


@pytest.mark.slow
def test_labels_are_the_steps_own_business():
    """It masks those of -1 before the compiled loss sees them, and has no `call` that could tell the classes."""

    class Ignoring(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = mlp(4, 3)

        def train_step(self, data):
            x, y = data
            known = ops.cast(y >= 0, "float32")
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=ops.maximum(y, 0), y_pred=self.body(x), sample_weight=known)
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss, "known": ops.sum(known)}

    x, y = np.random.default_rng(0).normal(size=(8, 4)).astype("float32"), np.array([0, 1, -1, 2, -1, 0, 1, 2])
    ends = []
    for make in (lambda model: model, tl.Trainer):
        keras.utils.set_random_seed(0)
        model = Ignoring()
        model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        make(model).fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


class Turn(keras.Model):
    """One side of a GAN, as the README has it."""

    def __init__(self, generator, discriminator, part):
        super().__init__()
        self.generator, self.discriminator, self.part = generator, discriminator, part
        self.seeds = keras.random.SeedGenerator(0)

    def loss_of(self, images):
        noise = keras.random.normal((ops.shape(images)[0], 3), seed=self.seeds)
        real, fake = self.discriminator(images), self.discriminator(self.generator(noise))
        return ops.mean(ops.softplus(-real) + ops.softplus(fake) if self.part is self.discriminator else ops.softplus(-fake))

    def train_step(self, images):
        with tf.GradientTape() as tape:
            loss = self.loss_of(images)
        weights = self.part.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return {"loss": loss}


def turns():
    keras.utils.set_random_seed(2)
    generator, discriminator = mlp(3, 5, 4), mlp(4, 5, 1)
    found = [Turn(generator, discriminator, part) for part in (discriminator, generator)]
    for turn in found:
        turn.compile(optimizer=keras.optimizers.Adam(0.01, beta_1=0.5))
    return found


@pytest.mark.slow
def test_a_gan_by_two_trainers_in_turns_is_the_loop_of_two_optimizers():
    x = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    models, by_hand = turns(), turns()
    trainers = [tl.Trainer(model) for model in models]
    for _ in range(5):
        for trainer, other in zip(trainers, reversed(models), strict=True):
            frozen = weights(other.part)
            trainer.fit(x, batch_size=4, shuffle=False, steps_per_epoch=1, verbose=0)
            assert_same(weights(other.part), frozen)
    for i in range(5):
        for turn in by_hand:
            with tf.GradientTape() as tape:
                loss = turn.loss_of(x[4 * i : 4 * i + 4])
            variables = turn.part.trainable_variables
            turn.optimizer.apply(tape.gradient(loss, variables), variables)
    assert [trainer.num_traces for trainer in trainers] == [1, 1]
    for model, reference in zip(models, by_hand, strict=True):
        for a, b in zip(everything(model), everything(reference), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert differ(weights(turns()[0]), weights(models[0]))
