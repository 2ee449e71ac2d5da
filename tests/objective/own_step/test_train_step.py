"""What a `train_step` of one's own may do, by steps that differ in one thing; and every refusal, in its line."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from own_steps import mlp
from small import assert_same, everything, weights

import trainlab as tl

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
Y = X[:, :1].copy()
ELSEWHERE = []  # layers that no model tracks
both_modes = pytest.mark.parametrize(
    "run_eagerly", [pytest.param(False, id="graph"), pytest.param(True, id="eager", marks=pytest.mark.slow)]
)


def model_with(step):
    """A small regression whose `train_step` is `step(model, x, y, loss, gradients, variables)`, given its gradients."""

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.shadow = mlp(4, 3, 1), mlp(4, 3, 1)
            self.shadow.trainable = False
            self.seen, self.follower = (self.add_weight(shape=(), name=name, trainable=False) for name in ("seen", "follower"))
            self.other, self.raw = keras.optimizers.SGD(0.1), tf.Variable(0.0, trainable=False)
            ELSEWHERE[:] = [mlp(1, 1)]

        def gradients(self, x, y):
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(self.body(x) - y))
            return loss, tape.gradient(loss, self.body.trainable_variables)

        def train_step(self, data):
            return step(self, *data, *self.gradients(*data), self.body.trainable_variables)

    keras.utils.set_random_seed(0)
    model = Own()
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    return model


def train(model, strategy=None, **kwargs):
    return tl.Trainer(model, strategy, **kwargs).fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0).history


def plain(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients, variables)
    return {"loss": loss}


def two_applies(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients, variables)
    return plain(self, x, y, loss, gradients, variables)


def a_part_each(self, x, y, loss, gradients, variables):
    self.optimizer.apply_gradients(zip(gradients[:2], variables[:2], strict=True))
    self.optimizer.apply_gradients(zip(gradients[2:], variables[2:], strict=True))
    return {"loss": loss}


def another_optimizer(self, x, y, loss, gradients, variables):
    self.other.apply(gradients, variables)
    return {"loss": loss}


def two_optimizers(self, x, y, loss, gradients, variables):
    self.other.apply(gradients[:2], variables[:2])
    self.optimizer.apply(gradients[2:], variables[2:])
    return {"loss": loss}


def clips_weights(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients, variables)
    for variable in variables:
        variable.assign(ops.clip(variable, -0.1, 0.1))
    return {"loss": loss}


def no_apply(self, x, y, loss, gradients, variables):
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)
    return {"loss": loss}


def sets_the_rate(self, x, y, loss, gradients, variables):
    self.optimizer.learning_rate = 0.01
    return plain(self, x, y, loss, gradients, variables)


def counts_by_itself(self, x, y, loss, gradients, variables):
    self.optimizer.iterations.assign_add(1)
    return plain(self, x, y, loss, gradients, variables)


def assigns_a_raw_variable(self, x, y, loss, gradients, variables):
    self.raw.assign_add(1.0)
    return plain(self, x, y, loss, gradients, variables)


def looks_at_numbers(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss.numpy(), gradients, variables)


def branches_in_python(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, gradients, variables) if loss > 0 else {"loss": loss}


def makes_a_float(self, x, y, loss, gradients, variables):
    return plain(self, x, y, float(loss), gradients, variables)


def calls_numpy(self, x, y, loss, gradients, variables):
    return plain(self, x, y, np.sum(x), gradients, variables)


def draws_by_tf_random(self, x, y, loss, gradients, variables):
    loss, gradients = self.gradients(x + tf.random.normal(tf.shape(x)), y)
    return plain(self, x, y, loss, gradients, variables)


def returns_the_loss(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients, variables)
    return loss


def returns_nothing(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients, variables)


def returns_a_vector(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, gradients, variables) | {"each": ops.square(self.body(x) - y)[:, 0]}


def returns_words(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, gradients, variables) | {"phase": "warm-up"}


def trains_elsewhere(self, x, y, loss, gradients, variables):
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(ELSEWHERE[0](self.body(x)) - y))
    variables = variables + ELSEWHERE[0].trainable_variables
    return plain(self, x, y, loss, tape.gradient(loss, variables), variables)


def applies_in_a_branch(self, x, y, loss, gradients, variables):
    def apply():
        self.optimizer.apply(gradients, variables)
        return 0.0

    tf.cond(loss > 1e9, apply, lambda: 0.0)
    return {"loss": loss}


def applies_under_xla(self, x, y, loss, gradients, variables):
    @tf.function(jit_compile=True)
    def update(x, y):
        loss, gradients = self.gradients(x, y)
        self.optimizer.apply(gradients, self.body.trainable_variables)
        return loss

    return {"loss": update(x, y)}


def applies_to_no_variables(self, x, y, loss, gradients, variables):
    self.optimizer.apply(gradients)
    return {"loss": loss}


def applies_too_few(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, gradients[:2], variables)


def under_another_name(self, x, y, loss, gradients, variables):
    return {"mae": plain(self, x, y, loss, gradients, variables)["loss"]}


def applies_nothing(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, [None] * len(variables), variables)


def applies_one_twice(self, x, y, loss, gradients, variables):
    return plain(self, x, y, loss, [*gradients, gradients[0]], [*variables, variables[0]])


NOT_TRACED = "cannot be traced, which a pure evaluation needs, run_eagerly or not: "
REFUSED = {
    two_applies: "applies gradients more than once, or by several optimizers, and a step is one update",
    a_part_each: "applies gradients more than once",
    another_optimizer: "applies gradients by an optimizer that is not model.optimizer: hand it to super().compile",
    two_optimizers: "in turns (the README shows it for a GAN)",
    clips_weights: "that it also trains, past the optimizer: a step is one update; give the layer a constraint",
    no_apply: "applies no gradient by model.optimizer.apply or apply_gradients",
    sets_the_rate: "which an update must find as it is: use a learning rate schedule or a callback",
    counts_by_itself: "/iteration', which an update must find as it is",
    assigns_a_raw_variable: "assigns a raw tf.Variable",
    looks_at_numbers: NOT_TRACED + "'SymbolicTensor' object has no attribute 'numpy'",
    branches_in_python: NOT_TRACED + "Using a symbolic `tf.Tensor` as a Python `bool` is not allowed",
    makes_a_float: NOT_TRACED + "float() argument must be",
    calls_numpy: NOT_TRACED + "Cannot convert a symbolic tf.Tensor",
    draws_by_tf_random: "draws random numbers with tf.random (RandomStandardNormal)",
    returns_the_loss: "must return a dictionary of logs, not SymbolicTensor",
    returns_nothing: "must return a dictionary of logs, not NoneType",
    returns_a_vector: "returns logs['each'] as a tensor of shape (5,): a log is a number, such as the mean",
    returns_words: "returns logs['phase'] as 'warm-up': a log is a number",
    trains_elsewhere: "which the model does not track: keep its layer as an attribute of the model",
    applies_in_a_branch: "applies its gradients inside a tf.cond, a loop or a function of its own that XLA compiles",
    applies_under_xla: "applies its gradients inside a tf.cond, a loop or a function of its own that XLA compiles",
    applies_to_no_variables: "calls apply without variables of an optimizer that is not built: name them",
    applies_nothing: "applies gradients that are all None: its loss does not depend on these weights",
    applies_one_twice: "/kernel': add them first",
    applies_too_few: "Own.train_step applies 2 gradients to 4 variables",
}


@both_modes
@pytest.mark.parametrize("step", REFUSED, ids=lambda step: step.__name__)
def test_refused_in_one_line_and_nothing_is_touched(step, run_eagerly):
    model = model_with(step)
    before = weights(model)
    with pytest.raises(ValueError) as caught:
        train(model, tl.Heun(), run_eagerly=run_eagerly)
    assert REFUSED[step] in str(caught.value) and "\n" not in str(caught.value)
    assert_same(weights(model), before)


def test_a_step_that_differentiates_nothing_is_refused():
    def step(self, data):
        self.optimizer.apply([ops.ones(v.shape) for v in self.trainable_variables], self.trainable_variables)
        return {"mae": 0.0}

    model = model_with(plain)
    type(model).train_step = step
    with pytest.raises(ValueError, match=r"Own\.train_step differentiates no loss by a tf\.GradientTape"):
        train(model)


def gives_way(self, x, y, loss, gradients, variables):
    """Takes gradients with respect to weights that it leaves alone, to inputs, and to weights that are not trained."""
    with tf.GradientTape(persistent=True) as tape:
        loss = ops.mean(ops.square(self.body(x) - y))
    assert tape.gradient(loss, self.shadow.weights) == [None] * 4
    everywhere = tape.gradient(loss, self.body.weights)
    self.optimizer.apply(everywhere[2:], variables[2:])
    return {"loss": loss, "norm": tf.linalg.global_norm(everywhere)}


def by_its_jacobian(self, x, y, loss, gradients, variables):
    with tf.GradientTape() as tape:
        loss = ops.mean(ops.square(self.body(x) - y))
    gradients = tape.jacobian(loss, [v.value for v in variables])
    return plain(self, x, y, loss, gradients, variables) | {"one": 1.0}


def inside_a_helper(self, x, y, loss, gradients, variables):
    @tf.function
    def update(x, y):
        loss, gradients = self.gradients(x, y)
        if loss > 1e9:  # AutoGraph's
            loss = 2 * loss
        self.optimizer.apply_gradients(zip(gradients, self.body.trainable_variables))  # noqa: B905
        return loss

    return {"loss": update(x, y), "one": 1.0}


def looks_at_sizes(self, x, y, loss, gradients, variables):
    noise = np.linspace(-1, 1, 4 * x.shape[0]).reshape(x.shape).astype("float32")  # a batch of unknown size has none
    loss, gradients = self.gradients(x + noise, y)
    return plain(self, x, y, loss, gradients, variables) | {"size": x.shape[0], "count": np.float32(2)}


def by_the_noise_of_nobody(self, x, y, loss, gradients, variables):
    """Draws from the global generator, which is known only once it was drawn from, and needs the same noise after the update."""
    noise = keras.random.normal(ops.shape(x))
    loss, gradients = self.gradients(x + noise, y)
    logs = plain(self, x, y, loss, gradients, variables)
    return logs | {"later": self.gradients(x + noise, y)[0]}


def follows_elsewhere(self, x, y, loss, gradients, variables):
    """Averages the new weights in a layer that the model does not track."""
    logs = plain(self, x, y, loss, gradients, variables)
    theirs = ELSEWHERE[0].weights[1]
    theirs.assign(0.5 * theirs + variables[3])
    return logs | {"theirs": theirs[0]}


def shows_variables(self, x, y, loss, gradients, variables):
    """Returns variables that it has just assigned, one before its gradients are applied and one by the weights after."""
    self.seen.assign_add(1.0)
    logs = plain(self, x, y, loss, gradients, variables)
    self.follower.assign(variables[3][0])
    return logs | {"seen": self.seen, "follower": self.follower}


@pytest.mark.slow
@both_modes
@pytest.mark.parametrize(
    "step",
    [
        shows_variables,
        gives_way,
        by_its_jacobian,
        inside_a_helper,
        looks_at_sizes,
        by_the_noise_of_nobody,
        follows_elsewhere,
        under_another_name,
    ],
    ids=lambda step: step.__name__,
)
def test_as_fit_does(step, run_eagerly):
    model, elsewhere = model_with(step), ELSEWHERE[0]
    history = train(model, run_eagerly=run_eagerly)
    reference = model_with(step)
    is_fixed = step is looks_at_sizes  # `fit` traces batches of unknown size
    reference.compile(keras.optimizers.SGD(0.1), jit_compile=False, run_eagerly=is_fixed)
    expected = reference.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0).history
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-6, err_msg=name)
    for a, b in zip(everything(model), everything(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(elsewhere.get_weights()[1], ELSEWHERE[0].get_weights()[1], rtol=1e-6)


@pytest.mark.slow
def test_what_the_step_returned_is_shown():
    """Keras shows its own mean of the losses if the names are those of its metrics: 0, if the step does not keep it."""
    model, reference = model_with(plain), model_with(plain)
    history = train(model)
    assert reference.fit(X, Y, batch_size=5, epochs=2, shuffle=False, verbose=0).history == {"loss": [0.0, 0.0]}
    assert_same(weights(model), weights(reference))
    assert history["loss"][0] > history["loss"][1] > 0.1


@pytest.mark.slow
def test_an_optimizer_that_was_built_before():
    model, reference = model_with(plain), model_with(plain)
    model.optimizer.build(model.trainable_variables)
    train(model)
    train(reference)
    assert_same(weights(model), weights(reference))


@pytest.mark.slow
def test_a_step_is_set_on_the_object_too():
    model, reference = keras.Sequential([mlp(4, 3, 1)]), model_with(plain)
    model.layers[0].set_weights(reference.body.get_weights())
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)

    def step(data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(model(x) - y))
        return plain(model, x, y, loss, tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    model.train_step = step
    assert train(model) == train(reference)


def test_the_losses_of_several_tapes_are_added():
    """The loss that a strategy sees is what was differentiated, each loss once."""

    def step(self, x, y, loss, gradients, variables):
        with tf.GradientTape(persistent=True) as tape:
            first, second = ops.mean(ops.square(self.body(x))), ops.mean(self.shadow(x))
        gradients = tape.gradient(first, variables[:2]) + tape.gradient(first, variables[2:])
        return plain(self, x, y, first + second, gradients, variables)

    class Looks(tl.StepStrategy):
        def step(self, objective, state):
            here = objective(state.parameters)
            return tl.Step(here.gradient, at=here, logs={"seen": here.loss})

    model = model_with(plain)
    reference = float(ops.mean(ops.square(model.body(X))) + ops.mean(ops.square(model.body(X) - Y)))
    history = tl.Trainer(model_with(step), Looks()).fit(X, Y, batch_size=12, verbose=0).history
    assert history["seen"] == pytest.approx([reference], rel=1e-6)
