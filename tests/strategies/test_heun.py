"""Heun is Heun: exact on a quadratic, of second order on a gradient flow."""

import doctest
from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf
from flows import MATRIX, MODES, START, Flow, flow, gradient_of_well, quadratic, run, trainer_of, well

import trainlab as tl
from trainlab.parameters import Rows
from trainlab.strategies import heun
from trainlab.strategies.runge_kutta.stages import euler_error

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


class WithoutError(tl.StepStrategy):
    """Heun's step and nothing else."""

    evaluations = 2

    def step(self, objective, state):
        here = objective(state.parameters)
        ahead = objective(state.parameters - state.learning_rate * here.gradient)
        return tl.Step((here.gradient + ahead.gradient) / 2, at=here)


def exactly(matrix, start, h, steps, order):
    """`(I - hA + h^2 A^2 / 2)^steps w0`, or without its last term at order 1, in rational numbers."""
    a = [[Fraction(x) for x in row] for row in matrix]
    w, h = [Fraction(x) for x in start], Fraction(h)
    times = lambda v: [sum(x * y for x, y in zip(row, v, strict=True)) for row in a]  # noqa: E731
    for _ in range(steps):
        aw = times(w)
        aaw = times(aw)
        w = [x - h * y + (h * h * z / 2 if order == 2 else 0) for x, y, z in zip(w, aw, aaw, strict=True)]
    return np.array([float(x) for x in w])


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_a_quadratic(dimension, mode, precision):
    h, steps = 2**-4, 20
    matrix, start = [row[:dimension] for row in MATRIX[:dimension]], START[:dimension]
    w = run(trainer_of(start, quadratic(np.array(matrix, "float64")), tl.Heun(), h, **mode), steps)
    expected = exactly(matrix, start, h, steps, order=2)
    assert np.linalg.norm(w - expected) / np.linalg.norm(expected) < 1e-14
    euler = exactly(matrix, start, h, steps, order=1)
    assert np.linalg.norm(w - euler) / np.linalg.norm(euler) > 1e-3  # control


@pytest.mark.parametrize("dimension", [1, 3])
def test_a_quadratic_over_accumulation(dimension, precision):
    h, steps = 2**-4, 10
    matrix, start = [row[:dimension] for row in MATRIX[:dimension]], START[:dimension]
    potential = quadratic(np.array(matrix, "float64"))
    w = run(trainer_of(start, potential, tl.Accumulate(4, tl.Heun()), h, run_eagerly=True), steps)
    expected = exactly(matrix, start, h, steps, order=2)
    assert np.linalg.norm(w - expected) / np.linalg.norm(expected) < 1e-14


def test_plain_sgd_is_euler_by_the_same_measure(precision):
    w = run(trainer_of(START, quadratic(np.array(MATRIX, "float64")), tl.SGD(), 2**-4), 20)
    expected = exactly(MATRIX, START, 2**-4, 20, order=1)
    assert np.linalg.norm(w - expected) / np.linalg.norm(expected) < 1e-14


@pytest.mark.parametrize("strategy, order, tolerance, steps", [
    (tl.SGD(), 1, 0.05, [256, 512, 1024, 2048]),
    (tl.Heun(), 2, 0.1, [64, 128, 256, 512]),
    (tl.Accumulate(2, tl.Heun()), 2, 0.1, [64, 128, 256]),
], ids=["sgd", "heun", "accumulate_heun"])  # fmt: skip
def test_the_order_of_convergence(strategy, order, tolerance, steps, precision):
    start, time = [0.9, -0.7], 1.0
    solution = flow(start, time)
    trainer = trainer_of(start, well, strategy)
    errors = []
    for n in steps:
        trainer.model.w.assign(start)
        trainer.model.optimizer.learning_rate = time / n
        errors.append(np.linalg.norm(run(trainer, n) - solution))
    fitted = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert fitted == pytest.approx(order, abs=tolerance)
    assert abs(fitted - (3 - order)) > 0.8  # control: it is not the other's


