"""Trajectories of the three optimizers that the project began from: each as it was meant, told apart from what it was.

One weight, and a target for each batch: the loss is `(w - t)^2 / 2`, the gradient `w - t`. So every number is known, and a
gradient that comes late, or at the wrong weight, shows.
"""

import doctest

import keras
import numpy as np
import pytest
from keras import layers, ops

import trainlab as tl
from trainlab.strategies import accumulate

RATE, START = 0.25, 0.5
TARGETS = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, -6.0]  # one for each batch
EXAMPLES = 2  # in each batch, all with its target
pytestmark = pytest.mark.parametrize("precision", ["float64"], indirect=True)


class Recorder(keras.callbacks.Callback):
    """The weight after every update."""

    def __init__(self):
        super().__init__()
        self.trajectory = []

    def on_train_batch_end(self, batch, logs=None):
        self.trajectory.append(float(self.model.get_weights()[0][0, 0]))


class CountedDense(layers.Dense):
    """Counts its calls."""

    calls = 0

    def call(self, x):
        type(self).calls += 1
        return super().call(x)


def trajectory(strategy, targets=TARGETS, epochs=1, constraint=None, examples=EXAMPLES, optimizer=None, **kwargs):
    """The weight after every update of a Trainer, on batches of examples with the batch's target."""
    CountedDense.calls = 0
    start = keras.initializers.Constant(START)
    dense = CountedDense(1, use_bias=False, kernel_initializer=start, kernel_constraint=constraint)
    model = keras.Sequential([keras.Input([1]), dense])
    half_square = lambda y, p: ops.mean(ops.square(p - y), axis=-1) / 2  # noqa: E731
    model.compile(optimizer=optimizer or keras.optimizers.SGD(RATE), loss=half_square, jit_compile=False)
    y = np.asarray(targets if examples is None else np.repeat(targets, examples), "float64")[:, None]
    recorder = Recorder()
    fit = {"batch_size": examples or EXAMPLES, "epochs": epochs, "shuffle": False, "verbose": 0}
    tl.Trainer(model, strategy, **kwargs).fit(np.ones_like(y), y, callbacks=[recorder], **fit)
    return recorder.trajectory


def accumulate_then_apply(num_batches, targets=TARGETS, epochs=1, project=lambda w: w):
    """By hand: gradients of the next batches at the current weight, then one update; the rest at the end of the epoch."""
    w, seen = START, []
    for _ in range(epochs):
        for i in range(0, len(targets), num_batches):
            group = targets[i : i + num_batches]
            w = project(w - RATE * sum(w - t for t in group) / len(group))
            seen.append(w)
    return seen


def tutorial(num_batches, targets=TARGETS, epochs=1):
    """The tutorial's accumulating optimizer: the weight after every batch."""
    w, total, seen = START, 0.0, []
    for iteration, t in enumerate(list(targets) * epochs):
        gradient = w - t
        if iteration % num_batches == 0:
            w -= RATE * total / num_batches
            total = gradient
        else:
            total += gradient
        seen.append(w)
    return seen


def distinct(seen):
    """A trajectory without its standstills."""
    return [w for i, w in enumerate(seen) if w != ([START] + seen)[i]]


MODES = {"eager": {"run_eagerly": True}, "graph": {}, "xla": {"jit_compile": True}}


@pytest.mark.filterwarnings("ignore:.*fewer than one update takes")
@pytest.mark.parametrize(
    "num_batches, mode", [(n, "eager") for n in (1, 2, 3, 4, 8, 20)] + [(2, "graph"), (3, "graph"), (3, "xla")]
)
def test_accumulate_then_apply(num_batches, mode, precision):
    """3 of 8 batches: updates after batches 3 and 6, and one of the 2 that are left, weighted as 2."""
    seen = trajectory(tl.Accumulate(num_batches), epochs=2, **MODES[mode])
    np.testing.assert_allclose(seen, accumulate_then_apply(num_batches, epochs=2), rtol=1e-14)


@pytest.mark.parametrize("num_batches", [2, 3, 4])
def test_the_tutorials_trajectory_is_another(num_batches, precision):
    """Control. It stands still at batch 0, updates one batch late with a gradient at the old weight, and loses the last."""
    correct, wrong = trajectory(tl.Accumulate(num_batches), epochs=2), tutorial(num_batches, epochs=2)
    assert wrong[:num_batches] == [START] * num_batches  # the zero update, and nothing where the first one belongs
    late = distinct(wrong)
    assert late[0] == pytest.approx(correct[0])  # the first cycle is right, but applied at the next cycle's first batch
    assert wrong.index(late[0]) == num_batches
    assert abs(late[1] - correct[1]) > 0.01  # the second has a gradient at the old weight
    assert len(late) < len(correct)  # the last cycle is never applied
    per_update = [wrong[min(i, len(wrong) - 1)] for i in range(num_batches - 1, len(wrong), num_batches)]
    assert not np.allclose(per_update, correct[: len(per_update)], rtol=1e-3)


