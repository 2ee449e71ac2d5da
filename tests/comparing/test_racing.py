"""Runs that share a model and a trace are those that a new Trainer would make, in whatever order they are made."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from comparisons import LOSS, TRAIN, VALIDATION, model, plan, problem

import trainlab as tl
from trainlab.comparing import problem_of
from trainlab.comparing.racing import Racer, measured_in_turns

STRATEGIES = {
    "heun": tl.Heun(),
    "lookahead": tl.Lookahead(3),
    "noise": tl.Noise(1e-3),
    "two of sam": tl.Accumulate(2, tl.Sam()),
    "optimistic": tl.OptimisticGradient(),
}


def alone(of, trial):
    """The same run by a Trainer of its own: validation losses, and the weights at the end."""
    keras.utils.set_random_seed(trial.seed)
    model = of.make_model()
    optimizer = keras.optimizers.SGD(trial.rate, momentum=0.5)
    trainer = tl.Trainer(
        model, trial.entry.strategy, optimizer=optimizer, loss=LOSS(from_logits=True), seed=trial.seed, jit_compile=False
    )
    how = {"batch_size": 16, "steps": trial.updates, "validate_every": trial.every, "verbose": 0}
    return trainer.fit(*TRAIN, validation_data=VALIDATION, validation_batch_size=16, **how).history["val_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_shared_trace_makes_the_runs_of_new_trainers(name, tmp_path):
    of = problem()
    all_runs = plan(of, {name: STRATEGIES[name]})
    trials = all_runs.trials(all_runs.entries[-1])
    racer = Racer(of, all_runs, STRATEGIES[name])
    found = {}
    for trial in [*trials[1:], trials[0]]:
        found[trial.name] = [point["value"] for point in racer.run(trial, tmp_path / trial.name)["points"]]
    for trial in (trials[0], trials[3]):  # another rate, and another seed
        assert found[trial.name] == alone(of, trial)
    assert len({tuple(values) for values in found.values()}) == len(trials)  # the control: rates and seeds do differ


@pytest.mark.slow
def test_the_program_is_traced_once_for_all_rates_and_seeds(tmp_path, monkeypatch):
    of, traced = problem(), []
    heun = tl.Heun()
    real = tl.Heun.step
    monkeypatch.setattr(tl.Heun, "step", lambda self, *given: (traced.append(1), real(self, *given))[1])
    all_runs = plan(of, {"heun": heun}, seeds=3)
    racer, after = Racer(of, all_runs, heun), []
    for trial in all_runs.trials(all_runs.entries[-1]):
        racer.run(trial, tmp_path / trial.name)
        after.append(len(traced))
    assert after[0] > 0 and after == [after[0]] * 6


def test_the_same_weights_order_and_masks_for_all(tmp_path):
    """Two names for one step make the same run; masks of another seed make another."""
    of = problem()
    all_runs = plan(of, {"a": tl.Heun(), "b": tl.Heun()})
    a, b = (
        Racer(of, all_runs, entry.strategy).run(all_runs.trials(entry)[1], tmp_path / entry.name)
        for entry in all_runs.entries[-2:]
    )
    assert a == b
    without = problem(model=lambda: keras.Sequential([keras.Input([6]), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3)]))
    c = Racer(without, all_runs, tl.Heun()).run(all_runs.trials(all_runs.entries[-1])[1], tmp_path / "c")
    assert c["points"][-1] != a["points"][-1]


@pytest.mark.slow
def test_a_shuffled_data_set_has_the_same_orders_in_every_run(tmp_path):
    """Each reads it from its beginning, as a Trainer of its own reads a new one; a shuffled set to validate on, too."""

    def made(seed=1):
        keras.utils.set_random_seed(0)  # which has a part in the seed of a shuffle
        data, held_out = (tf.data.Dataset.from_tensor_slices(part) for part in (TRAIN, VALIDATION))
        return data.shuffle(96, seed=seed).batch(16), held_out.shuffle(40, seed=2).take(20).batch(16)

    def runs(data, held_out):
        of = problem_of(dropless, (data, None, None), held_out, optimizer=keras.optimizers.SGD(), loss=LOSS(from_logits=True))
        all_runs = plan(of, {"a": tl.SGD(), "b": tl.SGD()}, rates=(0.1,), seeds=1)
        trials = {entry.name: all_runs.trials(entry)[0] for entry in all_runs.entries[-2:]}
        racers = {name: Racer(of, all_runs, trial.entry.strategy) for name, trial in trials.items()}
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        found = [racers[name].run(trials[name], where / f"{n}") for n, name in enumerate("aba")]
        return trials["a"], [run["points"] for run in found]

    def dropless():
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input([6]), keras.layers.Dense(3)])

    trial, (a, b, again) = runs(*made())
    data, held_out = made()
    trainer = tl.Trainer(dropless(), optimizer=keras.optimizers.SGD(0.1), loss=LOSS(from_logits=True), jit_compile=False)
    how = {"steps": trial.updates, "validate_every": trial.every, "verbose": 0}
    assert [point["value"] for point in a] == trainer.fit(data, validation_data=held_out, **how).history["val_loss"]
    assert a == b == again
    assert runs(*made(3))[1][0] != a  # the control: the order counts


@pytest.mark.slow
def test_masks_of_layers_without_a_seed_of_their_own_are_the_same_too(tmp_path):
    class Noisy(keras.layers.Layer):
        def call(self, x, training=False):
            return x + 0.3 * keras.random.normal(keras.ops.shape(x)) if training else x

    def model():
        return keras.Sequential([keras.Input([6]), Noisy(), keras.layers.Dense(3)])

    of = problem(model=model)
    all_runs = plan(of, [tl.Lookahead()])
    trials = all_runs.trials(all_runs.entries[0])
    one = Racer(of, all_runs, tl.SGD())
    forth = [one.run(trial, tmp_path / "one" / trial.name) for trial in trials]
    keras.random.normal([3])  # somebody draws
    two = Racer(of, all_runs, tl.SGD())
    back = [two.run(trial, tmp_path / "two" / trial.name) for trial in reversed(trials)]
    assert forth == back[::-1] and forth[0]["points"] != forth[1]["points"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_curve(tmp_path, monkeypatch):
    of = problem()
    all_runs = plan(of, {"heun": tl.Heun()}, epochs=6)
    trial = all_runs.trials(all_runs.entries[-1])[1]
    whole = Racer(of, all_runs, trial.entry.strategy).run(trial, tmp_path / "whole")

    from trainlab.comparing import racing

    real, calls = racing._Points.on_epoch_end, []

    def stopped(self, epoch, logs=None):
        real(self, epoch, logs)
        calls.append(epoch)
        if len(calls) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(racing._Points, "on_epoch_end", stopped)
    with pytest.raises(KeyboardInterrupt):
        Racer(of, all_runs, trial.entry.strategy).run(trial, tmp_path / "stopped")
    assert Racer(of, all_runs, trial.entry.strategy).run(trial, tmp_path / "stopped") == whole
    assert 5 < len(calls) <= len(whole["points"]) + 1  # it went on, and did not begin again
    finished = len(calls)
    assert Racer(of, all_runs, trial.entry.strategy).run(trial, tmp_path / "stopped") == whole and len(calls) == finished


@pytest.mark.slow
def test_a_run_that_diverges_has_no_value_and_the_next_one_is_none_the_worse(tmp_path):
    of = problem(loss="mse", model=lambda: keras.Sequential([keras.Input([6]), keras.layers.Dense(1)]))
    all_runs = plan(of, [tl.Heun()], rates=(1e12, 0.01), epochs=8)
    trials = all_runs.trials(all_runs.entries[0])
    racer = Racer(of, all_runs, all_runs.entries[0].strategy)
    bad, good = racer.run(trials[0], tmp_path / "bad"), racer.run(trials[2], tmp_path / "good")
    assert bad["end"].startswith("not finite: ") and json.dumps(bad, allow_nan=False)
    assert good["end"] == "finished" and np.isfinite([point["value"] for point in good["points"]]).all()
    assert Racer(of, all_runs, tl.SGD()).run(trials[2], tmp_path / "fresh") == good


@pytest.mark.slow
def test_what_an_adaptive_step_really_used_is_counted_and_ends_it(tmp_path):
    of = problem()
    adaptive = tl.AdaptiveStep("heun", tolerance=1e-5)
    all_runs = plan(of, {"adaptive": adaptive}, epochs=8)
    trial = all_runs.trials(all_runs.entries[-1])[0]
    found = Racer(of, all_runs, adaptive).run(trial, tmp_path / "a")
    used = [point["evaluations"] for point in found["points"]]
    updates = [point["updates"] for point in found["points"]]
    assert all(isinstance(number, int) for number in used)
    assert found["end"] == "used up" and used[-2] < all_runs.budget <= used[-1] and updates[-1] < trial.updates
    assert all(number >= 2 * made for number, made in zip(used, updates, strict=True)) and used[-1] > 2 * updates[-1]


@pytest.mark.slow
def test_schedules_end_with_each_ones_budget(tmp_path):
    """A cosine of the plain step's horizon is at zero for everybody at the end: the last updates move nothing."""
    steps = 24  # four passes of six batches
    of = problem(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, steps)))
    all_runs = plan(of, {"heun": tl.Heun()}, rates=(0.4,), seeds=1)
    for entry in (all_runs.entries[0], all_runs.entries[-1]):
        [trial] = all_runs.trials(entry)
        racer = Racer(of, all_runs, entry.strategy)
        racer.run(trial, tmp_path / entry.name)
        rate = racer._trainer.model.optimizer.learning_rate
        assert int(racer._trainer.iterations) == trial.updates and float(rate) == pytest.approx(0.0, abs=1e-7)