@pytest.mark.parametrize("optimizer", [
    lambda: keras.optimizers.SGD(0.25, momentum=0.9),
    lambda: keras.optimizers.Adam(0.25),
    lambda: keras.optimizers.SGD(0.25, clipnorm=0.1),
    lambda: keras.optimizers.SGD(0.25, weight_decay=0.1),
], ids=["momentum", "adam", "clipping", "decay"])  # fmt: skip
def test_the_probe_is_the_raw_euler_point(optimizer, precision):
    """As the docstring says: what the optimizer will do of the gradient is not asked."""
    start, a = np.array(START[:3], "float64"), np.array(MATRIX, "float64")[:3, :3]
    model = Flow(start, quadratic(a))
    model.compile(optimizer=optimizer(), jit_compile=False)
    tl.Trainer(model, tl.Heun(), run_eagerly=True).fit(np.zeros([1, 1]), batch_size=1, verbose=0)
    here = a @ start
    mean = (here + a @ (start - 0.25 * here)) / 2

    reference, variable = optimizer(), keras.Variable(start)
    reference.apply([tf.constant(mean)], [variable])
    np.testing.assert_allclose(model.w.numpy(), variable.numpy(), rtol=1e-12)


def test_docstring_examples(precision):
    result = doctest.testmod(heun)
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_its_error_is_that_of_its_tableau(mode, precision):
    """The difference of Heun's step and Euler's over Heun's, by hand; and the weights are what they are without it."""
    w, h = np.array([0.9, -0.7]), 0.3
    here = gradient_of_well(w)
    ahead = gradient_of_well(w - h * here)
    expected = np.linalg.norm(ahead - here) / np.linalg.norm(ahead + here)
    trainer = trainer_of(w, well, tl.Heun(), h, **mode)
    np.testing.assert_array_equal(run(trainer, 1), run(trainer_of(w, well, WithoutError(), h, **mode), 1))
    np.testing.assert_allclose(trainer.model.history.history["step_error"], [expected], rtol=1e-6)
    assert expected > 0.1


def test_its_error_where_there_is_no_step(precision):
    trainer = trainer_of([0.0, 0.0], well, tl.Heun(), 0.3)
    run(trainer, 1)
    assert trainer.model.history.history["step_error"] == [0.0]


@pytest.mark.parametrize("shapes", [[(3,)], [()], [(64,)], [(7, 64), (64,)], [(5, 3, 4), (100,)], [(300, 300), (2, 2), (1,)], []])
@pytest.mark.parametrize("rates", [False, True], ids=["one rate", "a rate each"])
def test_the_error_of_leaves_of_any_size(shapes, rates, precision):
    rng = np.random.default_rng(0)
    here, ahead = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    rate = [0.5 + i for i in range(len(shapes))] if rates else [0.1] * len(shapes)
    flat = [np.concatenate([[0], *(r * leaf.ravel() for r, leaf in zip(rate, part, strict=True))]) for part in (here, ahead)]
    expected = np.linalg.norm(flat[1] - flat[0]) / (np.linalg.norm(flat[1] + flat[0]) or 1)
    found = euler_error(tl.Vector(here), tl.Vector(ahead), tl.Vector(np.array(rate)) if rates else tf.constant(0.1))
    assert float(found) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_rows", [5, 40, 100_000])
def test_the_error_of_rows_that_are_looked_up_twice(num_rows, precision):
    """Sorted or not, duplicates are summed before they are squared."""
    rng, indices = np.random.default_rng(0), tf.constant([3, 1, 3, 4, 1, 3])
    here, ahead = (Rows(tf.constant(rng.normal(size=[6, 2])), indices, num_rows) for _ in range(2))
    whole = [np.zeros([num_rows, 2]) for _ in range(2)]
    for part, rows in zip(whole, (here, ahead), strict=True):
        np.add.at(part, indices.numpy(), rows.values.numpy())
    expected = np.linalg.norm(whole[1] - whole[0]) / np.linalg.norm(whole[1] + whole[0])
    each = np.linalg.norm(ahead.values - here.values) / np.linalg.norm(ahead.values + here.values)
    for compiled in (False, True):
        found = tf.function(lambda: euler_error(tl.Vector([here]), tl.Vector([ahead]), 1.0), jit_compile=compiled)()
        assert float(found) == pytest.approx(expected, rel=1e-6)
    assert each != pytest.approx(expected, rel=1e-2)  # control
