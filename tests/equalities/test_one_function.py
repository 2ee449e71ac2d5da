"""One function a step: every evaluation of a step sees the same noise, and what is kept is what one evaluation left."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from by_hand import relative
from evaluating import batches_of, build, gradient_of, objective_on
from tables import PLAIN_STRATEGIES, RANDOM_MODELS, STRATEGIES, Sam

import trainlab as tl
from trainlab.objective.evaluation import KerasObjective
from trainlab.objective.model_function import ModelFunction

MODES = {"eager": {"run_eagerly": True}, "graph": {}, "xla": {"jit_compile": True}}
N, BATCH_SIZE = 8, 4


class Twice(tl.StepStrategy):
    """Evaluates twice at one point, and compares with the step before; stays where it is at a learning rate of 0."""

    evaluations = 2

    def init(self, parameters):
        return {"last": parameters * 0.0}

    def step(self, objective, state):
        first, second = objective(state.parameters), objective(state.parameters)
        logs = {
            "between evaluations": (first.gradient - second.gradient).norm() / first.gradient.norm(),
            "between losses": tf.abs(first.loss - second.loss),
            "between steps": (first.gradient - state.memory["last"]).norm() / first.gradient.norm(),
        }
        return tl.Step(first.gradient, at=first, memory={"last": first.gradient}, logs=logs)


class At(tl.StepStrategy):
    """Keeps the evaluation of the given number, of two: one here, one far away."""

    evaluations = 2

    def __init__(self, kept):
        self.kept = kept

    def step(self, objective, state):
        evaluations = objective(state.parameters), objective(state.parameters * 2.0)
        return tl.Step(evaluations[0].gradient, at=evaluations[self.kept])


def fit(case, strategy, rate=0.1, epochs=1, batch_size=BATCH_SIZE, **kwargs):
    model = case.compiled(keras.optimizers.SGD(rate))
    (x, y), weights = case.arrays(N), case.weights(N)
    trainer = tl.Trainer(model, strategy, **kwargs)
    history = trainer.fit(x, y, sample_weight=weights, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return model, history.history


def kept(model):
    """What an evaluation leaves besides the gradient, by the variable's number: statistics, seeds, metrics."""
    variables = [*model.non_trainable_variables, *model.metrics_variables]
    return [v.numpy() for v in variables if "learning_rate" not in v.path]


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("accumulated", [False, True], ids=["one batch", "accumulated"])
@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_evaluations_of_a_step_share_the_mask(name, accumulated, mode):
    strategy = tl.Accumulate(2, Twice()) if accumulated else Twice()
    epochs = 2 if accumulated else 1  # two updates either way
    _, history = fit(RANDOM_MODELS[name], strategy, rate=0.0, epochs=epochs, **mode)
    # Control: at the same weights, the second step draws anew. (The first differs wholly from a memory of zeros.)
    between_steps = history["between steps"][-1] if accumulated else 2 * history["between steps"][0] - 1
    assert between_steps > 1e-2
    assert max(history["between evaluations"]) < 1e-6
    assert max(history["between losses"]) < 1e-6


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_an_evaluation_that_drew_another_mask_would_differ(name):
    """Control: a fake objective whose second call starts where the first one ended."""
    case = RANDOM_MODELS[name]
    model = case.compiled()
    data = [(*case.arrays(N), None)]
    build(model, data)
    function = ModelFunction(model)
    objective = KerasObjective(function, batches_of(data))
    parameters = function.read_parameters()

    calls = []

    def forgetful(point):
        state = {**function.read_state(), **(calls[-1].after if calls else {})}
        calls.append(tl.Evaluation(*function(point, state, data[0])))
        return calls[-1]

    for evaluate, is_one_function in ((objective, True), (forgetful, False)):
        first, second = evaluate(parameters), evaluate(parameters)
        distance = relative(gradient_of(second), gradient_of(first))
        assert (distance == 0) if is_one_function else (distance > 1e-3)


@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_an_evaluation_assigns_nothing(name):
    case = RANDOM_MODELS[name]
    model = build(case.compiled(), [(*case.arrays(N), None)])
    objective = objective_on(model, [(*case.arrays(N), None)])
    before = [v.numpy() for v in (*model.variables, *model.metrics_variables, *model.optimizer.variables)]
    evaluation = objective(ModelFunction(model).read_parameters() * 1.5)
    assert evaluation.after
    after = [v.numpy() for v in (*model.variables, *model.metrics_variables, *model.optimizer.variables)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", RANDOM_MODELS)
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_what_is_kept_is_that_of_one_evaluation_bitwise(strategy, name):
    """At a learning rate of 0, so that all start from the same point at each step."""
    case = RANDOM_MODELS[name]
    plain = tl.SGD() if strategy.batches == 1 else tl.Accumulate(strategy.batches)
    model, history = fit(case, strategy.make(), rate=0.0, batch_size=2, run_eagerly=True)
    reference, reference_history = fit(case, plain, rate=0.0, batch_size=2, run_eagerly=True)
    for a, b in zip(kept(model), kept(reference), strict=True):
        np.testing.assert_array_equal(a, b)
    for key, value in reference_history.items():
        assert history[key] == value


def test_so_it_is_compiled():
    case = RANDOM_MODELS["cnn"]
    reference = kept(fit(case, tl.SGD(), rate=0.0)[0])
    for strategy in (tl.Heun(), Sam()):
        for a, b in zip(kept(fit(case, strategy, rate=0.0)[0]), reference, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", RANDOM_MODELS)
def test_what_is_reported_and_kept_is_that_of_at(name, mode):
    case = RANDOM_MODELS[name]
    here, here_history = fit(case, At(0), **MODES[mode])
    ahead, ahead_history = fit(case, At(1), **MODES[mode])
    plain, history = fit(case, tl.SGD(), **MODES[mode])
    assert here_history["loss"] == pytest.approx(history["loss"], rel=1e-6)
    assert ahead_history["loss"] != pytest.approx(history["loss"], rel=1e-3)  # control
    # The gradient is that of the evaluation here, whichever is kept.
    for a, b in zip(ahead.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-7)
    if name == "cnn":
        means = [m.get_layer("norm").moving_mean.numpy() for m in (here, ahead, plain)]
        np.testing.assert_allclose(means[0], means[2], rtol=1e-5, atol=1e-7)
        assert np.abs(means[1] - means[2]).max() > 1e-3


def test_two_evaluations_do_not_move_statistics_twice():
    """Control for the statistics: one batch moves the mean by (1 - momentum) of the way, and no further."""
    case = RANDOM_MODELS["cnn"]
    for strategy in PLAIN_STRATEGIES.values():
        model = case.compiled(keras.optimizers.SGD(0.0))
        x, y = case.arrays(BATCH_SIZE)
        build(model, [(x, y, None)])
        norm = model.get_layer("norm")
        mean = np.mean(model.get_layer("convolution")(x), axis=(0, 1, 2))
        tl.Trainer(model, strategy.make(), run_eagerly=True).fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0)
        np.testing.assert_allclose(norm.moving_mean.numpy(), 0.2 * mean, rtol=1e-5, atol=1e-7)
        assert np.abs((1 - 0.8**2) * mean - norm.moving_mean.numpy()).max() > 1e-3