def test_of_one_batch_the_tutorial_is_late_too(precision):
    assert tutorial(1)[0] == START
    assert not np.allclose(tutorial(1), trajectory(tl.SGD()), rtol=1e-3)
    np.testing.assert_allclose(trajectory(tl.SGD()), accumulate_then_apply(1), rtol=1e-14)


def test_a_short_last_batch_weighs_what_it_holds(precision):
    """Batches of 2 and a last one of 1: `(2 (w-a) + (w-b)) / 3`, not the mean of the two means."""
    targets = [1.0, 1.0, 5.0, 5.0, -2.0, -2.0, 7.0]
    seen = trajectory(tl.Accumulate(2), targets, examples=None)
    w = START - RATE * (START - 3.0)
    assert seen[0] == pytest.approx(w, rel=1e-14)
    assert seen[1] == pytest.approx(w - RATE * (2 * (w + 2) + (w - 7)) / 3, rel=1e-14)
    assert seen[1] != pytest.approx(w - RATE * ((w + 2) + (w - 7)) / 2, rel=1e-2)  # control
    assert len(seen) == 2


def test_nothing_is_carried_into_the_next_epoch(precision):
    seen = trajectory(tl.Accumulate(3), epochs=3)
    assert len(seen) == 3 * 3
    carried = accumulate_then_apply(3, TARGETS * 3)
    assert len(carried) == len(seen) - 1 and not np.allclose(carried[2], seen[2], rtol=1e-3)  # control


@pytest.mark.parametrize("num_batches", [1, 3])
def test_plain_sgd_with_constraints(num_batches, precision):
    """The tutorial's first optimizer: a step, then the projection onto the constraint."""
    bounded = trajectory(tl.Accumulate(num_batches), constraint=keras.constraints.NonNeg())
    by_hand = accumulate_then_apply(num_batches, project=lambda w: max(w, 0.0))
    np.testing.assert_allclose(bounded, by_hand, rtol=1e-14)
    assert (0.0 in bounded) == (num_batches == 1)
    assert min(trajectory(tl.SGD())) < 0  # control: unconstrained it goes there


@pytest.mark.parametrize("num_batches", [1, 3])
def test_heun_evaluates_twice_on_the_same_batches(num_batches, precision):
    """The tutorial's third optimizer: assign the Euler point, evaluate the same batch again, put back, apply the mean."""
    seen = trajectory(tl.Accumulate(num_batches, tl.Heun()), run_eagerly=True)
    w, by_hand, other_batch = START, [], []
    for i in range(0, len(TARGETS), num_batches):
        group = TARGETS[i : i + num_batches]
        here = sum(w - t for t in group) / len(group)
        probe = w - RATE * here
        ahead = sum(probe - t for t in group) / len(group)
        w -= RATE * (here + ahead) / 2
        by_hand.append(w)
        other_batch.append(np.mean(TARGETS[i + num_batches : i + 2 * num_batches] or [0.0]))
    np.testing.assert_allclose(seen, by_hand, rtol=1e-14)
    assert not np.allclose(seen, accumulate_then_apply(num_batches), rtol=1e-3)  # control: Euler
    # Control: the second evaluation on the next batch instead.
    h = np.mean(TARGETS[:num_batches])
    next_batch = START - RATE * ((START - h) + (START - RATE * (START - h) - other_batch[0])) / 2
    assert abs(next_batch - seen[0]) > 1e-3


@pytest.mark.slow
def test_heun_runs_the_model_twice_an_update(precision):
    def calls(strategy, epochs):
        trajectory(strategy, epochs=epochs, run_eagerly=True)
        return CountedDense.calls

    each = [calls(strategy, 3) - calls(strategy, 2) for strategy in (tl.SGD(), tl.Heun())]
    assert each == [len(TARGETS), 2 * len(TARGETS)]


class TestArguments:
    @pytest.mark.parametrize("num_batches", [0, -1])
    def test_fewer_than_one_batch(self, num_batches, precision):
        with pytest.raises(ValueError, match=f"Accumulate: num_batches must be at least 1, not {num_batches}"):
            tl.Accumulate(num_batches)

    @pytest.mark.parametrize("num_batches", [2.0, "2", True, None])
    def test_no_whole_number(self, num_batches, precision):
        with pytest.raises(TypeError, match="Accumulate: num_batches must be an int"):
            tl.Accumulate(num_batches)

    def test_no_strategy(self, precision):
        with pytest.raises(TypeError, match=r"inner must be a StepStrategy.*write Heun\(\)"):
            tl.Accumulate(2, tl.Heun)
        with pytest.raises(TypeError, match="inner must be a StepStrategy, not 3"):
            tl.Accumulate(2, 3)


def test_docstring_examples(precision):
    result = doctest.testmod(accumulate)
    assert result.attempted > 0 and result.failed == 0
