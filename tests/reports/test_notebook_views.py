"""How trainers, strategies and histories look in a notebook, and what real runs leave for a report."""

import copy
import html.parser
import math

import keras
import pytest
from small import classifier, compiled, dense_model, labelled, regression

import trainlab as tl
from trainlab.reports import notebook, write
from trainlab.reports.reading.run import read_run

EVIL = "<script>alert(1)</script>"


def text_of(page):
    """The text of a piece of HTML whose tags are closed in order, and which holds no script."""
    found, tags = [], []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            assert tag not in ("script", "img", "b") and not any(name.startswith("on") for name, _ in attributes)
            if tag != "path":
                tags.append(tag)

        def handle_endtag(self, tag):
            assert tag == "path" or tags.pop() == tag

        def handle_data(self, data):
            found.append(data)

    Parser().feed(page)
    assert tags == []
    return " ".join(found)


def trained(strategy=None, epochs=4, **how):
    x, y = labelled()
    trainer = tl.Trainer(classifier(metrics=["accuracy"]), strategy)
    return trainer, trainer.fit(x, y, batch_size=5, epochs=epochs, verbose=0, **how)


def test_a_trainer_before_and_after(tmp_path):
    trainer = tl.Trainer(keras.Sequential([keras.layers.Dense(1)], name="mine"), tl.Heun(), optimizer="adam", loss="mse")
    before = text_of(trainer._repr_html_())
    assert (
        "mine, not built yet" in before and "Heun()" in before and "Adam, learning rate 0.001" in before and "epoch" not in before
    )
    x, y = regression()
    trainer.fit(x, y, batch_size=5, epochs=3, verbose=0)
    after = text_of(trainer._repr_html_())
    assert "4 parameters" in after and "12" in after and "3 epochs" in after and "best" in after
    assert trainer._repr_html_().count("<svg") == 2  # of the loss, and of what Heun logs


@pytest.mark.parametrize(
    "epochs, freq, measured",
    [(5, 2, [2, 4]), (5, [1, 4], [1, 4]), (3, 1, [1, 2, 3])],
    ids=["every second", "named", "every"],
)
def test_validation_is_shown_at_the_epochs_after_which_it_was(epochs, freq, measured):
    trainer, history = trained(epochs=epochs, validation_data=labelled(), validation_freq=freq)
    assert len(history.history["val_loss"]) == len(measured)
    training, validation = trainer.plot().axes[0].lines[:2]
    assert list(training.get_xdata()) == list(range(1, epochs + 1)) and list(validation.get_xdata()) == measured
    best = min(zip(history.history["val_loss"], measured, strict=True))[1]
    assert f"in epoch {best}" in text_of(history._repr_html_()).partition("val_loss")[2]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.5, 4, 0.5)),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)),
        lambda: (
            keras.optimizers.MultiOptimizer([(keras.optimizers.SGD(0.5), lambda v: True)])
            if hasattr(keras.optimizers, "MultiOptimizer")
            else "sgd"
        ),
    ],
)
def test_any_optimizer_is_shown(optimizer):
    try:
        model = compiled(dense_model(), optimizer())
    except TypeError:
        pytest.skip("this Keras makes it otherwise")
    assert "updates" in text_of(tl.Trainer(model)._repr_html_())


class Averaged(tl.StepStrategy):
    """Follows an average & more <b>of</b> gradients.

    Not this.
    """

    def __init__(self, note=EVIL):
        self.note = note

    def init(self, parameters):
        return {"average": parameters * 0.0}


@pytest.mark.parametrize(
    ("strategy", "said", "unsaid"),
    [
        (tl.SGD(), ["SGD()", "1 evaluation of the gradient an update", "none"], ["each over"]),
        (tl.Heun(), ["2 evaluations"], []),
        (tl.Accumulate(4, tl.Heun()), ["2 evaluations of the gradient an update, each over 4 batches", "none"], []),
        (Averaged(), ["<b>of</b> gradients", EVIL, "from update to update"], ["Not this"]),
        (tl.Accumulate(2, Averaged()), ["from update to update"], []),
    ],
)
def test_a_strategy(strategy, said, unsaid):
    text = text_of(strategy._repr_html_())
    assert all(part in text for part in said) and not any(part in text for part in unsaid)


