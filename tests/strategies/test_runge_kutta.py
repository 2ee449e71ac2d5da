"""Every tableau is the method that it is named after: conditions of order, stability, the flow, the error that it reports."""

import doctest
import itertools
from fractions import Fraction

import keras
import numpy as np
import pytest
from flows import MATRIX, MODES, START, flow, gradient_of_well, quadratic, run, trainer_of, well

import trainlab as tl
from trainlab.strategies.runge_kutta import TABLEAUS, runge_kutta, stages, tableau

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)
# Coefficients of the stability polynomial R(z), from the constant on: Hairer and Wanner, Solving ODEs II, IV.2.
STABILITY = {
    "euler": [1, 1],
    "midpoint": [1, 1, 1 / 2],
    "heun": [1, 1, 1 / 2],
    "ralston": [1, 1, 1 / 2],
    "kutta_3": [1, 1, 1 / 2, 1 / 6],
    "bogacki_shampine": [1, 1, 1 / 2, 1 / 6],
    "kutta_4": [1, 1, 1 / 2, 1 / 6, 1 / 24],
    "three_eighths": [1, 1, 1 / 2, 1 / 6, 1 / 24],
    "dormand_prince": [1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 600],
}


def full(each):
    """The tableau's matrix `a`, with its zeros."""
    a = np.zeros([each.stages, each.stages])
    for i, row in enumerate(each.a, start=1):
        a[i, : len(row)] = row
    return a


def elementary_weights(each, b):
    """By order, what the weights of the rooted trees come to, and ought to (Hairer, Nørsett, Wanner I, II.2, table 2.1)."""
    a = full(each)
    c, one = a.sum(axis=1), np.ones(each.stages)
    return {
        1: [(b @ one, 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), (b @ (c * (a @ c)), 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
        5: [
            (b @ c**4, 1 / 5), (b @ (c**2 * (a @ c)), 1 / 10), (b @ (c * (a @ c**2)), 1 / 15), (b @ (c * (a @ a @ c)), 1 / 30),
            (b @ (a @ c) ** 2, 1 / 20), (b @ a @ c**3, 1 / 20), (b @ a @ (c * (a @ c)), 1 / 40), (b @ a @ a @ c**2, 1 / 60),
            (b @ a @ a @ a @ c, 1 / 120),
        ],
    }  # fmt: skip


def order_of(each, b):
    """The order up to which all conditions hold."""
    weights = elementary_weights(each, np.array(b))
    holds = [all(abs(got - want) < 1e-14 for got, want in weights[order]) for order in range(1, 6)]
    return len(list(itertools.takewhile(bool, holds)))


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_conditions_of_order(name, precision):
    each = TABLEAUS[name]
    assert order_of(each, each.b) == each.order
    if each.b_embedded is not None:
        assert 1 <= order_of(each, each.b_embedded) == each.order - 1


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_quadratic(name, precision):
    """n steps are `R(-hA)^n w0`."""
    h, steps, a = 2**-4, 12, np.array(MATRIX, "float64")
    factor = sum(coefficient * np.linalg.matrix_power(-h * a, k) for k, coefficient in enumerate(STABILITY[name]))
    expected = np.linalg.matrix_power(factor, steps) @ np.array(START)
    w = run(trainer_of(START, quadratic(a), tl.RungeKutta(name), h), steps)
    assert np.linalg.norm(w - expected) / np.linalg.norm(expected) < 1e-12
    less = run(trainer_of(START, quadratic(a), tl.RungeKutta(name), 0.9 * h), steps)
    assert np.linalg.norm(less - expected) / np.linalg.norm(expected) > 1e-2  # control


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("name", ["kutta_4", "dormand_prince"])
def test_in_every_mode(name, mode, precision):
    trainers = [trainer_of([0.9, -0.7], well, tl.RungeKutta(name), 0.2, **kwargs) for kwargs in (mode, {})]
    one, other = (run(trainer, 5) for trainer in trainers)
    np.testing.assert_allclose(one, other, rtol=1e-13)


def a_step(each, gradient, w, h):
    """A step of a tableau by hand."""
    a, stages_ = full(each), []
    for row in a:
        stages_.append(gradient(w - h * sum((x * g for x, g in zip(row, stages_, strict=False)), np.zeros_like(w))))
    return [w - h * sum(x * g for x, g in zip(b, stages_, strict=True)) for b in (each.b, each.b_embedded) if b is not None]


@pytest.mark.parametrize("name", TABLEAUS)
def test_a_step_by_hand_and_its_error(name, precision):
    start, h = np.array([0.9, -0.7]), 0.3
    points = a_step(TABLEAUS[name], gradient_of_well, start, h)
    trainer = trainer_of(start, well, tl.RungeKutta(name), h)
    np.testing.assert_allclose(run(trainer, 1), points[0], rtol=1e-13)
    history = trainer.model.history.history
    if len(points) == 1:
        assert "step_error" not in history
    else:
        expected = np.linalg.norm(points[0] - points[1]) / np.linalg.norm(points[0] - start)
        np.testing.assert_allclose(history["step_error"], [expected], rtol=1e-6)
        assert expected > 1e-4


@pytest.mark.parametrize("name, steps", [
    ("euler", [128, 256, 512]), ("midpoint", [32, 64, 128]), ("ralston", [32, 64, 128]), ("kutta_3", [64, 128]),
    ("bogacki_shampine", [16, 32, 64]), ("kutta_4", [16, 32, 64]), ("three_eighths", [16, 32, 64]),
])  # fmt: skip
def test_the_order_of_convergence(name, steps, precision):
    start, time = [0.9, -0.7], 1.0
    solution, trainer, errors = flow(start, time), trainer_of(start, well, tl.RungeKutta(name)), []
    for n in steps:
        trainer.model.w.assign(start)
        trainer.model.optimizer.learning_rate = time / n
        errors.append(np.linalg.norm(run(trainer, n) - solution))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(TABLEAUS[name].order, abs=0.1)


@pytest.mark.slow
def test_the_order_of_dormand_and_prince(precision):
    """On a quadratic: on `well` the error is at the rounding before it is of fifth order."""
    values, vectors = np.linalg.eigh(np.array(MATRIX, "float64"))
    solution = vectors @ (np.exp(-values) * (vectors.T @ np.array(START)))
    steps, errors = [64, 96, 128], []
    for n in steps:
        w = run(trainer_of(START, quadratic(np.array(MATRIX, "float64")), tl.RungeKutta("dormand_prince"), 1 / n), n)
        errors.append(np.linalg.norm(w - solution))
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("rates, name", [
    (("2", "2.02"), "euler"), (("2", "2.02"), "midpoint"), (("2", "2.02"), "heun"), (("2.512745", "2.53"), "kutta_3"),
    (("2.785293", "2.8"), "kutta_4"), (("2.785293", "2.8"), "three_eighths"),
])  # fmt: skip
def test_the_largest_stable_rate(rates, name, precision):
    """Of `w' = -w`: at the bound nothing grows, a little beyond it does."""
    at, beyond = (abs(run(trainer_of([1.0], quadratic(np.eye(1)), tl.RungeKutta(name), float(rate)), 300)[0]) for rate in rates)
    assert at < 1 + 1e-3 and beyond > 5


@pytest.mark.slow
def test_heun_is_its_tableau_bit_for_bit(precision):
    start, a = START, np.array(MATRIX, "float64")
    for potential, w in ((quadratic(a), start), (well, [0.9, -0.7])):
        one, other = (run(trainer_of(w, potential, each, 0.11), 7) for each in (tl.Heun(), tl.RungeKutta("heun")))
        np.testing.assert_array_equal(one, other)


def test_a_tableau_of_ones_own(precision):
    third = tl.Tableau(a=[["1/3"], [0, "2/3"]], b=["1/4", 0, "3/4"], order=3)  # Heun's third-order method
    strategy = tl.RungeKutta(third)
    assert order_of(third, third.b) == 3 and strategy.evaluations == 3
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tl.Accumulate(2, strategy))).inner
    points = [run(trainer_of([0.9, -0.7], well, each, 0.3), 2) for each in (strategy, again)]
    np.testing.assert_array_equal(*points)
    w = np.array([0.9, -0.7])
    for _ in range(2):
        (w,) = a_step(third, gradient_of_well, w, 0.3)
    np.testing.assert_allclose(points[0], w, rtol=1e-13)


