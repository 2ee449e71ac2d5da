"""Evaluations are counted, with a fake objective that knows nothing of Keras."""

import pytest
import tensorflow as tf
from evaluating import batches_of, build
from tables import MODELS, STRATEGIES, cut

import trainlab as tl
from trainlab.objective.evaluation import KerasObjective
from trainlab.objective.model_function import ModelFunction


class Fake:
    """`|w|^2 / 2`, counting calls and remembering where they were."""

    def __init__(self):
        self.points = []

    def __call__(self, parameters):
        self.points.append(parameters)
        return tl.Evaluation(0.5 * parameters.dot(parameters), parameters)


class Counting(ModelFunction):
    """Counts the batches whose gradient is evaluated, and those whose denominators are."""

    evaluated = counted = 0

    def __call__(self, *args):
        self.evaluated += 1
        return super().__call__(*args)

    def denominators(self, *args):
        self.counted += 1
        return super().denominators(*args)


def state_of(strategy, parameters):
    rate, iteration = tf.constant(0.25), tf.zeros([], tf.int64)
    return tl.State(parameters, rate, iteration, tf.constant([0, 0]), strategy.init(parameters))


@pytest.mark.parametrize("case", STRATEGIES.values(), ids=STRATEGIES)
def test_a_step_evaluates_as_often_as_it_says(case):
    strategy, fake = case.make(), Fake()
    start = tl.Vector([tf.constant([1.0, -2.0]), tf.constant(3.0)])
    step = strategy.step(fake, state_of(strategy, start))
    assert isinstance(step, tl.Step)
    assert len(fake.points) == strategy.evaluations == case.evaluations
    assert fake.points[0] is start  # what is reported is what holds where we are


@pytest.mark.parametrize("strategy, evaluations, batches", [
    (tl.SGD(), 1, 1),
    (tl.Heun(), 2, 2),
    (tl.Accumulate(4), 1, 4),
    (tl.Accumulate(4, tl.Heun()), 2, 8),
    (tl.Accumulate(2, tl.Accumulate(2, tl.Heun())), 2, 8),
], ids=repr)  # fmt: skip
def test_batch_evaluations(strategy, evaluations, batches):
    case = MODELS["mlp_with_penalties"]
    model = case.compiled()
    n = 2 * strategy.batches
    data = cut((*case.arrays(n), None), [2] * strategy.batches)
    build(model, data)
    function = Counting(model)
    objective = KerasObjective(function, batches_of(data))
    objective(function.read_parameters())  # the first evaluation of all may be done again, when it has seen what changes
    function.evaluated = 0
    calls = []

    def counting(parameters):
        calls.append(parameters)
        return objective(parameters)

    strategy.step(counting, state_of(strategy, function.read_parameters()))
    assert len(calls) == evaluations
    assert function.evaluated == batches
    # One batch alone needs no denominators; several are asked once for all evaluations.
    assert function.counted == (strategy.batches if strategy.batches > 1 else 0)


def test_a_third_evaluation_would_be_counted():
    """Control."""

    class Wasteful(tl.Heun):
        def step(self, objective, state):
            objective(state.parameters)
            return super().step(objective, state)

    fake, strategy = Fake(), Wasteful()
    strategy.step(fake, state_of(strategy, tl.Vector([tf.constant([1.0])])))
    assert len(fake.points) == 3 != strategy.evaluations
