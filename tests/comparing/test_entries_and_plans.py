"""Who takes part, and how many updates each makes of a budget."""

import keras
import numpy as np
import pytest

import trainlab as tl
from trainlab.comparing.entries import entries_of
from trainlab.comparing.plan import Plan, batches_of, drawn_rates
from trainlab.comparing.schedules import Stretched, give_rate, optimizer_like, schedule_of

schedules = keras.optimizers.schedules


def test_the_plain_step_is_always_there_at_each_cost():
    strategies = {"heun": tl.Heun(), "rk4": tl.RungeKutta("kutta_4"), "sam": tl.Sam(), "4 of heun": tl.Accumulate(4, tl.Heun())}
    entries = entries_of(strategies)
    names = ["SGD()", "SGD(), rate / 2", "SGD(), rate / 4", "SGD(), rate / 8", "heun", "rk4", "sam", "4 of heun"]
    assert [entry.name for entry in entries] == names
    assert [entry.divisor for entry in entries] == [1, 2, 4, 8, 1, 1, 1, 1]
    rivals = {entry.name: entry.rivals for entry in entries}
    assert rivals["sam"] == ("SGD()", "SGD(), rate / 2") and rivals["rk4"] == ("SGD()", "SGD(), rate / 4")
    assert rivals["4 of heun"] == ("SGD()", "SGD(), rate / 8") and rivals["SGD(), rate / 2"] == ()


def test_the_plain_step_given_is_there_once_and_under_another_name_again():
    assert [entry.name for entry in entries_of([tl.SGD(), tl.Lookahead()])] == ["SGD()", repr(tl.Lookahead())]
    assert [(entry.name, entry.rivals) for entry in entries_of({"mine": tl.SGD()})] == [("SGD()", ()), ("mine", ("SGD()",))]


@pytest.mark.parametrize(
    ("strategies", "said"),
    [
        (tl.Heun(), "must be a list"),
        ([], "is empty"),
        ([tl.Heun], "write Heun()"),
        (["heun"], "must be StepStrategies, not 'heun'"),
        ([tl.Heun(), tl.Heun()], "is there twice: give names"),
        ({"SGD()": tl.Heun()}, "give another name"),
        ({"SGD(), rate / 2": tl.Heun()}, "give another name"),
        ({3: tl.Heun()}, "is no name"),
    ],
)
def test_what_is_no_list_of_strategies_is_one_line(strategies, said):
    with pytest.raises((TypeError, ValueError)) as error:
        entries_of(strategies)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("budget", [40, 101, 240])
@pytest.mark.parametrize("per_pass", [10, 7, 1])
def test_nobody_uses_more_than_the_budget_and_all_nearly_all_of_it(budget, per_pass):
    strategies = {
        "heun": tl.Heun(),
        "rk4": tl.RungeKutta("kutta_4"),
        "three": tl.Accumulate(3),
        "two": tl.Accumulate(2, tl.Heun()),
    }
    plan = Plan(entries_of(strategies), [0.1], [0], budget, per_pass)
    for entry in plan.entries:
        batches = batches_of(plan.updates(entry), entry.strategy.batches, per_pass)
        used = batches * entry.strategy.evaluations
        # What is left over is less than an update, one of whole batches at most.
        assert budget - max(entry.cost, entry.divisor) < used <= budget, entry.name


def test_a_plain_step_is_given_so_many_more_updates():
    plan = Plan(entries_of([tl.RungeKutta("kutta_4")]), [0.4, 0.8], [0, 1], 103, 10)
    updates = {entry.name: plan.updates(entry) for entry in plan.entries}
    assert updates == {"SGD()": 103, "SGD(), rate / 4": 100, repr(tl.RungeKutta("kutta_4")): 25}
    trials = plan.trials(plan.entries[1])
    assert [(t.rate, t.seed) for t in trials] == [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)]
    assert len({trial.name for entry in plan.entries for trial in plan.trials(entry)}) == 12


def test_a_budget_less_than_an_update_is_one_line():
    plan = Plan(entries_of([tl.RungeKutta("kutta_4")]), [0.1], [0], 3, 3)
    with pytest.raises(ValueError, match="less than an update of .* takes .4.: give more epochs"):
        plan.updates(plan.entries[-1])


def test_batches_are_those_of_an_epoch_counted_one_by_one():
    for strategy_batches in (1, 2, 3, 4, 20):
        taken, left = [], 10
        for _ in range(25):
            taken.append(min(strategy_batches, left))
            left = left - taken[-1] or 10
        for number in (0, 1, 5, 24, 25):
            assert batches_of(number, strategy_batches, 10) == sum(taken[:number])


def test_rates_are_drawn_evenly_in_their_logarithm():
    rates = drawn_rates(1e-4, 1.0, 4000, seed=3)
    shares = np.histogram(np.log10(rates), bins=4, range=(-4, 0))[0] / 4000
    assert np.abs(shares - 0.25).max() < 0.03 and rates != drawn_rates(1e-4, 1.0, 4000, seed=4)
    for smallest, largest in ((0, 1), (1, 1), (2, 1), (1, np.inf)):
        with pytest.raises(ValueError, match="smallest < largest"):
            drawn_rates(smallest, largest, 3)


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.CosineDecay(0.1, 100),
        schedules.ExponentialDecay(0.1, 30, 0.5),
        schedules.PolynomialDecay(0.1, 100, 0.01),
        schedules.PiecewiseConstantDecay([30, 60], [0.1, 0.01, 0.001]),
        schedules.InverseTimeDecay(0.1, 10, 0.5, staircase=True),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_is_stretched_to_another_horizon(schedule):
    stretched = Stretched(schedule, stretch=0.5, scale=3.0)
    for step in (0, 7, 15, 16, 29, 50):
        assert float(stretched(step)) == pytest.approx(3 * float(schedule(2 * step)), rel=1e-6)
    again = Stretched.from_config(stretched.get_config())
    assert float(again(16)) == float(stretched(16))


def test_the_rate_of_a_schedule_is_the_one_it_comes_to():
    warm = schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=10)
    optimizer = keras.optimizers.SGD(warm)
    other = optimizer_like(optimizer)
    give_rate(other, 0.4, schedule_of(optimizer), stretch=2.0)
    assert float(schedule_of(other)(20)) == pytest.approx(0.4)
    constant = optimizer_like(keras.optimizers.Adam(0.3))
    give_rate(constant, 0.02, schedule_of(constant), 1.0)
    assert float(constant.learning_rate) == pytest.approx(0.02)


def test_what_has_no_single_rate_is_refused():
    weights = keras.layers.Dense(1)
    weights.build([2])
    several = keras.optimizers.MultiOptimizer([(keras.optimizers.SGD(), weights)])
    with pytest.raises(ValueError, match="is the function"):
        schedule_of(keras.optimizers.SGD(lambda: 0.1))
    with pytest.raises(ValueError, match="several learning rates"):
        optimizer_like(several)
