"""Best means best: by what Keras' metrics say of themselves, or as one is told; and what was kept can be had."""

import json
import warnings

import keras
import numpy as np
import pytest
from resuming import small
from small import compiled, dense_model, labelled, regression, weights

import trainlab as tl
from trainlab.objective import keras_internals
from trainlab.runs.best import Best, said_of

X, Y = regression()


@pytest.mark.parametrize(
    ("keep_best", "metric", "is_max"),
    [
        ("val_r2_score", lambda: keras.metrics.R2Score(), True),
        ("val_accent", lambda: keras.metrics.MeanSquaredError(name="accent"), False),
        ("accuracy_error", lambda: keras.metrics.MeanAbsoluteError(name="accuracy_error"), False),
        ("val_recall_loss", lambda: keras.metrics.Huber(name="recall_loss") if hasattr(keras.metrics, "Huber") else None, False),
        ("val_pearson_correlation", lambda: keras.metrics.PearsonCorrelation(), True),
        ("val_cosine_similarity", lambda: keras.metrics.CosineSimilarity(), True),
        ("val_mse", lambda: "mse", False),
        ("val_loss", lambda: None, False),
        (("max", "val_loss"), lambda: None, True),
        (("min", "val_mine"), lambda: keras.metrics.MeanMetricWrapper(lambda y, p: y - p, name="mine"), False),
        (["max", "val_mine"], lambda: keras.metrics.MeanMetricWrapper(lambda y, p: y - p, name="mine"), True),
    ],
    ids=range(11),
)
def test_whether_more_or_less_is_better(keep_best, metric, is_max):
    metric = metric()
    if metric is None and keep_best == "val_recall_loss":
        pytest.skip("Keras has no such metric")
    trainer = tl.Trainer(compiled(metrics=[metric] if metric is not None else None))
    trainer.fit(X, Y, verbose=0)
    best, values = Best(keep_best), [0.3, 0.7, 0.1, 0.5, 0.7, 0.1]
    best.prepare(trainer._loops.made.loop, None, is_validated=True)
    found = [value for value in values if best.is_better({best.name: value, "val_other": 0.0})]
    assert found == ([0.3, 0.7] if is_max else [0.3, 0.1])
    assert said_of({"metric": best.metric, "mode": best.mode, "metric_name": best.name, "progress": {"epoch": 2}}) == {
        "epoch": 2,
        best.name: max(values) if is_max else min(values),
    }


@pytest.mark.slow
def test_the_weights_of_the_best_are_those_of_that_epoch(tmp_path):
    class Remembers(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append((logs["val_loss"], weights(self.model)))

        get_state, set_state = (lambda self: None), (lambda self, state: None)

    remembers = Remembers()
    trainer = small(tmp_path, keep=1, keep_best="val_loss", optimizer=keras.optimizers.SGD(2.4), save_seconds=None)
    trainer.fit(X, Y, 8, epochs=6, verbose=0, callbacks=[remembers], validation_data=(X, Y))
    _, best = min(remembers.seen, key=lambda pair: pair[0])
    for fresh in (trainer, small(tmp_path, keep_best="val_loss", optimizer=keras.optimizers.SGD(2.4))):  # in a new process too
        fresh.load_best()
        for a, b in zip(weights(fresh.model), best, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["an average", "restored", "swapped"])
def test_weights_that_the_end_of_a_fit_changes_are_not_taken_for_those_that_were_measured(how, tmp_path):
    use_ema, callbacks = {"use_ema": True, "ema_momentum": 0.99} if how != "restored" else {}, []
    if how == "restored":  # by another quantity, whose best epoch is not the last
        callbacks.append(keras.callbacks.EarlyStopping("weight", mode="min", patience=99, restore_best_weights=True))
        callbacks.insert(0, keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(weight=float(epoch))))
    elif how == "swapped":
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    model = compiled(optimizer=keras.optimizers.SGD(0.05, **use_ema))
    trainer = tl.Trainer(model, run=tl.Run(tmp_path, keep_best="val_loss"))
    trainer.fit(X, Y, 8, epochs=5, verbose=0, callbacks=callbacks, validation_data=(X, Y))
    best, at_the_end = json.loads((tmp_path / "best.json").read_text()), model.evaluate(X, Y, verbose=0)
    assert best["epoch"] == 5
    trainer.load_best()
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(best["val_loss"], rel=1e-6)
    assert (at_the_end == pytest.approx(best["val_loss"], rel=1e-3)) == (how == "swapped")


