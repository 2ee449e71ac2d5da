"""Steps that find their own length: the tolerance is kept, rejected steps are made again, and all of it is remembered."""

import doctest

import keras
import numpy as np
import pytest
from flows import MODES, gradient_of_well, quadratic, run, trainer_of, well
from test_runge_kutta import a_step

import trainlab as tl
from trainlab.strategies.runge_kutta import TABLEAUS, adaptive_step

pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


def by_hand(name, tolerance, gradient, w, h, steps, scale=1.0):
    """The method in NumPy, from its description: weights, scales and errors of the steps made, and rejections."""
    each = TABLEAUS[name]
    k, floor, before, found = each.order - 1, 1e-4 * tolerance, tolerance, []
    for _ in range(steps):
        rejected = 0
        while True:
            one, other = a_step(each, gradient, w, h * scale)
            error = np.linalg.norm(one - other) / np.linalg.norm(one - w)
            if error <= tolerance or rejected == 9:
                break
            rejected += 1
            scale *= np.clip(0.9 * (tolerance / error) ** (1 / k), 0.2, 1)
        w = one
        found.append((scale, error, rejected))
        factor = 0.9 * (tolerance / max(error, floor)) ** (0.7 / k) * (tolerance / max(before, floor)) ** (-0.4 / k)
        scale *= np.clip(factor, 0.2, 1 if rejected else 5)
        before = max(error, floor)
    return w, np.array(found)


class Log(keras.callbacks.Callback):
    """Keeps what every update logs."""

    def __init__(self):
        super().__init__()
        self.found = []

    def on_train_batch_end(self, batch, logs=None):
        # What is shown is the mean since the epoch's first update.
        self.found.append([logs[name] * (batch + 1) for name in ("step_scale", "step_error", "rejected")])

    @property
    def each(self):
        return np.diff(np.array(self.found), axis=0, prepend=0)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    "name, tolerance, rate", [("heun", 0.05, 2.0), ("bogacki_shampine", 0.01, 0.5), ("dormand_prince", 1e-4, 0.01)]
)
def test_by_hand(name, tolerance, rate, mode, precision):
    start, steps, log = np.array([0.9, -0.7]), 12, Log()
    trainer = trainer_of(start, well, tl.AdaptiveStep(name, tolerance), rate, **mode)
    trainer.fit(np.zeros([steps, 1]), batch_size=1, verbose=0, callbacks=[log])
    w, found = by_hand(name, tolerance, gradient_of_well, start, rate, steps)
    np.testing.assert_allclose(trainer.model.w.numpy(), w, rtol=1e-9)
    np.testing.assert_allclose(log.each, found, rtol=1e-4, atol=1e-5)  # logs are float32
    if rate > 0.1:
        assert found[:, 2].sum() > 0  # some were rejected, or this shows nothing
    assert (found[1:, 1] <= tolerance).all()


def test_it_grows_to_what_a_quadratic_allows(precision):
    """In one dimension the error has one value for each length of a step."""
    trainer = trainer_of([1.0], quadratic(np.eye(1)), tl.AdaptiveStep("heun", 0.1), 1e-3)
    run(trainer, 40)
    log = Log()
    trainer.fit(np.zeros([5, 1]), batch_size=1, verbose=0, callbacks=[log])
    # Where the controller rests, `0.9 (t/e)^0.7 (t/e)^-0.4 = 1`; and Heun against Euler is h^2/2 against h - h^2/2.
    error = 0.1 * 0.9 ** (1 / 0.3)
    np.testing.assert_allclose(log.each[-1], [2 * error / (1 + error) / 1e-3, error, 0], rtol=1e-3)


@pytest.mark.slow
def test_the_bound_and_the_evaluations(precision):
    trainer = trainer_of([1.0], quadratic(np.eye(1)), tl.AdaptiveStep("heun", 0.1, max_scale=7.0), 1e-3)
    log = Log()
    trainer.fit(np.zeros([20, 1]), batch_size=1, verbose=0, callbacks=[log])
    assert log.each[-1, 0] == pytest.approx(7.0) and trainer.model.history.history["gradient_evaluations"] == [2.0]
    long = trainer_of([1.0], quadratic(np.eye(1)), tl.AdaptiveStep("heun", 1e-3), 1.0)
    run(long, 1)
    rejected = long.model.history.history["rejected"][0]
    assert rejected > 0 and long.model.history.history["gradient_evaluations"] == [2 + rejected]


def test_the_first_step_keeps_the_bound(precision):
    trainer = trainer_of([1.0], quadratic(np.eye(1)), tl.AdaptiveStep("heun", 0.1, max_scale=0.25), 0.01)
    np.testing.assert_allclose(run(trainer, 1), [1 - 0.0025 + 0.0025**2 / 2], rtol=1e-14)
    assert trainer.model.history.history["step_scale"] == [0.25]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("start, rate", [([0.0], 0.1), ([1.0], 0.0)], ids=["gradient", "rate"])
def test_where_there_is_no_step_none_grows(start, rate, mode, precision):
    trainer = trainer_of(start, quadratic(np.eye(1)), tl.AdaptiveStep("heun", 0.1), rate, **mode)
    assert run(trainer, 30) == start
    memory = trainer.model.history.history
    assert memory["step_scale"] == [1.0] and memory["rejected"] == [0.0]
    trainer.model.w.assign([1.0])
    trainer.model.optimizer.learning_rate = 0.1
    w, _ = by_hand("heun", 0.1, lambda w: w, np.array([1.0]), 0.1, 8)
    np.testing.assert_allclose(run(trainer, 8), w, rtol=1e-12)


def test_a_step_to_where_nothing_is_finite_is_made_again_shorter(precision):
    trainer = trainer_of([3.0, -2.0], well, tl.AdaptiveStep("heun", 0.1), 1e3)  # cosh of thousands
    w = run(trainer, 30)
    assert np.isfinite(w).all() and np.linalg.norm(w) < np.linalg.norm([3.0, -2.0])


def test_docstring_examples(precision):
    result = doctest.testmod(adaptive_step)
    assert result.attempted > 0 and result.failed == 0