def test_seconds_are_measured_in_turns():
    clock = []

    class Counted:
        def __init__(self, name, each):
            self.name, self.each = name, each

        def seconds(self, trial, num_updates):
            clock.append(self.name)
            return 0.01 + self.each * num_updates

    found = measured_in_turns({"a": Counted("a", 1e-3), "b": Counted("b", 4e-3)}, {"a": None, "b": None})
    assert found == {"a": pytest.approx(1e-3), "b": pytest.approx(4e-3)}
    assert clock[-8:] == ["a", "a", "b", "b"] * 2


def of_rows(**changes):
    """The problem with an F1 score, which is a number of each class."""
    rows = [(x, np.eye(3, dtype="float32")[y]) for x, y in (TRAIN, VALIDATION, VALIDATION)]
    given = {"batch_size": 16, "optimizer": keras.optimizers.SGD(), "loss": "mse", "metrics": [keras.metrics.F1Score()]}
    return problem_of(model, (*rows[0], None), rows[1], rows[2], **(given | changes))


@pytest.mark.slow
def test_one_number_of_a_metric_of_several_judges(tmp_path):
    of = of_rows(metric=("max", "f1_score[1]"))
    runs = plan(of, [tl.Heun()], rates=[0.1], seeds=1, epochs=1)
    racer, trial = Racer(of, runs, runs.entries[0].strategy), runs.trials(runs.entries[0])[0]
    racer.check(trial)
    value = racer.run(trial, tmp_path)["points"][-1]["value"]
    found = racer.test(trial, tmp_path)  # the validation data too
    assert sorted(found) == ["f1_score[0]", "f1_score[1]", "f1_score[2]", "loss"]
    assert value == found["f1_score[1]"] and value not in (found["f1_score[0]"], found["f1_score[2]"], None)


@pytest.mark.slow
def test_by_several_numbers_nothing_is_judged():
    of = of_rows(metric=("max", "f1_score"))
    runs = plan(of, [tl.Heun()], rates=[0.1], seeds=1, epochs=1)
    with pytest.raises(ValueError, match=r"^metric = 'f1_score': is several numbers.* name one of f1_score\[0\], f1_score\[1\]"):
        Racer(of, runs, runs.entries[0].strategy).check(runs.trials(runs.entries[0])[0])
    of = of_rows(metric="f1_scores[1]")
    with pytest.raises(ValueError, match=r"which are .*did you mean 'f1_score\[1\]'"):
        Racer(of, runs, runs.entries[0].strategy).check(runs.trials(runs.entries[0])[0])