@pytest.mark.slow
def test_averages_that_only_evaluations_see_are_said(tmp_path):
    def run(name, **how):
        model = compiled(optimizer=keras.optimizers.SGD(0.05, use_ema=True))
        trainer = tl.Trainer(model, run=tl.Run(tmp_path / name, keep_best="val_loss"))
        trainer.fit(X, Y, 8, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights(**how)], validation_data=(X, Y))

    with pytest.warns(UserWarning, match=r"measured on the averages .* write SwapEMAWeights\(swap_on_epoch=True\)"):
        run("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("b", swap_on_epoch=True)


@pytest.mark.parametrize(
    ("keep_best", "metrics", "line"),
    [
        ("val_los", None, "keep_best='val_los' is not among the logs: .*val_loss; did you mean val_loss"),
        ("val_acuracy", ["accuracy"], "did you mean val_accuracy"),
        ("val_false_positives", [keras.metrics.FalsePositives()], r'write keep_best=\("max", \'val_false_positives\'\)'),
        ("speed", None, "is not among the logs"),
        ("val_f1_score", [keras.metrics.F1Score()], r"'val_f1_score': its result is no number but an array \[4\], "),
        (("min", "val_step_error"), None, "keep_best='val_step_error' is not among the logs: .*step_error"),
    ],
)
def test_what_cannot_be_known_is_asked_before_the_first_update(keep_best, metrics, line, tmp_path):
    model = compiled(dense_model(lambda: keras.layers.Dense(4)), metrics=metrics)
    trainer = tl.Trainer(model, tl.Heun(), run=tl.Run(tmp_path, keep_best=keep_best))
    y = np.eye(4, dtype="float32")[np.arange(len(X)) % 4]
    with pytest.raises(ValueError, match=line):
        trainer.fit(X, y, 8, verbose=0, validation_data=(X, y))
    assert trainer.iterations == 0


@pytest.mark.slow
def test_a_metric_of_one_number_may_be_an_array(tmp_path):
    model = compiled(metrics=[keras.metrics.F1Score(threshold=0.5)])
    tl.Trainer(model, run=tl.Run(tmp_path, keep_best="val_f1_score")).fit(X, Y > 0, 8, verbose=0, validation_data=(X, Y > 0))
    assert json.loads((tmp_path / "best.json").read_text())["epoch"] == 1


class OwnTestStep(keras.Sequential):
    """What it measures shows only when it has measured it."""

    def test_step(self, data):
        return {"loss": keras.ops.mean((self(data[0]) - data[1]) ** 2)}


def test_a_name_that_turns_out_to_be_missing_costs_no_epoch(tmp_path):
    model = OwnTestStep([keras.Input([3]), keras.layers.Dense(1)])
    trainer = tl.Trainer(compiled(model), run=tl.Run(tmp_path, keep_best=("min", "val_los"), save_seconds=None))
    with pytest.raises(ValueError, match="keep_best='val_los' is not among the logs: loss, val_loss"):
        trainer.fit(X, Y, 8, epochs=2, verbose=0, validation_data=(X, Y))
    assert trainer.iterations == 3 and trainer.last_checkpoint.name.endswith("-step-3")


def test_without_validation_data_there_is_nothing_validated(tmp_path):
    trainer = tl.Trainer(compiled(), run=tl.Run(tmp_path, keep_best="val_loss"))
    with pytest.raises(ValueError, match="keep_best='val_loss' is not among the logs: loss"):
        trainer.fit(X, Y, 8, verbose=0)
    assert trainer.iterations == 0


class Logs(tl.StepStrategy):
    """Logs a number of its own."""

    def step(self, objective, state):
        here = objective(state.parameters)
        return tl.Step(here.gradient, at=here, logs={"speed": here.gradient.norm()})


def test_a_number_that_steps_log(tmp_path):
    with pytest.raises(ValueError, match=r"nothing says whether more or less.*\(\"max\", 'speed'\)"):
        tl.Trainer(compiled(), Logs(), run=tl.Run(tmp_path / "a", keep_best="speed")).fit(X, Y, 8, verbose=0)
    trainer = tl.Trainer(compiled(), Logs(), run=tl.Run(tmp_path / "b", keep_best=("max", "speed")))
    history = trainer.fit(X, Y, 8, epochs=4, verbose=0).history["speed"]
    assert json.loads((tmp_path / "b" / "best.json").read_text())["speed"] == max(history)


def test_a_file_of_somebody_elses_is_left_alone(tmp_path):
    (tmp_path / "best.json").write_text('{"learning_rate": 0.1}')
    with pytest.warns(UserWarning, match=r"best.json is no run's, and is left as it is"):
        trainer = small(tmp_path, keep_best="loss")
        trainer.fit(X, Y, 8, verbose=0)
    assert (tmp_path / "best.json").read_text() == '{"learning_rate": 0.1}'
    trainer.load_best()


@pytest.mark.slow
def test_a_run_that_begins_anew_has_no_best_yet(tmp_path):
    small(tmp_path, keep_best="loss").fit(X, Y, 8, verbose=0)
    assert (tmp_path / "best.json").is_file()
    small(tmp_path).fit(X, Y, 8, verbose=0, resume="never", overwrite=True)
    assert not (tmp_path / "best.json").exists()


@pytest.mark.slow
def test_another_name_does_not_compare_two_scales(tmp_path):
    def run(keep_best, epochs):
        trainer = tl.Trainer(compiled(metrics=["mae"]), run=tl.Run(tmp_path, keep=1, keep_best=keep_best, save_seconds=None))
        trainer.fit(X, Y, 8, epochs=epochs, verbose=0)
        return trainer, json.loads((tmp_path / "best.json").read_text())

    run(("max", "mae"), 3)
    trainer, best = run(("min", "loss"), 6)
    assert "loss" in best and best["epoch"] > 3
    trainer.load_best()


@pytest.mark.slow
def test_another_direction_does_not_compare_two_scales(tmp_path):
    for way, epochs in (("max", 3), ("min", 6)):
        model = compiled(metrics=["mae"])
        trainer = tl.Trainer(model, run=tl.Run(tmp_path, keep=1, keep_best=(way, "mae"), save_seconds=None))
        history = trainer.fit(X, Y, 8, epochs=epochs, verbose=0).history["mae"]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["mae"] == min(history[3:]) and best["epoch"] == 4 + int(np.argmin(history[3:]))
    assert trainer.load_best().name == best["checkpoint"]


def test_what_is_not_there_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run"):
        small(None).load_best()
    with pytest.raises(FileNotFoundError, match="no checkpoint was kept as the best: give tl.Run"):
        small(tmp_path).load_best()
    trainer = small(tmp_path, keep_best="loss")
    trainer.fit(X, Y, 8, verbose=0)
    other = tl.Trainer(compiled(dense_model(lambda: keras.layers.Dense(2))), run=tl.Run(tmp_path, keep_best="loss"))
    before = weights(other.model)
    with pytest.raises(ValueError, match="is of another model than this one; nothing was touched"):
        other.load_best()
    np.testing.assert_array_equal(weights(other.model)[0], before[0])
    unbuilt = tl.Trainer(compiled(keras.Sequential([keras.layers.Dense(1)])), run=tl.Run(tmp_path, keep_best="loss"))
    with pytest.raises(ValueError, match="the model has no weights yet: build it, or call fit, before"):
        unbuilt.load_best()


@pytest.mark.parametrize("value", [3, ("up", "loss"), ("max",), ("max", 3), {"max": "loss"}, b"loss"], ids=str)
def test_what_it_may_be(value, tmp_path):
    with pytest.raises(TypeError, match="keep_best must be a name in the logs"):
        tl.Run(tmp_path, keep_best=value)


@pytest.mark.slow
def test_directions_of_several_outputs_are_by_the_names_in_the_logs():
    inputs = keras.Input([3])
    outputs = {"accent": keras.layers.Dense(1, name="accent")(inputs), "tone": keras.layers.Dense(4, name="tone")(inputs)}
    model = keras.Model(inputs, outputs)
    losses = {"accent": "mse", "tone": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile(loss=losses, metrics={"accent": ["mae", keras.metrics.R2Score()], "tone": ["accuracy", "accuracy"]})
    x, labels = labelled()
    logs = model.fit(x, {"accent": Y, "tone": labels}, verbose=0).history
    directions = keras_internals.metric_directions(model)
    assert set(directions) == set(logs)
    assert {name for name, direction in directions.items() if direction == "up"} == {
        "accent_r2_score", "tone_accuracy", "tone_accuracy_1"
    } & set(logs)  # fmt: skip
    assert directions["accent_mae"] == directions["accent_loss"] == directions["loss"] == "down"
    # Its results are its own again.
    assert float(model.get_metrics_result()["accent_mae"]) == pytest.approx(logs["accent_mae"][0])


def test_nan_is_never_the_best():
    best = Best(("min", "a"))
    assert [best.is_better({"a": value}) for value in (float("nan"), 2.0, float("nan"), 1.0, 1.0, float("-inf"))] == [
        False, True, False, True, False, True
    ]  # fmt: skip


def normalized(factor):
    keras.utils.set_random_seed(1)
    layer = keras.layers.Normalization()
    if factor is not None:
        layer.adapt(X * factor)
    return compiled(keras.Sequential([keras.Input([3]), layer, keras.layers.Dense(1)]))


@pytest.mark.parametrize("factor", [1.0, 3.0, None], ids=["as before", "to other data", "not"])
def test_what_a_layer_was_adapted_to_comes_back_with_its_variables(factor, tmp_path):
    """Keras keeps it beside them, as a constant."""
    trainer = tl.Trainer(normalized(1.0), run=tl.Run(tmp_path / "best", keep_best="loss", save_seconds=None))
    trainer.fit(X, Y, 8, epochs=3, verbose=0)
    expected = trainer.model.evaluate(X, Y, verbose=0)
    fresh = tl.Trainer(normalized(factor), run=tl.Run(tmp_path / "best"))
    fresh.load_best()
    assert fresh.model.evaluate(X, Y, verbose=0) == pytest.approx(expected, rel=1e-6)
    if factor is None:  # built otherwise, it is another run's
        return
    histories = {}
    for name, parts in (("whole", [(1.0, 4)]), ("stopped", [(1.0, 2), (factor, 4)])):
        for how, epochs in parts:
            one = tl.Trainer(normalized(how), run=tmp_path / name)
            histories[name] = one.fit(X, Y, 8, epochs=epochs, verbose=0).history["loss"]
    assert histories["stopped"] == histories["whole"]