@pytest.mark.parametrize("make, line", [
    (lambda: tl.RungeKutta("rk4"), "RungeKutta: no tableau is called 'rk4'; "),
    (lambda: tl.RungeKutta("kuta_4"), "did you mean 'kutta_4'?"),
    (lambda: tl.RungeKutta(4), "tableau must be a name"),
    (lambda: tl.Tableau(a=[], b=[0.5, 0.5], order=1), "the method is explicit"),
    (lambda: tl.Tableau(a=[[1]], b=[0.5, 0.6], order=1), "b sums to 1.1"),
    (lambda: tl.Tableau(a=[["x"]], b=[0.5, 0.5], order=1), "'x' is no number"),
    (lambda: tl.Tableau(a=[[1]], b=[0.5, 0.5], order=0), "order = 0"),
    (lambda: tl.Tableau(a=[[1]], b=[0.5, 0.5], order=2, b_embedded=[1]), "b_embedded has 1 weights for 2 stages"),
    (lambda: tl.Tableau(a=[[float("inf")]], b=[0.5, 0.5], order=2), "finite"),
    (lambda: tl.AdaptiveStep("kutta_4"), "no embedded method"),
    (lambda: tl.AdaptiveStep(tolerance=float("inf")), "tolerance must be a finite number above 0, not inf"),
    (lambda: tl.AdaptiveStep(tolerance=0), "tolerance must be a finite number above 0, not 0"),
    (lambda: tl.AdaptiveStep(max_scale=-1), "max_scale must be a finite number above 0, not -1"),
])  # fmt: skip
def test_what_is_refused(make, line, precision):
    with pytest.raises((TypeError, ValueError), match="^.*$") as caught:
        make()
    assert line in str(caught.value)


def test_fractions_are_read_exactly(precision):
    each = TABLEAUS["dormand_prince"]
    assert each.a[5][4] == float(Fraction(-2187, 6784)) and stages.combined((0, 0), [1, 2]) is None


def test_docstring_examples(precision):
    for module in (tableau, runge_kutta):
        result = doctest.testmod(module)
        assert result.attempted > 0 and result.failed == 0