def test_a_history_stays_keras_own():
    trainer, history = trained(validation_split=0.5)
    assert type(history) is keras.callbacks.History and trainer.model.history is history
    assert set(history.history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    text = text_of(history._repr_html_())
    assert "4 epochs" in text and "val_loss" in text and f"{history.history['loss'][-1]:.4g}" in text
    assert copy.copy(history).history == history.history


def test_a_history_given_as_a_callback_and_one_of_a_finished_run(tmp_path):
    own = keras.callbacks.History()
    _, history = trained(callbacks=[own])
    assert history is own and "4 epochs" in own._repr_html_()
    for _ in range(2):  # the second finds it finished
        model = compiled()
        history = tl.Trainer(model, run=tmp_path / "a").fit(*regression(), batch_size=5, epochs=2, verbose=0)
        assert "2 epochs" in text_of(history._repr_html_()) and model.history is history


def test_anything_in_a_history_is_text_or_a_number():
    history = keras.callbacks.History()
    history.epoch, history.history = (
        [0, 1],
        {EVIL: [1.0, math.nan], "pair": [[1.0, 2.0], [3.0, 4.0]], "object": [object(), None], "big": [10**400, 1]},
    )
    text = text_of(notebook.history_html(history))
    assert EVIL in text and "pair[1]" in text and "big" in text and "0x" not in text  # somebody's object is left out
    empty = keras.callbacks.History()
    empty.epoch, empty.history = [], {}
    assert "0 epochs" in text_of(notebook.history_html(empty))


def test_many_metrics_are_cut():
    history = keras.callbacks.History()
    history.epoch, history.history = [0], {f"metric_{k}": [1.0] for k in range(40)}
    assert "and 28 more" in text_of(notebook.history_html(history))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_plot_is_written_and_returned(tmp_path, suffix):
    trainer, history = trained(validation_split=0.5)
    figure = trainer.plot(tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size > 1000
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[:2] == ["loss", "accuracy"]
    training, validation = figure.axes[0].lines
    assert list(training.get_ydata()) == history.history["loss"] and list(training.get_xdata()) == [1, 2, 3, 4]
    assert list(validation.get_ydata()) == history.history["val_loss"] and validation.get_linestyle() == "--"


def test_a_plot_of_nothing_and_a_wrong_suffix_are_one_line(tmp_path):
    trainer = tl.Trainer(compiled())
    with pytest.raises(ValueError, match="there is nothing to plot yet: call fit first"):
        trainer.plot()
    with pytest.raises(ValueError, match=r"path='a.txt': a plot is written as one of .png, .pdf, .svg"):
        trainer.plot("a.txt")
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        trained()[0].plot(tmp_path / "no" / "a.png")


@pytest.mark.slow
def test_a_real_run_from_python_in_a_report(tmp_path):
    model = classifier(metrics=["accuracy"])
    trainer = tl.Trainer(model, tl.Accumulate(2, tl.Heun()), run=tmp_path / "a")
    x, y = labelled()
    history = trainer.fit(x, y, batch_size=5, epochs=3, verbose=0, validation_data=(x, y))
    run = read_run(tmp_path / "a")
    assert run.series == {name: pytest.approx(values) for name, values in history.history.items()}
    assert run.axes["updates"] == [2, 4, 6] and run.axes["evaluations"] == [8, 16, 24] and run.status == "finished"
    assert run.directions == {"accuracy": "up", "loss": "down"} and run.examples == 10.0
    assert run.learning_rate["learning rate"] == pytest.approx([0.1] * 3) and run.settings["batches.batch_size"] == "5"
    text = write(tmp_path / "a", tmp_path / "a.md").read_text()
    assert "Accumulate(num_batches=2, inner=Heun())" in text and "finished" in text


@pytest.mark.slow
def test_a_real_run_of_the_command_in_a_report(command, tmp_path):
    from commands import SHORT

    assert command(*SHORT, "--run_dir", "a")[0] == 0
    run = read_run(tmp_path / "a")
    assert run.status == "finished" and run.has_config and set(run.test) == {"accuracy", "loss"} and run.epochs == [1]
    assert "heun" in write([tmp_path / "a"], tmp_path / "a.html", title="heun").read_text()
